"""Copies of sound that differ: windows anywhere, loudness, other sounds mixed in, masks.

Everything is drawn from the generator that is handed in.

Shapes: B = windows, N = samples of a sound, L = samples of a window, T = frames of a spectrum,
M = bands.

Source of the mixing: Niizumi et al., 2021, "BYOL for Audio" (a little of another clip, in power,
which keeps what the sound itself is); of the masks: Park et al., 2019, "SpecAugment".
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from learn.finetuning.recipe import SoundSettings


def windows(
    sounds: Sequence[Float32[np.ndarray, "_"]],
    count: int,
    length: int,
    settings: SoundSettings,
    generator: torch.Generator,
) -> Float[Tensor, "B L"]:
    """`count` windows of every sound, each beginning anywhere; silence follows a short one."""
    found = []
    for sound in sounds:
        for share in torch.rand(count, generator=generator, dtype=torch.float64).tolist():
            start = int(share * (max(0, len(sound) - length) + 1))
            part = torch.from_numpy(np.array(sound[start : start + length], np.float32))
            found.append(torch.nn.functional.pad(part, (0, length - len(part))))
    x = torch.stack(found)
    if settings.mix:
        x = mixed(x, count, settings.mix, generator)
    if settings.gain:
        decibels = settings.gain * (2 * torch.rand(len(x), 1, generator=generator) - 1)
        x = (x * 10 ** (decibels / 20)).clamp(-1, 1)
    return x


def mixed(
    x: Float[Tensor, "B L"], count: int, most: float, generator: torch.Generator
) -> Float[Tensor, "B L"]:
    """Each window with a window of another clip, whose share of the power is uniform in 0..most.

    `count` windows in a row are of one clip.
    """
    clips = len(x) // count
    share = most * torch.rand(len(x), 1, generator=generator)
    if clips < 2:
        return x
    # Another clip: one to all but one steps further round the batch.
    steps = torch.randint(1, clips, (len(x),), generator=generator)
    other = (torch.arange(len(x)) + count * steps) % len(x)
    return (1 - share).sqrt() * x + share.sqrt() * x[other]


def masked(
    x: Shaped[Tensor, "B *shape"], settings: SoundSettings, generator: torch.Generator
) -> Shaped[Tensor, "B *shape"]:
    """Log spectra, time before bands in the last two dimensions, with stretches of both at their
    mean.

    A mask's width is uniform from nothing to its share of the whole, and it lies anywhere.
    """
    x = x.clone()
    for masks, share, axis in (
        (settings.time_masks, settings.time_share, -2),
        (settings.band_masks, settings.band_share, -1),
    ):
        size = x.shape[axis]
        for _ in range(masks):
            width, place = torch.rand(2, len(x), generator=generator)
            width = (width * (share * size + 1)).floor().clamp_max(size)
            start = (place * (size - width + 1)).floor()
            at = torch.arange(size)
            hidden = (at >= start[:, None]) & (at < (start + width)[:, None])
            hidden = hidden[:, :, None] if axis == -2 else hidden[:, None, :]
            while hidden.ndim < x.ndim:
                hidden = hidden[:, None]
            mean = x.flatten(1).mean(1).reshape(-1, *[1] * (x.ndim - 1))
            x = torch.where(hidden.to(x.device), mean, x)
    return x
