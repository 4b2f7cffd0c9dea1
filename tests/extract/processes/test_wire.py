"""What children answer: honest values come back, and nothing else is built."""

import json
import math
import pickle
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import pytest

from extract.media.clip import Clip, Frames, Sound, Stream, failed
from extract.processes import wire
from extract.processes.child import Outcome, Risk
from store import Status

NUMBERS = ["bool", "uint8", "int16", "uint32", "int64", "float16", "float32", "float64"]


def there_and_back(value):
    tree, arrays = wire.encode(value)
    data = np.frombuffer(bytearray().join(wire.pieces(arrays)), np.uint8)
    return wire.decode(tree, data)


def clip(side=4, sizes=(2, 3, 4), seconds=(0.0, 1.5)):
    pixels = np.arange(math.prod(sizes) * 3, dtype=np.uint8).reshape(*sizes, 3)
    frames = Frames(pixels=pixels, seconds=np.array(seconds))
    sound = Sound(samples=np.linspace(-1, 1, 7, dtype=np.float32), rate=16_000)
    return Clip(
        visual=Stream(status=Status.PARTIAL, detail="a \udcff\n", data={side: frames}),
        audio=Stream(status=Status.OK, data={16_000: sound}),
        sha256=bytes(range(32)),
    )


@pytest.mark.parametrize(
    "value",
    [
        None, True, -(1 << 63), 0.1, "a\udcff\x00", b"", b"\x00\xff", [], (1, [2.5, ()], None),
        {"a": {1: b"x"}}, Status.DEADLINE, failed(Status.MISSING, "no such file"), Risk("decord"),
    ],
)  # fmt: skip
def test_values_come_back(value):
    got = there_and_back(value)
    assert (got, type(got)) == (value, type(value))


def test_numbers_that_are_none_come_back():
    assert math.isnan(there_and_back(math.nan))
    assert there_and_back((math.inf, -0.0)) == (math.inf, 0.0)


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_arrays_come_back_and_may_be_changed(kind, shape):
    array = np.arange(math.prod(shape)).reshape(shape).astype(kind)
    first, odd, last = there_and_back([array, array.T[::-1] if shape else array, b"end"])
    for got, sent in ((first, array), (odd, array.T[::-1] if shape else array)):
        assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
        np.testing.assert_array_equal(got, sent)
        assert got.flags.writeable
        assert got.flags.aligned
    assert last == b"end"


def test_a_foreign_byte_order_is_turned():
    got = there_and_back(np.arange(4, dtype=">i4"))
    assert got.tolist() == [0, 1, 2, 3]


def test_a_clip_comes_back():
    sent = clip()
    got = there_and_back(Outcome(value=sent, cpu_seconds=0.5)).value
    assert type(got.visual) is Stream
    assert (got.visual.status, got.visual.detail) == (sent.visual.status, sent.visual.detail)
    assert got.sha256 == sent.sha256
    for side, frames in sent.visual.data.items():
        np.testing.assert_array_equal(got.visual.data[side].pixels, frames.pixels)
        np.testing.assert_array_equal(got.visual.data[side].seconds, frames.seconds)
    np.testing.assert_array_equal(got.audio.data[16_000].samples, sent.audio.data[16_000].samples)


@dataclass
class Stranger:
    x: int = 1


class Odd(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    "value",
    [
        Stranger(), Odd.ONE, object(), len, {1, 2}, 1 << 64, 1j, np.array([None]),
        np.array(["text"]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "i4")]), np.zeros((1,) * 9),
        "x" * (wire.TREE_BYTES + 1), np.broadcast_to(np.uint8(1), (2 << 30,)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_no_data_is_not_sent(value):
    with pytest.raises(wire.Unsendable):
        wire.encode([value])


def nested(value, times):
    for _ in range(times):
        value = [value]
    return value


def test_depth_is_bounded_both_ways():
    assert there_and_back(nested(1, wire.DEPTH)) == nested(1, wire.DEPTH)
    with pytest.raises(wire.Unsendable):
        wire.encode(nested(1, wire.DEPTH + 1))


OK = '["enum","Status","OK"]'
NO = f'["class","Stream",{OK},"",["dict"],0]'
SHA = '["bytes",32]'
FRAMES = '["class","Frames",["array","uint8",2,3,4,3],["array","float64",2]]'
SOUND = '["class","Sound",["array","float32",7],16000]'


def stream(*data):
    return f'["class","Stream",{OK},"",["dict"{"".join(f",{one}" for one in data)}],0]'


FORGED = {
    "a pickle": pickle.dumps(print),
    "no text": b"\xff\xfe",
    "half a tree": b'["list",',
    "much of it": b"[" * (wire.TREE_BYTES - 1),
    "deep": b'["list",' * 100 + b"1" + b"]" * 100,
    "many digits": b"1" * 5000,
    "a large integer": b"18446744073709551616",
    "an object": b'{"a": 1}',
    "no kind": b"[]",
    "an unknown kind": b'["eval","1"]',
    "a kind that is a list": b'[["list"],1]',
    "objects": b'["array","O",1]',
    "objects by their code": b'["array","|O8",1]',
    "text": b'["array","U9",1]',
    "records": b'["array",[["a","O"]],1]',
    "nothing each": b'["array","V0",1]',
    "time": b'["array","M8[s]",1]',
    "no kind of number": b'["array"]',
    "a negative side": b'["array","uint8",-1]',
    "two negative sides": b'["array","uint8",-8,-8]',
    "a side of text": b'["array","uint8","8"]',
    "a side that is true": b'["array","uint8",true]',
    "a side with a fraction": b'["array","uint8",8.0]',
    "a huge side": b'["array","uint8",9223372036854775807]',
    "sides that overflow": b'["array","uint8",4294967296,4294967296]',
    "sides that overflow to 64": b'["array","uint64",2305843009213693952,4]',
    "a huge side of nothing": b'["array","uint8",0,4611686018427387904]',
    "many sides": b'["array","uint8",1,1,1,1,1,1,1,1,64]',
    "one byte too many": b'["array","uint8",65]',
    "more than came": b'["list",["array","uint8",64],["array","uint8",1]]',
    "less than came": b'["array","uint8",0]',
    "bytes without a length": b'["list",["bytes"],["array","uint8",64]]',
    "bytes of two lengths": b'["list",["bytes",8,8]]',
    "bytes of a negative length": b'["list",["bytes",-8],["array","uint8",64]]',
    "a class of nobody's": b'["class","Popen",["list","true"]]',
    "a class by a number": b'["class",1]',
    "a class by a list": b'["class",["list"]]',
    "no class": b'["class"]',
    "an enum as a class": b'["class","Status",0]',
    "a class as an enum": b'["enum","Outcome","value"]',
    "no member": b'["enum","Status","__class__"]',
    "a member by number": b'["enum","Status",0]',
    "a dictionary by a list": b'["dict",["list"],1]',
    "a dictionary by nothing": b'["dict",null,1]',
    "half an entry": b'["dict","a"]',
    "few fields": b'["class","Risk"]',
    "many fields": b'["class","Risk","a","b"]',
    "a number for text": b'["class","Risk",1]',
    "long text": b'["class","Risk","' + b"x" * 1000 + b'"]',
}
# Of clips, each with the arrays that its tree names.
FORGED_CLIPS = {
    "text for a stream": f'["class","Clip","x",{NO},{SHA}]',
    "sound for frames": f'["class","Clip",{stream("16000", SOUND)},{NO},{SHA}]',
    "frames for sound": f'["class","Clip",{NO},{stream("4", FRAMES)},{SHA}]',
    "a list for a dictionary": f'["class","Clip",["class","Stream",{OK},"",["list"],0],{NO},{SHA}]',
    "data by text": f'["class","Clip",{stream(chr(34) + "4" + chr(34), FRAMES)},{NO},{SHA}]',
    "a short digest": f'["class","Clip",{NO},{NO},["bytes",31]]',
    "text for a digest": f'["class","Clip",{NO},{NO},"{"x" * 32}"]',
    "a status for a number": f'["class","Stream",{OK},{OK},["dict"],0]',
    "a number for a status": '["class","Stream",0,"",["dict"],0]',
    "never stored": '["class","Stream",["enum","Status","PENDING"],"",["dict"],0]',
    "frames of floats": FRAMES.replace("uint8", "float32"),
    "frames without colours": FRAMES.replace(",3]", "]"),
    "frames of four colours": FRAMES.replace("4,3]", "4,4]"),
    "frames without pixels": FRAMES.replace("2,3,4,3", "2,0,4,3"),
    "more times than frames": FRAMES.replace('"float64",2', '"float64",3'),
    "times of another kind": FRAMES.replace("float64", "float32"),
    "a rate that is true": SOUND.replace("16000", "true"),
    "a rate of nothing": SOUND.replace("16000", "0"),
    "no samples": SOUND.replace(",7]", ",0]"),
    "a cost that is no number": f'["class","Outcome",null,{OK},"",NaN,0,"",0,null,0.1]',
    "a negative cost": f'["class","Outcome",null,{OK},"",-1,0,"",0,null,0.1]',
    "a text for a cost": f'["class","Outcome",null,{OK},"","1",0,"",0,null,0.1]',
    "true for a number": f'["class","Outcome",null,{OK},"",1.0,true,"",0,null,0.1]',
    "a long detail": f'["class","Outcome",null,{OK},"{"x" * 5000}",1.0,0,"",0,null,0.1]',
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_message_builds_nothing(what):
    with pytest.raises((ValueError, RecursionError)):
        wire.decode(FORGED[what], np.zeros(64, np.uint8))


@pytest.mark.parametrize("what", FORGED_CLIPS)
def test_a_forged_clip_is_none(what):
    tree = FORGED_CLIPS[what]
    with pytest.raises(ValueError) as error:
        wire.decode(tree.encode(), room_for(json.loads(tree)))
    assert "belong to no array" not in str(error.value), "the forgery was believed"
    assert "bytes of arrays where" not in str(error.value), "the test gave too few"


def test_the_forgeries_differ_from_what_is_honest():
    """By what they are called only: the same words, whole, are believed."""
    honest = f'["class","Clip",{stream("4", FRAMES)},{stream("16000", SOUND)},{SHA}]'
    got = wire.decode(honest.encode(), room_for(json.loads(honest)))
    assert got.visual.data[4].pixels.shape == (2, 3, 4, 3)
    cost = f'["class","Outcome",null,{OK},"",1.0,0,"",0,null,0.1]'
    assert wire.decode(cost.encode(), np.zeros(0, np.uint8)) == Outcome(
        cpu_seconds=1.0, seconds=0.1
    )
    assert wire.decode(b'["array","uint8",64]', np.zeros(64, np.uint8)).shape == (64,)


def room_for(node: Any):
    """Bytes for the arrays that a tree names."""
    total = 0
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack += one
            if one and one[0] in ("array", "bytes"):
                shape = one[2:] if one[0] == "array" else one[1:]
                width = np.dtype(one[1]).itemsize if one[0] == "array" else 1
                total += -(-math.prod(shape) * width // wire.ALIGN) * wire.ALIGN
    return np.zeros(total, np.uint8)


def test_times_that_fall_or_are_none_are_refused():
    with pytest.raises(ValueError, match="never fall"):
        clip(seconds=(1.0, 0.5))
    with pytest.raises(ValueError, match="never fall"):
        clip(seconds=(0.0, math.nan))
    with pytest.raises(ValueError, match="second 1e"):
        clip(seconds=(0.0, 1e300))
