"""From clips to a page: what is asked, what is refused early, what a kill costs.

Clips are made up: the functions that read and encode are stood in for, as `cli.py` hands in real
ones (tests/integration/test_readme.py).
"""

import numpy as np
import pytest

import store
from learn import trial
from store import Status
from store.errors import InputError, NotEnoughClips, UnknownColumn

CLASSES = ("cat", "dog", "owl")


def table(classes=CLASSES, each=8, **columns):
    paths = tuple(f"{name}/{i}.mp4" for name in classes for i in range(each))
    labels = tuple(path.split("/")[0] for path in paths)
    return store.Manifest(table={"path": paths, "clip_id": paths, "label": labels, **columns})


class Clips:
    """A source, and an encoder that writes separable rows for each sense that a clip has."""

    def __init__(self, manifest, *, silent=lambda clip: False, broken=lambda clip: False):
        self.manifest, self.silent, self.broken = manifest, silent, broken
        self.encoded = 0

    def read(self, source):
        return self.manifest, ["read"]

    def extract(self, manifest, store_dir):
        self.encoded += 1
        fs = store.create(store_dir)
        fs.add_manifest(manifest)
        rng = np.random.default_rng(0)
        ids = manifest.clip_ids
        names = sorted({clip.split("/")[0] for clip in ids})
        for modality in ("visual", "audio"):
            spec = store.FeatureSpec(slug=modality, modality=modality, dim=16, identity={})
            feature = fs.add_feature(spec)
            if feature.committed():
                continue
            lacking = [self.silent(clip) and modality == "audio" for clip in ids]
            failed = [self.broken(clip) for clip in ids]
            status = np.select(
                [failed, lacking], [int(Status.UNREADABLE), int(Status.ABSENT)], int(Status.OK)
            ).astype(np.uint8)
            there = np.flatnonzero(status == int(Status.OK))
            centre = np.eye(16)[[names.index(ids[i].split("/")[0]) % 16 for i in there]]
            values = 3 * centre + rng.standard_normal((len(there), 16))
            feature.commit(
                store.UnitRows(
                    clip_ids=ids, values=values.astype(np.float16),
                    row_time_ms=np.zeros(len(there), np.int32),
                    row_count=(status == int(Status.OK)).astype(np.uint16), status=status,
                    media_sha256=np.zeros((len(ids), 32), np.uint8), detail=("",) * len(ids),
                )
            )  # fmt: skip
        return ["encoded"]

    def trial(self, folder, **settings):
        return trial.try_clips(
            folder / "clips", folder / "out", read=self.read, extract=self.extract, **settings
        )


@pytest.fixture(autouse=True)
def few_episodes(monkeypatch):
    monkeypatch.setattr(trial, "EPISODES", 40)
    monkeypatch.setattr(trial, "MAP_BY", "none")  # it takes most of the time


def test_as_many_ways_shots_and_queries_as_there_are(tmp_path):
    done = Clips(table(each=8)).trial(tmp_path)
    assert done.notes[:2] == ("read", "encoded")
    assert done.notes[2].startswith("3 ways, 1 and 5 shots and 3 queries a class: as many as")
    assert {row["support"] for row in done.results["results"]} == {"v", "a", "av"}
    assert {row["shots"] for row in done.results["results"]} == {1, 5}
    assert min(row["accuracy"] for row in done.results["results"]) > 0.5
    assert done.findings == ()
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Few-shot answers about" in page
    assert page.index("In short") < page.index("Accuracy against shots")


def test_splits_are_made_where_classes_are_many_and_kept_where_they_are_there(tmp_path):
    many = Clips(table(tuple(f"c{i:02}" for i in range(16)), each=4)).trial(tmp_path)
    assert "split by classes, as the clips had no splits: 9 train, 2 val, 5 test" in many.notes
    assert many.results["episodes"]["split"] == "test"
    own = tuple("train" if i < 16 else "test" for i in range(32))
    (tmp_path / "b").mkdir()
    kept = Clips(table(("a", "b", "c", "d"), split=own)).trial(tmp_path / "b")
    assert (kept.results["episodes"]["split"], kept.results["episodes"]["classes"]) == ("test", 2)
    (tmp_path / "c").mkdir()
    alone = Clips(table(("a", "b"), split=("dev",) * 16)).trial(tmp_path / "c")
    assert alone.results["episodes"]["split"] == "all"


@pytest.mark.parametrize(
    ("silent", "modes"),
    [
        (lambda clip: True, {"v"}),
        (lambda clip: clip.startswith(("cat", "dog")), {"v"}),  # one class is left with sound
        (lambda clip: clip.endswith("0.mp4"), {"v", "a", "av"}),
    ],
)
def test_sound_is_left_out_where_it_would_cost_classes_or_shots(tmp_path, silent, modes):
    done = Clips(table(each=8), silent=silent).trial(tmp_path)
    assert {row["support"] for row in done.results["results"]} == modes
    assert any("sound is left out: " in note for note in done.notes) == (modes == {"v"})


def test_clips_that_failed_are_a_finding_and_all_of_them_are_refused(tmp_path):
    some = Clips(table(), broken=lambda clip: clip.endswith("7.mp4")).trial(tmp_path)
    assert some.findings == ("of 24 clips 3 are unreadable",)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="of 24 clips 24 are unreadable; what is left allows no"):
        Clips(table(), broken=lambda clip: True).trial(tmp_path / "b")


@pytest.mark.parametrize(
    ("manifest", "error", "says"),
    [
        (table(each=1), NotEnoughClips, "two clips each.* cat 1, dog 1, owl 1; .*extract run"),
        (table(("cat",)), NotEnoughClips, "all clips are of one class, 'cat'"),
        (
            table(group=tuple(f"g{i // 8}" for i in range(24))), NotEnoughClips,
            "two clips of different sources each",
        ),
        (
            store.Manifest(table={"path": ("a",), "clip_id": ("a",), "mood": ("x",)}),
            UnknownColumn, "name one by `label`: mood",
        ),
    ],
)  # fmt: skip
def test_labels_of_no_use_are_told_before_anything_is_encoded(tmp_path, manifest, error, says):
    clips = Clips(manifest)
    with pytest.raises(error, match=says):
        clips.trial(tmp_path)
    assert clips.encoded == 0
    assert not (tmp_path / "out").exists()


def test_without_labels_clips_are_encoded_and_searched(tmp_path):
    bare = store.Manifest(table={name: table().table[name] for name in ("path", "clip_id")})
    done = Clips(bare).trial(tmp_path)
    assert done.report is None
    assert "learn search" in done.findings[-1]
    assert "'cat/0.mp4'" in done.findings[-1]


def test_a_kill_costs_what_was_in_hand_and_new_clips_are_asked_about(tmp_path, monkeypatch):
    clips = Clips(table())
    with monkeypatch.context() as patched:
        patched.setattr(trial, "write_table", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            clips.trial(tmp_path)
    assert not (tmp_path / "out" / "report.html").exists()
    first = clips.trial(tmp_path)
    page = (tmp_path / "out" / "report.html").stat().st_mtime_ns
    again = clips.trial(tmp_path)
    assert clips.encoded == 2  # the third call had nothing to do
    assert again.results == first.results
    assert again.notes[-1] == "nothing is new since the page was written"
    assert (tmp_path / "out" / "report.html").stat().st_mtime_ns == page
    clips.manifest = table(("cat", "dog"))
    assert clips.trial(tmp_path).results["episodes"]["classes"] == 2


def test_directories_of_others_are_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="is not of `learn try`; name a new directory"):
        Clips(table()).trial(tmp_path)
    (tmp_path / "out" / "mine.txt").unlink()
    (tmp_path / "out" / "try.json").write_text('{"source": "/other"}')
    with pytest.raises(InputError, match="is of /other; name a new directory for"):
        Clips(table()).trial(tmp_path)
