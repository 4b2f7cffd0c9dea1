"""Copies of frames that differ: SimCLR's crops, colours and blurs.

Everything is drawn from the generator that is handed in, before anything is computed; so a copy
follows from the seed alone. Pixels are 0..1.

Shapes: B = frames, H, W = pixels, S = side of a copy.

Source: Chen et al., 2020, "A Simple Framework for Contrastive Learning of Visual Representations",
appendix A, and the authors' code: brightness, contrast, saturation and hue in random order, each
clipped to 0..1; strength 1 is .8, .8, .8 and .2. Blur is a Gaussian over a tenth of the side.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from learn.finetuning.recipe import FrameSettings

LUMA = (0.2989, 0.587, 0.114)  # TensorFlow's weights of red, green and blue
RATIOS = (3 / 4, 4 / 3)  # of a crop's sides
TRIES = 100  # for a crop that fits; after them the whole picture is taken
SIGMAS = (0.1, 2.0)  # pixels
BLUR_SHARE = 10  # a kernel is one so-manieth of the side, and odd


def views(
    clips: Sequence[UInt8[np.ndarray, "_ _ _ 3"]],
    side: int,
    settings: FrameSettings,
    generator: torch.Generator,
    device: torch.device,
    each: int = 1,
) -> Float[Tensor, "B 3 S S"]:
    """One copy of every frame of every clip, in their order; `each` frames of a clip in a row are a
    stack, which is cropped and coloured as one."""
    crops = []
    for frames in clips:
        on_device = torch.from_numpy(np.ascontiguousarray(frames)).to(device)
        for number, frame in enumerate(on_device):
            if number % each == 0:
                place = box(frame.shape[0], frame.shape[1], settings.crop, generator)
            crops.append(cut(frame, side, place))
    x = torch.stack(crops)
    mirrored = _chosen(len(x), settings.flip, generator, each).to(device)
    x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
    if settings.jitter:
        jittered = _chosen(len(x), settings.jitter_chance, generator, each)
        x = jitter(x, settings.jitter, jittered, generator, each)
    if settings.grey:
        grey = _chosen(len(x), settings.grey, generator, each).to(device)
        x = torch.where(grey[:, None, None, None], luma(x).expand_as(x), x)
    if settings.blur:
        x = blur(x, _chosen(len(x), settings.blur, generator, each), generator, each)
    return x


def _chosen(count: int, chance: float, generator: torch.Generator, each: int) -> Bool[Tensor, "B"]:
    return torch.rand(count // each, generator=generator).repeat_interleave(each) < chance


def box(
    height: int, width: int, least: float, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: an area of `least` to 1 of the picture, uniform, and a
    ratio of sides, uniform in its logarithm; anywhere."""
    for _ in range(TRIES):
        area, ratio = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        area = height * width * (least + (1 - least) * area)
        ratio = math.exp(math.log(RATIOS[0]) + ratio * math.log(RATIOS[1] / RATIOS[0]))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top = int(torch.randint(height - h + 1, (), generator=generator))
            left = int(torch.randint(width - w + 1, (), generator=generator))
            return top, left, h, w
    return 0, 0, height, width


def cropped(
    frame: UInt8[Tensor, "H W 3"], side: int, least: float, generator: torch.Generator
) -> Float[Tensor, "3 S S"]:
    """A random crop, squashed to the side."""
    return cut(frame, side, box(frame.shape[0], frame.shape[1], least, generator))


def cut(
    frame: UInt8[Tensor, "H W 3"], side: int, place: tuple[int, int, int, int]
) -> Float[Tensor, "3 S S"]:
    """A part of a frame, squashed to the side: bicubic, antialiased where it shrinks."""
    top, left, h, w = place
    part = frame[top : top + h, left : left + w].permute(2, 0, 1)[None].float() / 255
    shrinks = max(h, w) > side
    resized = F.interpolate(part, (side, side), mode="bicubic", antialias=shrinks)
    return resized[0].clamp(0, 1)


# ── colours ──────────────────────────────────────────────────────────────────────────────────────


def jitter(
    x: Float[Tensor, "B 3 S S"],
    strength: float,
    wanted: Bool[Tensor, "B"],
    generator: torch.Generator,
    each: int = 1,
) -> Float[Tensor, "B 3 S S"]:
    """Brightness, contrast, saturation and hue of the wanted frames, in an order of each one's own.

    Factors are uniform in 1 - .8 s to 1 + .8 s and not below 0; hue turns by up to .2 s.
    """
    most, turn = 0.8 * strength, 0.2 * strength
    low = max(0.0, 1 - most)
    stacks = len(x) // each
    draws = torch.rand(4, stacks, generator=generator).repeat_interleave(each, 1)
    order = torch.rand(stacks, 4, generator=generator).argsort(1).repeat_interleave(each, 0)
    amounts = torch.cat([low + (1 + most - low) * draws[:3], turn * (2 * draws[3:] - 1)])
    x = x.clone()
    for step in range(4):
        for number, change in enumerate((brightness, contrast, saturation, hue)):
            rows = (wanted & (order[:, step] == number)).nonzero()[:, 0].to(x.device)
            if len(rows):
                amount = amounts[number].to(x.device)[rows, None, None, None]
                x[rows] = change(x[rows], amount).clamp(0, 1)
    return x


def brightness(
    x: Float[Tensor, "B 3 S S"], factor: Float[Tensor, "B 1 1 1"]
) -> Float[Tensor, "B 3 S S"]:
    """Pixels times a factor."""
    return x * factor


def contrast(
    x: Float[Tensor, "B 3 S S"], factor: Float[Tensor, "B 1 1 1"]
) -> Float[Tensor, "B 3 S S"]:
    """Distances from each channel's mean times a factor."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * factor + mean


def saturation(
    x: Float[Tensor, "B 3 S S"], factor: Float[Tensor, "B 1 1 1"]
) -> Float[Tensor, "B 3 S S"]:
    """HSV's saturation times a factor, 1 at most."""
    h, s, v = to_hsv(x)
    return from_hsv(h, (s * factor[:, 0]).clamp(0, 1), v)


def hue(x: Float[Tensor, "B 3 S S"], turn: Float[Tensor, "B 1 1 1"]) -> Float[Tensor, "B 3 S S"]:
    """HSV's hue turned by a share of the circle."""
    h, s, v = to_hsv(x)
    return from_hsv((h + turn[:, 0]) % 1.0, s, v)


def luma(x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B 1 S S"]:
    """The brightness that people see."""
    return (x * torch.tensor(LUMA, device=x.device)[:, None, None]).sum(1, keepdim=True)


def to_hsv(
    x: Float[Tensor, "B 3 S S"],
) -> tuple[Float[Tensor, "B S S"], Float[Tensor, "B S S"], Float[Tensor, "B S S"]]:
    """Hue, saturation and value, each 0..1."""
    red, green, blue = x.unbind(1)
    value, least = x.amax(1), x.amin(1)
    spread = value - least
    safe = torch.where(spread > 0, spread, 1)
    turned = torch.where(
        value == red,
        ((green - blue) / safe) % 6,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return turned / 6, spread / torch.where(value > 0, value, 1), value


def from_hsv(
    h: Float[Tensor, "B S S"], s: Float[Tensor, "B S S"], v: Float[Tensor, "B S S"]
) -> Float[Tensor, "B 3 S S"]:
    """Red, green and blue: the inverse of `to_hsv`."""
    offsets = torch.tensor([5.0, 3.0, 1.0], device=h.device)[:, None, None]
    k = (offsets + h[:, None] * 6) % 6
    share = torch.minimum(k, 4 - k).clamp(0, 1)
    return v[:, None] * (1 - s[:, None] * share)


# ── blur ─────────────────────────────────────────────────────────────────────────────────────────


def blur(
    x: Float[Tensor, "B 3 S S"],
    wanted: Bool[Tensor, "B"],
    generator: torch.Generator,
    each: int = 1,
) -> Float[Tensor, "B 3 S S"]:
    """The wanted frames under Gaussians of .1 to 2 pixels, zeros beyond the border."""
    low, high = SIGMAS
    drawn = torch.rand(len(x) // each, generator=generator).repeat_interleave(each)
    sigma = low + (high - low) * drawn
    rows = wanted.nonzero()[:, 0]
    if not len(rows):
        return x
    radius = max(1, x.shape[3] // BLUR_SHARE // 2)
    at = torch.arange(-radius, radius + 1, dtype=x.dtype)
    kernel = torch.exp(-(at**2) / (2 * sigma[rows, None] ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(x.device).repeat_interleave(3, 0)
    rows = rows.to(x.device)
    part = x[rows].flatten(0, 1)[None]  # each channel of each frame by itself
    channels = part.shape[1]
    part = F.conv2d(part, kernel[:, None, None, :], padding=(0, radius), groups=channels)
    part = F.conv2d(part, kernel[:, None, :, None], padding=(radius, 0), groups=channels)
    x = x.clone()
    x[rows] = part[0].reshape(-1, 3, *x.shape[2:])
    return x
