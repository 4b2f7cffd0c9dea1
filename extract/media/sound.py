"""The sound of a clip as one mono signal on the clip's clock.

Shapes: S, R = samples, C = channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from jaxtyping import Float32

from extract.media.clip import Request, Sound, Stream, detail
from extract.media.probe import Failure
from extract.media.track import Track
from store import Status

JITTER_SECONDS = 0.05  # time stamps of coarse containers wander; only larger steps are gaps
PREROLL_SECONDS = 1.0  # decoded before a piece, because codecs overlap their blocks
MAX_SOUND_SECONDS = 2 * 3600.0  # of one clip; 1.4 GB at 48 kHz
PADDING_SECONDS = 0.1  # silence in front of late sound before the detail says so
GAP_SECONDS = 0.5  # of silence where packets are missing, before the detail says so
MANY_CHANNELS = 8
ANTIPHASE = 1e-3  # a mean with less than this share of the loudest channel's energy has cancelled


Stretch = tuple[float, Float32[np.ndarray, "_ _"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Decoded stretches of sound, each with its time; not yet placed."""

    stretches: Sequence[Stretch]
    rate: int  # Hz
    damage: str  # what is missing or broken
    note: str = ""  # what was done about changes within

    @property
    def first_seconds(self) -> float | None:
        """The second at which the first sample of the file sounds."""
        return self.stretches[0][0] if self.stretches else None

    def piece(self, start: float, seconds: float) -> Float32[np.ndarray, "S"]:
        """The mono sound from second `start` of the file on.

        Raises:
            Failure: DECODE_ERROR or EMPTY, there is no sound in it.
        """
        if not self.stretches:
            if self.damage:
                raise Failure(Status.DECODE_ERROR, self.damage)
            raise Failure(Status.EMPTY, "no sound in this piece")
        seconds = min(seconds, MAX_SOUND_SECONDS)
        signal = _joined(self.stretches, self.rate, start, round(seconds * self.rate))
        if not signal.shape[1]:
            raise Failure(Status.EMPTY, "no sound in this piece")
        return mono(signal)

    def gaps(self, start: float, seconds: float) -> str:
        """A note of where packets are missing for long, in seconds from `start` on."""
        ends, notes = None, []
        for at, signal in _places(self.stretches, self.rate, start):
            if ends is not None and at - ends > GAP_SECONDS * self.rate and ends > 0:
                notes.append(f"{ends / self.rate:.2f} to {min(at / self.rate, seconds):.2f}")
            ends = at + signal.shape[1]
        more = f" and {len(notes) - 3} times more" if len(notes) > 3 else ""
        return f"silence from second {', '.join(notes[:3])}{more}" if notes else ""


def sound_of(
    track: Track, samples: Samples, origin: float, request: Request, over: str
) -> Stream[Sound]:
    """The sound of a piece at every rate asked for; `over` says what of it is cut off."""
    start = origin + request.start_seconds
    try:
        track.refuse_encryption()
        signal = samples.piece(start, request.stop_seconds - request.start_seconds)
    except Failure as failure:
        return Stream(status=failure.status, detail=failure.detail)
    rates = {rate: resample(signal, samples.rate, rate) for rate in request.sample_rates}
    late = min(second for second, _ in samples.stretches) - origin - request.start_seconds
    silence = f"silence up to second {late:.2f}" if late > PADDING_SECONDS else ""
    gaps = samples.gaps(start, request.stop_seconds - request.start_seconds)
    return Stream(
        status=Status.PARTIAL if samples.damage else Status.OK,
        detail=detail("pyav", samples.damage, track.note, samples.note, silence, gaps, over),
        data={rate: Sound(samples=s, rate=rate) for rate, s in rates.items()},
    )


def samples(track: Track, start_seconds: float, end_seconds: float) -> Samples:
    """Decode what may sound between two moments, and the first sample of all; a broken packet
    leaves a gap.
    """
    runs: list[_Run] = []
    damage = track.damage
    context = track.stream.codec_context
    skipping = context.is_open  # it was left in the middle of another piece of the same file
    for packet in [*track.packets, None]:
        if packet is not None and runs and packet.pts is not None:
            second = track.seconds(packet.pts) - runs[0].stretches[0][0]
            if second > end_seconds + (PREROLL_SECONDS if end_seconds else 0):
                break
            if second < start_seconds - PREROLL_SECONDS:
                skipping = True
                continue
        if skipping:
            context.flush_buffers()
            skipping = False
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError as error:
            damage = damage or f"{type(error).__name__}: {error.strerror}"
            continue
        for frame in (frame for frame in frames if frame.samples):
            kind = (frame.sample_rate, frame.layout.nb_channels)
            if not runs or (runs[-1].rate, runs[-1].channels) != kind:
                runs.append(_Run(*kind, []))
            before = runs[-1].stretches or (runs[-2].stretches if len(runs) > 1 else [])
            rate = runs[-1].rate if runs[-1].stretches else runs[max(len(runs) - 2, 0)].rate
            second = _second(track, frame, before, rate)
            runs[-1].stretches.append((second, _float32(frame)))
    return _one_kind(runs, damage)


@dataclass(frozen=True, slots=True)
class _Run:
    """Stretches of one rate and number of channels."""

    rate: int  # Hz
    channels: int
    stretches: list[Stretch]


def _one_kind(runs: Sequence[_Run], damage: str) -> Samples:
    """The sound at its first rate; where rate or channels change, as mono."""
    if len(runs) <= 1:
        run = runs[0] if runs else _Run(0, 0, [])
        return Samples(stretches=run.stretches, rate=run.rate, damage=damage)
    rate, stretches = runs[0].rate, list[Stretch]()
    for run in runs:
        start = min(second for second, _ in run.stretches)
        signal = mono(_joined(run.stretches, run.rate, start, round(MAX_SOUND_SECONDS * run.rate)))
        stretches.append((start, resample(signal, run.rate, rate)[None]))
    kinds = list(dict.fromkeys(f"{run.rate} Hz {run.channels} ch" for run in runs))
    note = f"the sound changes ({', then '.join(kinds[:4])}) and was resampled"
    return Samples(stretches=stretches, rate=rate, damage=damage, note=note)


def _second(track: Track, frame: Any, before: Sequence[Stretch], rate: int) -> float:
    """The second at which the frame sounds; if it does not say, the end of those before."""
    if frame.pts is not None:
        return track.seconds(frame.pts)
    last, signal = before[-1] if before else (0.0, np.zeros((1, 0), np.float32))
    return last + signal.shape[1] / rate


def _float32(frame: Any) -> Float32[np.ndarray, "C S"]:
    """Samples of any format as float32 with full scale at -1..1."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= MANY_CHANNELS:
        # The library reads one plane too many of so many, and dies of it (PyAV 18.1).
        packer = av.AudioResampler(
            format=frame.format.packed.name, layout=frame.layout, rate=frame.sample_rate
        )
        parts = [part for given in (frame, None) for part in packer.resample(given)]
        array = np.concatenate([part.to_ndarray() for part in parts], axis=1)
        array = array.reshape(-1, channels).T
    elif frame.format.is_planar:
        array = frame.to_ndarray()
    else:
        array = frame.to_ndarray().reshape(-1, channels).T
    if array.dtype.kind == "u":
        return ((array.astype(np.float32) - 128) / 128).astype(np.float32)
    if array.dtype.kind == "i":
        return (array / float(1 << (8 * array.itemsize - 1))).astype(np.float32)
    return array.astype(np.float32)


def _joined(
    stretches: Sequence[Stretch], rate: int, start: float, most: int
) -> Float32[np.ndarray, "C S"]:
    """Stretches joined from second `start` on, with silence between them; at most `most`
    samples, whatever time stamps say.
    """
    channels = max(len(s) for _, s in stretches)
    placed = [(at, s[:, : most - at]) for at, s in _places(stretches, rate, start) if at < most]
    end = max((at + s.shape[1] for at, s in placed), default=0)
    joined = np.zeros((channels, max(end, 0)), np.float32)
    for at, signal in placed:
        inside = signal[:, max(-at, 0) :]
        at = max(at, 0)
        # Mono stretches of a file whose layout changes sound on every channel.
        joined[:, at : at + inside.shape[1]] = inside if len(inside) == channels else inside[:1]
    return joined


def _places(
    stretches: Sequence[Stretch], rate: int, start: float
) -> list[tuple[int, Float32[np.ndarray, "_ _"]]]:
    """The sample at which each stretch begins; none is laid over the one before."""
    placed = []
    cursor: int | None = None
    for second, signal in stretches:
        begin = round((second - start) * rate)
        if cursor is None or begin - cursor > JITTER_SECONDS * rate:
            cursor = begin
        placed.append((cursor, signal))
        cursor += signal.shape[1]
    return placed


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
    """The signal at another rate (libswresample), as long in seconds as it was."""
    if rate == wanted:
        return np.ascontiguousarray(signal)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(signal[None]), "flt", "mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="flt", layout="mono", rate=wanted)
    parts = [f.to_ndarray()[0] for x in (frame, None) for f in resampler.resample(x)]
    length = max(1, round(len(signal) * wanted / rate))
    given = np.concatenate([*parts, np.zeros(length, np.float32)])[:length]
    return given.astype(np.float32, copy=False)
