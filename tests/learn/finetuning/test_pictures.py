"""Every change of frames against a literal loop over pixels."""

import colorsys
import math

import numpy as np
import pytest
import torch

from learn.finetuning import pictures
from learn.finetuning.recipe import FrameSettings

SIDE = 9


def seed(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture
def x():
    frames = torch.rand(6, 3, SIDE, SIDE, generator=seed(1))
    frames[0, :, 0, 0], frames[0, :, 0, 1] = 0, 0.4  # black, grey
    return frames


def pixels(x, change):
    """`change` of every pixel's red, green and blue."""
    found = x.permute(0, 2, 3, 1).numpy().copy()
    for index in np.ndindex(found.shape[:3]):
        found[index] = change(*found[index].tolist())
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def test_hsv_there_and_back(x):
    h, s, v = pictures.to_hsv(x)
    torch.testing.assert_close(torch.stack([h, s, v], 1), pixels(x, colorsys.rgb_to_hsv))
    torch.testing.assert_close(pictures.from_hsv(h, s, v), x, atol=1e-6, rtol=0)


def test_hue_and_saturation(x):
    def turned(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb((h - 0.17) % 1, s, v)

    def stronger(r, g, b):
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        return colorsys.hsv_to_rgb(h, min(1.5 * s, 1), v)

    amount = torch.ones(len(x), 1, 1, 1)
    torch.testing.assert_close(
        pictures.hue(x, -0.17 * amount), pixels(x, turned), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        pictures.saturation(x, 1.5 * amount), pixels(x, stronger), atol=1e-5, rtol=0
    )


def test_brightness_contrast_and_grey(x):
    amount = torch.full((len(x), 1, 1, 1), 1.3)
    torch.testing.assert_close(pictures.brightness(x, amount), 1.3 * x)
    found = pictures.contrast(x, amount)
    for frame, changed in zip(x, found, strict=True):
        for channel, new in zip(frame, changed, strict=True):
            mean = sum(channel.flatten().tolist()) / SIDE**2
            torch.testing.assert_close(new, (channel - mean) * 1.3 + mean)
    grey = pixels(x, lambda r, g, b: [0.2989 * r + 0.587 * g + 0.114 * b] * 3)
    torch.testing.assert_close(pictures.luma(x).expand_as(x), grey)


def test_blur(x):
    wanted = torch.tensor([True, False, True, True, True, True])
    large = torch.rand(6, 3, 24, 24, generator=seed(2))
    found = pictures.blur(large, wanted, seed(3))
    sigmas = (0.1 + 1.9 * torch.rand(6, generator=seed(3))).tolist()
    assert torch.equal(found[1], large[1])
    for number in (0, 4):
        weights = [math.exp(-(k**2) / (2 * sigmas[number] ** 2)) for k in (-1, 0, 1)]
        total = sum(weights)
        frame = large[number].numpy()
        for c, row, column in ((0, 0, 0), (1, 5, 7), (2, 23, 10)):
            blurred = 0.0
            for i, of_row in zip((-1, 0, 1), weights, strict=True):
                for j, of_column in zip((-1, 0, 1), weights, strict=True):
                    r, k = row + i, column + j
                    if 0 <= r < 24 and 0 <= k < 24:
                        blurred += of_row * of_column / total**2 * frame[c, r, k]
            assert found[number, c, row, column].item() == pytest.approx(blurred, abs=1e-6)


def test_jitter_is_four_changes_in_each_frames_own_order(x):
    wanted = torch.tensor([True, True, False, True, True, True])
    found = pictures.jitter(x, 1.0, wanted, seed(5))
    generator = seed(5)
    draws = torch.rand(4, 6, generator=generator)
    order = torch.rand(6, 4, generator=generator).argsort(1)
    orders = set()
    for i, frame in enumerate(x):
        expected = frame[None]
        if wanted[i]:
            steps = order[i].tolist()
            orders.add(tuple(steps))
            for step in steps:
                change = (pictures.brightness, pictures.contrast, pictures.saturation, pictures.hue)
                low, high = (0.2, 1.8) if step < 3 else (-0.2, 0.2)
                amount = low + (high - low) * draws[step, i]
                expected = change[step](expected, amount.reshape(1, 1, 1, 1)).clamp(0, 1)
        torch.testing.assert_close(found[i], expected[0])
    assert len(orders) > 1


def test_crops_are_uniform_in_area_and_in_the_logarithm_of_their_ratio():
    areas, ratios, tops = [], [], []
    generator = seed(7)
    for _ in range(2000):
        top, left, h, w = pictures.box(100, 100, 0.25, generator)
        assert 0 <= top <= 100 - h
        assert 0 <= left <= 100 - w
        areas.append(h * w / 1e4)
        ratios.append(math.log(w / h))
        tops.append(top / max(1, 100 - h))
    assert min(areas) == pytest.approx(0.25, abs=0.02)
    assert max(areas) > 0.9
    # What does not fit is drawn again, so the largest crops are a little rarer.
    assert np.mean(areas) == pytest.approx(0.6, abs=0.03)
    assert max(np.abs(ratios)) <= math.log(4 / 3) + 0.03
    assert np.mean(ratios) == pytest.approx(0, abs=0.02)
    assert np.mean(tops) == pytest.approx(0.5, abs=0.03)


def test_a_crop_of_everything_at_its_own_size_is_the_picture():
    frame = torch.randint(0, 256, (SIDE, SIDE, 3), generator=seed(1), dtype=torch.uint8)
    found = pictures.cropped(frame, SIDE, 1.0, ones(seed(0)))
    torch.testing.assert_close(found, frame.permute(2, 0, 1) / 255, atol=1e-6, rtol=0)


def ones(generator):
    """The generator, wound on to where a draw gives the whole of a square."""
    for number in range(1000):
        generator.manual_seed(number)
        if pictures.box(SIDE, SIDE, 1.0, generator) == (0, 0, SIDE, SIDE):
            return generator.manual_seed(number)
    raise AssertionError


def test_what_has_no_chance_does_not_happen_and_the_seed_decides_the_rest():
    clips = [np.random.default_rng(i).integers(0, 256, (2, 20, 30, 3), np.uint8) for i in range(3)]
    plain = FrameSettings(crop=0.5, flip=0.0)
    cpu = torch.device("cpu")
    found = pictures.views(clips, SIDE, plain, seed(1), cpu)
    assert found.shape == (6, 3, SIDE, SIDE)
    again = seed(1)
    for i, frame in enumerate(frame for clip in clips for frame in clip):
        torch.testing.assert_close(
            found[i], pictures.cropped(torch.from_numpy(frame), SIDE, 0.5, again)
        )
    mirrored = pictures.views(clips, SIDE, FrameSettings(crop=0.5, flip=1.0), seed(1), cpu)
    assert torch.equal(mirrored, found.flip(3))
    grey = pictures.views(clips, SIDE, FrameSettings(crop=0.5, flip=0.0, grey=1.0), seed(1), cpu)
    assert torch.equal(grey[:, 0], grey[:, 2])
    all_of_it = FrameSettings(crop=0.2, jitter=1.0, grey=0.2, blur=0.5)
    one, same, other = (
        pictures.views(clips, SIDE, all_of_it, seed(number), cpu) for number in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


def test_the_frames_of_a_stack_are_changed_as_one():
    """Stacks of equal frames stay so; frames of their own would not."""
    rng, cpu = np.random.default_rng(0), torch.device("cpu")
    one = rng.integers(0, 256, (1, 20, 30, 3), np.uint8)
    clips = [np.repeat(one, 4, 0)] * 6
    strong = FrameSettings(crop=0.1, flip=0.5, jitter=1.0, jitter_chance=0.5, grey=0.5, blur=0.5)
    together = pictures.views(clips, SIDE, strong, seed(1), cpu, 4).unflatten(0, (6, 4))
    for stack in together:
        torch.testing.assert_close(stack, stack[:1].expand_as(stack))
    assert all(not torch.allclose(together[0, 0], other) for other in together[1:, 0])
    alone = pictures.views(clips, SIDE, strong, seed(1), cpu)
    assert not torch.allclose(alone[0], alone[1])
