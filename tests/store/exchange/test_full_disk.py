"""An export to a disk that is full: one line, exit code 2, and nothing left behind."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

import store
from store import plugins
from store.exchange.exchange import FAMILY
from store.exchange.formats._h5_writing import Disk
from store.testing import fill

NAMES = plugins.names(FAMILY)
# Files may not grow beyond a size: for a program that writes, a disk that is full. With -B, for
# bytecode would be torn, and break every later import.
_EXPORT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from cli import store_main
store_main()
"""


@pytest.fixture(scope="module")
def store_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / "fs"
    fill(path, clips=120, rows=4, dim=64, classes=3)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_a_line_and_leaves_nothing(store_dir, name, tmp_path):
    several = "features" in plugins.build(FAMILY, name).keeps
    features = [] if several else ["--feature", store.open(store_dir).features[0]]
    output = tmp_path / "out"
    command = [sys.executable, "-B", "-c", _EXPORT, "9000", "export", store_dir, "--format", name]
    done = subprocess.run(
        [*map(str, command), "-o", str(output), *features],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1, done.stderr
    assert f"cannot write {output}: " in done.stderr
    assert "make room" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [0, 700, 3000, 20_000, 60_000])
def test_hdf5_closes_in_peace_wherever_the_disk_ends(room, tmp_path, monkeypatch):
    """It would die at the end of the process if it were told."""
    write = os.pwrite

    def full(descriptor, data, offset):
        if offset + len(data) > room:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with (tmp_path / "f.h5").open("xb+", buffering=0) as raw:
        disk = Disk(raw.fileno())
        with h5py.File(disk, "w") as file:
            rows = file.create_dataset("rows", (0, 64), "f4", maxshape=(None, 64), chunks=(64, 64))
            for number in range(4):
                rows.resize(64 * (number + 1), axis=0)
                rows[-64:] = number
            text = file.create_dataset("text", (50,), h5py.string_dtype())
            text[:] = ["x" * 100] * 50
        with pytest.raises(OSError, match="No space left"):
            disk.check()
        with h5py.File(disk, "r") as file:  # what was refused can still be read by HDF5
            np.testing.assert_array_equal(file["rows"][:, 0], np.repeat(np.arange(4.0), 64))


def test_what_is_written_through_it_is_a_plain_file(tmp_path):
    with (tmp_path / "f.h5").open("xb+", buffering=0) as raw:
        disk = Disk(raw.fileno())
        with h5py.File(disk, "w") as file:
            file["rows"] = np.arange(1000.0)
        disk.check()
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_array_equal(file["rows"][:], np.arange(1000.0))
