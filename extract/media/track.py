"""One stream of a file with its packets."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from extract.media.headers import Entry, Headers
from extract.media.probe import Failure
from store import Status

# Containers in which the length of a lone stream is that of the file.
DECODING_TIMES = ("mov", "mpeg", "flv")  # containers that hold them, of frames out of order
LENGTH_OF_ALL = ("matroska", "flv")


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """One stream and its packets in decode order."""

    stream: Any
    tick: Fraction  # seconds of one time stamp unit
    timed: bool  # not AVI: its presentation times are made up, and wrong
    ordered: bool = True  # decoding times are the file's own, not made up while reading
    packets: Sequence[Any] = ()
    first_pts: int | None = None  # of all packets that are shown, also those not in `packets`
    indexed: bool = False  # the file says of every packet how long it lasts
    ends_ticks: int | None = None  # when the last one ends, if the file says
    last_seconds: float = 0.0  # of the file: the latest packet that was read
    damage: str = ""  # what says that packets are missing or broken
    note: str = ""  # what was done about its time stamps
    headers: Headers | None = None  # of a video stream's packets

    @classmethod
    def of(cls, stream: Any, headers: Headers | None = None) -> "Track":
        """The stream's track, before any packet is read."""
        name, tick = stream.container.format.name, Fraction(stream.time_base)
        return cls(
            stream=stream,
            tick=tick,
            timed=name != "avi",
            ordered=stream.type == "audio" or name.startswith(DECODING_TIMES),
            indexed=name.startswith("mov"),
            ends_ticks=ends_ticks(stream, tick),
            headers=headers,
        )

    def refuse_encryption(self) -> None:
        """Nothing, unless the packets are encrypted: what decodes of such is noise.

        Raises:
            Failure: DECODE_ERROR.
        """
        if self.packets and self.packets[0].has_sidedata("encryption_info"):
            raise Failure(Status.DECODE_ERROR, f"the {self.stream.type} is encrypted")

    def begins_with(self, packet: Any) -> bool:
        """Whether decoding may begin at a packet that is flagged so, as far as can be told."""
        return self.headers is None or self.headers.entry(packet) in (Entry.YES, Entry.UNKNOWN)

    def timestamp(self, packet: Any) -> int | None:
        """The time stamp at which a packet is shown, or if there is none, decoded."""
        return packet.pts if self.timed and packet.pts is not None else packet.dts

    def seconds(self, pts: int) -> float:
        """A time stamp in seconds of the file."""
        return pts * self.tick.numerator / self.tick.denominator  # a Fraction is slow


def ends_ticks(stream: Any, tick: Fraction) -> int | None:
    """When the stream's last packet ends, if the file says."""
    container = stream.container
    if stream.duration is not None and container.format.name.startswith("mov"):
        return int((stream.start_time or 0) + stream.duration)
    if not container.format.name.startswith(LENGTH_OF_ALL):
        return None  # elsewhere it is an estimate
    if (seconds := _clock_seconds(stream.metadata.get("DURATION", ""))) is not None:
        return round(seconds / tick)
    if len(container.streams) == 1 and container.duration:
        start = container.start_time or 0
        return round((start + container.duration) / av.time_base / tick)
    return None


def _clock_seconds(text: str) -> float | None:
    """Seconds of `00:00:10.000000000`."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return None


def count_out(track: Track, packets: Sequence[Any]) -> str:
    """A note, where frames have no time stamp at all: decoding times are then spread evenly between
    those that are known, from the moment on at which the first frame is shown, and frames counted.
    """
    known = [k for k, packet in enumerate(packets) if packet.dts is not None]
    lost = sum(packet.pts is None and packet.dts is None for packet in packets)
    rate = track.stream.average_rate
    if not lost or not track.timed or not known or not (rate or len(known) > 1):
        return ""
    times = np.interp(range(len(packets)), known, [packets[k].dts for k in known])
    begin, end = known[0], known[-1]
    if 2 * (end - begin) > len(packets) or not rate:
        step = (times[end] - times[begin]) / (end - begin)
    else:
        step = float(1 / rate / track.tick)
    times[:begin] -= step * np.arange(begin, 0, -1)
    times[end + 1 :] += step * np.arange(1, len(packets) - end)
    shown = next((p.pts - p.dts for p in packets if p.pts is not None and p.dts is not None), 0)
    for packet, time in zip(packets, times, strict=True):
        packet.pts, packet.dts = None, round(time) + shown
    return f"{lost} of {len(packets)} frames have no time stamp: times are spread evenly"
