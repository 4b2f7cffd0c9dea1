"""The frames of a video stream that a player would show, from its packets alone.

Shapes: N = frames of the clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from extract.media.headers import Entry, Field
from extract.media.track import Track

HOLD_SECONDS = 1.0  # a picture stands so long, or
HOLD_FRAMES = 1.5  # so many times as long as most, whichever is longer
NEAR = 16  # packets: as far as frames are stored out of order


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The frames a player would show, and where decoding may begin."""

    timestamps: list[int]  # in presentation order
    at: Mapping[int, int]  # position of a frame's last packet in decode order, by time stamp
    timed: bool  # false: there are no presentation times, so frames must be counted
    entries: Sequence[int]  # positions of packets before which nothing is needed
    keys: frozenset[int]  # time stamps of the frames that begin there
    sure: bool  # the packets themselves say so, not only the container
    misled: bool  # the container flags others too
    fields: bool  # some frames come as two packets
    repeated: int  # frames left out, for another has their time stamp


def timeline(track: Track) -> Timeline:
    """The frames of a video track.

    Left out are packets that the container marks as pre-roll, those before the first key frame,
    and those shown before it: what they refer to is not in the file.
    """
    packets = track.packets
    entries, sure, misled = _entries(track)
    first = entries[0] if entries else len(packets)
    seconds_of = _second_fields(track)
    rest = [(i, p) for i, p in enumerate(packets) if i >= first and not p.is_discard]
    rest = [(i, p) for i, p in rest if i not in seconds_of]
    timed = track.timed and all(p.pts is not None for _, p in rest)
    last_of = {begin: end for end, begin in seconds_of.items()}
    at = {(p.pts if timed else p.dts): last_of.get(i, i) for i, p in rest}
    repeated = len(rest) - len(at)
    at.pop(None, None)
    if timed and rest and (begin := packets[first].pts) is not None:
        at = {pts: i for pts, i in at.items() if pts >= begin}
    keys = {packets[i].pts if timed else packets[i].dts for i in entries}
    return Timeline(
        timestamps=sorted(at),
        at=at,
        timed=timed,
        entries=entries,
        keys=frozenset(keys & at.keys()),
        sure=sure,
        misled=misled,
        fields=bool(seconds_of),
        repeated=repeated,
    )


def _entries(track: Track) -> tuple[list[int], bool, bool]:
    """Where decoding may begin, whether that is sure, and whether the container says otherwise.

    Where the picture only builds up, or what follows may refer to what was before, there is but
    one such place, the first: whatever begins later might show another picture.
    """
    packets, headers = track.packets, track.headers
    flagged = [i for i, p in enumerate(packets) if p.is_keyframe]
    if headers is None or not headers.read:
        return flagged or [0] * bool(packets), headers is None, False
    kinds = {i: headers.entry(packets[i]) for i in sorted({0, *flagged} if packets else ())}
    sure = [i for i, kind in kinds.items() if kind == Entry.YES]
    misled = any(kinds[i] != Entry.YES for i in flagged)
    if not sure:
        kinds = {i: headers.entry(p) for i, p in enumerate(packets)}
        sure = [i for i, kind in kinds.items() if kind == Entry.YES]
    perhaps = [i for i, kind in kinds.items() if kind == Entry.PERHAPS]
    if sure:
        return sure, True, misled
    return perhaps[:1], True, True


def _second_fields(track: Track) -> dict[int, int]:
    """The position of each packet that completes a frame, and that of the frame's first."""
    headers, pairs = track.headers, dict[int, int]()
    waiting: tuple[int, Field] | None = None
    if headers is None or not headers.may_have_fields:
        return pairs
    for i, packet in enumerate(track.packets):
        field = headers.field(packet)
        if field is None:
            waiting = None
        elif waiting and waiting[1][0] != field[0] and waiting[1][1] == field[1]:
            pairs[i], waiting = waiting[0], None
        else:
            waiting = i, field
    return pairs


def frame_seconds(track: Track, timestamps: list[int]) -> Float[np.ndarray, "N"]:
    """Seconds that each frame stays on screen; the last one as long as the file says."""
    gaps = [b - a for a, b in pairwise(timestamps)]
    usual = int(np.median(gaps)) if gaps else 0
    own = _own_ticks(track, timestamps[-1])
    stated = 0 if track.ends_ticks is None else track.ends_ticks - timestamps[-1]
    if gaps and own > 10 * max(gaps) and own > stated + usual:
        own = 0  # nobody but the packet says so
    # Only an index of every packet knows better than the length of the whole.
    last = own if own and track.indexed else max(own, stated)
    if track.headers is not None and track.headers.fields:
        last = max(last, usual)  # it is one field's
    if last <= 0:
        rate = track.stream.average_rate
        last = usual or (int(1 / Fraction(rate) / track.tick) if rate else 0)
    return np.array([float(g * track.tick) for g in [*gaps, max(last, 1)]])


def _own_ticks(track: Track, timestamp: int) -> int:
    """How long the packet of a frame says that it lasts."""
    return max((p.duration or 0 for p in track.packets if _is_of(track, p, timestamp)), default=0)


def _is_of(track: Track, packet: Any, timestamp: int) -> bool:
    return bool(track.timestamp(packet) == timestamp)


def gone_seconds(
    track: Track, shown: Timeline, lasting: Float[np.ndarray, "N"]
) -> Float64[np.ndarray, "N"]:
    """Seconds that each frame may be looked at: where none follows for long, it does not stand for
    what is missing, unless some packet there says that it lasts.
    """
    usual = float(np.median(lasting))
    longest = max(HOLD_SECONDS, HOLD_FRAMES * usual)
    stays = lasting.astype(np.float64)
    for k in np.flatnonzero(lasting[:-1] > longest).tolist():
        here, there = (shown.at[shown.timestamps[i]] for i in (k, k + 1))
        near = track.packets[max(min(here, there) - NEAR, 0) : max(here, there) + NEAR]
        own = max(float((p.duration or 0) * track.tick) for p in near)
        if own < lasting[k] - longest:
            stays[k] = max(longest, own)
    return stays
