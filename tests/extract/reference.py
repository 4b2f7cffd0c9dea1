"""The obvious decoder: every packet in turn, every frame kept. Slow, and trusted until it errs."""

import av
import numpy as np

from extract.media.frames import SCALING

SECONDS = 30.0


def every_frame(path, side=64):
    """Times on the file's clock and pixels [T, H, W, 3] of the frames of the first 31 s, and the
    earliest time of all streams. After damage, frames count again from the next key frame on.
    """
    with av.open(str(path)) as container:
        streams = container.streams
        shown = [s for s in streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        video = max(shown, key=_rank, default=None)
        chosen = [s for s in (video, next(iter(streams.audio), None)) if s is not None]
        if video:
            video.codec_context.thread_count = 1  # what is flagged corrupt depends on it
        frames, firsts, whole, begun = {}, [], False, False
        for packet in container.demux(chosen):
            of_video = packet.stream is video
            if of_video and packet.size and not packet.is_discard and packet.pts is not None:
                firsts.append(float(packet.pts * packet.time_base))
            if of_video and packet.is_keyframe and not begun:
                begun = whole = True
            try:
                decoded = packet.decode()
            except av.error.FFmpegError:
                whole = whole and not of_video
                continue
            for frame in decoded:
                if not of_video:
                    firsts.append(frame.time)
                    continue
                whole = (whole or frame.key_frame) and not frame.is_corrupt
                if whole:
                    frames.setdefault(frame.time, _small(frame, video, side))
            if frames and max(frames) > min(frames) + SECONDS + 1:
                break
    seconds = sorted(frames)
    pixels = np.stack([frames[s] for s in seconds]) if frames else np.zeros((0, 1, 1, 3), np.uint8)
    return np.array(seconds), pixels, min(firsts, default=0.0)


def _rank(stream):
    return bool(stream.disposition & av.stream.Disposition.default), stream.width * stream.height


def _small(frame, video, side):
    aspect = float(video.sample_aspect_ratio or 1)
    aspect = aspect if 1 / 8 <= aspect <= 8 and abs(aspect - 1) >= 0.01 else 1.0
    width, height = max(1, round(frame.width * aspect)), frame.height
    if min(width, height) > side:
        scale = side / min(width, height)
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
    rgb = frame.reformat(width=width, height=height, format="rgb24", interpolation=SCALING)
    quarter, odd = divmod(frame.rotation, 90)
    return rgb.to_ndarray() if odd else np.rot90(rgb.to_ndarray(), quarter % 4)
