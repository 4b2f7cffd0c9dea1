"""The sound of a clip as one mono signal on the clip's clock.

Shapes: S, R = samples, C = channels.
"""

from dataclasses import dataclass, field
from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from extract.media.packets import Track
from extract.media.probe import Failure
from store import Status

JITTER_SECONDS = 0.05  # time stamps of coarse containers wander; only larger steps are gaps
PREROLL_SECONDS = 1.0  # decoded before a piece, because codecs overlap their blocks
MAX_SOUND_SECONDS = 2 * 3600.0  # of one clip; 1.4 GB at 48 kHz
ANTIPHASE = 1e-3  # a mean with less than this share of the loudest channel's energy has cancelled


@dataclass(slots=True, kw_only=True)
class Samples:
    """Decoded stretches of sound, each with its time; not yet placed."""

    track: Track
    start_seconds: float
    end_seconds: float
    rate: int = 0
    first_seconds: float | None = None  # when the first sample of the file sounds
    stretches: list[tuple[float, Float32[np.ndarray, "_ _"]]] = field(default_factory=list)

    def late_seconds(self, origin: float) -> float:
        """How long the piece is silent because the sound begins late."""
        return min(s for s, _ in self.stretches) - origin - self.start_seconds

    def piece(self, origin: float) -> Float32[np.ndarray, "S"]:
        """The mono sound from `start_seconds` to `end_seconds` after `origin`.

        Raises:
            Failure: DECODE_ERROR or EMPTY, there is no sound in it.
        """
        if not self.stretches:
            if self.track.damage:
                raise Failure(Status.DECODE_ERROR, self.track.damage)
            raise Failure(Status.EMPTY, "no sound in this piece")
        start = origin + self.start_seconds
        seconds = min(self.end_seconds - self.start_seconds, MAX_SOUND_SECONDS)
        signal = _joined(self.stretches, self.rate, start, round(seconds * self.rate))
        if not signal.shape[1]:
            raise Failure(Status.EMPTY, "no sound in this piece")
        return mono(signal)


def samples(track: Track, start_seconds: float, end_seconds: float) -> Samples:
    """Decode what may sound between two moments, and the first sample of all; a broken packet
    leaves a gap.
    """
    found = Samples(track=track, start_seconds=start_seconds, end_seconds=end_seconds)
    context, origin = track.stream.codec_context, None
    skipping = False
    if context.is_open:
        context.flush_buffers()  # after another piece of the same file
    for packet in [*track.packets, None]:
        if packet is not None and origin is not None and packet.pts is not None:
            now = track.seconds(packet.pts) - origin
            if now > end_seconds + (PREROLL_SECONDS if end_seconds else 0):
                break
            if now < start_seconds - PREROLL_SECONDS:
                skipping = True
                continue
        if skipping:
            context.flush_buffers()
            skipping = False
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError as error:
            track.damage = track.damage or f"{type(error).__name__}: {error.strerror}"
            continue
        for frame in frames:
            _take(found, track, frame)
            origin = found.first_seconds
    return found


def _take(found: Samples, track: Track, frame: Any) -> None:
    if not frame.samples:
        return
    if not found.rate:
        found.rate = frame.sample_rate
    if frame.sample_rate != found.rate:
        track.damage = track.damage or "the sample rate changes"
        return
    last, signal = found.stretches[-1] if found.stretches else (0.0, np.zeros((1, 0), np.float32))
    second = (
        track.seconds(frame.pts) if frame.pts is not None else last + signal.shape[1] / found.rate
    )
    if found.first_seconds is None:
        found.first_seconds = second
    found.stretches.append((second, _float32(frame)))


def _float32(frame: Any) -> Float32[np.ndarray, "C S"]:
    """Samples of any format as float32 with full scale at -1..1."""
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(-1, frame.layout.nb_channels).T
    if array.dtype.kind == "u":
        return ((array.astype(np.float32) - 128) / 128).astype(np.float32)
    if array.dtype.kind == "i":
        return (array / float(1 << (8 * array.itemsize - 1))).astype(np.float32)
    return array.astype(np.float32)


def _joined(
    stretches: list[tuple[float, Float32[np.ndarray, "_ _"]]], rate: int, start: float, most: int
) -> Float32[np.ndarray, "C S"]:
    """Stretches at their places from second `start` on, silence between them; at most so many
    samples, whatever time stamps say.
    """
    channels = max(len(s) for _, s in stretches)
    placed, cursor = [], None
    for second, signal in stretches:
        place = round((second - start) * rate)
        if cursor is None or abs(place - cursor) > JITTER_SECONDS * rate:
            cursor = place
        if cursor < most:
            placed.append((cursor, signal[:, : most - cursor]))
        cursor += signal.shape[1]
    end = max((at + s.shape[1] for at, s in placed), default=0)
    joined = np.zeros((channels, max(end, 0)), np.float32)
    for at, signal in placed:
        inside = signal[:, max(-at, 0) :]
        at = max(at, 0)
        # Mono stretches of a file whose layout changes sound on every channel.
        joined[:, at : at + inside.shape[1]] = inside if len(inside) == channels else inside[:1]
    return joined


def mono(signal: Float32[np.ndarray, "C S"]) -> Float32[np.ndarray, "S"]:
    """The mean of the channels; where they cancel each other, the loudest one instead."""
    if len(signal) == 1:
        return signal[0]
    mean = signal.mean(axis=0, dtype=np.float32)
    energy = np.square(signal, dtype=np.float64).sum(axis=1)
    if np.square(mean, dtype=np.float64).sum() < ANTIPHASE * energy.max():
        return signal[int(energy.argmax())]
    return mean


def resample(signal: Float32[np.ndarray, "S"], rate: int, wanted: int) -> Float32[np.ndarray, "R"]:
    """`signal` at another rate (libswresample), as long in seconds as it was."""
    if rate == wanted:
        return np.ascontiguousarray(signal)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(signal[None]), "flt", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    parts = [f.to_ndarray()[0] for x in (frame, None) for f in resampler.resample(x)]
    length = max(1, round(len(signal) * wanted / rate))
    given = np.concatenate([*parts, np.zeros(length, np.float32)])[:length]
    return given.astype(np.float32, copy=False)
