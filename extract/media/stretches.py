"""Stretches of packets from key frames to wanted frames, decoded by PyAV.

A stretch begins where the packet's own header says that nothing before it is needed; of codecs
whose headers are not read, where the container says so and the first decoded frame agrees. So the
frame of a second is the same whichever frames are wanted beside it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import av
import numpy as np

from extract.media.timeline import HOLD_FRAMES, HOLD_SECONDS, Timeline
from extract.media.track import Track

# Decoders seen to give the same pixels when they skip frames nobody refers to; dav1d does not.
SKIPS_FRAMES = ("h264", "hevc", "mpeg4", "mpeg1video", "mpeg2video")
# Codecs whose every packet has a picture: where none comes out, it is lost.
ALL_SHOWN = ("h264", "hevc", "mpeg1video", "mpeg2video", "mjpeg")
Taken = TypeVar("Taken")


class Misled(Exception):  # noqa: N818 (no error: the front is decoded instead)
    """What the container flags as a key frame is none."""


def decoded(
    track: Track,
    shown: Timeline,
    wanted: Sequence[int],
    take: Callable[[Any], Taken],
    damage: str,
) -> tuple[dict[int, Taken], str]:
    """`take` of every wanted frame that decodes, by time stamp and in order, and what
    is damaged; `damage` is what is known to be before.

    A packet without a picture of its own (VP8 has such) is stood for by the picture on screen then,
    for a short time and unless something is damaged.
    """
    taken: dict[int, Taken] = {}
    longest = _longest_hold(track, shown)
    spans = stretches(track, shown, [shown.at[timestamp] for timestamp in wanted])
    while spans:
        start, stop = spans.pop(0)
        due = [timestamp for timestamp in wanted if start <= shown.at[timestamp] <= stop]
        held: tuple[int, Any] | None = None
        try:
            for event in _stretch(track, shown, start, stop, frozenset(due)):
                if isinstance(event, str):
                    damage = damage or event
                    continue
                if held is not None and not damage:
                    missed = [t for t in due if t < event[0] and t - held[0] <= longest]
                    taken |= {timestamp: take(held[1]) for timestamp in missed}
                if event[0] in due:
                    taken[event[0]] = take(event[1])
                due = due[bisect_right(due, event[0]) :]
                held = event
                if not due:
                    break
            if held is not None and not damage:
                taken |= {t: take(held[1]) for t in due if t - held[0] <= longest}
        except Misled:
            spans = [(shown.entries[0], max([stop, *(end for _, end in spans)]))]
    return dict(sorted(taken.items())), damage


def _longest_hold(track: Track, shown: Timeline) -> float:
    """Ticks for which a frame may stand for those after it that have no picture."""
    if track.stream.codec_context.name in ALL_SHOWN:
        return 0.0
    gaps = np.diff(shown.timestamps)
    usual = float(np.median(gaps)) if len(gaps) else 0.0
    return max(HOLD_FRAMES * usual, float(HOLD_SECONDS / track.tick))


def stretches(track: Track, shown: Timeline, positions: list[int]) -> list[tuple[int, int]]:
    """Spans of packets from key frames on that hold the wanted frames and what they refer to."""
    if not shown.timed:
        return [(0, len(track.packets) - 1)]  # frames are counted, so none may be left out
    keys = [i for i in shown.entries if track.packets[i].pts is not None]
    frame_at = {position: timestamp for timestamp, position in shown.at.items()}
    spans: list[tuple[int, int]] = []
    for position in sorted(positions):
        pts = frame_at[position]
        # A frame shown before the key frame it follows in the file refers to the one before.
        start = max((k for k in keys if k <= position and track.packets[k].pts <= pts), default=0)
        while spans and start <= spans[-1][1]:
            begun, ended = spans.pop()
            start, position = min(start, begun), max(position, ended)
        spans.append((start, position))
    return spans


def _stretch(
    track: Track, shown: Timeline, start: int, stop: int, wanted: frozenset[int]
) -> Iterator[tuple[int, Any] | str]:
    """Frames of one span and their time stamps, in presentation order, and what is damaged.

    After damage there are none up to the next key frame: they would show what the decoder made up.
    Frames that are neither wanted nor referred to are not decoded (a quarter of the cost of H.264).

    Raises:
        Misled: the span does not begin with a key frame.
    """
    context = track.stream.codec_context
    counted = iter(shown.timestamps)
    skips = shown.timed and context.name in SKIPS_FRAMES and not shown.fields
    doubted = not shown.sure and shown.timed and bool(shown.entries) and start > shown.entries[0]
    whole = True  # what a frame refers to came out undamaged
    try:
        for packet in [*track.packets[start : stop + 1], None]:
            if skips and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            try:
                decoded = context.decode(packet)
            except av.error.FFmpegError as error:
                if doubted:
                    raise Misled from error
                yield f"{type(error).__name__}: {error.strerror}"
                whole = False
                if not shown.timed:
                    return  # how many frames were lost is not known
                continue
            for frame in decoded:
                if doubted and not (frame.key_frame and frame.pts == track.packets[start].pts):
                    raise Misled
                doubted = False
                timestamp = frame.pts if shown.timed else next(counted, None)
                if frame.is_corrupt:
                    yield "a frame is damaged"
                whole = (whole or frame.key_frame) and not frame.is_corrupt
                if whole and timestamp in shown.at:
                    yield timestamp, frame
    finally:
        context.skip_frame = "DEFAULT"
        context.flush_buffers()
