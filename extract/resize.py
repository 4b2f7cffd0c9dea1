"""Resizing as two small matrices, one for rows and one for columns.

Shapes: B = images, C = channels, H, W = input height and width, S = source length, T = target
length, P, Q = output height and width.

The rule is in the matrix alone, so it is the same on every device, and a batch is two products.
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


def _triangle(x: Float[Tensor, "T S"]) -> Float[Tensor, "T S"]:
    return (1 - x.abs()).clamp_min(0)


def _keys(x: Float[Tensor, "T S"]) -> Float[Tensor, "T S"]:
    """Source: Keys (1981), cubic convolution interpolation, a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _keys, "bilinear": _triangle}


@lru_cache(maxsize=256)
def resize_matrix(
    source: int, target: int, *, kernel: str, antialias: bool
) -> Float[Tensor, "T S"]:
    """The weights of every source pixel in every target pixel; each row sums to 1.

    Pixels are areas (half-pixel centres); taps outside the image are dropped and the rest
    renormalised. `antialias` widens the kernel by the scale when shrinking.
    Source: TensorFlow 2's `tf.image.resize` (ScaleAndTranslate), and Pillow's with antialias.
    """
    scale = source / target
    centre_T = (torch.arange(target, dtype=torch.float64) + 0.5) * scale - 0.5
    distance_TS = torch.arange(source, dtype=torch.float64) - centre_T[:, None]
    weights = KERNELS[kernel](distance_TS / (max(scale, 1.0) if antialias else 1.0))
    return (weights / weights.sum(1, keepdim=True)).float()


def resize(
    images: Float[Tensor, "B C H W"],
    height: int,
    width: int,
    *,
    kernel: str,
    antialias: bool,
    eight_bits: bool = False,
) -> Float[Tensor, "B C P Q"]:
    """The images at another size. `eight_bits` rounds to 0..255 after each pass, as Pillow does."""
    columns = resize_matrix(images.shape[3], width, kernel=kernel, antialias=antialias)
    rows = resize_matrix(images.shape[2], height, kernel=kernel, antialias=antialias)
    images = images @ columns.T.to(images.device)
    images = _eight_bits(images) if eight_bits else images
    images = rows.to(images.device) @ images
    return _eight_bits(images) if eight_bits else images


def _eight_bits(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Rounded with halves up, as Pillow does; torch would round them to even."""
    return (images + 0.5).floor().clamp(0, 255)
