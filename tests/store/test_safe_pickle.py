"""The restricted reader: everything numpy writes, nothing that could be called."""

import io
import pickle
import struct
import tracemalloc
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest

from store import safe_pickle
from store.errors import InputError
from store.pickles import budget
from tests.store.pickle_attacks import (
    called_keys,
    colliding,
    deep,
    empty_containers,
    empty_items,
    marks,
    memo_of_one,
    nested_encodings,
    nested_frozen,
    nested_items,
    nested_keys,
    nested_names,
    nested_values,
    repeated_encode,
    repeated_list,
    repeated_scalar,
    ring,
)  # fmt: skip


def load(data):
    return safe_pickle.load(io.BytesIO(data), name="file")


ARRAYS = [
    np.arange(6, dtype=np.float32).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(4, dtype=">f8"),
    np.arange(4, dtype=np.float16),
    np.array(7, np.int64),
    np.empty((0, 5), np.float32),
    np.array([b"abc", b"d"]),
    np.array(["é", "ab"]),
    np.array([True, False]),
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{list(a.shape)}")
def test_arrays_come_back(array, protocol):
    loaded = safe_pickle.array(load(pickle.dumps(array, protocol)), name="file")
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_containers_and_scalars_come_back(protocol):
    content = {
        "list": [1, 2.5, None, True, "é", b"\xff"],
        "tuple": (1, (2,)),
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, {3: [1]}),
        "set": {1, 2},
        "scalar": [np.float32(1.5), np.int64(-3), np.str_("x")],
    }
    assert load(pickle.dumps(content, protocol)) == content


def test_old_numpy_and_old_python_are_understood():
    array = np.arange(3, dtype=np.float64)
    data = pickle.dumps(array, 2)
    assert b"numpy._core" in data
    old = data.replace(b"numpy._core", b"numpy.core")
    np.testing.assert_array_equal(safe_pickle.array(load(old), name="file"), array)


def test_a_dictionary_in_an_array_without_axes():
    """As `np.save` writes a dictionary."""
    file = io.BytesIO()
    np.save(file, {"cat": np.ones(3)}, allow_pickle=True)
    file.seek(0)
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    loaded = safe_pickle.mapping(safe_pickle.load(file, name="file"), ["cat"], name="file")
    np.testing.assert_array_equal(safe_pickle.array(loaded["cat"], name="file"), np.ones(3))


def test_ragged_object_arrays_are_lists():
    ragged = np.empty(2, dtype=object)
    ragged[:] = [np.ones((2, 3)), np.zeros((1, 3))]
    loaded = safe_pickle.items(load(pickle.dumps(ragged)), name="file")
    assert [safe_pickle.array(rows, name="file").shape for rows in loaded] == [(2, 3), (1, 3)]


class Calls:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


class Plain:
    pass


def hostile(tmp_path):
    import builtins
    import os
    import subprocess

    marker = tmp_path / "marker"
    yield Calls(os.system, f"touch {marker}")
    yield Calls(subprocess.check_call, ["touch", str(marker)])
    yield Calls(builtins.eval, f"open({str(marker)!r}, 'w')")
    yield Calls(Path.touch, marker)
    yield Calls(builtins.getattr, np.float32, "mro")
    yield Calls(bytes, 1 << 40)
    yield list.append
    yield Calls(np.load, str(marker))
    yield Calls(np.fromfile, str(marker))
    yield Plain()
    yield Plain
    yield np.load
    yield np.zeros(2, dtype=[("a", "f4")])
    yield np.ma.masked_array([1.0], [True])
    yield np.array([1], "M8[s]")


def test_what_could_be_called_is_refused(tmp_path):
    for content in hostile(tmp_path):
        for protocol in (2, 4):
            for nested in (content, [content], {"a": content}, OrderedDict(a=content)):
                with pytest.raises(InputError, match=r"file holds|not a readable pickle") as caught:
                    load(pickle.dumps(nested, protocol))
                assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


RAW = {
    "a dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x13OrderedDict.__init__\x93.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance": b"(icollections\nOrderedDict\n.",
    "a new object": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "an out-of-band buffer": b"\x80\x05\x97.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "an announced gigabyte": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"a.",
    "announced text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"a.",
    "nothing": b"",
    "no end": b"\x80\x02]",
    "an unknown opcode": b"\x80\x02\xff.",
    "a pop too many": b"\x80\x020.",
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW.keys())
def test_raw_opcodes_are_refused(data):
    with pytest.raises(InputError):
        load(data)


def test_a_memo_of_billions_is_a_dictionary():
    """The C machine would allocate 16 GB for this."""
    assert load(b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def state(shape=(2,), dtype="f4", data=b"\0" * 8):
    """A pickled array that says of itself what it likes."""
    array = np.zeros(2, np.float32)
    function, args, (version, _, kind, fortran, _) = array.__reduce__()
    kind = np.dtype(dtype) if isinstance(dtype, str) else dtype
    return Calls3(function, args, (version, shape, kind, fortran, data))


class Calls3:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "content",
    [
        state(shape=(1 << 40,)),
        state(shape=(-2,)),
        state(shape=(2.0,)),
        state(shape=None),
        state(data=b"\0" * 7),
        state(data=None),
        state(dtype="O", data=[1]),
        state(dtype="O", data=b"\0" * 16),
    ],
    ids=["huge", "negative", "fraction", "none", "short", "nothing", "few objects", "pointers"],
)
def test_arrays_that_lie_are_refused(content):
    with pytest.raises(InputError):
        safe_pickle.array(load(pickle.dumps(content)), name="file")


def test_a_name_repeated_does_not_swell(monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_PICKLE_BYTES", 1 << 20)
    row = np.zeros(1000)
    with pytest.raises(InputError, match="more than"):
        safe_pickle.array(load(pickle.dumps([row] * 1000)), name="file")
    level = [0.0, row]
    for _ in range(60):  # 2 ** 60 items in a few hundred bytes
        level = [level, level]
    with pytest.raises(InputError):
        safe_pickle.array(load(pickle.dumps(level)), name="file")


def test_pickles_need_trust_and_have_bounds(tmp_path, monkeypatch):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match="`trust_pickle`"):
        safe_pickle.read(path, trust_pickle=False)
    assert safe_pickle.read(path, trust_pickle=True) == [1]
    with pytest.raises(InputError, match="no plain file"):
        safe_pickle.read(tmp_path, trust_pickle=True)
    monkeypatch.setattr(safe_pickle, "MAX_PICKLE_BYTES", 3)
    with pytest.raises(InputError, match="of 3 at most"):
        safe_pickle.read(path, trust_pickle=True)


def test_missing_keys_and_other_types_are_named():
    with pytest.raises(InputError, match=r"no key 'b'; it has 'a'"):
        safe_pickle.mapping({"a": 1}, ["a", "b"], name="file")
    with pytest.raises(InputError, match="list where a dictionary belongs"):
        safe_pickle.mapping([], name="file")
    with pytest.raises(InputError, match="dict where a list belongs"):
        safe_pickle.items({}, name="file")
    with pytest.raises(InputError, match="dict where an array belongs"):
        safe_pickle.array({}, name="file")
    with pytest.raises(InputError, match="no array"):
        safe_pickle.array([np.ones(2), np.ones(3)], name="file")


ENDLESS = {
    "a key": (nested_keys(), "a tuple as a key"),
    "an item of a set": (nested_items(), "a tuple as a key"),
    "an item of a frozen set": (nested_frozen(), "a tuple as a key"),
    "a set made of it": (called_keys(b"builtins\nset\n"), "a tuple as a key"),
    "a dictionary made of it": (called_keys(b"builtins\ndict\n"), "a tuple as a key"),
    "an ordered one": (called_keys(b"collections\nOrderedDict\n"), "a tuple as a key"),
    "a value": (nested_values(), "more than"),
    "the name of a dtype": (nested_names(), "dtype 'tuple'"),
    "the name of an encoding": (nested_encodings(), "text that is none"),
    "a list in itself": (ring(), "holds itself"),
    "keys of one hash": (colliding(3000), "too many digits"),
    "lists in lists": (deep(5000), "100 deep"),
    "marks": (marks(5000), "100 deep"),
}


@pytest.mark.parametrize(("data", "match"), ENDLESS.values(), ids=ENDLESS.keys())
def test_what_never_ends_is_refused(data, match):
    """Sixty tuples of the one before, twice: 2 ** 60 steps to hash, to print or to compare."""
    with pytest.raises(InputError, match=match):
        load(data)


@pytest.mark.parametrize("kind", ["S0", "U0", "V0"])
def test_items_without_bytes_are_refused(kind):
    with pytest.raises(InputError, match=r"no bytes|of dtype"):
        safe_pickle.array(load(empty_items(kind, 200_000_000)), name="file")


SWELLING = {
    "one text encoded": repeated_encode(20, 100_000),
    "one list copied": repeated_list(100, 3_000),
    "one list as tuples": repeated_list(100, 3_000, b"tuple"),
    "one list as sets": repeated_list(100, 1_000, b"frozenset"),
    "one long scalar": repeated_scalar(20),
    "empty sets": empty_containers(b"\x8f", 4_000),
    "empty lists": empty_containers(b"]", 9_000),
    "a full memo": memo_of_one(9_000),
}


@pytest.mark.parametrize("data", SWELLING.values(), ids=SWELLING.keys())
def test_what_swells_is_refused_before_it_has(data, monkeypatch):
    monkeypatch.setattr(budget, "FLOOR_BYTES", 1 << 18)
    limit = (1 << 18) + budget.SWELL * len(data)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=f"more than {limit} bytes in a file of {len(data)}"):
            load(data)
        assert tracemalloc.get_traced_memory()[1] < 2 * limit + (1 << 20)
    finally:
        tracemalloc.stop()


def test_programs_without_end_are_refused(monkeypatch):
    monkeypatch.setattr(budget, "MAX_OPCODES", 1000)
    with pytest.raises(InputError, match="more than 1000 steps"):
        load(b"\x80\x02" + b"N0" * 600 + b"N.")


def test_honest_files_fit_their_budget(monkeypatch):
    """The dearest things that people pickle, with no allowance for small files."""
    monkeypatch.setattr(budget, "FLOOR_BYTES", 0)
    for content in (
        {f"class {i}": [np.ones(64, np.float32) for _ in range(20)] for i in range(20)},
        [float(i) for i in range(1000)],
        [f"a name of clip number {i}.mp4" for i in range(1000)],
        {"features": np.ones((100, 512), np.float16), "labels": list(range(100))},
    ):
        for protocol in (2, 4, 5):
            load(pickle.dumps(content, protocol))


def test_wrong_tensors_and_text_are_errors_of_ours():
    with pytest.raises(InputError, match="where an array belongs"):
        safe_pickle.array([b"a" * 1000, 1 << 70, "b"], name="file")
    with pytest.raises(InputError, match="more than"):
        safe_pickle.array(["a" * 100_000] + [""] * 100_000, name="file")


def test_lists_have_an_end(monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_ITEMS", 10)
    with pytest.raises(InputError, match="list of 11; 10 at most"):
        safe_pickle.items(load(pickle.dumps(np.zeros((11, 1), np.uint8))), name="file")
