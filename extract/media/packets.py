"""The packets of a clip and their times, before anything is decoded.

Second 0 is the earliest presentation time of the file, which its first packets tell. For a piece
far into a file the rest is read from the key frame before it on, where the container can go there
(`SEEKING`); everything else is read from the front.

Time stamps that fall back (joined files, streams that began anew) are set right here: each part
follows where the one before has ended in sight and sound, and the track says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import av

from extract.media.headers import Entry, Headers
from extract.media.joining import Clock, Parts, joined
from extract.media.pids import begins_late, chain_of
from extract.media.probe import (
    Failure,
    File,
    best_streams,
    opened,
    rank,
    say,
    stated_seconds,
    unfit,
)
from extract.media.track import Track, count_out
from store import Status

SEEKING = ("mov", "matroska")  # containers whose time stamps are right wherever reading begins
FRONT_SECONDS = 1.0  # read to know second 0; covers frames that are stored out of order
BEFORE_SECONDS = (2.0, 20.0)  # how far before a piece to go: the sound before it lies close by
SOUND_BEFORE_SECONDS = 0.5  # codecs overlap their blocks
MAX_PACKETS = 2_000_000
MAX_TIME = 1 << 62  # time stamps have 64 bits


@dataclass(slots=True)
class _Reading:
    """A track while its packets are being read."""

    track: Track
    first_pts: int | None
    packets: list[Any] = field(default_factory=list)
    damage: str = ""
    done: bool = False  # the end of the piece is read
    parts: list[int] = field(default_factory=lambda: [0])  # where time stamps begin anew
    last_seconds: float = 0.0  # of all parts together
    chain: Sequence[Any] = ()  # streams that follow one another, if there are several
    left_out: str = ""  # what of them is not read
    clock: Clock = field(init=False)

    def __post_init__(self) -> None:
        self.clock = Clock(self.track)

    def keep(self, packet: Any) -> None:
        pts = self.track.timestamp(packet)
        if self.clock.begins_anew(packet):
            self.parts.append(len(self.packets))
        self.packets.append(packet)
        if pts is not None and not packet.is_discard and len(self.parts) == 1:
            self.first_pts = pts if self.first_pts is None else min(self.first_pts, pts)
        if packet.is_corrupt:
            self.damage = self.damage or "a packet is cut short"

    def drop(self) -> None:
        """Forget all packets but the last."""
        del self.packets[:-1]
        self.parts = [0] * len(self.parts)

    def finished(self, error: str, file: File, reached: int) -> Track:
        """The track; `error` ended the reading of all of them, at the byte `reached` or behind."""
        damage = error or self.damage
        packets, note = self.packets, ""
        if len(self.chain) > 1:  # the last packet of a stream that has ended comes at the very end
            order = {stream.index: k for k, stream in enumerate(self.chain)}
            packets = sorted(packets, key=lambda packet: order[packet.stream_index])
            met = [s for s in self.chain if any(p.stream_index == s.index for p in packets)]
            numbers = ", then ".join(str(stream.id) for stream in met)
            note = f"the stream changes (PID {numbers}): joined" if len(met) > 1 else ""
        if self.track.headers is not None and len(self.parts) == 1:
            note = count_out(self.track, packets) or note
        if file.open_ended and not error and self.packets and self.packets[-1].is_corrupt:
            damage = ""  # nobody knew how long the last packet would be
        if not self.done and not damage:
            damage = self.left_out or file.damage
            if 0 < file.followed <= reached and not file.cut_short and not self.left_out:
                damage, note = "", "another file follows in this one: joined"
        return replace(
            self.track,
            packets=packets,
            note=note,
            first_pts=self.first_pts,
            damage=damage,
            last_seconds=self.last_seconds,
        )


class Media:
    """An open file, from which pieces are read."""

    def __init__(self, file: File) -> None:
        """Open it and choose the streams.

        Raises:
            Failure: REFUSED or UNREADABLE.
        """
        self.file = file
        self.front: dict[int, Track] = {}  # the first packets of each stream
        self._cuts: dict[int, float] = {}
        self._open()

    def _open(self) -> None:
        self.container = opened(self.file.path, begins_late(self.file.spans))
        self.fresh = True  # reading begins at the front
        try:
            self.video, self.audio = best_streams(self.container)
            self.unfit = unfit(self.container, self.video, self.audio)
            self.video = None if "video" in self.unfit else self.video
        except Failure:
            self.close()
            raise
        self.streams = [s for s in (self.video, self.audio) if s is not None]
        self.chains = {
            stream.index: chain_of(
                stream,
                [s for s in self.container.streams if s.type == stream.type],
                self.file.spans,
                rank,
            )
            for stream in self.streams
        }
        self.headers = Headers(self.video.codec_context) if self.video else None

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    @property
    def _indexed(self) -> bool:
        """True for ISO files: they say where each frame lies."""
        return self.container.format.name.startswith("mov")

    @property
    def seconds(self) -> float:
        """The length that the file states; 0 if it states none."""
        return stated_seconds(self.container)

    def tracks(
        self, start_seconds: float = 0.0, end_seconds: float = float("inf")
    ) -> tuple[Track | None, Track | None]:
        """The video and the audio track, with the packets needed for a piece of the clip.

        Raises:
            Failure: REFUSED, there are too many; UNREADABLE, the file has gone.
        """
        if not self.streams:
            return None, None
        tracks = self._sought(start_seconds, end_seconds)
        if tracks is None:
            self._rewind()
            tracks = self._read(start_seconds, end_seconds)
        end = end_seconds + _origin(tracks)
        video, audio = (
            self._checked(tracks[stream.index], end) if stream is not None else None
            for stream in (self.video, self.audio)
        )
        return video, audio

    def _checked(self, track: Track, end: float) -> Track:
        """The track, damaged if an index says that frames before `end` are missing."""
        if track.damage or self._cut_seconds(track.stream.index) >= end:
            return track
        return replace(track, damage="the file ends before its index does")

    def _rewind(self) -> None:
        if not self.fresh:  # seeking to the front is not exact in every container; this is
            self.close()
            self._open()
            self.front = {}  # its packets belong to the streams that were closed
        self.fresh = False

    def _read(
        self, start_seconds: float, end_seconds: float, front: Mapping[int, Track] | None = None
    ) -> dict[int, Track]:
        """Packets from here to the end of the piece, less those before its key frame.

        Without `front`, the front of the file is being read.
        """
        readings = {
            stream.index: _Reading(
                Track.of(stream, self.headers if stream is self.video else None),
                front[stream.index].first_pts if front else None,
                chain=self.chains[stream.index][0],
                left_out=self.chains[stream.index][1],
            )
            for stream in self.streams
        }
        reading_of = {s.index: reading for reading in readings.values() for s in reading.chain}
        streams = [stream for reading in readings.values() for stream in reading.chain]
        parts = Parts()
        origin = _origin(front) if front else float("inf")
        error = ""
        try:
            for count, packet in enumerate(self.container.demux(streams)):
                if not packet.size:
                    continue
                if count > MAX_PACKETS:
                    raise Failure(Status.REFUSED, f"more than {MAX_PACKETS} packets")
                reading = reading_of[packet.stream_index]
                reading.keep(packet)
                if reading.first_pts is None:
                    continue
                # The estimate only falls as packets come in, so nothing is given up too early; a
                # second covers frames that are stored out of order.
                origin = min(origin, reading.track.seconds(reading.first_pts))
                timestamp = packet.pts if packet.dts is None else packet.dts
                second = reading.track.seconds(timestamp or 0)
                second += parts.shift(len(reading.parts) - 1, second)
                reading.last_seconds = parts.latest = max(reading.last_seconds, second)
                if second - origin > end_seconds + 1:
                    reading.done = True
                    if all(r.done for r in readings.values()):
                        break
                elif self._begins_piece(reading, packet, origin, start_seconds):
                    reading.drop()  # nothing before this frame is needed any more
        except av.error.FFmpegError as broken:
            error = say(broken)
        except IndexError:  # of PyAV, once all has been read
            error = "streams begin in the middle that nothing named before"
        reached = max((p.pos or 0 for r in readings.values() for p in r.packets[-1:]), default=0)
        tracks = {index: r.finished(error, self.file, reached) for index, r in readings.items()}
        anew = any(len(r.parts) > 1 for r in readings.values())
        return joined(tracks) if anew else tracks

    def _begins_piece(
        self, reading: _Reading, packet: Any, origin: float, start_seconds: float
    ) -> bool:
        """Whether a piece may be decoded from this packet on."""
        track = reading.track
        return (
            track.stream is self.video
            and packet.is_keyframe
            and track.timed
            and packet.pts is not None
            and len(reading.parts) == 1
            and track.seconds(packet.pts) - origin <= start_seconds
            and self.headers is not None
            and self.headers.entry(packet) == Entry.YES
        )

    def _sought(self, start_seconds: float, end_seconds: float) -> dict[int, Track] | None:
        """The piece's packets without what lies before it; None if that cannot be had."""
        if not self.container.format.name.startswith(SEEKING) or not self.file.steady:
            return None
        if start_seconds <= FRONT_SECONDS + BEFORE_SECONDS[0]:
            return None
        if not self.front:
            self._rewind()
            self.front = self._read(0.0, FRONT_SECONDS)
        origin = _origin(self.front)
        for before in BEFORE_SECONDS:
            if start_seconds - before <= FRONT_SECONDS:
                return None
            moment = (origin + start_seconds - before) * av.time_base
            if moment >= MAX_TIME:
                return None
            try:
                self.container.seek(round(moment))
            except av.error.FFmpegError:
                return None
            tracks = self._read(start_seconds, end_seconds, self.front)
            if all(self._reaches_back(t, origin + start_seconds) for t in tracks.values()):
                if self.audio:
                    index = self.audio.index
                    tracks[index] = _after(self.front[index], tracks[index])
                return tracks
        return None

    def _reaches_back(self, track: Track, second: float) -> bool:
        """Whether what was read begins early enough to decode from `second` on."""
        if not track.packets or track.packets[0].pts is None:
            return False
        first = track.seconds(track.packets[0].pts)
        if track.stream is self.video:
            assert self.headers is not None
            sure = self.headers.entry(track.packets[0]) == Entry.YES
            return sure and first <= second and not track.note
        return first <= second - SOUND_BEFORE_SECONDS and not track.note

    def _cut_seconds(self, index: int) -> float:
        """The second of the first frame that an ISO file's index places beyond its end."""
        if index not in self._cuts:
            stream, seconds = self.container.streams[index], float("inf")
            entries: Any = stream.index_entries if self._indexed else ()
            if len(entries) and entries[-1].pos + entries[-1].size > self.file.size:
                beyond = [e for e in entries if e.pos + e.size > self.file.size]
                seconds = min(e.timestamp for e in beyond) * float(stream.time_base or 0)
            self._cuts[index] = seconds
        return self._cuts[index]


def _after(front: Track, track: Track) -> Track:
    """The track with the file's first sound before it, for its first sample has its part in where
    second 0 is.

    Packets that were read twice are taken as they came the first time: only then do they say how
    many of their samples are priming.
    """
    last = max((p.pts for p in front.packets if p.pts is not None), default=None)
    rest = [p for p in track.packets if last is None or p.pts is None or p.pts > last]
    return replace(track, packets=[*front.packets, *rest])


def _origin(tracks: Mapping[int, Track]) -> float:
    """Second 0 as far as these packets tell, in seconds of the file."""
    seen = [t.seconds(t.first_pts) for t in tracks.values() if t.first_pts is not None]
    return min(seen, default=0.0)
