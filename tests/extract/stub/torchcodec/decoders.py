"""Every frame, in order of time, upright. As in the library, pixels are not made square."""

from types import SimpleNamespace

import av
import numpy as np
import torch

from extract.media.frames import orientation, turned


class VideoDecoder:
    def __init__(self, source, *, stream_index, dimension_order, num_ffmpeg_threads, device):
        assert (dimension_order, num_ffmpeg_threads, device) == ("NHWC", 1, "cpu")
        with av.open(source) as container:
            stream = container.streams[stream_index]
            frames = list(container.decode(stream))
            self.seconds = [frame.time for frame in frames]
            self.pixels = [
                np.ascontiguousarray(turned(frame.to_ndarray(format="rgb24"), orientation(frame)))
                for frame in frames
            ]

    def get_frames_at(self, indices):
        return SimpleNamespace(
            data=torch.from_numpy(np.stack([self.pixels[k] for k in indices])),
            pts_seconds=torch.tensor([self.seconds[k] for k in indices], dtype=torch.float64),
        )
