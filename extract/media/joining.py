"""Time stamps that begin anew within a file: joined files, streams that were started again.

The rule: what comes after the restart follows where everything before it has ended, and the two
streams of one part keep their distance. Nothing of one part is laid over another. Which packets of
the two streams are of one part, their places in the file tell: a part may lack one of them.

Shapes: P = packets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
from jaxtyping import Int64

from extract.media.track import Track

RESTART_SECONDS = 0.1  # times that fall so far below two earlier ones begin anew
UNORDERED_SECONDS = 1.0  # or, of frames that are stored out of order, so far
UNORDERED_FRAMES = 17  # and that many frames
JITTER_SECONDS = 0.02
GOES_ON_SECONDS = 1.0  # a stream whose packets are no farther apart goes on over another's restart


class Clock:
    """A stream's time stamps as its packets come: tells where they begin anew. One wrong time stamp
    is not enough.
    """

    def __init__(self, track: Track) -> None:
        self.track = track
        self.least = RESTART_SECONDS / track.tick
        self._begin()
        self._stream: int | None = None

    def _begin(self) -> None:
        self.decoding: list[int] = []  # the two latest
        self.shown: list[int] = []  # the two highest
        self.first: int | None = None
        self.count = 0

    def begins_anew(self, packet: Any) -> bool:
        """Whether time begins anew with a packet."""
        if not self.track.timed:
            return False
        anew = self._falls(packet)
        if anew:
            self._begin()
        self._stream = packet.stream_index
        self.count += 1
        if packet.dts is not None:
            self.decoding = [*self.decoding[-1:], packet.dts]
        if packet.pts is not None:
            self.first = packet.pts if self.first is None else self.first
            self.shown = sorted([*self.shown, packet.pts])[-2:]
        return anew

    def _falls(self, packet: Any) -> bool:
        # Under another number it is another stream, where any fall is one.
        least = 0 if packet.stream_index != self._stream else self.least
        if self.track.ordered and packet.dts is not None and len(self.decoding) == 2:
            return bool(min(self.decoding) - packet.dts > least)
        if packet.pts is None or len(self.shown) < 2 or self.first is None:
            return False
        fall = self.shown[0] - packet.pts
        if fall <= least:
            return False
        usual = (self.shown[0] - self.first) / self.count
        if fall > max(UNORDERED_SECONDS / self.track.tick, UNORDERED_FRAMES * usual):
            return True
        # Everything stored before a key frame is shown before it.
        return packet.is_keyframe and self.track.begins_with(packet)


class Parts:
    """Where each part begins, as far as is known while packets are read."""

    def __init__(self) -> None:
        self._shifts = [0.0]
        self.latest = 0.0  # second of what was read, as shifted

    def shift(self, part: int, second: float) -> float:
        """Seconds to add to the times of a part, one packet of which is at `second`."""
        while part >= len(self._shifts):
            self._shifts.append(self.latest - second)
        return self._shifts[part]


@dataclass(slots=True)
class _Boundary:
    """A place in the file at which a part begins: behind `low`, not behind `high`."""

    low: int
    high: int
    splits: dict[int, int]  # by track, the first packet of the part


def joined(tracks: Mapping[int, Track]) -> dict[int, Track]:
    """The tracks on one clock."""
    boundaries = _boundaries(tracks)
    if not boundaries:
        return dict(tracks)
    parts = [dict.fromkeys(tracks, 0), *(b.splits for b in boundaries)]
    firsts: dict[int, int] = {}  # ticks by which the first packets of a track were moved
    ends: dict[int, float] = {}
    begins: dict[int, list[float]] = {index: [] for index in tracks}
    packets: dict[int, list[Any]] = {index: [] for index in tracks}
    for part, stops in zip(parts, _stops(tracks, parts), strict=True):
        pieces = {i: tracks[i].packets[first : stops[i]] for i, first in part.items()}
        spans = {i: s for i, p in pieces.items() if (s := _span(tracks[i], p)) is not None}
        begun = max((ends[index] for index in part if index in ends), default=None)
        first = min((start for start, _ in spans.values()), default=0.0)
        shift = 0.0 if begun is None else begun - first
        for index, piece in pieces.items():
            moving = begun is not None and index in spans
            packets[index] += _moved(tracks[index], piece, shift) if moving else piece
        for index, (_, end) in spans.items():
            firsts.setdefault(index, round(shift / tracks[index].tick))
            if begun is not None:
                begins[index].append(begun)
            ends[index] = end + shift
    moved = {
        index: replace(
            track,
            packets=packets[index],
            first_pts=None if track.first_pts is None else track.first_pts + firsts.get(index, 0),
        )
        for index, track in tracks.items()
    }
    starts = [t.seconds(t.first_pts) for t in moved.values() if t.first_pts is not None]
    notes = {i: _begins_anew(seconds, min(starts, default=0.0)) for i, seconds in begins.items()}
    return {
        index: replace(track, note="; ".join(filter(None, (track.note, notes[index]))))
        for index, track in moved.items()
    }


def _begins_anew(seconds: Sequence[float], origin: float) -> str:
    if not seconds:
        return ""
    more = f" and {len(seconds) - 20} times more" if len(seconds) > 20 else ""
    listed = ", ".join(f"{second - origin:.2f}" for second in seconds[:20])
    return f"time begins anew at second {listed}{more}: joined"


def _stops(
    tracks: Mapping[int, Track], parts: Sequence[Mapping[int, int]]
) -> Sequence[Mapping[int, int]]:
    """Where a part of each track stops: at the next that concerns the track."""
    stops, following = list[dict[int, int]](), {i: len(t.packets) for i, t in tracks.items()}
    for part in reversed(parts):
        stops.append(dict(following))
        following |= part
    return stops[::-1]


def _boundaries(tracks: Mapping[int, Track]) -> list[_Boundary]:
    """Where parts begin, in order; where both streams begin anew at one place, it is one."""
    places = {index: _places(track.packets) for index, track in tracks.items()}
    alone = [
        [
            _Boundary(int(places[index][i - 1]), int(places[index][i]), {index: i})
            for i in _restarts(track)
        ]
        for index, track in tracks.items()
    ]
    found = [boundary for boundaries in alone for boundary in boundaries]
    for _, one, other in sorted(_overlaps(*alone) if len(alone) == 2 else [], key=lambda x: x[0]):
        if len(one.splits) == len(other.splits) == 1:
            one.low, one.high = max(one.low, other.low), min(one.high, other.high)
            one.splits |= other.splits
            other.splits = {}
    found = sorted((b for b in found if b.splits), key=lambda b: b.high)
    at_least = dict.fromkeys(tracks, 0)
    for boundary in found:
        for index in tracks.keys() - boundary.splits.keys():
            split = _split(tracks[index], places[index], boundary)
            if split is not None:
                boundary.splits[index] = split
        for index, split in boundary.splits.items():
            boundary.splits[index] = at_least[index] = max(split, at_least[index])
    return found


def _restarts(track: Track) -> list[int]:
    """Positions of the packets with which time begins anew."""
    clock = Clock(track)
    return [i for i, packet in enumerate(track.packets) if clock.begins_anew(packet)]


def _places(packets: Sequence[Any]) -> Int64[np.ndarray, "P"]:
    """Where in the file each packet begins; if that is not known, where the one before does."""
    return np.maximum.accumulate(np.array([p.pos or 0 for p in packets], np.int64))


def _overlaps(
    one: Sequence[_Boundary], other: Sequence[_Boundary]
) -> Iterator[tuple[int, _Boundary, _Boundary]]:
    """Pairs that may be the same place, with how far apart they were seen."""
    i = j = 0
    while i < len(one) and j < len(other):
        a, b = one[i], other[j]
        if a.low < b.high and b.low < a.high:
            yield abs(a.high - b.high), a, b
        if a.high <= b.high:
            i += 1
        else:
            j += 1


def _split(track: Track, places: Int64[np.ndarray, "P"], boundary: _Boundary) -> int | None:
    """The first packet behind a boundary that another stream saw; None where this one just goes on.

    Of the packets that lie where the boundary may be, the largest step in time parts them.
    """
    low = int(np.searchsorted(places, boundary.low, side="right"))
    high = int(np.searchsorted(places, boundary.high, side="left"))
    if low == 0 or high == len(places):
        return low if low == 0 else high
    steps = {i: _step(track, i) for i in range(low, high + 1)}
    widest = max(steps, key=lambda i: abs(steps[i]))
    least = JITTER_SECONDS if track.ordered else UNORDERED_SECONDS
    goes_on = -least <= steps[widest] <= GOES_ON_SECONDS
    return None if goes_on else widest


def _step(track: Track, i: int) -> float:
    """Seconds from the packet before to this one."""
    here, before = track.packets[i], track.packets[i - 1]
    if track.ordered and here.dts is not None and before.dts is not None:
        return float((here.dts - before.dts) * track.tick)
    if here.pts is not None and before.pts is not None:
        return float((here.pts - before.pts) * track.tick)
    return 0.0


def _span(track: Track, packets: Sequence[Any]) -> tuple[float, float] | None:
    """Seconds at which a part begins and ends."""
    times = [(t, p.duration or 0) for p in packets if (t := track.timestamp(p)) is not None]
    if not times:
        return None
    last, duration = max(times)
    if not duration and len(times) > 1:
        duration = (last - min(times)[0]) // (len(times) - 1)
    return track.seconds(min(times)[0]), track.seconds(last + duration)


def _moved(track: Track, packets: Sequence[Any], seconds: float) -> Iterator[Any]:
    """The packets of a part with other time stamps. What an index would not show of them, because
    it knows no part but the first, is shown.
    """
    ticks = round(seconds / track.tick)
    for packet in packets:
        given = packet
        if packet.is_discard:
            given = av.Packet(bytes(packet))
            given.time_base, given.duration = packet.time_base, packet.duration
            given.pts, given.dts, given.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
        if given.pts is not None:
            given.pts += ticks
        if given.dts is not None:
            given.dts += ticks
        yield given
