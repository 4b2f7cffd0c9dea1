"""Files that lie about their size, name the same thing a million times, or are damaged anywhere.

Every outcome is a value or an error of ours, in little time and memory.
"""

import io
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from collections import Counter

import h5py
import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet

from store import plugins
from store.errors import InputError, MicroshotError
from store.exchange import importing
from store.exchange.exchange import FAMILY, export, import_
from store.testing import fill
from tests.store.exchange.mutations import damaged_copies
from tests.store.pickle_attacks import nested_keys

NAMES = plugins.names(FAMILY)
SUFFIX = {"hdf5": ".h5", "npz": ".npz", "parquet": ".parquet", "coop": ".pt", "simpleshot": ".plk"}


def refused(spec, source, match, *, trust=True):
    """Read a file that is refused; nothing is committed anywhere."""
    with pytest.raises(InputError, match=match) as caught:
        import_(spec, source, source.with_name("never"), trust_pickle=trust)
    assert "\n" not in str(caught.value)
    assert not source.with_name("never").exists()


# ── npz ──────────────────────────────────────────────────────────────────────────────────────────


def npy(dtype, shape, data=b""):
    """An array that says of itself what it likes."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


@pytest.mark.parametrize("dtype", ["|V0", "<U0", "|S0"])
def test_items_without_bytes_are_refused_in_npz(dtype, tmp_path):
    """472 bytes of which numpy makes 200 million items."""
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("values.npy", npy("<f4", (1, 1), b"\0" * 4))
        archive.writestr("clip_id.npy", npy(dtype, (200_000_000,)))
    refused("npz", tmp_path / "f.npz", "not as large as it says")


@pytest.mark.parametrize("shape", [(1 << 62, 8), (1 << 32, 1 << 32), (-1, -4), (1 << 70,)])
def test_shapes_that_overflow_are_refused_in_npz(shape, tmp_path):
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        archive.writestr("values.npy", npy("<f4", shape, b"\0" * 16))
    refused("npz", tmp_path / "f.npz", "as large as it says|shape|cannot be read")


def test_many_small_bombs_are_one_in_npz(tmp_path):
    """Each member is small enough; together they are gigabytes."""
    data = npy("<f4", (1, 15 << 20), bytes(60 << 20))
    with zipfile.ZipFile(tmp_path / "f.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("values.npy", data)
        archive.writestr("more.npy", data)
    refused("npz", tmp_path / "f.npz", "swells from")


def test_members_that_overlap_are_refused(tmp_path):
    """Many entries of the directory that share their bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("values.npy", npy("<f4", (1000, 4), b"\0" * 16_000))
        info = archive.getinfo("values.npy")
        for number in range(20):
            again = zipfile.ZipInfo(f"a{number}.npy")
            again.header_offset, again.CRC = info.header_offset, info.CRC
            again.file_size = again.compress_size = info.file_size
            archive.filelist.append(again)
    (tmp_path / "f.npz").write_bytes(file.getvalue())
    refused("npz", tmp_path / "f.npz", "overlap")


# ── torch ────────────────────────────────────────────────────────────────────────────────────────


def test_keys_that_never_end_are_refused_in_torch_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pt", "w") as archive:
        archive.writestr("f/data.pkl", nested_keys())
    refused("coop", tmp_path / "f.pt", "a tuple as a key", trust=False)


def test_legacy_keys_that_are_no_text_are_refused(tmp_path):
    content = {"features": torch.ones(1, 2), "labels": torch.tensor([0]), "paths": ["a"]}
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "f.pt").read_bytes()
    end = data.rindex(b"\x80\x02]")
    tail = data.index(b".", end) + 1
    (tmp_path / "f.pt").write_bytes(data[:end] + b"\x80\x02](]]K\x01e." + data[tail:])
    refused("coop", tmp_path / "f.pt", "no file of torch")


@pytest.mark.parametrize("size", ["(2, 2)", "(1 << 40, 1)"])
def test_strides_of_nothing_do_not_make_much_of_little(size, tmp_path):
    tensor = torch.ones(1).as_strided(eval(size), (0, 0))
    content = {"features": tensor, "labels": torch.tensor([0]), "paths": ["a"]}
    torch.save(content, tmp_path / "f.pt")
    refused("coop", tmp_path / "f.pt", "larger than its storage|more than")


# ── HDF5 ─────────────────────────────────────────────────────────────────────────────────────────


def test_chunks_that_swell_are_refused_in_hdf5(tmp_path):
    """A dataset of a few numbers, whose one chunk unpacks to gigabytes."""
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file.create_dataset(
            "values", (4, 2), "f4", chunks=(1 << 26, 2), maxshape=(None, 2), compression="gzip"
        )
        file["clip_id"] = np.array(list("abcd"), object)
    refused("hdf5", tmp_path / "f.h5", "chunks that swell")


def test_one_text_for_all_items_does_not_swell_in_hdf5(tmp_path):
    """Items of text are references into a heap, which may all be one."""
    long, count = "x" * 60_000, 4000
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["values"] = np.zeros((count, 1), np.float32)
        file["clip_id"] = np.array([f"clip{i:06d}" for i in range(count)], "S")
        file["offsets"] = np.arange(count + 1)
        file.create_dataset("label", (count,), h5py.string_dtype(), chunks=(count,))
        file["label"][0] = long
        file["label"][1:] = ["y"] * (count - 1)
        place = file["label"].id.get_chunk_info(0)
    data = bytearray((tmp_path / "f.h5").read_bytes())
    item = place.size // count
    first = data[place.byte_offset : place.byte_offset + item]
    data[place.byte_offset : place.byte_offset + place.size] = bytes(first) * count
    (tmp_path / "f.h5").write_bytes(data)
    assert struct.unpack_from("<I", first)[0] == len(long)
    refused("hdf5", tmp_path / "f.h5", "names the same text too often")


def test_links_on_the_way_are_not_followed_in_hdf5(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["inside/values"] = np.ones((1, 2))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["top/way"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "inside")
        file["top/clip_id"] = np.array(["a"], object)
    refused("hdf5:values=way/values", tmp_path / "f.h5", "not followed|no dataset")


# ── Parquet ──────────────────────────────────────────────────────────────────────────────────────


def test_one_number_repeated_does_not_swell_in_parquet(tmp_path):
    """Run lengths make a hundred million numbers of a few bytes."""
    flat = pyarrow.array(np.zeros(20_000_000, np.float32))
    rows = pyarrow.FixedSizeListArray.from_arrays(flat, 20_000)
    table = pyarrow.table({"embedding": rows, "class_name": ["a"] * 1000})
    parquet.write_table(table, tmp_path / "f.parquet", compression="zstd")
    assert (tmp_path / "f.parquet").stat().st_size < 1 << 19
    refused("parquet", tmp_path / "f.parquet", "swells from")


def test_one_text_for_all_rows_does_not_swell_in_parquet(tmp_path):
    table = pyarrow.table({
        "embedding": [[1.0]] * 2_000, "class_name": ["x" * 60_000] * 2_000,
        "clip_id": [str(i) for i in range(2_000)],
    })  # fmt: skip
    parquet.write_table(table, tmp_path / "f.parquet", compression="zstd")
    refused("parquet", tmp_path / "f.parquet", "same text too often")


# ── anything, damaged anywhere ───────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    top = tmp_path_factory.mktemp("exported")
    fs = fill(top / "fs", clips=12, rows=2, dim=3, classes=3)
    made = {}

    def get(name):
        if name not in made:
            several = "features" in plugins.build(FAMILY, name).keeps
            made[name] = top / f"{name}{SUFFIX.get(name, '')}"
            export(fs, name, made[name], features=() if several else fs.features[:1])
        return made[name]

    return get


def outcomes(name, source, target, count, seed):
    """What became of so many damaged copies; any other error than ours is raised."""
    found = Counter()
    made = plugins.build(FAMILY, name)
    for copy in damaged_copies(source, target, count, seed):
        begun = time.monotonic()
        try:
            importing.checked(list(made.read(copy, trust_pickle=True)))
            found["value"] += 1
        except MicroshotError as error:
            found["error" if "\n" not in str(error) else "several lines"] += 1
        assert time.monotonic() - begun < 20, copy
        shutil.rmtree(copy) if copy.is_dir() else copy.unlink()
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_a_value_or_an_error_of_ours(exported, name, tmp_path):
    found = outcomes(name, exported(name), tmp_path, 14, seed=0)
    assert sum(found.values()) == 14
    assert found["error"] > 2
    assert not found["several lines"]


_MANY = """
import resource, sys
from pathlib import Path
from tests.store.exchange.test_hostile_files import outcomes
name, source, target, count = sys.argv[1:]
outcomes(name, Path(source), Path(target) / "warm", 7, seed=0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = outcomes(name, Path(source), Path(target), int(count), seed=1000)
assert not found["several lines"]
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 300 << 10, grown
"""


@pytest.mark.soak
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files_take_no_memory(exported, name, tmp_path):
    """In a process of its own: a library that dies on one would take the tests along."""
    arguments = [name, exported(name), tmp_path, "1500"]
    done = subprocess.run([sys.executable, "-c", _MANY, *map(str, arguments)], check=False)
    assert done.returncode == 0


def test_the_machine_notices_what_mutations_do():
    """They change the file, and each seed in its own way."""
    from tests.store.exchange.mutations import mutation

    data = bytes(range(256)) * 8 + b"12345\0\0\0\0\0"
    made = {mutation(data, seed) for seed in range(70)}
    assert len(made) > 55
