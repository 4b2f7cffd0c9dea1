"""Time stamps that begin anew within a file: joined files, streams that were started again.

The rule: what comes after the restart follows where everything before it has ended, and the two
streams of one part keep their distance. Nothing of one part is laid over another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from extract.media.track import Track

RESTART_SECONDS = 0.5  # decoding times that fall so far begin anew,
UNORDERED_SECONDS = 1.0  # or presentation times where there are no others: frames are reordered


def falls_back(before: Sequence[Any], packet: Any, tick: Fraction) -> bool:
    """Whether time begins anew with a packet; one wrong time stamp is not enough."""
    return bool(before) and all(_earlier(packet, earlier, tick) for earlier in before)


def _earlier(packet: Any, than: Any, tick: Fraction) -> bool:
    if packet.dts is not None and than.dts is not None:
        return bool((than.dts - packet.dts) * tick > RESTART_SECONDS)
    if packet.pts is not None and than.pts is not None:
        return bool((than.pts - packet.pts) * tick > UNORDERED_SECONDS)
    return False


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


def joined(
    tracks: Mapping[int, Track], begins: Mapping[int, Sequence[int]], origin: float
) -> dict[int, Track]:
    """The tracks on one clock; `begins` gives the first packet of each part of a track."""
    if all(len(b) == 1 for b in begins.values()):
        return dict(tracks)
    ends = dict.fromkeys(tracks, 0.0)
    notes: dict[int, list[str]] = {index: [] for index in tracks}
    for part in range(max((len(b) for b in begins.values()), default=0)):
        pieces = {
            index: track.packets[slice(*[*begins[index], len(track.packets)][part : part + 2])]
            for index, track in tracks.items()
            if part < len(begins[index])
        }
        spans = {i: s for i, p in pieces.items() if (s := _span(tracks[i], p)) is not None}
        if not spans:
            continue
        begun = max((ends[index] for index in spans), default=0.0)
        shift = begun - min(start for start, _ in spans.values()) if part else 0.0
        for index, (_, end) in spans.items():
            if part:
                _move(tracks[index], pieces[index], shift)
                notes[index].append(f"{begun - origin:.2f}")
            ends[index] = end + shift
    return {
        index: replace(
            track, note=f"time begins anew at second {', '.join(n)}: joined" if n else ""
        )
        for (index, track), n in zip(tracks.items(), notes.values(), strict=True)
    }


def _span(track: Track, packets: Sequence[Any]) -> tuple[float, float] | None:
    """Seconds at which a part begins and ends."""
    times = [(t, p.duration or 0) for p in packets if (t := track.timestamp(p)) is not None]
    if not times:
        return None
    last, duration = max(times)
    if not duration and len(times) > 1:
        duration = (last - min(times)[0]) // (len(times) - 1)
    return track.seconds(min(times)[0]), track.seconds(last + duration)


def _move(track: Track, packets: Sequence[Any], seconds: float) -> None:
    ticks = round(seconds / track.tick)
    for packet in packets:
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
