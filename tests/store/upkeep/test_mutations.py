"""Random damage to any file of a store: verify names the unit; readers raise only our errors."""

import json
import resource
import shutil
import time

import numpy as np
import pytest

import store
from store import Manifest
from store.errors import MicroshotError
from store.features.clip_index import ClipIndex, PartTable
from store.names import clip_keys
from store.upkeep.gc import gc
from store.upkeep.info import info
from store.upkeep.repair import repair
from store.upkeep.verify import verify

LIMIT_BYTES = 256 << 20
LIMIT_SECONDS = 2.0


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_rows):
    """Four units of two features, their manifest and an index."""
    fs = store.create(tmp_path_factory.mktemp("sound") / "fs")
    fs.add_manifest(Manifest(table={"path": ("a", "b"), "clip_id": ("a", "b"), "label": ("x", "")}))
    for dim, slug in ((4097, "wide"), (9, "odd")):
        spec = store.FeatureSpec(slug=slug, modality="visual", dim=dim, identity={"n": [1, "é"]})
        feature = fs.add_feature(spec)
        feature.commit(make_rows({"a": 3, "b": 0}, dim=dim, seed=1), {"torch": "2.12"})
        feature.commit(make_rows({"c": 2}, dim=dim, seed=2))
    look_up(fs)
    return fs


def look_up(fs):
    """Through the index file, which is built if it is not there or not sound."""
    feature = fs["odd"]
    parts = {part.record.part: part for part in feature.parts()}

    def load(name):
        part = parts[name]
        return PartTable(part.clip_keys, part.row_start, part.row_count, part.status)

    index = ClipIndex(fs.path, f"index/{feature.name}", parts, load)
    return index.lookup(clip_keys(["a", "c", "b"]))


@pytest.fixture
def copy(sound, tmp_path):
    shutil.copytree(sound.path, tmp_path / "fs")
    return store.open(tmp_path / "fs")


def files_of(fs):
    return sorted(path for path in fs.path.rglob("*") if path.is_file())


def mutate(path, rng):
    """Flip a bit, cut, zero 512 bytes, or delete; whether that changes anything."""
    data = bytearray(path.read_bytes())
    kept = bytes(data)
    match int(rng.integers(4)):
        case 0:
            data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        case 1:
            data = data[: rng.integers(len(data))]
        case 2:
            at = int(rng.integers(len(data)))
            data[at : at + 512] = bytes(len(data[at : at + 512]))
        case 3:
            path.unlink()
            return True
    path.write_bytes(data)
    return bytes(data) != kept


def unit_of(fs, path):
    """The feature and unit a file belongs to; of neither, empty text."""
    key = path.relative_to(fs.path).parts
    if key[0] == "commits":
        return key[1], key[2].removesuffix(".json")
    if key[0] == "data.zarr" and len(key) > 4:
        return key[1], key[3][:22]
    return (key[1] if key[0] == "data.zarr" and len(key) > 2 else ""), ""


@pytest.mark.parametrize("mutations", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_verify_names_the_damaged_unit_and_no_other(copy, mutations):
    rng = np.random.default_rng(mutations)
    targets = [p for p in files_of(copy) if p.parts[-3] == "commits" or "data.zarr" in p.parts]
    weight = np.array([4.0 if p.parts[-3] == "commits" else 1.0 for p in targets])
    effective = 0
    for _ in range(mutations):
        path = targets[rng.choice(len(targets), p=weight / weight.sum())]
        kept = path.read_bytes()
        if mutate(path, rng):
            effective += 1
            problems = verify(copy).problems
            feature, unit = unit_of(copy, path)
            if unit and not path.exists() and "commits" in path.parts:
                assert problems == []  # no record: the unit is pending, and says so
                assert not copy[feature].has_unit(unit)
            else:
                assert {(p.feature, p.unit) for p in problems} == {(feature, unit)}, path
        path.write_bytes(kept)
    assert effective > 0.95 * mutations
    assert verify(copy, deep=True).problems == []
    print(f"{effective} effective mutations of {mutations}, all named")


def test_repair_sets_aside_exactly_the_damaged_units(copy, make_rows):
    """Some units at once, in both features; the rest stays readable."""
    rng = np.random.default_rng(3)
    for span in (slice(1), slice(1, 3), slice(4)):
        parts = [part.path for name in copy.features for part in copy[name].parts()]
        before, chosen = set(files_of(copy)), parts[span]
        for part in chosen:
            files = [path for path in part.rglob("*") if path.is_file()]
            while not mutate(files[rng.integers(len(files))], rng):
                pass
        damaged = {unit_of(copy, part / "zarr.json") for part in chosen}
        assert {(u.feature, u.unit) for u in repair(copy).units} == damaged
        assert verify(copy, deep=True).problems == []
        kept = set(files_of(copy))
        assert len(before - kept) <= 2 * len(chosen)  # a record each, and what mutate deleted
        for feature, unit in damaged:
            clips = {"c": 2} if copy[feature].unit_name(["c"]) == unit else {"a": 3, "b": 0}
            seed = 2 if "c" in clips else 1
            dim = copy[feature].dim
            assert copy[feature].commit(make_rows(clips, dim=dim, seed=seed))
    assert sorted(copy["odd"].clip_ids) == ["a", "b", "c"]


def garble(data, rng):
    """Like a damaged disk, or like somebody who means harm."""
    data = bytearray(data)
    at = int(rng.integers(len(data)))
    match int(rng.integers(8)):
        case 0:
            data[at] ^= 1 << rng.integers(8)
        case 1:
            del data[at:]
        case 2:
            data[at : at + 8] = rng.bytes(8)
        case 3:
            data = bytearray(rng.bytes(rng.integers(1, 300)))
        case 4:
            data[at:at] = b"[" * 100_000  # deeply nested
        case 5:
            data[at : at + 16] = b"9" * 5_000  # a huge number
        case 6:
            data[at:at] = bytes(data[: rng.integers(len(data))])
        case 7:
            data = grown_number(data, rng)
    return bytes(data)


def grown_number(data, rng):
    """A JSON document with one number replaced by an unlikely one."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return data + b"\0"
    entries = []

    def walk(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            if isinstance(value, (dict, list)):
                walk(value)
            elif isinstance(value, int):
                entries.append((node, key))

    walk(document)
    if entries:
        node, key = entries[rng.integers(len(entries))]
        node[key] = [-1, 1 << 40, 1 << 63, 1e308, None, "7", True][rng.integers(7)]
    return json.dumps(document).encode()


def read_everything(path):
    """All that reads a store; an error of one does not excuse the others."""
    outcomes = []
    for action in (
        lambda fs: [fs[name].read(["c", "a"]) for name in fs.features],
        lambda fs: [list(fs[name].scan(verify=True)) for name in fs.features],
        lambda fs: verify(fs, deep=True),
        info,
        lambda fs: fs.manifest(),
        lambda fs: gc(fs, older_than_seconds=1e9, dry_run=True),
        look_up,
    ):
        try:
            outcomes.append(action(store.open(path)))
        except MicroshotError as error:
            outcomes.append(error)
    return outcomes


@pytest.mark.parametrize("mutations", [20, pytest.param(2000, marks=pytest.mark.soak)])
def test_hostile_files_raise_only_our_errors(copy, mutations):
    """Metadata, records, manifests, tables and indexes; time and memory stay bounded."""
    rng = np.random.default_rng(mutations + 1)
    targets = [path for path in files_of(copy) if path.stat().st_size < 100_000]
    (index,) = copy.path.glob("index/*/*.idx")
    targets += [index] * (len(targets) // 10)
    truth = read_everything(copy.path)[0]
    before, slowest, refused = peak_bytes(), 0.0, 0
    for _ in range(mutations):
        path = targets[rng.integers(len(targets))]
        kept = path.read_bytes()
        path.write_bytes(garble(kept, rng))
        began = time.perf_counter()
        outcomes = read_everything(copy.path)
        slowest = max(slowest, time.perf_counter() - began)
        refused += any(isinstance(outcome, MicroshotError) for outcome in outcomes)
        if path == index:
            assert (outcomes[-1].rows.tolist(), outcomes[-1].part.min()) == ([3, 2, 0], 0)
        if isinstance(outcomes[0], list):
            for outcome, wanted in zip(outcomes[0], truth, strict=True):
                np.testing.assert_array_equal(outcome[0], wanted[0])
        path.write_bytes(kept)
    assert refused > mutations // 5  # what arrays say of themselves nobody here asks
    assert peak_bytes() - before < LIMIT_BYTES
    assert slowest < 5 * LIMIT_SECONDS  # seven readings in one
    print(f"{mutations} hostile files, {refused} refused, slowest {slowest:.2f} s for all readings")


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
