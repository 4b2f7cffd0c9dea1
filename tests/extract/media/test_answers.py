"""An answer that is a value and yet none to what was asked."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from extract.media.answers import checked
from extract.media.clip import (
    PLANAR,
    Clip,
    Frames,
    PlanarFrames,
    Request,
    Sound,
    Stream,
    failed,
)
from extract.media.decode import Decoder
from extract.processes.child import Outcome
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox
from store import Status, read_manifest
from tests.extract.looking import every

ASKED = Request(path=Path("a.mp4"), pick=every, short_sides=(4, 8), sample_rates=(16_000,))
MEDIA = os.environ.get("MICROSHOT_MEDIA", "")


def frames(height, width):
    return Frames(pixels=np.zeros((1, height, width, 3), np.uint8), seconds=np.zeros(1))


def sound(rate):
    return Sound(samples=np.zeros(9, np.float32), rate=rate)


def clip(sizes=((4, 9), (8, 18)), sides=(4, 8), sounds=None, visual=Status.OK, audio=Status.OK):
    data = {side: frames(*size) for side, size in zip(sides, sizes, strict=True)}
    sounds = {16_000: 16_000} if sounds is None else sounds
    return Clip(
        visual=Stream(status=visual, data=data),
        audio=Stream(status=audio, data={rate: sound(own) for rate, own in sounds.items()}),
    )


def test_an_answer_to_what_was_asked_stays():
    absent = replace(clip(), audio=Stream(status=Status.ABSENT))
    for value in (clip(), absent, failed(Status.MISSING, "x"), clip(((3, 4), (3, 4)))):
        outcome = Outcome(value=value, index=7)
        assert checked(outcome, ASKED) is outcome
    blind = replace(ASKED, pick=None)
    answer = Outcome(value=replace(clip(), visual=Stream(status=Status.ABSENT)))
    assert checked(answer, blind) is answer


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "a NoneType, no clip"),
        ({"visual": 1}, "a dict, no clip"),
        (clip(sides=(4, 9)), "ok with data at [4, 9], not at [4, 8]"),
        (clip(((4, 9),), sides=(4,)), "data at [4], not at [4, 8]"),
        (clip(((5, 9), (8, 18))), "frames of (5, 9) pixels for a short side of 4"),
        (clip(sounds={}), "data at [], not at [16000]"),
        (clip(sounds={16_000: 8000}), "sound at 8000 Hz for 16000 Hz"),
        (clip(visual=Status.CRASH), "crash with data at [4, 8], not at []"),
    ],
)
def test_another_answer_is_a_crash(value, says):
    outcome = checked(Outcome(value=value, index=7, cpu_seconds=0.5), ASKED)
    assert (outcome.status, outcome.value, outcome.index) == (Status.CRASH, None, 7)
    assert outcome.detail.startswith("the decoder answered nonsense: ")
    assert says in outcome.detail
    assert outcome.cpu_seconds == 0.5


def planes(height, width, **more):
    chroma = np.zeros((1, 2, (height + 1) // 2, (width + 1) // 2), np.uint8)
    luma = np.zeros((1, height, width), np.uint8)
    return PlanarFrames(**{"luma": luma, "chroma": chroma, "seconds": np.zeros(1), **more})


def test_planes_are_an_answer_where_they_were_asked_for():
    asked = replace(ASKED, decoder=PLANAR, short_sides=(4,))
    for frame, good in ((planes(9, 4, turns=1), True), (planes(5, 9), False)):
        value = replace(clip(), visual=Stream(status=Status.OK, data={4: frame}))
        assert (checked(Outcome(value=value), asked).status == Status.OK) == good
        told = checked(Outcome(value=value), replace(asked, decoder="pyav"))
        assert (told.status, "a PlanarFrames by pyav" in told.detail) == (Status.CRASH, True)
    told = checked(Outcome(value=clip(((4, 9),), sides=(4,))), asked)
    assert "a Frames by pyav-yuv" in told.detail


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"chroma": np.zeros((1, 2, 2, 4), np.uint8)}, "chroma of"),
        ({"matrix": 0}, "matrix 0"),
        ({"turns": 4}, "4 turns"),
        ({"turns": -1}, "-1 turns"),
        ({"seconds": np.array([-1.0])}, "start at 0"),
    ],
)
def test_planes_that_are_none_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        planes(4, 9, **wrong)


def test_a_failure_brings_no_value():
    outcome = checked(Outcome(value=clip(), status=Status.DEADLINE, detail="late"), ASKED)
    assert (outcome.value, outcome.detail) == (None, "late")


def requests(folder, which, decoder):
    paths = read_manifest(folder / "manifest.csv").paths[which]
    return [
        Request(
            path=folder / path, root=folder, pick=every, short_sides=(96,), limit_seconds=2.0,
            sample_rates=(16_000,), decoder=decoder,
        )
        for path in paths
    ]  # fmt: skip


@pytest.mark.skipif(not MEDIA, reason="MICROSHOT_MEDIA is not set")
@pytest.mark.parametrize("share", [6, pytest.param(1, marks=pytest.mark.soak)])
def test_confined_processes_decode_the_same_to_the_last_bit(share):
    """The odd files, and some of every day; or every sixth of them."""
    odd, usual = slice(None, None, share), slice(0, 24, share)
    folders = [Path(MEDIA) / "torture", Path(MEDIA) / "ucf101_av"]
    asked = [
        *requests(folders[0], odd, "pyav"), *requests(folders[0], odd, "decord"),
        *requests(folders[1], usual, "auto"), *requests(folders[1], usual, "decord"),
    ]  # fmt: skip
    clips = []
    for mode in ("auto", "off"):
        box = Sandbox(mode=mode, readable=tuple(folders))
        limits = Limits(deadline_seconds=60.0, sandbox=box)
        clips.append([o.value for o in process_map(Decoder(), asked, workers=2, limits=limits)])
    by_decord = 0
    for confined, free in zip(*clips, strict=True):
        assert confined.sha256 == free.sha256
        by_decord += confined.visual.detail.startswith("decord")
        for ours, theirs in ((confined.visual, free.visual), (confined.audio, free.audio)):
            assert (ours.status, ours.detail) == (theirs.status, theirs.detail)
            assert ours.data.keys() == theirs.data.keys()
        for side, one in confined.visual.data.items():
            np.testing.assert_array_equal(one.pixels, free.visual.data[side].pixels)
            np.testing.assert_array_equal(one.seconds, free.visual.data[side].seconds)
        for rate, one in confined.audio.data.items():
            np.testing.assert_array_equal(one.samples, free.audio.data[rate].samples)
    statuses = {clip.visual.status for clip in clips[0]}
    assert {Status.OK, Status.UNREADABLE} <= statuses
    assert by_decord >= 15 / share
