"""A clip's frames in parts: what is asked for after one part, and the clip that the parts make.

All frames of a long clip are more than a decode process may hold. So it answers with as many as
fit, says which one comes next, and is asked again; the file stays open meanwhile.

Shapes: T = frames.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from extract.media.clip import (
    DETAIL_LENGTH,
    AnyFrames,
    Clip,
    Frames,
    PlanarFrames,
    Request,
    Stream,
)
from store import Status


def rest_of(request: Request, answer: object) -> Request | None:
    """The request for the frames that an answer left out; None if it left none out."""
    if not isinstance(answer, Clip) or answer.visual.more <= request.first:
        return None
    return replace(request, first=answer.visual.more, sample_rates=())


def joined(clips: Sequence[Clip]) -> Clip:
    """The clip of these parts: frames one after the other, sound of the first.

    Raises:
        ValueError: they do not fit together; no honest decode process gives such.
    """
    streams = [clip.visual for clip in clips]
    good = [stream for stream in streams if stream.status.has_rows]
    if not good:
        return replace(clips[0], visual=replace(streams[0], more=streams[-1].more))
    if any(stream.data.keys() != good[0].data.keys() for stream in good):
        raise ValueError("parts at other sizes")
    data = {side: _joined([stream.data[side] for stream in good]) for side in good[0].data}
    whole = len(good) == len(streams) and all(stream.status == Status.OK for stream in good)
    details = dict.fromkeys(stream.detail for stream in streams)
    visual = Stream(
        status=Status.OK if whole else Status.PARTIAL,
        detail="; ".join(filter(None, details))[:DETAIL_LENGTH],
        data=data,
        more=streams[-1].more,
    )
    return replace(clips[0], visual=visual)


def _joined(parts: Sequence[AnyFrames]) -> AnyFrames:
    """One part's frames after the other's.

    Raises:
        ValueError: they are not of one kind.
    """
    seconds = np.concatenate([part.seconds for part in parts])
    rgb = [part.pixels for part in parts if isinstance(part, Frames)]
    if len(rgb) == len(parts):
        return Frames(pixels=np.concatenate(rgb), seconds=seconds)
    planar = [part for part in parts if isinstance(part, PlanarFrames)]
    if len(planar) < len(parts) or len({_colours(part) for part in planar}) > 1:
        raise ValueError("parts in other colours")
    return replace(
        planar[0],
        luma=np.concatenate([part.luma for part in planar]),
        chroma=np.concatenate([part.chroma for part in planar]),
        seconds=seconds,
    )


def _colours(part: PlanarFrames) -> tuple[int, bool, bool, int]:
    return part.matrix, part.full, part.mirrored, part.turns
