"""`learn episodes --augment`: each augmentation is paired with none, on the same episodes."""

import numpy as np
import pytest

import learn
import store
import store.testing
from learn.fewshot.augmentations import AugmentedHead, Base
from learn.fewshot.heads import Context
from store import plugins
from store.errors import ConfigError, InputError

ASKED = {"ways": 3, "queries": 4, "episodes": 30, "heads": ("prototypes", "ridge")}
SPECS = ("calibration:count=8", "mixing:count=6")


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("augmented") / "store"
    store.testing.fill(path, clips=240, rows=2, dim=12, classes=12)
    return path


def test_every_augmentation_is_paired_with_none(filled, tmp_path):
    plain = learn.run_episodes(filled, shots=(1, 2), **ASKED)
    result = learn.run_episodes(filled, shots=(1, 2), augments=SPECS, **ASKED)
    assert [r.accuracy for r in result.results] == [r.accuracy for r in plain.results]
    alone = {
        (r.head, r.support, r.query, r.shots): r.accuracy for r in plain.results if not r.fusion
    }
    rows = result.augmented
    assert {(r.head, r.support, r.query, r.shots) for r in rows} == set(alone)
    assert len(rows) == len(alone) * 2
    for row in rows:
        assert row.plain == alone[row.head, row.support, row.query, row.shots]
        assert row.gain == pytest.approx(row.accuracy - row.plain)
        assert row.episodes == 30
    assert any(row.gain for row in rows)
    assert any(row.ci95 for row in rows)
    result.save(tmp_path / "run")
    assert result.to_dict()["augmented"] == [row.to_dict() for row in rows]
    assert "augmented" not in plain.to_dict()


def test_it_learns_from_the_train_split_alone(filled):
    """The first episode's answers, by hand."""
    result = learn.run_episodes(
        filled, shots=(1,), augments=("mixing:count=6",), **ASKED | {"heads": ("prototypes",)},
        support=("v",), query=("v",),
    )  # fmt: skip
    fs = store.open(filled)
    (name,) = [n for n in fs.features if fs[n].modality == "visual"]
    manifest = fs.manifest()
    from learn.data.clips import load_clips
    from learn.data.rows import load_rows

    train = load_clips(manifest, split="train", label="label")
    base = Base(
        vectors=load_rows(fs[name], train.ids).means(), class_ids=train.class_ids.astype(np.int64)
    )
    make = plugins.build("learn.fewshot.augmentations", "mixing:count=6").learn(base, 0)
    head = AugmentedHead(head=plugins.build("learn.fewshot.heads", "prototypes"), make=make)
    x = load_rows(fs[name], result.clips.ids).means()
    (draw,) = result.draws
    support, query = (x[indices.astype(np.int64)] for indices in (draw.support, draw.query))
    scores = head.fit(support, Context(modality_dims=(x.shape[1],)))(query)
    right = scores.argmax(-1).numpy() == draw.targets
    (row,) = result.augmented
    assert row.accuracy == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"split": "train"}, InputError, "beside the one that is scored"),
        ({"support": ("av",)}, InputError, "modes of one sense"),
        ({"heads": ("cross_modal",), "support": ("v",)}, ConfigError, "."),
        ({"augments": ("mixin",)}, ConfigError, "did you mean 'mixing'"),
    ],
)
def test_what_cannot_be_is_one_line(asked, error, said, filled):
    with pytest.raises(error, match=said) as refusal:
        learn.run_episodes(filled, **{"augments": SPECS, **ASKED, **asked})
    assert "\n" not in str(refusal.value)
