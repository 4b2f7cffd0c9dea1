"""Names, digests and value objects: stable for ever, and never born wrong."""

import math
from dataclasses import fields

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from store import FeatureSpec, Status, UnitRows
from store.errors import ConfigError, InputError
from store.names import clip_id_fault, clip_keys, is_safe_name, unit_name
from store.spec import canonical_json
from store.status import STORED

IDENTITY = {
    "encoder": "simclrv2",
    "fps": 1.0,
    "size": [224, 224],
    "mean": [0.485, 0.456],
    "weights": {"sha256": "ab" * 32},
    "antialias": True,
    "crop": None,
    "name": "é",
}


def spec(**changed):
    return FeatureSpec(
        **{"slug": "toy", "modality": "visual", "dim": 4, "identity": IDENTITY, **changed}
    )


def test_ids_never_change():
    """Golden: a change here orphans every store there is."""
    assert spec(slug="SimCLRv2-r50_1x.sk1", dim=2048).feature_id == (
        "simclrv2-r50_1x.sk1-1ac29a059e5c"
    )
    assert unit_name("toy-0123456789ab", ["a.mp4", "b.mp4"]) == "u-9057d7402f6e150965c2"
    assert unit_name("toy-0123456789ab", ["a.mp4"], retry=1) == "u-164b99a0ab1548c41d2f"
    assert clip_keys(["é"]).tolist() == [[5375421630974772051, 11376914428908804042]]


def test_equal_numbers_are_written_equally():
    assert canonical_json({"b": 1.0, "a": (-0.0, 0.1, True)}) == b'{"a":[0,0.1,true],"b":1}'
    assert spec(identity={"fps": 1}).feature_id == spec(identity={"fps": 1.0}).feature_id
    assert spec(identity={"x": True}).feature_id != spec(identity={"x": 1}).feature_id


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=4), st.randoms())
def test_order_of_keys_never_matters_and_every_value_does(identity, random):
    keys = list(identity)
    random.shuffle(keys)
    shuffled = {key: identity[key] for key in keys}
    assert spec(identity=identity).feature_id == spec(identity=shuffled).feature_id
    assert (
        spec(identity={**identity, "more than 4": 1}).feature_id
        != spec(identity=identity).feature_id
    )


def test_notes_are_not_digested_and_all_else_is():
    original = spec()
    assert spec(notes={"licence": "MIT"}).feature_id == original.feature_id
    changes = ({"slug": "toi"}, {"modality": "audio"}, {"dim": 5}, {"identity": {}})
    assert original.feature_id not in {spec(**change).feature_id for change in changes}


@pytest.mark.parametrize(
    "changed",
    [
        {"slug": ""},
        {"slug": ".hidden"},
        {"slug": "a/b"},
        {"slug": "a b"},
        {"slug": "x" * 84},
        {"modality": "Visual!"},
        {"dim": 0},
        {"identity": {"x": math.nan}},
        {"identity": {"x": [math.inf]}},
        {"identity": {"x": {1: 2}}},
        {"identity": {"x": {"y": b"bytes"}}},
        {"identity": {"x": np.float32(1)}},
        {"notes": {"x": math.nan}},
        {"notes": {"x": "y" * 70_000}},
    ],
)
def test_a_spec_is_not_born_wrong(changed):
    with pytest.raises(ConfigError):
        spec(**changed)


def test_the_longest_slug_still_gives_a_safe_name():
    assert is_safe_name(spec(slug="x" * 83).feature_id)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "A", "a\n", "x" * 97, "a\0", "é", "a b"]
)
def test_unsafe_names(name):
    assert not is_safe_name(name)


@pytest.mark.parametrize("text", ["", "a\nb", "a\0", "\x7f", "\u2028", "\ud800", "x" * 4097])
def test_clip_ids_that_break_things(text):
    assert clip_id_fault(text)


def test_clip_ids_are_otherwise_free():
    assert clip_id_fault("../../ü 日本/a b;c,\"d'.mp4#1-2") is None


def test_status_codes_are_on_disk():
    assert {s.kind: int(s) for s in STORED} == {
        "ok": 0,
        "partial": 1,
        "absent": 2,
        "unreadable": 16,
        "decode-error": 17,
        "deadline": 18,
        "crash": 19,
        "out-of-memory": 20,
        "refused": 21,
        "missing": 22,
        "empty": 23,
        "not-finite": 24,
    }


@pytest.mark.parametrize("status", Status)
def test_a_kind_names_its_status(status):
    assert Status.from_kind(status.kind) is status
    assert status.failed == (16 <= status < 255)
    assert status.has_rows == (status in (0, 1))


def test_an_unknown_kind_is_answered():
    with pytest.raises(InputError, match="did you mean 'deadline'"):
        Status.from_kind("deadlin")


def changed_rows(make_rows, **changed):
    rows = make_rows({"a": 2, "b": 0, "c": 1})
    return UnitRows(**{**{f.name: getattr(rows, f.name) for f in fields(rows)}, **changed})


def u16(*numbers):
    return np.array(numbers, np.uint16)


def u8(*numbers):
    return np.array(numbers, np.uint8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"row_count": u16(1, 0, 1)}, "sums to 2"),
        ({"row_count": u16(2, 1, 0)}, "'b' is decode-error with 1"),
        ({"status": u8(0, 2, 18)}, "'c' is deadline with 1"),
        ({"status": u8(0, 0, 0)}, "'b' is ok with 0"),
        ({"status": u8(0, 99, 0)}, "status 99"),
        ({"status": u8(0, 255, 0)}, "status 255"),
        ({"clip_ids": ("a", "b", "a")}, "twice"),
        ({"clip_ids": ("a", "", "c")}, "is empty"),
        ({"clip_ids": ("a", "b\n", "c")}, "control"),
        ({"row_time_ms": np.array([40, 0, 0], np.int32)}, "'a' go backwards"),
        ({"detail": ("x",)}, "1 details for 3"),
        ({"values": np.array([[1], [np.nan], [1]], np.float16)}, "NaN"),
        ({"values": np.array([[1], [np.inf], [1]], np.float16)}, "infinity"),
    ],
)
def test_rows_are_not_born_wrong(make_rows, changed, message):
    with pytest.raises(ValueError, match=message):
        changed_rows(make_rows, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"values": np.ones((3, 2), np.float32)},
        {"values": np.ones((4, 2), np.float16)},
        {"values": np.ones(3, np.float16)},
        {"row_time_ms": np.zeros(3, np.int64)},
        {"row_count": u16(2, 1)},
        {"media_sha256": np.zeros((3, 31), np.uint8)},
    ],
)
def test_rows_of_other_shapes_are_not_born(make_rows, changed):
    # jaxtyping would refuse first; without it, as users run, the object itself must.
    with pytest.raises(Exception, match=r"is (float|int|uint)|axes|parameter|type-check"):
        changed_rows(make_rows, **changed)


def test_times_may_fall_between_clips_and_details_stay_one_line(make_rows):
    rows = changed_rows(make_rows, detail=("a\nb", "x" * 900, ""))
    assert rows.row_time_ms.tolist() == [0, 40, 0]
    assert rows.row_start.tolist() == [0, 2, 2]
    assert rows.detail[0] == "a b"
    assert len(rows.detail[1]) == 500
