"""One open of one file gives its frames and its sound, on one clock.

Second 0 is the earliest presentation time of the file's video and audio, or `start_seconds` of a
piece. Frames carry the time at which they appear; sound begins at sample 0 = second 0, padded with
silence where it starts late. Which frames are wanted is the caller's business (`pick`), so this
module knows no policy; it imports no torch and no zarr, because it runs in decode processes.

Shapes: T = frames wanted, H, W = pixels, S = sound samples.
"""

from dataclasses import replace

import av
import numpy as np
from jaxtyping import UInt8

from extract.media import decord_reader
from extract.media.clip import Clip, Frames, Request, Sound, Stream, failed
from extract.media.frames import Plan, pictures, plan
from extract.media.packets import Media, Track
from extract.media.probe import Failure, examined, inside
from extract.media.sound import Samples, resample, samples
from store import Status

TOLERANCE_SECONDS = 0.5  # a clip may be so much longer than the limit before anybody is told
PADDING_SECONDS = 0.1  # of silence in front of late sound, before anybody is told


_last: Media | None = None  # the file decoded last: the next request may be a piece of it too


def decode(request: Request) -> Clip:
    """The clip's frames and sound; whatever is wrong with the file becomes a status."""
    global _last
    media, _last = _last, None  # whatever is raised, a decoder in an unknown state is not kept
    sha256 = bytes(32)
    try:
        inside(request.path, request.root)
        file = examined(request.path, media.file if media else None)
        sha256 = file.sha256
        if media is not None and media.file is not file:
            media.close()
            media = None
        media = media or Media(file)
        clip = _decode(media, request)
    except Failure as failure:
        return failed(failure.status, failure.detail, sha256)
    except MemoryError:
        return failed(Status.OUT_OF_MEMORY, "over the memory limit of a decode process", sha256)
    statuses = (clip.visual.status, clip.audio.status)
    if any(status == Status.PARTIAL or status.failed for status in statuses):
        media.close()
    else:
        _last = media
    return replace(clip, sha256=sha256)


def safely(request: Request) -> Request:
    """The same, for a second try after a decode process hung or died."""
    return replace(request, decoder="pyav", because="second try")


def _decode(media: Media, request: Request) -> Clip:
    video, audio = media.tracks(request.start_seconds, request.stop_seconds)
    # The sound's first sample has its part in where second 0 is, even if only frames are wanted.
    end = request.stop_seconds if request.sample_rates else 0.0
    sound = samples(audio, request.start_seconds, end) if audio else None
    starts = [video.seconds(video.first_pts)] if video and video.first_pts is not None else []
    starts += [sound.first_seconds] if sound and sound.first_seconds is not None else []
    origin = min(starts, default=0.0)

    over = _over_limit(media, request)
    visual: Stream[Frames] = Stream(status=Status.ABSENT)
    audible: Stream[Sound] = Stream(status=Status.ABSENT)
    if video and request.pick:
        visual = _visual(media, video, origin, request, over)
    if audio and sound and request.sample_rates:
        audible = _audible(audio, sound, origin, request, over)
    return Clip(visual=visual, audio=audible)


def _audible(
    track: Track, sound: Samples, origin: float, request: Request, over: str
) -> Stream[Sound]:
    """The sound of a `Clip`."""
    try:
        track.refuse_encryption()
        mono = sound.piece(origin)
    except Failure as failure:
        return Stream(status=failure.status, detail=failure.detail)
    given = {rate: resample(mono, sound.rate, rate) for rate in request.sample_rates}
    late = sound.late_seconds(origin)
    silence = f"silence up to second {late:.2f}" if late > PADDING_SECONDS else ""
    return Stream(
        status=Status.PARTIAL if track.damage else Status.OK,
        detail=_told("pyav", track.damage, silence, over),
        data={rate: Sound(samples=s, rate=rate) for rate, s in given.items()},
    )


def _told(decoder: str, *notes: str) -> str:
    """The detail of a clip with rows: who decoded it, and what is odd about it."""
    return "; ".join(filter(None, (decoder, *notes)))


def _over_limit(media: Media, request: Request) -> str:
    """What is cut off because the clip is longer than clips may be."""
    length = min(media.seconds, request.end_seconds) - request.start_seconds
    if length <= request.limit_seconds + TOLERANCE_SECONDS:
        return ""
    return f"the first {request.limit_seconds:g} of {length:.1f} s"


def _visual(
    media: Media, track: Track, origin: float, request: Request, over: str
) -> Stream[Frames]:
    """The frames of a `Clip`."""
    assert request.pick is not None
    try:
        track.refuse_encryption()
        wanted = plan(
            track,
            request.pick,
            origin=origin,
            start_seconds=request.start_seconds,
            end_seconds=request.stop_seconds,
        )
        found, decoder, note = _pictures(media, track, wanted, request)
    except Failure as failure:
        return Stream(status=failure.status, detail=failure.detail)
    except av.error.FFmpegError as error:
        return Stream(status=Status.DECODE_ERROR, detail=str(error))
    got = [(second, stamp) for stamp, second in wanted.wanted if stamp in found]
    if not got:
        reason = track.damage or "no frame came out of the decoder"
        return Stream(status=Status.DECODE_ERROR, detail=reason)
    lost = len(wanted.wanted) - len(got)
    damage = track.damage or (
        f"{lost} of {len(wanted.wanted)} frames do not decode" if lost else ""
    )
    seconds = np.array([second for second, _ in got])
    return Stream(
        status=Status.PARTIAL if damage else Status.OK,
        detail=_told(decoder, damage, note, over),
        data={
            side: Frames(pixels=np.stack([found[stamp][side] for _, stamp in got]), seconds=seconds)
            for side in request.short_sides
        },
    )


def _pictures(
    media: Media, track: Track, wanted: Plan, request: Request
) -> tuple[dict[int, dict[int, UInt8[np.ndarray, "H W 3"]]], str, str]:
    """The frames, who decoded them and why, and what is odd about them."""
    reason = request.because
    if request.decoder != "pyav":
        sides, must = request.short_sides, request.decoder == "decord"
        reason = decord_reader.not_for(media, track, wanted, sides, must=must)
    if not reason:
        try:
            found = decord_reader.pictures(media, track, wanted, request.short_sides[0])
        except decord_reader.Unfit as unfit:
            reason = str(unfit)
        else:
            return found, f"decord ({wanted.share:.0%} of the frames)", ""
    found, note = pictures(track, wanted, request.short_sides)
    return found, f"pyav ({reason})", note
