"""The request for one clip, and the decoded clip with its streams.

Shapes: T = frames wanted, H, W = pixels, S = sound samples.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt8

from extract.media.samplers import Footage
from extract.processes.wire import carried
from store import Status

DECODER = "pyav"  # part of a feature's identity
DECODERS = ("auto", "pyav", "decord")
DETAIL_LENGTH = 4096
LAST_SECOND = 2_000_000.0  # times of rows are stored as milliseconds of 32 bits


@carried
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """RGB frames and when each appears, in seconds on the clip's clock."""

    pixels: UInt8[np.ndarray, "T H W 3"]
    seconds: Float64[np.ndarray, "T"]

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.seconds) > 0:
            raise ValueError(f"{len(self.pixels)} frames with {len(self.seconds)} times")
        if not self.pixels.size:
            raise ValueError(f"frames of {self.pixels.shape[1:3]} pixels")
        # Asked so that a time that is no number fails too.
        if not (self.seconds[0] >= 0 and np.all(np.diff(self.seconds) >= 0)):
            raise ValueError("frame times start at 0 or later and never fall")
        if not self.seconds[-1] < LAST_SECOND:
            raise ValueError(f"a frame at second {self.seconds[-1]:g}")


@carried
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sound:
    """Mono sound from second 0 on, full scale at -1..1."""

    samples: Float32[np.ndarray, "S"]
    rate: int  # Hz

    def __post_init__(self) -> None:
        if not len(self.samples) or self.rate <= 0:
            raise ValueError(f"{len(self.samples)} samples at {self.rate} Hz are no sound")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to decode one clip. `pick` gives the indices of the wanted frames, in order;
    without it no frame is decoded.
    """

    path: Path
    root: Path | None = None  # a link that leads out of it is not followed
    start_seconds: float = 0.0
    end_seconds: float = float("inf")
    limit_seconds: float = float("inf")  # the most that is decoded; the detail says what is cut off
    pick: Callable[[Footage], Int[np.ndarray, "T"]] | None = None
    short_sides: tuple[int, ...] = ()  # pixels; larger frames are scaled down to each of these
    first: int = 0  # of the frames picked, the first one wanted: the others have come
    sample_rates: tuple[int, ...] = ()  # Hz; the sound is given at each of these
    decoder: str = "auto"  # or "pyav" or "decord"
    because: str = "asked for"  # why PyAV, where it is `decoder`
    alone: bool = False  # the stream that is not asked for may kill the decoder: leave it be

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds or not self.limit_seconds > 0:
            raise ValueError(f"a piece from {self.start_seconds} to {self.end_seconds} s is none")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder {self.decoder!r} is none of {', '.join(DECODERS)}")

    @property
    def stop_seconds(self) -> float:
        """The second at which decoding ends."""
        return min(self.end_seconds, self.start_seconds + self.limit_seconds)


Data = TypeVar("Data", bound=Frames | Sound)


@carried
@dataclass(frozen=True, slots=True, kw_only=True)
class Stream(Generic[Data]):
    """The decoded frames or sound of a clip, or the reason why there are none."""

    status: Status
    detail: str = ""
    data: Mapping[int, Data] = field(default_factory=dict)  # by short side or by sample rate
    more: int = 0  # of the frames picked, the one that comes next; 0: that was all

    def __post_init__(self) -> None:
        if self.status == Status.PENDING or len(self.detail) > DETAIL_LENGTH:
            raise ValueError(f"{self.status.kind} with {len(self.detail)} characters: no outcome")


@carried
@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A decoded clip. Frames and sound fail apart: broken sound spares the frames."""

    visual: Stream[Frames]
    audio: Stream[Sound]
    sha256: bytes = bytes(32)

    def __post_init__(self) -> None:
        if len(self.sha256) != 32:
            raise ValueError(f"a digest of {len(self.sha256)} bytes is none")

    def stream(self, modality: str) -> Stream[Any]:
        """The stream of a modality, `visual` or `audio`."""
        streams: dict[str, Stream[Any]] = {"visual": self.visual, "audio": self.audio}
        return streams[modality]


def failed(status: Status, detail: str, sha256: bytes = bytes(32)) -> Clip:
    """A clip with neither frames nor sound."""
    return Clip(
        visual=Stream(status=status, detail=detail),
        audio=Stream(status=status, detail=detail),
        sha256=sha256,
    )


def detail(decoder: str, *notes: str) -> str:
    """The detail of a stream with data: who decoded it, and what is odd about it."""
    return "; ".join(filter(None, (decoder, *notes)))
