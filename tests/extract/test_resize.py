"""Resizing against a reference that follows single pixels."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from extract.resize import resize, resize_matrix

SIZES = [(7, 7), (224, 224), (9, 4), (4, 9), (31, 14), (210, 224), (1, 5), (2, 3)]


def keys(x, a=-0.5):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic(line, target, a=-0.5, half_pixel=True):
    """TensorFlow 2's rule: four taps about the centre, those outside dropped, then renormalised."""
    scale, out = len(line) / target, np.zeros(target)
    for i in range(target):
        centre = (i + 0.5) * scale - 0.5 if half_pixel else i * scale
        near = int(np.floor(centre))
        taps = [j for j in range(near - 1, near + 3) if 0 <= j < len(line)]
        weights = [keys(centre - j, a) for j in taps]
        out[i] = sum(w * line[j] for w, j in zip(weights, taps, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bicubic_follows_tensorflow_2(source, target):
    line = np.random.default_rng(source).random(source)
    matrix = resize_matrix(source, target, kernel="bicubic", antialias=False)
    np.testing.assert_allclose(matrix.numpy() @ line, bicubic(line, target), atol=1e-6)


@pytest.mark.parametrize("other", [{"a": -0.75}, {"half_pixel": False}], ids=str)
def test_the_other_bicubic_rules_would_be_noticed(other):
    line = np.random.default_rng(0).random(31)
    assert np.abs(bicubic(line, 14, **other) - bicubic(line, 14)).max() > 0.01


@pytest.mark.parametrize(("source", "target"), SIZES)
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_antialiased_kernels_agree_with_torch(source, target, kernel):
    """Torch's antialias path was written for Pillow's rule, with Keys' a = -0.5.

    It weighs in fp32, which costs it up to 2e-5.
    """
    images = torch.rand(2, 3, source, target, generator=torch.Generator().manual_seed(0))
    ours = resize(images, target, source, kernel=kernel, antialias=True)
    theirs = F.interpolate(images, (target, source), mode=kernel, antialias=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-5)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_eight_bits_agree_with_torch_on_bytes(kernel):
    images = torch.randint(0, 256, (1, 3, 91, 67), generator=torch.Generator().manual_seed(0))
    ours = resize(images.float(), 33, 40, kernel=kernel, antialias=True, eight_bits=True)
    theirs = F.interpolate(images.byte(), (33, 40), mode=kernel, antialias=True).float()
    assert (ours - theirs).abs().max() <= 1  # both round twice; fixed point breaks some ties
    assert (ours != theirs).float().mean() < 0.03
    assert torch.equal(ours, ours.round())


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
def test_a_flat_image_stays_flat_and_its_own_size_stays_equal(kernel, antialias):
    rule = {"kernel": kernel, "antialias": antialias}
    flat = torch.full((1, 3, 13, 29), 0.7)
    torch.testing.assert_close(resize(flat, 8, 50, **rule), torch.full((1, 3, 8, 50), 0.7))
    image = torch.rand(1, 3, 13, 29)
    assert torch.equal(resize(image, 13, 29, **rule), image)
