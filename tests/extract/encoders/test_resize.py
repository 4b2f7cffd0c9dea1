"""Resizing against a reference that follows single pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from extract.encoders._resize import (
    resize,
    resize_window,
    seen,
    separable,
    tensorflow_bicubic_matrix,
)

SIZES = [(7, 7), (224, 224), (9, 4), (4, 9), (31, 14), (210, 224), (1, 5), (2, 3)]


def keys(x, a=-0.5):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(line, target, a=-0.5, half_pixel=True, drop=True):
    """TensorFlow's rules, pixel by pixel, in single precision where it is: four taps about the
    centre; those outside the line are dropped and the rest renormalised, or fall on its ends."""
    scale, half, out = np.float32(len(line) / target), np.float32(0.5), np.zeros(target)
    for i in range(target):
        centre = (np.float32(i) + half) * scale - half if half_pixel else np.float32(i) * scale
        near = int(np.floor(centre))
        past = round(float(centre - np.float32(near)) * 1024) / 1024
        taps = [j for j in range(-1, 3) if not drop or 0 <= near + j < len(line)]
        weights = [keys(past - j, a) for j in taps]
        values = [line[min(max(near + j, 0), len(line) - 1)] for j in taps]
        out[i] = np.dot(weights, values) / sum(weights)
    return out


TF1 = {"a": -0.75, "half_pixel": False, "drop": False}


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("rule", [{}, TF1], ids=["tf2", "tf1"])
def test_bicubic_follows_tensorflow(source, target, rule):
    line = np.random.default_rng(source).random(source)
    matrix = tensorflow_bicubic_matrix(source, target, half_pixel=not rule)
    np.testing.assert_allclose(matrix.numpy() @ line, bicubic(line, target, **rule), atol=1e-6)


@pytest.mark.parametrize("other", [{"a": -0.75}, {"half_pixel": False}, {"drop": False}], ids=str)
def test_the_other_bicubic_rules_would_be_noticed(other):
    line = np.random.default_rng(0).random(31)
    assert np.abs(bicubic(line, 42, **other) - bicubic(line, 42)).max() > 1e-3
    assert np.abs(bicubic(line, 42, **TF1 | {"a": -0.5}) - bicubic(line, 42, **TF1)).max() > 0.01


@pytest.mark.parametrize("side", [3, 40, 112, 224, 227, 262, 300])
def test_tensorflow_agrees(side):
    """Where TensorFlow is at hand."""
    tf = pytest.importorskip("tensorflow")
    images = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(0))
    for half_pixel in (False, True):
        theirs = tf.raw_ops.ResizeBicubic(
            images=images.numpy(), size=[224, 224], half_pixel_centers=half_pixel
        ).numpy()
        matrix = tensorflow_bicubic_matrix(side, 224, half_pixel=half_pixel)
        ours = separable(images.permute(0, 3, 1, 2), matrix, matrix).permute(0, 2, 3, 1)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_antialiased_kernels_agree_with_torch(source, target, kernel):
    """Torch's antialias path was written for Pillow's rule, with Keys' a = -0.5.

    It weighs in fp32, which costs it up to 2e-5.
    """
    images = torch.rand(2, 3, source, target, generator=torch.Generator().manual_seed(0))
    ours = resize(images, target, source, kernel=kernel)
    theirs = F.interpolate(images, (target, source), mode=kernel, antialias=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-5)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_eight_bits_agree_with_torch_on_bytes(kernel):
    images = torch.randint(0, 256, (1, 3, 91, 67), generator=torch.Generator().manual_seed(0))
    ours = resize(images.float(), 33, 40, kernel=kernel, eight_bits=True)
    theirs = F.interpolate(images.byte(), (33, 40), mode=kernel, antialias=True).float()
    assert (ours - theirs).abs().max() <= 1  # both round twice; fixed point breaks some ties
    assert (ours != theirs).float().mean() < 0.03
    assert torch.equal(ours, ours.round())


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_flat_image_stays_flat_and_its_own_size_stays_equal(kernel):
    flat = torch.full((1, 3, 13, 29), 0.7)
    resized = resize(flat, 8, 50, kernel=kernel)
    torch.testing.assert_close(resized, torch.full((1, 3, 8, 50), 0.7))
    image = torch.rand(1, 3, 13, 29, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(image, 13, 29, kernel=kernel), image)


@pytest.mark.parametrize("half_pixel", [False, True])
def test_tensorflow_s_rules_keep_flat_images_and_their_own_size(half_pixel):
    matrix = tensorflow_bicubic_matrix(13, 50, half_pixel=half_pixel)
    torch.testing.assert_close(matrix.sum(1), torch.ones(50))
    assert torch.equal(tensorflow_bicubic_matrix(13, 13, half_pixel=half_pixel), torch.eye(13))


def test_a_crop_is_cut_from_the_whole():
    image = torch.rand(1, 3, 31, 47, generator=torch.Generator().manual_seed(0)) * 255
    rule = {"kernel": "bicubic", "eight_bits": True}
    whole = resize(image, 37, 56, **rule)  # (37 - 24) / 2 = 6.5: halves go to even
    assert torch.equal(resize(image, 37, 56, crop=24, **rule), whole[:, :, 6:30, 16:40])


@pytest.mark.parametrize("size", [(256, 455), (240, 426), (455, 256), (90, 61)], ids=str)
def test_the_pixels_that_a_crop_is_made_of_are_enough(size):
    """Fewer columns may be summed in another order: one level of 256, hardly ever."""
    target = tuple(256 * side // min(size) for side in size)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, *size), generator=generator).float()
    whole = resize(images, *target, kernel="bicubic", crop=224, eight_bits=True)
    rows, columns = (
        seen(a, b, kernel="bicubic", crop=224) for a, b in zip(size, target, strict=True)
    )
    window = images[:, :, rows, columns]
    assert window.numel() < images.numel()
    cropped = resize_window(window, size, target, kernel="bicubic", crop=224)
    assert (cropped - whole).abs().max() <= 1
    assert (cropped != whole).float().mean() < 1e-4
