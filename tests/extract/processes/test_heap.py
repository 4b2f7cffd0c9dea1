"""Asked of processes of their own: what counts is what the system's pages do."""

import ctypes
import subprocess
import sys

import pytest

from extract.processes.heap import kept

CODE = """
import resource, torch
from extract.processes.heap import kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(24 << 20).sum()  # 96 MiB: more than the system keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def held():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

faults()
without = faults()
with kept({device!r}):
    for _ in range(5):
        faults()  # until the heap has the room that it takes
    within, most = faults(), held()
print(without, within, faults(), most - held())
"""


def asked(device):
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(device=device)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return map(int, done.stdout.split())


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="no glibc here",
)
def test_what_is_freed_is_used_again_and_goes_back_at_the_end():
    without, within, after, given_back = asked("cpu")
    assert within < without / 2
    assert after > without / 2
    assert given_back > 64 << 20


def test_beside_a_card_nothing_changes():
    without, within, _, _ = asked("cuda:0")
    assert within > without / 2


def test_what_goes_wrong_inside_comes_out():
    with pytest.raises(LookupError), kept("cpu"):
        raise LookupError
