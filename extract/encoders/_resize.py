"""Resizing as two small matrices, one for rows and one for columns.

Shapes: B = images, C = channels, H, W = input height and width, S = source length, T = target
length, P, Q = output height and width.

The rule is in the matrix alone, so it is the same on every device, and a batch is two products.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def _triangle(x: Float[Tensor, "T S"]) -> Float[Tensor, "T S"]:
    return (1 - x.abs()).clamp_min(0)


def _cubic(x: Float[Tensor, "T S"], *, a: float) -> Float[Tensor, "T S"]:
    """Source: Keys (1981), cubic convolution interpolation."""
    x = x.abs()
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "bicubic": partial(_cubic, a=-0.5),
    "bilinear": _triangle,
}


@lru_cache(maxsize=256)
def smooth_matrix(
    source: int, target: int, *, kernel: str, crop: int | None = None
) -> Float[Tensor, "T S"]:
    """The weights of every source pixel in every target pixel; each row sums to 1.

    `crop` keeps that many target pixels in the middle.

    Pixels are areas (half-pixel centres), and the kernel is as wide as a target pixel when
    shrinking; taps outside the image are dropped and the rest renormalised.
    Source: Pillow's `Image.resize`; `tf.image.resize(antialias=True)` is the same.
    """
    scale = source / target
    crop = crop or target
    at_T = torch.arange(crop, dtype=torch.float64) + round((target - crop) / 2)
    centre_T = (at_T + 0.5) * scale - 0.5
    distance_TS = torch.arange(source, dtype=torch.float64) - centre_T[:, None]
    weights = KERNELS[kernel](distance_TS / max(scale, 1.0))
    return (weights / weights.sum(1, keepdim=True)).float()


@lru_cache(maxsize=256)
def seen(source: int, target: int, *, kernel: str, crop: int) -> slice:
    """The source pixels that the middle `crop` target pixels are made of."""
    used = smooth_matrix(source, target, kernel=kernel, crop=crop).any(0).nonzero()[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1)


@lru_cache(maxsize=256)
def tensorflow_bicubic_matrix(
    source: int, target: int, *, half_pixel: bool
) -> Float[Tensor, "T S"]:
    """The weights of TensorFlow's bicubic resize, which always mixes four pixels; rows sum to 1.

    With `half_pixel` (TensorFlow 2) pixels are areas, a = -0.5, and taps outside the image are
    dropped and the rest renormalised. Without (TensorFlow 1) they are points that start in the
    corner, a = -0.75, and taps outside fall on the border. Positions are rounded to 1/1024 of a
    pixel, in single precision, because TensorFlow looks its kernel up in a table.
    Source: TensorFlow's ResizeBicubic operation.
    """
    at_T = torch.arange(target, dtype=torch.float32)
    scale = torch.tensor(source / target, dtype=torch.float32)
    at_T = (at_T + 0.5) * scale - 0.5 if half_pixel else at_T * scale
    first_T = at_T.floor()
    past_T = torch.round((at_T - first_T) * 1024).double() / 1024
    matrix = torch.zeros(target, source, dtype=torch.float64)
    for tap in range(-1, 3):
        wanted_T = first_T.long() + tap
        index_T = wanted_T.clamp(0, source - 1)
        weight_T = _cubic((past_T - tap)[:, None], a=-0.5 if half_pixel else -0.75)[:, 0]
        if half_pixel:
            weight_T = weight_T * (index_T == wanted_T)
        matrix.scatter_add_(1, index_T[:, None], weight_T[:, None])
    return (matrix / matrix.sum(1, keepdim=True)).float()


@lru_cache(maxsize=64)
def kept(device: torch.device, build: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
    """What `build` gives, on a device that keeps it: a copy for every clip would wait for all work
    that was given to the device before.
    """
    built = build(*args, **named)
    return built.to(device)


def resize(
    images: Float[Tensor, "B C H W"],
    height: int,
    width: int,
    *,
    kernel: str,
    crop: int | None = None,
    eight_bits: bool = False,
) -> Float[Tensor, "B C P Q"]:
    """The images at another size, or the middle of them.

    `eight_bits` rounds to 0..255 after each pass, as Pillow does.
    """
    columns = kept(images.device, smooth_matrix, images.shape[3], width, kernel=kernel, crop=crop)
    rows = kept(images.device, smooth_matrix, images.shape[2], height, kernel=kernel, crop=crop)
    return separable(images, rows, columns, eight_bits=eight_bits)


def resize_window(
    window: Float[Tensor, "B C H W"],
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    kernel: str,
    crop: int,
    eight_bits: bool = True,
) -> Float[Tensor, "B C crop crop"]:
    """The middle of images at another size, of which only the `seen` pixels came."""
    rows, columns = (
        kept(window.device, _window_matrix, of, to, kernel, crop)
        for of, to in zip(source, target, strict=True)
    )
    return separable(window, rows, columns, eight_bits=eight_bits)


def _window_matrix(source: int, target: int, kernel: str, crop: int) -> Float[Tensor, "T S"]:
    pixels = seen(source, target, kernel=kernel, crop=crop)
    return smooth_matrix(source, target, kernel=kernel, crop=crop)[:, pixels].contiguous()


def separable(
    images: Float[Tensor, "B C H W"],
    rows: Float[Tensor, "P H"],
    columns: Float[Tensor, "Q W"],
    *,
    eight_bits: bool = False,
) -> Float[Tensor, "B C P Q"]:
    """The images under one matrix for their columns and one for their rows."""
    if not eight_bits:
        return rows @ (images @ columns.T)
    return _eight_bits(rows @ _eight_bits(images @ columns.T))


def _eight_bits(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Rounded with halves up, as Pillow does; torch would round them to even."""
    return (images + 0.5).floor_().clamp_(0, 255)
