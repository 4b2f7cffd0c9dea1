"""One open of one file gives its frames and its sound, on one clock.

Second 0 is the earliest presentation time of the file's video and audio, or `start_seconds` of a
piece. Frames carry the time at which they appear; sound begins at sample 0 = second 0, padded with
silence where it starts late. Which frames are wanted is the caller's business (`pick`), so this
module knows no policy; it imports no torch and no zarr, because it runs in decode processes.

    file (probe) -> tracks (packets) -> frames (visual) and sound (sound) -> clip
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any, TypeVar

from extract.media import torchcodec_reader
from extract.media.clip import DECODER, AnyFrames, Clip, Request, Sound, Stream, failed
from extract.media.packets import Media
from extract.media.parts import joined, rest_of
from extract.media.probe import Failure, examined, inside, say
from extract.media.sound import Samples, samples, sound_of
from extract.media.track import Track
from extract.media.visual import frames_of
from store import Status

AnyData = TypeVar("AnyData", bound=AnyFrames | Sound)
TOLERANCE_SECONDS = 0.5  # how far beyond the limit a clip may end before its detail says so


def decode(request: Request) -> Clip:
    """The clip's frames and sound; whatever is wrong with the file becomes a status."""
    with closing(Decoder()) as decoder:
        parts, rest = [decoder(request)], request
        while (following := rest_of(rest, parts[-1])) is not None:
            rest = following
            parts.append(decoder(rest))
        return joined(parts) if len(parts) > 1 else parts[0]


class Decoder:
    """`decode` for many requests: the file decoded last stays open, for the next one may be for
    another piece of it. `decoder` is what requests will mostly ask for: its library is loaded where
    a process receives this, before it is confined.
    """

    def __init__(self, decoder: str = DECODER) -> None:
        self.decoder = decoder
        self.media: Media | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return received, (self.decoder,)

    def close(self) -> None:
        """Close the file."""
        if self.media is not None:
            self.media.close()
            self.media = None

    def __call__(self, request: Request) -> Clip:
        """Decode one clip."""
        media, self.media = self.media, None  # a decoder in an unknown state is never kept
        sha256 = bytes(32)
        try:
            inside(request.path, request.root)
            file = examined(request.path, media.file if media else None)
            sha256 = file.sha256
            if media is not None and media.file is not file:
                media.close()
                media = None
            media = media or Media(file)
            clip = replace(_clip(media, request), sha256=sha256)
        except Exception as error:
            failure = failure_of(error)
            return failed(failure.status, failure.detail, sha256)
        statuses = (clip.visual.status, clip.audio.status)
        if any(status == Status.PARTIAL or status.failed for status in statuses):
            media.close()
        else:
            self.media = media
        return clip


def received(decoder: str) -> Decoder:
    """A decoder in a decode process that is not confined yet."""
    if decoder in torchcodec_reader.DEVICES:
        torchcodec_reader.loaded()
    return Decoder(decoder)


def safely(request: Request) -> Request:
    """The request for a second try, by PyAV, after a decode process hung or died."""
    return replace(request, decoder=request.by_pyav, because="second try")


def failure_of(error: Exception) -> Failure:
    """What went wrong, as a kind with its cause: only what kills the process is a crash."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, MemoryError):
        return Failure(Status.OUT_OF_MEMORY, "over the memory limit of a decode process")
    return Failure(Status.DECODE_ERROR, say(error))


def _clip(media: Media, request: Request) -> Clip:
    """The clip that a request makes of an open file; frames and sound fail apart."""
    video, audio = media.tracks(request.start_seconds, request.stop_seconds)
    # The sound's first sample has its part in where second 0 is, even if only frames are wanted.
    end = request.stop_seconds if request.sample_rates else 0.0
    broken: Stream[Sound] | None = None
    sounding = None
    try:
        heard = audio is not None and not (request.alone and not request.sample_rates)
        sounding = samples(audio, request.start_seconds, end) if audio and heard else None
    except Exception as error:
        failure = failure_of(error)
        broken = Stream(status=failure.status, detail=failure.detail)
    origin = _origin(video, audio, sounding)
    visual: Stream[AnyFrames] = _without(media, "video")
    if video and request.pick:
        over = _over_limit(media, video, origin, request)
        visual = _apart(lambda: frames_of(media, video, origin, request, over))
    sound: Stream[Sound] = _without(media, "audio")
    if audio and sounding and request.sample_rates:
        over = _over_limit(media, audio, origin, request)
        sound = _apart(lambda: sound_of(audio, sounding, origin, request, over))
    elif audio:
        sound = broken if broken and request.sample_rates else sound
    return Clip(visual=visual, audio=sound)


def _apart(decoded: Callable[[], Stream[AnyData]]) -> Stream[AnyData]:
    """What comes of one stream, whatever becomes of the other."""
    try:
        return decoded()
    except Exception as error:
        failure = failure_of(error)
        return Stream(status=failure.status, detail=failure.detail)


def _without(media: Media, kind: str) -> Stream[Any]:
    """Nothing: there is no such stream, or none that anything here decodes."""
    if failure := media.unfit.get(kind):
        return Stream(status=failure.status, detail=failure.detail)
    return Stream(status=Status.ABSENT)


def _origin(video: Track | None, audio: Track | None, sounding: Samples | None) -> float:
    """Second 0 of the clip, in seconds of the file."""
    starts = [video.seconds(video.first_pts)] if video and video.first_pts is not None else []
    if sounding and sounding.first_seconds is not None:
        starts.append(sounding.first_seconds)
    elif audio and sounding is None and audio.first_pts is not None:  # it could not be decoded
        starts.append(audio.seconds(audio.first_pts))
    return min(starts, default=0.0)


def _over_limit(media: Media, track: Track, origin: float, request: Request) -> str:
    """A note of what is cut off because the clip is longer than clips may be; the length is told
    only where the file states it, and elsewhere packets must show that there is more.
    """
    most = request.limit_seconds + TOLERANCE_SECONDS
    length = request.end_seconds - request.start_seconds
    seen = track.last_seconds - origin - request.start_seconds
    if media.seconds:
        seen = length = min(length, media.seconds - request.start_seconds)
    if min(length, seen) <= most:
        return ""
    whole = f"the first {request.limit_seconds:g}"
    return f"{whole} of {length:.1f} s" if math.isfinite(length) else f"{whole} s of more"
