"""The direct reader gives what zarr gives, bit for bit, or says that the file is damaged."""

import gc
import json
import os
import struct
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec, ZstdCodec

from store.errors import DamagedStore
from store.parts import layout, row_reader
from store.parts.row_reader import RowArray, RowReader, Span
from store.parts.shards import Grid

ABSENT = (1 << 64) - 1


def create(
    path: Path,
    values: np.ndarray,
    *,
    chunk_rows: int,
    shard_chunks: int = 0,
    crc: bool = True,
    index_location: str = "end",
    index_crc: bool = True,
    fill_value: float = 0,
) -> RowArray:
    """`values` as written by zarr; `shard_chunks=0` is one file per chunk."""
    codecs = [BytesCodec(), *([Crc32cCodec()] if crc else [])]
    chunks = (chunk_rows, values.shape[1])
    if shard_chunks:
        index_codecs = [BytesCodec(), *([Crc32cCodec()] if index_crc else [])]
        serializer = ShardingCodec(
            chunk_shape=chunks,
            codecs=codecs,
            index_codecs=index_codecs,
            index_location=index_location,
        )
        chunks = (chunk_rows * shard_chunks, values.shape[1])
        codecs = [serializer]
    written = zarr.create_array(
        str(path),
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        serializer=codecs[0],
        compressors=codecs[1:] or None,
        filters=None,
        fill_value=fill_value,
    )
    if len(values):
        written[...] = values
    return opened(path)


HOME: dict[RowArray, Path] = {}


def opened(path: Path) -> RowArray:
    grid = Grid.of(json.loads((path / "zarr.json").read_bytes()))
    assert grid is not None
    source = RowArray.at(path, grid=grid, name="unit/values")
    HOME[source] = path
    return source


def random_values(rows: int, dim: int, dtype: str, seed: int) -> np.ndarray:
    """Every bit pattern may occur: also NaN with payload, infinity and -0."""
    bits = np.random.default_rng(seed).bytes(rows * dim * np.dtype(dtype).itemsize)
    return np.frombuffer(bits, dtype).reshape(rows, dim)


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and left.dtype == right.dtype and bits(left) == bits(right)


def bits(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def shard_of(source: RowArray, file: int = 0) -> Path:
    """Of an array that `opened` gave."""
    return HOME[source] / "c" / str(file) / "0"


def with_index(source: RowArray, entries: list[tuple[int, int]], data: bytes) -> None:
    """Write a shard by hand: any data, any index with a right checksum."""
    index = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    crc = google_crc32c.value(index).to_bytes(4, "little")
    shard_of(source).write_bytes(data + index + crc)


@st.composite
def arrays(draw):
    chunk_rows = draw(st.integers(1, 6))
    shard_chunks = draw(st.integers(0, 4))
    per_file = chunk_rows * max(1, shard_chunks)
    edge = draw(st.integers(0, 3)) * draw(st.sampled_from((chunk_rows, per_file)))
    form = {
        "chunk_rows": chunk_rows,
        "shard_chunks": shard_chunks,
        "crc": draw(st.booleans()),
        "index_location": draw(st.sampled_from(("start", "end"))),
        "index_crc": draw(st.booleans()),
    }
    rows = max(0, edge + draw(st.integers(-1, 1)))
    dtype = draw(st.sampled_from(("float16", "float32", "uint8", "int64")))
    values = random_values(rows, draw(st.integers(1, 9)), dtype, draw(st.integers(0, 999)))
    ends = st.integers(0, rows)
    spans = draw(st.lists(st.tuples(ends, ends).map(sorted), max_size=8))
    return form, values, spans


@settings(max_examples=50, deadline=None)
@given(arrays(), st.booleans(), st.integers(1, 400))
def test_any_spans_in_any_order_are_those_of_zarr(case, verify, read_bytes):
    form, values, wanted = case
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_reader, "_READ_BYTES", read_bytes)
        patch.setattr(row_reader, "_WINDOW_BYTES", 4 * read_bytes)
        source = create(Path(folder, "a"), values, **form)
        plain = zarr.open_array(str(HOME[source]), mode="r")[...]
        spans, to = [], 0
        for start, stop in wanted:
            spans.append(Span(source, start, stop, to))
            to += stop - start
        out = np.empty((to, values.shape[1]), values.dtype)
        reader = RowReader(max_open=2, fill_missing=True)  # chunks of zeros are not written
        reader.read(spans, out, verify=verify)
        expected = np.concatenate([plain[:0], *(plain[start:stop] for start, stop in wanted)])
        assert same_bits(out, expected)
        assert same_bits(reader.rows(source, 0, len(values), verify=verify), plain)


@pytest.mark.parametrize("rows", [1, 511, 512, 513, 65535, 65536, 65537])
def test_parts_of_the_store(tmp_path, rows):
    """The layout of parts, around the ends of a chunk and of a shard."""
    dim = 1024
    values = random_values(rows, dim, "float16", rows)
    source = RowArray.at(tmp_path, grid=grid_of_part(tmp_path, rows, dim), name="values")
    array = zarr.open_array(str(tmp_path), mode="r+", zarr_format=3)
    array[...] = values
    assert same_bits(RowReader().rows(source, 0, rows, verify=True), values)
    assert same_bits(RowReader().rows(source, rows // 2, rows), values[rows // 2 :])


def grid_of_part(path: Path, rows: int, dim: int) -> Grid:
    metadata = layout.array_metadata("values", clips=1, rows=rows, dim=dim)
    (path / "zarr.json").write_text(json.dumps(metadata))
    grid = Grid.of(metadata)
    assert grid is not None
    return grid


def test_many_arrays_in_one_call(tmp_path):
    values = [random_values(20, 3, "float16", seed) for seed in range(5)]
    sources = [
        create(tmp_path / str(i), v, chunk_rows=2 + i, shard_chunks=i) for i, v in enumerate(values)
    ]
    order = np.random.default_rng(0).permutation(100)
    spans = [Span(sources[i % 5], i // 5, i // 5 + 1, to) for to, i in enumerate(order.tolist())]
    out = np.empty((100, 3), np.float16)
    RowReader(max_open=3).read(spans, out, verify=True)
    assert same_bits(out, np.stack([values[i % 5][i // 5] for i in order]))


def test_offsets_that_follow_each_other_in_different_files(tmp_path):
    values = [random_values(8, 3, "float16", seed) for seed in range(2)]
    one, two = (
        create(tmp_path / str(i), v, chunk_rows=4, shard_chunks=1) for i, v in enumerate(values)
    )
    out = np.empty((4, 3), np.float16)
    for spans in ([(one, 0), (one, 5), (one, 2)], [(one, 0), (two, 1)], [(two, 0), (one, 1)]):
        RowReader().read([Span(s, row, row + 1, to) for to, (s, row) in enumerate(spans)], out)
        wanted = [values[source is two][row] for source, row in spans]
        assert same_bits(out[: len(spans)], np.stack(wanted))


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.lists(st.integers(0, 9), min_size=6, max_size=6))
def test_chunks_in_any_order_with_gaps(order, gaps):
    values = random_values(23, 5, "float16", 1)
    with TemporaryDirectory() as folder:
        source = create(Path(folder), values, chunk_rows=4, shard_chunks=6)
        size = source.grid.chunk_bytes
        old = shard_of(source).read_bytes()
        data, entries = b"", [(0, 0)] * 6
        for inner, gap in zip(order, gaps, strict=True):
            data += b"\xee" * gap
            entries[inner] = (len(data), size)
            data += old[inner * size : (inner + 1) * size]
        with_index(source, entries, data)
        plain = zarr.open_array(str(HOME[source]), mode="r")[...]
        assert same_bits(plain, values)
        for verify in (False, True):
            assert same_bits(RowReader().rows(source, 0, 23, verify=verify), values)


@pytest.mark.parametrize("shard_chunks", [0, 3])
def test_missing_chunks(tmp_path, shard_chunks):
    values = np.ones((24, 2), np.float16)
    values[4:8] = values[12:24] = 7  # with three chunks to a shard, the second is not there at all
    source = create(tmp_path, values, chunk_rows=4, shard_chunks=shard_chunks, fill_value=7)
    assert not shard_of(source, 1).exists()
    filled = RowReader(fill_missing=True)
    assert same_bits(filled.rows(source, 0, 24, verify=True), values)
    assert same_bits(filled.rows(source, 3, 13), values[3:13])
    strict = RowReader()
    assert same_bits(strict.rows(source, 8, 12), values[8:12])
    for lost in (4, 16):
        with pytest.raises(DamagedStore, match="has lost chunk"):
            strict.rows(source, lost, lost + 1)


def test_other_arrays_are_left_to_zarr(tmp_path):
    plain = layout.array_metadata("values", clips=1, rows=9, dim=4)
    assert Grid.of(plain) is not None
    bytes_codec, crc = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    zstd = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
    transpose = {"name": "transpose", "configuration": {"order": [1, 0]}}
    big = {"name": "bytes", "configuration": {"endian": "big"}}
    sharding = plain["codecs"][0]

    def sharded(**changed):
        return [{**sharding, "configuration": {**sharding["configuration"], **changed}}]

    others = [
        {"codecs": codecs}
        for codecs in (
            [bytes_codec, zstd],
            [transpose, bytes_codec],
            [big],
            [bytes_codec, crc, crc],
            [],
            [sharding, zstd],
            sharded(codecs=[bytes_codec, zstd, crc]),
            sharded(codecs=sharded()),
            sharded(index_codecs=[bytes_codec, zstd]),
            sharded(index_codecs=[big, crc]),
            sharded(index_location="middle"),
            sharded(chunk_shape=[3, 4]),
            sharded(chunk_shape=[1, 2]),
            sharded(chunk_shape=[0, 4]),
            None,
        )
    ]
    others += [
        {"shape": [9]},
        {"shape": [9, 5]},
        {"shape": [-1, 4]},
        {"shape": [1 << 60, 4]},
        {"shape": [True, 4]},
        {"data_type": "bfloat16"},
        {"data_type": ["float16"]},
        {"chunk_grid": {"name": "rectilinear"}},
        {"chunk_key_encoding": {"name": "v2"}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}}},
        {"storage_transformers": [{"name": "odd"}]},
        {"zarr_format": 2},
        {"node_type": "group"},
        {"fill_value": "0x7c01"},
        {"unheard_of": {"must_understand": True}},
    ]
    for change in others:
        assert Grid.of({**plain, **change}) is None, change
    assert Grid.of({}) is None


@pytest.mark.parametrize(
    "codec",
    [
        {"compressors": ZstdCodec()},
        {"compressors": None, "filters": TransposeCodec(order=(1, 0))},
        {"compressors": ZstdCodec(), "shards": (8, 3)},
    ],
)
def test_what_zarr_writes_with_other_codecs_is_left_to_it(tmp_path, codec):
    zarr.create_array(str(tmp_path), shape=(8, 3), chunks=(4, 3), dtype="float16", **codec)
    assert Grid.of(json.loads((tmp_path / "zarr.json").read_bytes())) is None


@pytest.mark.parametrize("index_location", ["start", "end"])
def test_every_flipped_byte_is_found(tmp_path, index_location):
    values = random_values(11, 3, "float16", 5)
    source = create(tmp_path, values, chunk_rows=4, shard_chunks=4, index_location=index_location)
    file = shard_of(source)
    sound = file.read_bytes()
    for at in range(len(sound)):
        broken = bytearray(sound)
        broken[at] ^= 1 << at % 8
        file.write_bytes(broken)
        with pytest.raises(DamagedStore, match="unit/values/c/0/0 "):
            RowReader().rows(source, 0, 11, verify=True)
        # Parts of chunks can be verified too: by way of the whole chunk.
        with pytest.raises(DamagedStore):
            RowReader().read(
                [Span(source, row, row + 1, row) for row in range(11)],
                np.empty((11, 3), np.float16),
                verify=True,
            )
    file.write_bytes(sound)
    assert same_bits(RowReader().rows(source, 0, 11, verify=True), values)


def test_every_flipped_byte_is_found_without_shards(tmp_path):
    source = create(tmp_path, random_values(4, 3, "float16", 5), chunk_rows=4)
    sound = shard_of(source).read_bytes()
    for at in range(len(sound)):
        broken = bytearray(sound)
        broken[at] ^= 0x10
        shard_of(source).write_bytes(broken)
        with pytest.raises(DamagedStore, match="checksum"):
            RowReader().rows(source, 0, 4, verify=True)
    for torn in (sound[:-1], sound + b"\0", b""):
        shard_of(source).write_bytes(torn)
        with pytest.raises(DamagedStore, match="bytes instead of"):
            RowReader().rows(source, 0, 1)


def test_torn_files_and_other_things_in_their_place(tmp_path):
    source = create(tmp_path, random_values(8, 3, "float16", 5), chunk_rows=4, shard_chunks=2)
    sound = shard_of(source).read_bytes()
    for size in range(len(sound)):
        shard_of(source).write_bytes(sound[:size])
        with pytest.raises(DamagedStore):
            RowReader().rows(source, 0, 8)
    shard_of(source).unlink()
    os.mkfifo(shard_of(source))
    with pytest.raises(DamagedStore, match="regular"):
        RowReader().rows(source, 0, 8)
    shard_of(source).unlink()
    shard_of(source).mkdir()
    with pytest.raises(DamagedStore, match="regular"):
        RowReader().rows(source, 0, 8)


def test_a_file_that_shrinks_after_its_index_was_read(tmp_path):
    source = create(
        tmp_path,
        random_values(8, 3, "float16", 5),
        chunk_rows=4,
        shard_chunks=2,
        index_location="start",
    )
    reader = RowReader()
    reader.rows(source, 0, 1)
    os.truncate(shard_of(source), 60)
    with pytest.raises(DamagedStore, match="lost its end"):
        reader.rows(source, 4, 8)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([(1 << 40, 28), (28, 28)], "outside"),
        ([(0, 28), ((1 << 64) - 28, 28)], "outside"),
        ([(0, 28), (29, 28)], "outside"),
        ([(0, 1 << 62), (28, 28)], "not of 28 bytes"),
        ([(0, 27), (28, 28)], "not of 28 bytes"),
        ([(0, ABSENT), (28, 28)], "not of 28 bytes"),
        ([(ABSENT, 28), (28, 28)], "outside"),
        ([(0, 28), (0, 28)], "overlap"),
        ([(28, 28), (27, 28)], "overlap"),
    ],
)
def test_an_index_that_cannot_be_true(tmp_path, entries, message):
    source = create(tmp_path, random_values(8, 3, "float16", 5), chunk_rows=4, shard_chunks=2)
    data = shard_of(source).read_bytes()[: 2 * 28]
    with_index(source, [(28, 28), (0, 28)], data)
    RowReader().rows(source, 0, 8, verify=True)
    with_index(source, entries, data)
    with pytest.raises(DamagedStore, match=message):
        RowReader().rows(source, 0, 8)


def test_metadata_that_promises_terabytes_takes_no_memory(tmp_path):
    source = create(tmp_path, random_values(8, 3, "float16", 5), chunk_rows=4, shard_chunks=2)
    metadata = json.loads((tmp_path / "zarr.json").read_bytes())
    huge = 1 << 40
    lies = []
    for shape, shard, chunk in (
        ([huge, 3], [8, 3], [4, 3]),  # more rows than files
        ([8, huge], [8, huge], [4, huge]),  # chunks larger than the file
        ([huge, 3], [huge, 3], [4, 3]),  # an index larger than the file
        ([huge, 3], [huge, 3], [huge, 3]),
    ):
        metadata["shape"] = shape
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = shard
        metadata["codecs"][0]["configuration"]["chunk_shape"] = chunk
        grid = Grid.of(metadata)
        assert grid is not None
        lies.append((shape[0], RowArray.at(tmp_path, grid=grid, name="lie")))
    elsewhere = RowArray.at(tmp_path / "nowhere", grid=lies[2][1].grid, name="lie")
    tracemalloc.start()
    try:
        for rows, lie in [*lies, (huge, elsewhere)]:
            with pytest.raises(DamagedStore):
                RowReader().rows(lie, 0, rows)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert RowReader().rows(source, 0, 8).shape == (8, 3)


def open_files(below: Path) -> int:
    links = list(Path("/proc/self/fd").iterdir())
    return sum(link.exists() and link.readlink().is_relative_to(below) for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_open_files_are_bounded_and_closed(tmp_path):
    values = random_values(40, 2, "float16", 0)
    source = create(tmp_path, values, chunk_rows=1, shard_chunks=2)
    gc.collect()
    gc.disable()  # closing must not wait for the collector
    try:
        reader = RowReader(max_open=4)
        assert same_bits(reader.rows(source, 0, 40), values)
        assert open_files(tmp_path) == 4
        del reader
        assert open_files(tmp_path) == 0
    finally:
        gc.enable()


def test_threads_share_a_reader(tmp_path):
    values = random_values(400, 2, "float16", 0)
    source = create(tmp_path, values, chunk_rows=2, shard_chunks=5)
    reader = RowReader(max_open=1)

    def read(seed):
        starts = np.random.default_rng(seed).integers(0, 380, 50).tolist()
        return all(
            same_bits(reader.rows(source, s, s + 20, verify=True), values[s : s + 20])
            for s in starts
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(16)))


@pytest.mark.parametrize("system", ["no preadv", "short reads", "cold disk"])
def test_other_systems(tmp_path, monkeypatch, system):
    values = random_values(50, 3, "float16", 0)
    source = create(tmp_path, values, chunk_rows=4, shard_chunks=3)
    preadv, announced = os.preadv, []
    if system == "no preadv":
        monkeypatch.delattr(os, "preadv")
        monkeypatch.setattr(row_reader, "_CAN_ANNOUNCE", False)
    elif system == "short reads":
        monkeypatch.setattr(
            os, "preadv", lambda fd, views, at, *flags: preadv(fd, [views[0][:5]], at, *flags)
        )
    else:

        def cold(fd, views, at, flags=0):
            if flags:
                raise BlockingIOError
            return preadv(fd, views, at)

        monkeypatch.setattr(os, "preadv", cold)
        monkeypatch.setattr(os, "posix_fadvise", lambda *args: announced.append(args))
    for verify in (False, True):
        assert same_bits(RowReader().rows(source, 3, 50, verify=verify), values[3:])
    assert bool(announced) == (system == "cold disk")
    assert sum(size for _, _, size, _ in announced[:13]) == 47 * 6 * bool(announced)
