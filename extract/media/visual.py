"""The frames of a piece, by the decoder that is safe and pays.

Shapes: T = frames wanted.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np
from jaxtyping import Float64

from extract.media import decord_reader, doubted, torchcodec_reader
from extract.media.clip import (
    DECODER,
    PLANAR,
    AnyFrames,
    Frames,
    PlanarFrames,
    Request,
    Stream,
    detail,
)
from extract.media.frames import Layout, Pictures, Plan, part_of, pictures, plan
from extract.media.packets import Media
from extract.media.probe import Failure
from extract.media.track import Track
from store import Status


def frames_of(
    media: Media, track: Track, origin: float, request: Request, over: str
) -> Stream[AnyFrames]:
    """The frames that the request picks, at every size asked for; `over` says what of the piece is
    cut off.
    """
    assert request.pick is not None
    try:
        track.refuse_encryption()
        planned = plan(
            track,
            request.pick,
            origin=origin,
            start_seconds=request.start_seconds,
            end_seconds=request.stop_seconds,
        )
        planned = part_of(planned, track, request.short_sides, request.first)
        decoded = _pictures(media, track, planned, request)
    except Failure as failure:
        return Stream(status=failure.status, detail=failure.detail)
    except av.error.FFmpegError as error:
        return Stream(status=Status.DECODE_ERROR, detail=str(error))
    return _stream(planned, decoded, request.short_sides, over)


def _pictures(media: Media, track: Track, planned: Plan, request: Request) -> Pictures:
    """The frames from another library if it may and its answer can be trusted, else from PyAV."""
    reason, short_sides = request.because, request.short_sides
    device = torchcodec_reader.DEVICES.get(request.decoder, "")
    if device:
        reason = torchcodec_reader.not_for(track, planned)
    elif request.decoder not in (DECODER, PLANAR):
        must = request.decoder == "decord"
        reason = decord_reader.not_for(media, track, planned, short_sides, must=must)
    if not reason:
        first, damage = doubted.first_frame(track, planned)
        planned = replace(planned, damage=damage)
        try:
            if device:
                return torchcodec_reader.pictures(media, track, planned, short_sides, first, device)
            return decord_reader.pictures(media, track, planned, short_sides[0], first)
        except doubted.Unfit as unfit:
            reason = str(unfit)
    return pictures(track, planned, short_sides, reason, planar=request.decoder == PLANAR)


def _stream(
    planned: Plan, decoded: Pictures, short_sides: tuple[int, ...], over: str
) -> Stream[AnyFrames]:
    """The wanted frames that decoded, in order, and a detail that says if some did not."""
    kept = [
        (second, timestamp) for timestamp, second in planned.wanted if timestamp in decoded.frames
    ]
    if not kept:
        reason = decoded.damage or "no frame came out of the decoder"
        return Stream(status=Status.DECODE_ERROR, detail=reason, more=planned.more)
    lost = len(planned.wanted) - len(kept)
    damage = decoded.damage or (
        f"{lost} of {len(planned.wanted)} frames do not decode" if lost else ""
    )
    seconds = np.array([second for second, _ in kept])
    return Stream(
        status=Status.PARTIAL if damage else Status.OK,
        detail=detail(decoded.decoder, damage, planned.note, decoded.note, over),
        data={
            side: _frames(
                [decoded.frames[timestamp][side] for _, timestamp in kept], seconds, decoded.layout
            )
            for side in short_sides
        },
        more=planned.more,
    )


def _frames(
    pictures: Sequence[Any], seconds: Float64[np.ndarray, "T"], layout: Layout | None
) -> AnyFrames:
    """The pictures of one size, in an array or two."""
    if layout is None:
        return Frames(pixels=np.stack(pictures), seconds=seconds)
    return PlanarFrames(
        luma=np.stack([picture.luma for picture in pictures]),
        chroma=np.stack([picture.chroma for picture in pictures]),
        seconds=seconds,
        matrix=layout.matrix,
        full=layout.full,
        mirrored=layout.mirrored,
        turns=layout.turns,
    )
