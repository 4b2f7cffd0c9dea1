"""Small pictures of clips, decoded where a broken file can do no harm."""

import io
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from extract.media.answers import checked
from extract.media.clip import Clip, Frames, Request
from extract.media.decode import Decoder, safely
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox
from store import plugins

SIDE = 96  # pixels, of the shorter side
DEADLINE_SECONDS = 20.0
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Segment:
    """A clip: a media file below `root`, or a segment of one."""

    root: Path
    path: str
    start_seconds: float = 0.0
    end_seconds: float = float("inf")


def thumbnails(
    segments: Sequence[Segment],
    progress: Callable[[int, int], None] | None = None,
    *,
    sandbox: str = "auto",
    workers: int = WORKERS,
) -> list[bytes | None]:
    """A JPEG of the middle of each clip; None where no picture comes out of it.

    Raises:
        ConfigError: no such sandbox, or one that is required and cannot be had.
    """
    middle = plugins.build("extract.media.samplers", "uniform:frames=1")
    requests = [
        Request(
            path=segment.root / segment.path,
            root=segment.root,
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
            pick=middle,
            short_sides=(SIDE,),
        )
        for segment in segments
    ]
    images: list[bytes | None] = []
    if not requests:
        return images
    roots = tuple({segment.root.resolve() for segment in segments})
    decoding = process_map(
        Decoder(),
        requests,
        workers=workers,
        limits=Limits(
            deadline_seconds=DEADLINE_SECONDS, sandbox=Sandbox(mode=sandbox, readable=roots)
        ),
        again=safely,
    )
    with closing(decoding):
        for outcome in decoding:
            clip = checked(outcome, requests[outcome.index]).value
            frames = clip.visual.data.get(SIDE) if isinstance(clip, Clip) else None
            images.append(jpeg(frames.pixels[0]) if isinstance(frames, Frames) else None)
            if progress:
                progress(len(images), len(requests))
    return images


def jpeg(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """The picture as a file, of even sides as the colour planes of a JPEG are half as large."""
    import av

    height, width = (side - side % 2 for side in pixels.shape[:2])
    out = io.BytesIO()
    with av.open(out, "w", format="image2pipe") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), "rgb24")
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return out.getvalue()
