"""The clip index answers as a dictionary would, whatever happened to its file."""

import errno
import os
import tracemalloc
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.features import clip_index as module
from store.features.clip_index import ClipIndex, PartTable
from store.status import Status

SOME_STATUS = (Status.OK, Status.PARTIAL, Status.ABSENT, Status.DEADLINE)


class Parts(dict):
    """Tables by part name, counting how often they are loaded."""

    loads = 0

    def load(self, name: str) -> PartTable:
        self.loads += 1
        return self[name]

    def index(self, folder: Path) -> ClipIndex:
        return ClipIndex(folder.parent, folder.name, self, self.load)


def table(keys, status) -> PartTable:
    status = np.array(status, dtype=np.uint8)
    rows = np.where(status <= Status.PARTIAL, np.arange(len(status)) % 7 + 1, 0)
    return PartTable(
        clip_key=np.array(keys, dtype=np.uint64).reshape(-1, 2),
        row_start=np.cumsum(rows) - rows,
        row_count=rows.astype(np.uint16),
        status=status,
    )


def many(parts: int, clips: int, seed: int = 0) -> Parts:
    rng = np.random.default_rng(seed)
    return Parts(
        {
            f"u-{i:03d}": table(
                rng.integers(0, 1 << 64, (clips, 2), dtype=np.uint64), rng.integers(0, 3, clips)
            )
            for i in rng.permutation(parts)
        }
    )


def dictionary(parts: Parts) -> dict[tuple[int, int], tuple[int, int, int, int]]:
    """The rule, one clip at a time: rows beat none, then the smallest name."""
    best: dict = {}
    for number, name in enumerate(sorted(parts)):
        table = parts[name]
        for index, key in enumerate(map(tuple, table.clip_key.tolist())):
            status = int(table.status[index])
            start, rows = int(table.row_start[index]), int(table.row_count[index])
            claim = (status > Status.PARTIAL, number, start, rows, status)
            best[key] = min(claim, best.get(key, claim), key=lambda claim: claim[:3])
    return {key: claim[1:] for key, claim in best.items()}


def check(index: ClipIndex, truth: dict, absent: list[tuple[int, int]] = ()) -> None:
    keys = [*truth, *(key for key in absent if key not in truth)]
    order = np.random.default_rng(0).permutation(len(keys))
    asked = np.array(keys, dtype=np.uint64).reshape(-1, 2)[order]
    located = index.lookup(asked)
    nowhere = (-1, 0, 0, int(Status.PENDING))
    answers = list(zip(*(column.tolist() for column in located), strict=True))
    assert answers == [truth.get(tuple(key), nowhere) for key in asked.tolist()]
    assert len(index) == len(truth)


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


halves = st.sampled_from([0, 1, 2, 3, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1])
clips = st.lists(
    st.tuples(halves, halves, st.sampled_from(SOME_STATUS)), max_size=40, unique_by=lambda c: c[:2]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(clips, max_size=5),
    st.lists(st.tuples(halves, halves), max_size=8),
    st.sampled_from((1, 3, 16)),
    st.sampled_from((1, 2, 7)),
)
def test_any_keys_any_duplicates(units, absent, run, block):
    """Small halves occur often: equal halves across blocks, and the same clip in many parts."""
    parts = Parts(
        {
            f"u-{i}": table([c[:2] for c in unit], [c[2] for c in unit])
            for i, unit in enumerate(units)
        }
    )
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RUN", run)
        patch.setattr(module, "_KEYS", run + 1)
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_BLOCK_BYTES", block * module._RECORD.itemsize)
        patch.setattr(module, "_SAMPLE", 1)
        check(parts.index(Path(folder)), dictionary(parts), absent)


@pytest.mark.parametrize("clips", [1, 511, 512, 513, 3000])
def test_sizes_around_blocks(tmp_path, clips):
    parts = many(3, clips)
    rng = np.random.default_rng(9)
    absent = list(map(tuple, rng.integers(0, 1 << 64, (500, 2), dtype=np.uint64).tolist()))
    absent += [(0, 0), ((1 << 64) - 1, (1 << 64) - 1)]
    check(parts.index(tmp_path), dictionary(parts), absent)


def test_nothing_committed(tmp_path):
    for parts in (Parts(), Parts({"u-0": table([], [])})):
        check(parts.index(tmp_path), {}, [(0, 0), (5, 5)])
        assert only_file(tmp_path).stat().st_size > 0
    none = many(1, 10).index(tmp_path).lookup(np.empty((0, 2), np.uint64))
    assert [len(column) for column in none] == [0, 0, 0, 0]


def test_with_rows_beats_without_then_the_smallest_name(tmp_path):
    key = [(7, 7)]
    parts = Parts(
        {
            "u-a": table(key, [Status.DEADLINE]),
            "u-b": table(key, [Status.ABSENT]),
            "u-d": table(key, [Status.OK]),
            "u-c": table(key, [Status.PARTIAL]),
        }
    )
    index = parts.index(tmp_path)
    located = index.lookup(np.array(key, np.uint64))
    assert index.parts[located.part[0]] == "u-c"
    del parts["u-c"], parts["u-d"]
    index = parts.index(tmp_path)
    located = index.lookup(np.array(key, np.uint64))
    assert index.parts[located.part[0]] == "u-a"
    assert located.status[0] == Status.DEADLINE


def test_built_once_per_set_of_parts(tmp_path):
    parts = many(4, 100)
    truth = dictionary(parts)
    check(parts.index(tmp_path), truth)
    check(parts.index(tmp_path), truth)
    assert parts.loads == 4
    first = only_file(tmp_path)

    older = parts.index(tmp_path)
    len(older)
    parts["u-zzz"] = table([(1, 2)], [Status.OK])
    check(parts.index(tmp_path), dictionary(parts))
    assert parts.loads == 5  # only the part that was not there before
    assert only_file(tmp_path) != first  # the stale one is gone
    check(older, truth)  # but who had it open is not disturbed


def test_the_file_of_another_set_is_not_believed(tmp_path):
    parts = many(2, 100)
    len(parts.index(tmp_path))
    old = only_file(tmp_path)
    parts["u-zzz"] = table([(1, 2)], [Status.OK])
    other = parts.index(tmp_path)
    old.rename(other._path)
    check(other, dictionary(parts))
    assert parts.loads == 5


def test_any_damage_is_repaired_before_it_shows(tmp_path):
    parts = many(3, 700)
    truth = dictionary(parts)
    check(parts.index(tmp_path), truth)
    path = only_file(tmp_path)
    sound = path.read_bytes()
    rng = np.random.default_rng(4)
    offsets = [*rng.integers(0, len(sound), 60).tolist(), *range(len(sound) - 70, len(sound))]
    for at in offsets:
        broken = bytearray(sound)
        broken[at] ^= 1 << at % 8
        path.write_bytes(broken)
        parts.loads = 0
        check(parts.index(tmp_path), truth)
        assert parts.loads == 3, at
        assert path.read_bytes() == sound
    for torn in (b"", sound[:-1], sound[:51], sound + b"\0", sound[32:], bytes(len(sound))):
        path.write_bytes(torn)
        check(parts.index(tmp_path), truth)
        assert path.read_bytes() == sound
    path.unlink()
    path.mkdir()
    check(parts.index(tmp_path), truth)  # somebody's directory is not ours to remove
    assert path.is_dir()


def test_damage_after_opening(tmp_path):
    """Blocks are compared when first used, so damage that comes later is found as well."""
    parts = many(2, 2000)
    index = parts.index(tmp_path)
    assert len(index) == 4000
    path = only_file(tmp_path)
    with path.open("r+b") as file:
        file.seek(3 * module._BLOCK_BYTES + 100)
        file.write(b"\xff\xee\xdd")
    check(index, dictionary(parts))
    assert parts.loads == 4


def test_a_store_that_may_only_be_read(tmp_path, monkeypatch):
    parts, spool = many(2, 100), module.tempfile.TemporaryFile

    def refuse(*, dir):  # as tempfile names it
        if dir == tmp_path / "index":
            raise PermissionError(13, "Permission denied")
        return spool(dir=dir)

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    check(parts.index(tmp_path / "index"), dictionary(parts))
    assert not any((tmp_path / "index").iterdir())


def test_a_builder_that_fails_leaves_nothing(tmp_path, monkeypatch):
    parts = many(2, 100)

    def fail(name):
        raise MemoryError

    with pytest.raises(MemoryError):
        len(ClipIndex(tmp_path.parent, tmp_path.name, parts, fail))
    assert not any(tmp_path.iterdir())
    abandoned, recent = tmp_path / "tmp-1", tmp_path / "tmp-2"
    abandoned.touch()
    recent.touch()
    os.utime(abandoned, (0, 0))
    check(parts.index(tmp_path), dictionary(parts))
    assert not abandoned.exists()
    assert recent.exists()


def test_memory_of_building_does_not_grow(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_RUN", 4096)
    monkeypatch.setattr(module, "_SAMPLE", 16)
    peaks = []
    for parts in (20, 80):
        tables = many(parts, 1024)
        tracemalloc.start()
        len(tables.index(tmp_path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
    assert peaks[1] < 40 * 4096 * 32


def test_nothing_is_written_or_swept_through_a_link(tmp_path):
    outside, store = tmp_path / "outside", tmp_path / "store"
    outside.mkdir()
    store.mkdir()
    (outside / "another.idx").write_text("not ours")
    (store / "index").symlink_to(outside)
    parts = many(3, 10)
    index = ClipIndex(store, "index", parts, parts.load)
    check(index, dictionary(parts))
    assert [path.name for path in outside.iterdir()] == ["another.idx"]


def test_a_full_disk_is_no_fault_of_who_only_asks(tmp_path, monkeypatch):
    parts, writes = many(3, 10), module._write

    def full(file, groups, digest):
        if Path(file.name).parent == tmp_path:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        writes(file, groups, digest)

    monkeypatch.setattr(module, "_write", full)
    check(parts.index(tmp_path), dictionary(parts))
    assert not any(tmp_path.iterdir())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(clips, min_size=1, max_size=5),
    st.data(),
    st.sampled_from((1, 3, 16)),
    st.sampled_from((1, 2, 7)),
)
def test_an_index_of_some_of_the_parts_spares_their_tables(units, data, run, block):
    parts = Parts(
        {
            f"u-{i}": table([c[:2] for c in unit], [c[2] for c in unit])
            for i, unit in enumerate(units)
        }
    )
    before = Parts({n: parts[n] for n in data.draw(st.sets(st.sampled_from(sorted(parts))))})
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_RUN", run)
        patch.setattr(module, "_KEYS", run + 1)
        patch.setattr(module, "_BLOCK", block)
        patch.setattr(module, "_BLOCK_BYTES", block * module._RECORD.itemsize)
        patch.setattr(module, "_SAMPLE", 1)
        len(before.index(Path(folder)))
        check(parts.index(Path(folder)), dictionary(parts))
        assert parts.loads == (len(parts) - len(before) if before != parts else 0)
        only_file(Path(folder))


@pytest.mark.parametrize("gone", [1, 0])
def test_an_index_of_other_parts_or_a_damaged_one_is_not_built_upon(tmp_path, gone):
    parts = many(4, 700)
    len(parts.index(tmp_path))
    parts.loads = 0
    if gone:
        del parts["u-001"]
    else:
        data = bytearray(only_file(tmp_path).read_bytes())
        data[40_000] ^= 1  # a record, which its block's checksum tells
        only_file(tmp_path).write_bytes(data)
    parts["u-009"] = many(1, 700, seed=5)["u-000"]
    check(parts.index(tmp_path), dictionary(parts))
    assert parts.loads >= len(parts)
