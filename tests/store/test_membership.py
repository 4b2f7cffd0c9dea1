"""A set of files is never forgotten, and others are rarely taken for one of it."""

import hashlib

import numpy as np
import pytest

from store.errors import InputError
from store.membership import BITS_A_FILE, MOST_BYTES, MOST_SLICES, Membership, slices


def digests(count, start=0):
    return [hashlib.sha256(str(start + i).encode()).digest() for i in range(count)]


def rows(found):
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, 32)


@pytest.mark.parametrize("count", [1, 300, 10_000])
def test_files_of_the_set_are_found_and_others_are_not(count):
    media = Membership.from_dict(Membership.of(digests(count)).to_dict())
    assert media.files == count
    assert media.has(rows(digests(count))).all()
    wrong = media.has(rows(digests(20_000, start=count))).mean()
    assert wrong <= 2 * media.mistakes + 2e-4
    assert media.mistakes < (0.011 if count == 10_000 else 1e-5)
    assert len(media.bits) <= 8 * MOST_BYTES


def test_it_is_the_filter_of_the_paper():
    """A literal loop over bits: each slice of a digest sets one."""
    known = digests(5)
    media = Membership.of(known)
    assert len(media.bits) == BITS_A_FILE * 5
    bits = [0] * len(media.bits)
    for digest in known:
        for i in range(MOST_SLICES):
            bits[int.from_bytes(digest[4 * i : 4 * i + 4], "little") % len(bits)] = 1
    assert media.bits.tolist() == bits


def test_an_unknown_file_is_in_no_set():
    everything = Membership(bits=np.ones(64, np.uint8), files=1)
    assert everything.has(rows([bytes(32), *digests(1)])).tolist() == [False, True]


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"files": 1, "bits": "?"},
        {"files": "x", "bits": "AAAAAAAAAAA="},
        {"files": 1, "bits": ""},
    ],
)
def test_what_is_no_set_is_one_line(facts):
    with pytest.raises(InputError, match="a set of files"):
        Membership.from_dict(facts)


@pytest.mark.parametrize(("files", "count"), [(1, 8), (10_000, 7), (20_000, 3), (10**6, 1)])
def test_fewer_bits_are_a_files_own_where_many_share_them(files, count):
    assert slices(files, 8 * MOST_BYTES) == count
