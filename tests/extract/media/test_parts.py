"""A clip of more frames than may be handed out at once comes in parts, and is the same."""

import numpy as np
import pytest

from extract.media import frames
from extract.media.answers import checked
from extract.media.clip import Clip, Frames, Request, Stream
from extract.media.decode import Decoder, decode
from extract.media.parts import joined, rest_of
from extract.processes.child import Outcome
from extract.processes.pool import Limits, Parts, process_map
from extract.processes.sandbox import Sandbox
from store import Status
from tests.extract import media_files as media
from tests.extract.looking import every

SIDE = 32
COUNT = 90


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "a.mp4"
    media.write(path, range(0, COUNT * 16, 16), sound=media.tone(1.4))
    return path


def request(path, **more):
    return Request(
        path=path, pick=every, short_sides=(SIDE,), sample_rates=(8000,), decoder="pyav", **more
    )


def small(monkeypatch, per_part):
    """As many frames a part."""
    whole = frames.scaled

    def scaled(size, side):
        width, height = whole(size, side)
        monkeypatch.setattr(frames, "PART_BYTES", per_part * 3 * width * height)
        return width, height

    monkeypatch.setattr(frames, "scaled", scaled)


@pytest.mark.parametrize("per_part", [1000, 40, 30, 7])
def test_parts_make_the_clip_that_one_answer_is(file, per_part, monkeypatch):
    whole = decode(request(file))
    assert len(whole.visual.data[SIDE].pixels) == COUNT
    small(monkeypatch, per_part)
    with_parts = decode(request(file))
    for field in ("pixels", "seconds"):
        ours, theirs = (getattr(c.visual.data[SIDE], field) for c in (with_parts, whole))
        assert np.array_equal(ours, theirs)
    assert with_parts.visual.more == 0
    assert with_parts.visual.status == whole.visual.status
    assert with_parts.visual.detail == whole.visual.detail
    ours, theirs = (clip.audio.data[8000].samples for clip in (with_parts, whole))
    assert np.array_equal(ours, theirs)
    first = Decoder()(request(file))
    assert first.visual.more == (per_part if per_part < COUNT else 0)


def test_sixty_frames_a_second_are_not_refused():
    """Half a minute of 16:9 is 600 MiB of frames: more than one answer may hold, and accepted."""
    assert frames.PART_BYTES < 30 * 60 * 3 * 256 * 455
    assert frames.MAX_CLIP_BYTES > 30 * 60 * 3 * 256 * 455


def test_what_is_too_much_in_all_is_refused_before_it_is_decoded(file, monkeypatch):
    monkeypatch.setattr(frames, "MAX_CLIP_BYTES", COUNT * 3 * SIDE * SIDE)  # wider than high
    clip = decode(request(file))
    assert clip.visual.status == Status.REFUSED
    assert clip.audio.status == Status.OK


class Counting:
    """Answers with some frames at a time, and tells whether the same process was asked."""

    def __init__(self, count=10, at_once=3, dies_at=None):
        self.count, self.at_once, self.dies_at = count, at_once, dies_at

    def __call__(self, asked):
        import os

        if self.dies_at is not None and asked.first == self.dies_at and asked.because != "again":
            os._exit(3)
        stop = min(asked.first + self.at_once, self.count)
        shown = np.arange(asked.first, stop)
        pixels = np.broadcast_to(shown[:, None, None, None], (len(shown), 4, 4, 3))
        data = Frames(pixels=pixels.astype(np.uint8), seconds=shown.astype(float))
        stream = Stream(status=Status.OK, data={4: data}, more=stop if stop < self.count else 0)
        return Clip(visual=stream, audio=Stream(status=Status.ABSENT))


def again(asked):
    from dataclasses import replace

    return replace(asked, because="again")


@pytest.mark.parametrize("dies_at", [None, 6])
@pytest.mark.parametrize("ahead_bytes", [1, 1 << 30])  # no room but for the oldest
def test_children_are_asked_for_what_is_left(file, dies_at, ahead_bytes):
    asked = [request(file) for _ in range(4)]
    limits = Limits(
        deadline_seconds=30.0, recycle_items=5, ahead_bytes=ahead_bytes, sandbox=Sandbox(mode="off")
    )
    outcomes = list(
        process_map(
            Counting(dies_at=dies_at), asked, workers=2, limits=limits, again=again,
            parts=Parts(rest_of, joined),
        )
    )  # fmt: skip
    assert [outcome.index for outcome in outcomes] == [0, 1, 2, 3]
    for outcome in outcomes:
        assert outcome.status == Status.OK, outcome.detail
        assert outcome.value.visual.data[4].pixels[:, 0, 0, 0].tolist() == list(range(10))


def test_a_child_that_never_ends_is_nonsense(file):
    """A part a frame, for ever: it is cut short and said."""
    limits = Limits(deadline_seconds=30.0, sandbox=Sandbox(mode="off"))
    parts = Parts(rest_of, joined)
    (outcome,) = process_map(Counting(200, 1), [request(file)], workers=1, limits=limits,
                             parts=parts)  # fmt: skip
    asked = Request(path=file, pick=every, short_sides=(4,))
    assert checked(outcome, asked).status == Status.CRASH
    assert "never comes" in checked(outcome, asked).detail
    stuck = Stream(status=Status.ABSENT, more=9)
    answer = Clip(visual=stuck, audio=Stream(status=Status.ABSENT))
    assert rest_of(Request(path=file, first=9), answer) is None  # it would be asked for ever


def test_parts_that_do_not_fit_together_are_nonsense():
    def clip(seconds, side=4):
        data = Frames(pixels=np.zeros((1, 4, 4, 3), np.uint8), seconds=np.array([seconds]))
        stream = Stream(status=Status.OK, data={side: data})
        return Clip(visual=stream, audio=Stream(status=Status.ABSENT))

    for parts in ([clip(1.0), clip(0.0)], [clip(0.0), clip(1.0, side=8)]):
        with pytest.raises(ValueError):
            joined(parts)
    lost = Clip(
        visual=Stream(status=Status.DECODE_ERROR, detail="gone"), audio=Stream(status=Status.ABSENT)
    )
    kept = joined([clip(0.0), lost, clip(2.0)]).visual
    assert kept.status == Status.PARTIAL
    assert kept.detail == "gone"
    assert len(kept.data[4].seconds) == 2
    assert Outcome(value=kept).status == Status.OK
