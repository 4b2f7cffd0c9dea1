"""One open of one file gives its frames and its sound, on one clock.

Second 0 is the earliest presentation time of the file's video and audio, or `start_seconds` of a
piece. Frames carry the time at which they appear; sound begins at sample 0 = second 0, padded with
silence where it starts late. Which frames are wanted is the caller's business (`pick`), so this
module knows no policy; it imports no torch and no zarr, because it runs in decode processes.

    file (probe) -> tracks (packets) -> frames (visual) and sound (sound) -> clip
"""

from contextlib import closing
from dataclasses import replace

from extract.media.clip import Clip, Frames, Request, Sound, Stream, failed
from extract.media.packets import Media, Track
from extract.media.probe import Failure, examined, inside
from extract.media.sound import Samples, samples, sound_of
from extract.media.visual import frames_of
from store import Status

TOLERANCE_SECONDS = 0.5  # how far beyond the limit a clip may end before its detail says so


def decode(request: Request) -> Clip:
    """The clip's frames and sound; whatever is wrong with the file becomes a status."""
    with closing(Decoder()) as decoder:
        return decoder(request)


class Decoder:
    """`decode` for many requests: the file decoded last stays open, for the next one may be for
    another piece of it.
    """

    def __init__(self) -> None:
        self.media: Media | None = None

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
        except Failure as failure:
            return failed(failure.status, failure.detail, sha256)
        except MemoryError:
            return failed(Status.OUT_OF_MEMORY, "over the memory limit of a decode process", sha256)
        statuses = (clip.visual.status, clip.audio.status)
        if any(status == Status.PARTIAL or status.failed for status in statuses):
            media.close()
        else:
            self.media = media
        return clip


def safely(request: Request) -> Request:
    """The request for a second try, by PyAV, after a decode process hung or died."""
    return replace(request, decoder="pyav", because="second try")


def _clip(media: Media, request: Request) -> Clip:
    """The clip that a request makes of an open file."""
    video, audio = media.tracks(request.start_seconds, request.stop_seconds)
    # The sound's first sample has its part in where second 0 is, even if only frames are wanted.
    end = request.stop_seconds if request.sample_rates else 0.0
    sounding = samples(audio, request.start_seconds, end) if audio else None
    origin = _origin(video, sounding)
    over = _over_limit(media, request)
    visual: Stream[Frames] = Stream(status=Status.ABSENT)
    if video and request.pick:
        visual = frames_of(media, video, origin, request, over)
    sound: Stream[Sound] = Stream(status=Status.ABSENT)
    if audio and sounding and request.sample_rates:
        sound = sound_of(audio, sounding, origin, request, over)
    return Clip(visual=visual, audio=sound)


def _origin(video: Track | None, sounding: Samples | None) -> float:
    """Second 0 of the clip, in seconds of the file."""
    starts = [video.seconds(video.first_pts)] if video and video.first_pts is not None else []
    starts += [sounding.first_seconds] if sounding and sounding.first_seconds is not None else []
    return min(starts, default=0.0)


def _over_limit(media: Media, request: Request) -> str:
    """A note of what is cut off because the clip is longer than clips may be."""
    length = min(media.seconds, request.end_seconds) - request.start_seconds
    if length <= request.limit_seconds + TOLERANCE_SECONDS:
        return ""
    return f"the first {request.limit_seconds:g} of {length:.1f} s"
