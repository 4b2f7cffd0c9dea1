"""Commands that look at every unit say how far they are, and count without reading names."""

from collections import Counter

import pytest

import store
from store import Status, testing
from store.exchange.exchange import export
from store.upkeep.info import info
from store.upkeep.merge import merge
from store.upkeep.repair import repair
from store.upkeep.verify import verify


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("filled") / "store"
    return testing.fill(
        path, clips=120, rows=2, dim=4, classes=4, silent_share=0.2, failed_share=0.1,
        clips_per_unit=16,
    )  # fmt: skip


COMMANDS = {
    "info": (lambda fs, out, progress: info(fs, progress=progress), 16),
    "verify": (lambda fs, out, progress: verify(fs, progress=progress), 16),
    "repair": (lambda fs, out, progress: repair(fs, progress=progress), 16),
    "merge": (lambda fs, out, progress: merge(out, [fs.path], progress=progress), 16),
    "export": (lambda fs, out, progress: export(fs, "hdf5", out / "x.h5", progress=progress), 240),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_how_far_it_is_goes_from_one_to_all(filled, tmp_path, name):
    command, total = COMMANDS[name]
    heard = []
    out = tmp_path / "out"
    if name == "export":
        out.mkdir()
    command(filled, out, lambda done, of: heard.append((done, of)))
    steps = [done for done, _ in heard]
    assert steps == sorted(set(steps))
    assert heard[-1] == (total, total)
    assert {of for _, of in heard} == {total}


@pytest.mark.parametrize("parts", [1, 1 << 11])
def test_counts_are_those_of_the_clips_one_by_one(filled, monkeypatch, parts):
    """By the look-up file and by the one in memory; a clip that was tried twice counts once."""
    monkeypatch.setattr("store.features.committed.INDEX_PARTS", parts)
    fs = store.open(filled.path)
    for name in fs.features:
        feature = fs[name]
        codes = Counter(feature.status.tolist())
        wanted = {Status(code): count for code, count in codes.items()}
        assert store.open(fs.path)[name].status_counts() == wanted
        assert feature.clips == len(feature.clip_ids) == 120
        assert feature.part_names == [part.record.part for part in feature.parts()]
    facts = {feature.name: feature for feature in info(fs).features}
    for name in fs.features:
        assert facts[name].status == {
            s.kind: n for s, n in sorted(fs[name].status_counts().items())
        }
        assert facts[name].rows == sum(record.rows for record in fs[name].records())


def test_a_damaged_look_up_is_made_again_before_it_is_counted(filled, monkeypatch):
    monkeypatch.setattr("store.features.committed.INDEX_PARTS", 1)
    fs = store.open(filled.path)
    (name, _) = fs.features
    wanted = fs[name].status_counts()
    (path,) = (fs.path / "index" / name).glob("*.idx")
    data = bytearray(path.read_bytes())
    data[31] ^= 255  # in the first record
    path.write_bytes(data)
    assert store.open(fs.path)[name].status_counts() == wanted
