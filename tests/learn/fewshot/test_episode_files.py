import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from learn.data.clips import Clips
from learn.fewshot import episode_files
from learn.fewshot.tasks import Episodes
from learn.fewshot.tasks.n_way_k_shot import Config, build
from store.errors import InputError, MissingFile

GROUPS = [i // 2 for i in range(60)]


@pytest.fixture
def clips(make_clips):
    return make_clips([20, 20, 20], GROUPS)


@pytest.fixture
def file(clips, tmp_path):
    """Two draws of three classes."""
    draws = [build(Config(ways=3, shots=k, queries=4, episodes=30))(clips, seed=7) for k in (1, 3)]
    path = tmp_path / "deep" / "e.safetensors"
    episode_files.save(path, clips, draws)
    return path, draws


def rewrite(path, change):
    """The file with its parts changed, and everything else as it was."""
    with safe_open(path, framework="numpy") as f:
        metadata, arrays = f.metadata(), {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
    change(metadata, arrays)
    save_file(arrays, path, metadata=metadata)


def test_what_was_saved_comes_back(clips, file):
    path, draws = file
    kept, again = episode_files.load(path, clips)
    assert kept.sha256 == clips.sha256
    assert [d.sha256 for d in again] == [d.sha256 for d in draws]
    assert all(np.array_equal(a.indices, d.indices) for a, d in zip(again, draws, strict=True))
    assert list(path.parent.iterdir()) == [path]


def test_more_clips_than_the_file_has_are_left_out(clips, file, make_clips):
    more = make_clips([20, 20, 20, 9], [*GROUPS, *range(90, 99)])
    kept, again = episode_files.load(file[0], more)
    assert kept.sha256 == clips.sha256
    assert again[0].sha256 == file[1][0].sha256


def test_every_changed_index_is_noticed(clips, file):
    rng = np.random.default_rng(0)
    for _ in range(10):

        def swap(metadata, arrays):
            episode, n = rng.integers(30), rng.integers(3)
            row = arrays["1.indices"][episode, n]
            row[0], row[3] = row[3], row[0]

        rewrite(file[0], swap)
        with pytest.raises(InputError, match="changed since it was written"):
            episode_files.load(file[0], clips)
        rewrite(file[0], lambda metadata, arrays: arrays.update({"1.indices": file[1][1].indices}))


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata, arrays: metadata.update(draws=json.dumps([{"shots": 2, "seed": 7}] * 2)),
        lambda metadata, arrays: metadata.update(draws=json.dumps([{"shots": 1, "seed": 8}] * 2)),
        lambda metadata, arrays: metadata.update(clips_sha256="0" * 64),
        lambda metadata, arrays: arrays["0.classes"].__setitem__((0, 0), 9),
        lambda metadata, arrays: metadata.update(format="other"),
        lambda metadata, arrays: metadata.pop("labels") and metadata.pop("draws"),
        lambda metadata, arrays: arrays["0.indices"].fill(3),
        lambda metadata, arrays: arrays.update({"0.indices": np.zeros(3, np.float32)}),
        lambda metadata, arrays: arrays.pop("1.classes"),
    ],
)
def test_any_other_change_is_one_line_too(clips, file, change):
    rewrite(file[0], change)
    with pytest.raises(InputError, match=r"draw|write one") as refusal:
        episode_files.load(file[0], clips)
    assert "\n" not in str(refusal.value)


def test_no_file_and_no_episodes_file(clips, tmp_path):
    with pytest.raises(MissingFile, match="`save_episodes`"):
        episode_files.load(tmp_path / "e", clips)
    (tmp_path / "e").write_bytes(b"\x00" * 100)
    with pytest.raises(InputError, match="not an episodes file"):
        episode_files.load(tmp_path / "e", clips)


def test_episodes_of_another_manifest_are_refused(clips, file, make_clips):
    with pytest.raises(InputError, match=r"1 of the 60 clips.*another manifest or split"):
        episode_files.load(file[0], make_clips([20, 20, 19], GROUPS[:59]))
    with pytest.raises(InputError, match="other labels for the same clips"):
        episode_files.load(file[0], make_clips([21, 19, 20], GROUPS))
    with pytest.raises(InputError, match="other groups for the same clips"):
        episode_files.load(file[0], make_clips([20, 20, 20]))


def test_episodes_refuse_to_be_born_wrong():
    good = np.arange(12, dtype=np.int32).reshape(1, 2, 6)
    rest = {"classes": np.zeros((1, 2), np.int32), "seed": 0, "clips_sha256": ""}
    Episodes(indices=good, shots=2, **rest)
    twice = good.copy()
    twice[0, 1, 5] = twice[0, 1, 0]
    for indices, shots in ((twice, 2), (-good, 2), (good, 6), (good, 0)):
        with pytest.raises(ValueError, match=r"drawn twice|leave no query"):
            Episodes(indices=indices, shots=shots, **rest)


def test_the_digest_covers_the_labels(clips):
    task = build(Config(ways=3, shots=1, queries=4, episodes=5))
    renamed = Clips(
        ids=clips.ids,
        class_ids=clips.class_ids,
        classes=("x", "y", "z"),
        groups=clips.groups,
        split="test",
    )
    first, second = task(clips, seed=0), task(renamed, seed=0)
    assert np.array_equal(first.indices, second.indices)
    assert first.sha256 != second.sha256
