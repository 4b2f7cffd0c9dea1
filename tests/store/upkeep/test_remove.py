"""A feature leaves its store wholly or stays, keeps every number under a new name, and a crash
anywhere is finished by the same command."""

from itertools import count

import numpy as np
import pytest

import store
from store import testing
from store.errors import ConfigError, DamagedStore, UnknownFeature
from store.features.feature import Feature
from store.spec import FeatureSpec
from store.upkeep import gc, remove
from store.upkeep.rename import rename
from store.upkeep.verify import verify


@pytest.fixture
def fs(tmp_path):
    return testing.fill(
        tmp_path / "fs", clips=40, rows=3, dim=8, classes=4, failed_share=0.1, clips_per_unit=16
    )


def visual(fs):
    return next(n for n in fs.features if fs[n].modality == "visual")


def test_a_removed_feature_is_gone_and_the_others_are_not(fs):
    gone = visual(fs)
    before = [name for name in fs.features if name != gone]
    removed = remove.remove(fs, "synthetic-visual")
    assert (removed.feature, removed.clips) == (gone, 40)
    assert store.open(fs.path).features == before
    assert not verify(fs, deep=True).problems
    assert (fs.path / removed.trash / "data.zarr" / "zarr.json").is_file()
    assert gc.gc(fs).too_young == 1  # young as a removal, however old its files
    collected = gc.gc(fs, older_than_seconds=0.0)
    assert collected.staging == [removed.trash]
    assert not (fs.path / removed.trash).exists()
    with pytest.raises(UnknownFeature, match="no feature 'synthetic-visual'"):
        remove.remove(fs, "synthetic-visual")


def test_a_renamed_feature_has_every_number_and_failure(fs):
    old = fs[visual(fs)]
    ids, status = old.clip_ids, old.committed()
    rows, offsets = old.read(ids)
    renamed = rename(fs, old.name, "mine")
    assert renamed.old == old.name
    assert renamed.feature.startswith("mine-")
    new = store.open(fs.path)["mine"]
    assert new.committed() == status
    again, places = new.read(ids)
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_array_equal(places, offsets)
    assert (new.modality, new.dim) == (old.modality, old.dim)
    assert old.name not in store.open(fs.path).features
    assert not verify(fs, deep=True).problems


def test_names_that_cannot_be_are_refused_and_change_nothing(fs):
    with pytest.raises(ConfigError, match="cannot name a feature"):
        rename(fs, "synthetic-visual", "Ünder/way")
    with pytest.raises(ConfigError, match="is called 'synthetic-visual' already"):
        rename(fs, "synthetic-visual", "synthetic-visual")
    identity = dict(fs["synthetic-visual"].spec.identity) | {"fps": 4}
    fs.add_feature(
        FeatureSpec(slug="synthetic-visual", modality="visual", dim=8, identity=identity)
    )
    with pytest.raises(UnknownFeature, match=r"write more of the name \(.*fps=") as refused:
        remove.remove(fs, "synthetic-visual")
    assert "fps=4" in str(refused.value)
    assert "fps=None" in str(refused.value)
    assert len(fs.features) == 3


@pytest.mark.parametrize("place", ["data.zarr", "commits", "tmp", "views"])
def test_no_link_is_followed(fs, tmp_path, place):
    there = fs.path / place
    there.mkdir(exist_ok=True)
    there.rename(tmp_path / "outside")
    there.symlink_to(tmp_path / "outside")
    before = sorted(p.as_posix() for p in (tmp_path / "outside").rglob("*"))
    with pytest.raises(DamagedStore, match="is a link"):
        remove.remove(fs, "synthetic-visual")
    assert sorted(p.as_posix() for p in (tmp_path / "outside").rglob("*")) == before


class Crash(BaseException):
    pass


def test_a_removal_cut_short_anywhere_is_finished_by_the_same_command(tmp_path, monkeypatch):
    move = remove._move
    for stop in count(1):
        fs = testing.fill(tmp_path / f"fs{stop}", clips=8, rows=1, dim=4, classes=2)
        moves = count(1)

        def cut(there, target, moves=moves, stop=stop):
            if next(moves) == stop:
                raise Crash
            move(there, target)

        monkeypatch.setattr(remove, "_move", cut)
        try:
            remove.remove(fs, "synthetic-visual")
        except Crash:
            monkeypatch.setattr(remove, "_move", move)
            assert not store.open(fs.path)["synthetic-visual"].committed() or stop == 1
            remove.remove(fs, "synthetic-visual")
        else:
            break
        assert [n.rpartition("-")[0] for n in store.open(fs.path).features] == ["synthetic-audio"]
        assert not verify(fs, deep=True).problems
    assert stop > 2


def test_a_rename_cut_short_keeps_the_old_and_goes_on(fs, monkeypatch):
    commit, calls = Feature.commit, count(1)

    def cut(self, *args, **kwargs):
        if next(calls) == 2:
            raise Crash
        return commit(self, *args, **kwargs)

    old = visual(fs)
    monkeypatch.setattr(Feature, "commit", cut)
    with pytest.raises(Crash):
        rename(fs, old, "mine")
    assert len(fs[old].committed()) == 40
    assert not verify(fs, deep=True).problems
    assert rename(fs, old, "mine").clips == 40
    assert old not in fs.features


def test_a_damaged_unit_stops_a_rename_and_nothing_goes(fs):
    old = visual(fs)
    part = fs[old].parts()[0].path
    shard = next(p for p in sorted((part / "values" / "c").rglob("*")) if p.is_file())
    data = bytearray(shard.read_bytes())
    data[3] ^= 255
    shard.chmod(0o644)
    shard.write_bytes(bytes(data))
    with pytest.raises(DamagedStore):
        rename(fs, old, "mine")
    assert old in fs.features
