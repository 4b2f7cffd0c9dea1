"""Clips of a manifest, decoded as often as a training looks at them.

One pool of decode processes serves all epochs that are left: while one batch is learnt from, those
behind it are decoded. With `looks` the moments at which a clip may be looked at are these few, and
what was decoded is kept as far as `memory` goes; it is the same, bit for bit, decoded again.

Shapes: T = frames, H, W = pixels, N = samples of sound.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from extract.media.answers import checked
from extract.media.clip import Clip, Frames, Request, failed
from extract.media.decode import Decoder, safely
from extract.pipeline.media_folders import media_folders
from extract.pipeline.options import Options
from extract.pipeline.outputs import PARTS
from extract.processes.child import Outcome
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox
from extract.trainable.moments import Moments
from store import Manifest, Status

MOST_SECONDS = 30.0  # of a clip
AHEAD = 256  # clips that are decoded and not yet learnt from
_NOTHING: Any = None
Look = tuple[int, tuple[float, ...]]  # a row of the manifest, and shares of its length that rise
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """A clip as it was looked at; what is missing has a status that says why."""

    row: int
    status: dict[str, Status]  # by modality
    detail: dict[str, str]
    sha256: bytes
    frames: UInt8[np.ndarray, "T H W 3"] | None = None  # one for each moment
    sound: Float32[np.ndarray, "N"] | None = None  # all of it

    @property
    def bytes(self) -> int:
        """The memory that its frames and its sound take."""
        parts = (part for part in (self.frames, self.sound) if part is not None)
        return sum(part.nbytes for part in parts)


@dataclass(slots=True, kw_only=True, eq=False)
class ClipStream:
    """The clips of a manifest for a visual encoder, an audio encoder, or both."""

    manifest: Manifest
    short_side: int  # pixels; 0: no frames are wanted
    sample_rate: int  # Hz; 0: no sound is wanted
    looks: tuple[float, ...] = ()  # none: any moment, and nothing is kept
    memory_bytes: int = 1 << 30
    options: Options = field(default_factory=Options)
    kept: dict[int, Seen] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _complete: bool = field(default=False, init=False)  # whether all that was surveyed is kept

    @property
    def kept_bytes(self) -> int:
        """The memory that kept clips take."""
        return self._bytes

    def survey(self, rows: Sequence[int], progress: Progress | None = None) -> Iterator[Seen]:
        """Every clip once, at all `looks` or in its middle; what fits is kept. Only these clips may
        be read after it."""
        shares = self.looks or (0.5,)
        wanted = [(row, shares) for row in rows]
        with closing(self.read(lambda: iter(wanted))) as found:
            for done, seen in enumerate(found, 1):
                if self.looks and self._bytes + seen.bytes <= self.memory_bytes:
                    self.kept[seen.row] = seen
                    self._bytes += seen.bytes
                if progress:
                    progress(done, len(rows), "")
                yield seen
        self._complete = len(self.kept) == len(rows)

    def read(self, wanted: Callable[[], Iterator[Look]]) -> Generator[Seen, None, None]:
        """The clips in order; `wanted` must give the same each time it is called."""
        asked: list[Request] = []  # in order, those that were answered set free

        def requests() -> Iterator[Request]:
            for row, shares in wanted():
                if row not in known:
                    asked.append(self._request(row, shares))
                    yield asked[-1]

        known = dict(self.kept)
        if self._complete:
            for row, shares in wanted():
                yield self._of_kept(known[row], shares)
            return
        folders = media_folders(self.manifest, follow_links=self.options.follow_links)
        limits = Limits(
            deadline_seconds=self.options.deadline_seconds,
            sandbox=Sandbox(mode=self.options.sandbox, readable=folders),
            ahead=AHEAD,
        )
        outcomes = process_map(
            Decoder(), requests(), workers=self.options.workers, limits=limits,
            again=safely, parts=PARTS,
        )  # fmt: skip
        with closing(outcomes):
            for row, shares in wanted():
                if row in known:
                    yield self._of_kept(known[row], shares)
                    continue
                outcome = next(outcomes)
                request, asked[outcome.index] = asked[outcome.index], _NOTHING
                yield self._seen(row, checked(outcome, request), len(shares))

    def _of_kept(self, seen: Seen, shares: tuple[float, ...]) -> Seen:
        """What was kept of a clip, at these moments only."""
        if seen.frames is None or shares == self.looks:
            return seen
        places = [self.looks.index(share) for share in shares]
        return Seen(
            row=seen.row, status=seen.status, detail=seen.detail, sha256=seen.sha256,
            frames=seen.frames[places], sound=seen.sound,
        )  # fmt: skip

    def _seen(self, row: int, outcome: Outcome, count: int) -> Seen:
        clip: Clip = outcome.value or failed(outcome.status, outcome.detail)
        frames = sound = None
        if self.short_side and clip.visual.status.has_rows:
            found = clip.visual.data[self.short_side]
            assert isinstance(found, Frames), found
            pixels = found.pixels
            # Frames that do not decode are missing; their neighbours stand for them.
            places = np.minimum(np.arange(count), len(pixels) - 1)
            frames = pixels if len(pixels) == count else pixels[places]
        if self.sample_rate and clip.audio.status.has_rows:
            sound = clip.audio.data[self.sample_rate].samples
        wanted = [m for m, of in (("visual", self.short_side), ("audio", self.sample_rate)) if of]
        streams: dict[str, Any] = {modality: clip.stream(modality) for modality in wanted}
        return Seen(
            row=row,
            status={modality: stream.status for modality, stream in streams.items()},
            detail={modality: stream.detail for modality, stream in streams.items()},
            sha256=clip.sha256,
            frames=frames,
            sound=sound,
        )

    def _request(self, row: int, shares: tuple[float, ...]) -> Request:
        manifest = self.manifest
        assert manifest.root is not None
        return Request(
            path=manifest.root / manifest.paths[row],
            root=None if self.options.follow_links else manifest.root,
            start_seconds=float(manifest.start_seconds[row]),
            end_seconds=float(manifest.end_seconds[row]),
            limit_seconds=MOST_SECONDS,
            pick=Moments(shares) if self.short_side else None,
            short_sides=(self.short_side,) if self.short_side else (),
            sample_rates=(self.sample_rate,) if self.sample_rate else (),
            decoder="pyav",  # which frames are asked for must not decide who decodes them
            because="a training",
        )
