"""Stores and clips that several tests need."""

import numpy as np
import pytest

import store
from learn.data.clips import Clips
from learn.training import unseen
from store import testing

EPISODES = unseen.EPISODES


@pytest.fixture(scope="session", autouse=True)
def few_episodes():
    """Every training ends with episodes against stored rows: few of them, or they take a third of
    the time of all trainings here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen, "EPISODES", 40)
        yield


@pytest.fixture
def many_episodes(monkeypatch):
    """For tests of what these episodes say."""
    monkeypatch.setattr(unseen, "EPISODES", EPISODES)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """240 clips of 8 classes in splits that share them, 30 rows at most; some clips are silent."""
    path = tmp_path_factory.mktemp("learn") / "filled"
    testing.fill(
        path, clips=480, rows=4, dim=24, classes=8, silent_share=0.1, failed_share=0.05,
        disjoint=False,
    )  # fmt: skip
    return path


@pytest.fixture(scope="session")
def paired(tmp_path_factory):
    """What is seen and heard of a clip come from one hidden vector, each through its own matrix."""
    path = tmp_path_factory.mktemp("learn") / "paired"
    rng = np.random.default_rng(0)
    clips, classes, hidden, dims = 600, 10, 6, {"visual": 20, "audio": 12}
    label = np.arange(clips) % classes
    latent = 2.5 * rng.standard_normal((classes, hidden))[label]
    latent = latent + rng.standard_normal((clips, hidden))
    names = tuple(f"clip{i:04d}.mp4" for i in range(clips))
    split = np.array(["train", "val", "test"])[
        np.searchsorted([400, 480], np.arange(clips), "right")
    ]
    fs = store.create(path)
    fs.add_manifest(
        store.Manifest(
            table={
                "path": names,
                "clip_id": names,
                "split": tuple(split.tolist()),
                "label": tuple(f"class{c}" for c in label),
            }
        )
    )
    for modality, dim in dims.items():
        spec = store.FeatureSpec(slug=modality, modality=modality, dim=dim, identity={"rows": 2})
        values = 40 + 9 * (latent @ rng.standard_normal((hidden, dim))).repeat(2, axis=0)
        values = values + rng.standard_normal(values.shape)
        fs.add_feature(spec).commit(
            store.UnitRows(
                clip_ids=names,
                values=values.astype(np.float16),
                row_time_ms=np.tile(np.array([0, 500], np.int32), clips),
                row_count=np.full(clips, 2, np.uint16),
                status=np.zeros(clips, np.uint8),
                media_sha256=np.zeros((clips, 32), np.uint8),
                detail=("",) * clips,
            )
        )
    return path


@pytest.fixture
def make_clips():
    """`make_clips([3, 5], groups=…)`: that many clips of each class, class after class."""

    def make(sizes, groups=None):
        class_ids = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        return Clips(
            ids=tuple(f"c{i:05d}" for i in range(len(class_ids))),
            class_ids=class_ids,
            classes=tuple(f"class{c}" for c in range(len(sizes))),
            groups=None if groups is None else np.array(groups, np.int32),
            split="test",
        )

    return make
