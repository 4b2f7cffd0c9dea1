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
PLANAR = "pyav-yuv"  # PyAV, whose frames stay luma and chroma: features of their own
TORCHCODEC, NVDEC = "torchcodec", "torchcodec:device=cuda"  # on a processor; on a card
DECODERS = ("auto", "pyav", "decord", PLANAR, TORCHCODEC, NVDEC)
# Parts of red and of blue in luma, by the number that codecs give a matrix (ITU-T H.273, table 4).
MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114),
            7: (0.212, 0.087), 9: (0.2627, 0.0593), 10: (0.2627, 0.0593)}  # fmt: skip
USUAL_MATRIX = 5  # where a file names none
DETAIL_LENGTH = 4096
LAST_SECOND = 2_000_000.0  # times of rows are stored as milliseconds of 32 bits


@carried
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """RGB frames and when each appears, in seconds on the clip's clock."""

    pixels: UInt8[np.ndarray, "T H W 3"]
    seconds: Float64[np.ndarray, "T"]

    def __post_init__(self) -> None:
        _check_frames(self.pixels, self.seconds)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.pixels.nbytes


@carried
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanarFrames:
    """Frames as codecs keep them: luma, and chroma at half the size, as they lie in the file; half
    the bytes of RGB. `extract/pipeline/pixels.py` makes RGB of them.
    """

    luma: UInt8[np.ndarray, "T H W"]
    chroma: UInt8[np.ndarray, "T 2 h w"]
    seconds: Float64[np.ndarray, "T"]
    matrix: int = USUAL_MATRIX  # of MATRICES
    full: bool = False  # luma from 0 to 255, not from 16 to 235
    mirrored: bool = False  # left to right, and then
    turns: int = 0  # so many quarter turns clockwise

    def __post_init__(self) -> None:
        _check_frames(self.luma, self.seconds)
        count, height, width = self.luma.shape
        if self.chroma.shape != (count, 2, -(-height // 2), -(-width // 2)):
            raise ValueError(f"chroma of {self.chroma.shape} for luma of {self.luma.shape}")
        if self.matrix not in MATRICES or not 0 <= self.turns < 4:
            raise ValueError(f"matrix {self.matrix} and {self.turns} turns")

    def __len__(self) -> int:
        return len(self.luma)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright."""
        height, width = self.luma.shape[1:]
        return (width, height) if self.turns % 2 else (height, width)

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.luma.nbytes + self.chroma.nbytes


AnyFrames = Frames | PlanarFrames


def _check_frames(
    pixels: UInt8[np.ndarray, "T H W ..."], seconds: Float64[np.ndarray, "T"]
) -> None:
    if not len(pixels) == len(seconds) > 0:
        raise ValueError(f"{len(pixels)} frames with {len(seconds)} times")
    if not pixels.size:
        raise ValueError(f"frames of {pixels.shape[1:3]} pixels")
    # Asked so that a time that is no number fails too.
    if not (seconds[0] >= 0 and np.all(np.diff(seconds) >= 0)):
        raise ValueError("frame times start at 0 or later and never fall")
    if not seconds[-1] < LAST_SECOND:
        raise ValueError(f"a frame at second {seconds[-1]:g}")


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
    decoder: str = "auto"  # or another of DECODERS
    because: str = "asked for"  # why PyAV, where it is `decoder`
    alone: bool = False  # the stream that is not asked for may kill the decoder: leave it be

    def __post_init__(self) -> None:
        if not 0 <= self.start_seconds < self.end_seconds or not self.limit_seconds > 0:
            raise ValueError(f"a piece from {self.start_seconds} to {self.end_seconds} s is none")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder {self.decoder!r} is none of {', '.join(DECODERS)}")

    @property
    def by_pyav(self) -> str:
        """The decoder that gives what is asked for and is PyAV."""
        return PLANAR if self.decoder == PLANAR else DECODER

    @property
    def stop_seconds(self) -> float:
        """The second at which decoding ends."""
        return min(self.end_seconds, self.start_seconds + self.limit_seconds)


Data = TypeVar("Data", bound=AnyFrames | Sound)


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

    visual: Stream[AnyFrames]
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
