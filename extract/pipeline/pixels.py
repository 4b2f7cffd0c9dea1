"""Frames as encoders take them: RGB, made beside the network of frames that came as planes.

Planes are half the bytes, and a decode process is done with them at once. Chroma is spread over the
pixels as MPEG-4 places it: on every other column, and between two rows. So what comes out is what
the decode process would have made, give or take 1; where frames are scaled down, chroma is scaled
to half of their size first and loses what is finer.

Shapes: T = frames, H, W = pixels, h, w = half of that, rounded up.

Source: ITU-T H.273 (8.3), H.264 (figure 6-1).
"""

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from extract.encoders._network import Way
from extract.media.clip import MATRICES, AnyFrames, Frames

PIXELS_AT_ONCE = 100_000  # on a processor: what its caches hold as floats
PIXELS_ON_GPU = 8_000_000  # half a GiB on the way
Which = slice | Int64[np.ndarray, "T"]


def rgb(frames: AnyFrames, which: Which, way: Way) -> UInt8[Tensor, "T H W 3"]:
    """Some of the frames, upright: those that came as planes on the device at the end of the way,
    others in memory.
    """
    if isinstance(frames, Frames):
        return torch.from_numpy(np.ascontiguousarray(frames.pixels[which]))
    planes = (np.ascontiguousarray(x[which]) for x in (frames.luma, frames.chroma))
    luma, chroma = (way(torch.from_numpy(x)) for x in planes)
    matrix, full = MATRICES[frames.matrix], frames.full
    most = PIXELS_ON_GPU if luma.device.type == "cuda" else PIXELS_AT_ONCE
    count = max(1, most // luma[0].numel())
    pixels = torch.empty(len(luma), 3, *luma.shape[1:], dtype=torch.uint8, device=luma.device)
    parts = zip(*(torch.split(x, count) for x in (luma, chroma, pixels)), strict=True)
    for light, colour, part in parts:
        part.copy_(_of_planes(light, colour, matrix, full=full))
    if frames.mirrored:
        pixels = pixels.flip(3)
    return pixels.rot90(-frames.turns, (2, 3)).permute(0, 2, 3, 1)


def _of_planes(
    luma: UInt8[Tensor, "T H W"],
    chroma: UInt8[Tensor, "T 2 h w"],
    matrix: tuple[float, float],
    *,
    full: bool,
) -> Float[Tensor, "T 3 H W"]:
    """RGB of luma and chroma, to be cut off after the point."""
    red, blue = matrix
    green = 1 - red - blue
    over, of_chroma = (1.0, 1.0) if full else (255 / 219, 255 / 224)
    of_v, of_u = 2 * (1 - red) * of_chroma, 2 * (1 - blue) * of_chroma
    u, v = (chroma.float() - 128).unbind(1)
    of_green = u * (-of_u * blue / green) - v * (of_v * red / green)
    off = torch.stack([v * of_v, of_green, u * of_u], 1)
    pixels = _spread(off)[..., : luma.shape[1], : luma.shape[2]]
    light = luma.float().mul_(over).add_(0.5 if full else 0.5 - 16 * over)
    return pixels.add_(light[:, None]).clamp_(0, 255)


def _spread(x: Float[Tensor, "T 3 h w"]) -> Float[Tensor, "T 3 2*h 2*w"]:
    """Twice as many columns, every other one of which is there, and twice as many rows, between
    which those that are there lie; the border is held."""
    count, colours, height, width = x.shape
    wide = x.new_empty(count, colours, height, width, 2)
    wide[..., 0] = x
    torch.add(x[..., :-1], x[..., 1:], out=wide[..., :-1, 1])
    wide[..., :-1, 1] *= 0.5
    wide[..., -1, 1] = x[..., -1]
    wide = wide.flatten(3)
    found = (wide * 0.75)[..., None, :].repeat(1, 1, 1, 2, 1)
    quarter = wide.mul_(0.25)
    found[:, :, 1:, 0] += quarter[:, :, :-1]
    found[:, :, :1, 0] += quarter[:, :, :1]
    found[:, :, :-1, 1] += quarter[:, :, 1:]
    found[:, :, -1:, 1] += quarter[:, :, -1:]
    return found.flatten(2, 3)
