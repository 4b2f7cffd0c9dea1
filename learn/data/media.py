"""The media file of a clip, for pages that show it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

# What browsers are told of a file; anything else they are given as bytes that nobody runs.
TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm",
    ".mkv": "video/x-matroska", ".avi": "video/x-msvideo", ".ogv": "video/ogg",
    ".ogg": "audio/ogg", ".oga": "audio/ogg", ".opus": "audio/ogg", ".wav": "audio/wav",
    ".mp3": "audio/mpeg", ".m4a": "audio/mp4", ".aac": "audio/aac", ".flac": "audio/flac",
}  # fmt: skip
UNKNOWN_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """A media file, or a piece of one."""

    root: Path
    path: str
    start_seconds: float
    end_seconds: float

    @property
    def file(self) -> Path:
        """The file itself."""
        return self.root / self.path

    @property
    def content_type(self) -> str:
        """What a browser is told that it is."""
        return TYPES.get(Path(self.path).suffix.lower(), UNKNOWN_TYPE)

    @property
    def piece(self) -> tuple[float, float | None]:
        """The seconds at which it begins and ends; None: with the file."""
        return self.start_seconds, self.end_seconds if isfinite(self.end_seconds) else None


Pictures = Callable[[Sequence[Media]], Sequence[bytes | None]]  # JPEGs
