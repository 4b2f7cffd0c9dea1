"""Renders pictures and sound of the clips of `synth` from numbers on a circle of length 1.

Shapes: T = frames, H, W = pixels, S = sound samples.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

PATHS = ("line", "circle", "eight", "square", "hops")
LOOKS = ("shape", "lobes", "hue", "path", "direction", "speed")
SOUNDS = ("pitch", "timbre", "odd", "rate", "swing")


def pictures(
    looks: Sequence[float],
    *,
    seconds: float,
    fps: int,
    size: tuple[int, int],
    noise: float,
    group: np.random.Generator,
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "T H W 3"]:
    """A coloured shape that moves along a path, as `looks` say, over its group's background.

    `size` is width and height in pixels.
    """
    shape, lobes, hue, path, direction, speed = looks
    (width, height), frames = size, max(1, round(seconds * fps))
    side = min(width, height)
    ground = _background(height, width, group)
    radius = side * (0.22 + 0.03 * rng.uniform(-1, 1))
    mask = _shape(radius, sharpness=shape, lobes=3 + int(lobes * 5))
    centres = _path(
        (np.arange(frames) / fps) * (0.25 + 0.9 * speed) + rng.random(),
        PATHS[int(path * len(PATHS))],
        2 * np.pi * direction,
    )
    colour = 255 * _rgb(hue, 0.55 + 0.45 * group.random())
    room = np.array([width - mask.shape[1], height - mask.shape[0]])
    corners = np.round(room * (0.5 + 0.5 * centres)).astype(int)
    grain = rng.normal(0, 40 * noise, (2 * height, 2 * width, 1)).astype(np.float32)
    film = np.empty((frames, height, width, 3), np.uint8)
    for picture, (x, y) in zip(film, corners, strict=True):
        frame = ground.copy()
        patch = frame[y : y + mask.shape[0], x : x + mask.shape[1]]
        patch += mask * (colour - patch)
        top, left = rng.integers((height, width))
        frame += grain[top : top + height, left : left + width]
        np.clip(frame, 0, 255, out=frame)
        picture[:] = frame
    return film


def _background(
    height: int, width: int, group: np.random.Generator
) -> Float32[np.ndarray, "H W 3"]:
    """Soft coloured waves."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / min(height, width)
    tint = group.uniform(40, 120) + group.uniform(-20, 20, 3)
    waves = np.zeros((height, width), np.float32)
    for _ in range(3):
        across, down = group.uniform(-9, 9, 2)
        waves += np.sin(across * x + down * y + group.uniform(0, 6))
    return (tint + 14 * waves[..., None] * group.uniform(0.3, 1, 3)).astype(np.float32)


def _shape(radius: float, *, sharpness: float, lobes: int) -> Float32[np.ndarray, "H W 1"]:
    """A flower or star with `lobes` lobes, as coverage 0..1 with a soft edge."""
    half_width = int(np.ceil(1.45 * radius)) + 1
    y, x = np.mgrid[-half_width : half_width + 1, -half_width : half_width + 1].astype(np.float32)
    wave = np.cos(lobes * np.arctan2(y, x))
    edge = radius * (1 + 0.42 * (sharpness - 0.2) * wave - 0.25 * sharpness * np.abs(wave))
    return np.clip(edge - np.hypot(x, y) + 0.5, 0, 1)[..., None].astype(np.float32)


def _path(turns: Float[np.ndarray, "T"], kind: str, angle: float) -> Float[np.ndarray, "T 2"]:
    """Positions -1..1 of the shape's centre."""
    phase = 2 * np.pi * turns
    if kind == "line":
        along, across = np.arcsin(np.sin(phase)) * 2 / np.pi, np.zeros_like(phase)
    elif kind == "circle":
        along, across = np.cos(phase), np.sin(phase) * (1 if angle < np.pi else -1)
    elif kind == "eight":
        along, across = np.sin(phase), np.sin(2 * phase) * 0.6
    elif kind == "square":
        along, across = (np.clip(1.5 * f(phase), -1, 1) for f in (np.cos, np.sin))
    else:
        along, across = np.floor(3 * turns) % 3 - 1, np.abs(np.sin(3 * phase / 2)) - 0.5
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return np.clip(np.stack([along, across], 1) @ turn, -1, 1)


def _rgb(hue: float, strength: float) -> Float[np.ndarray, "3"]:
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return 1 - strength * (1 - wheel)


def sound(
    sounds: Sequence[float],
    *,
    seconds: float,
    rate: int,
    noise: float,
    group: np.random.Generator,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "S"]:
    """A tone whose pitch, timbre and rhythm `sounds` say, over its group's hum."""
    pitch, timbre, odd, tempo, swing = sounds
    at = np.arange(round(seconds * rate)) / rate
    hz = 150 * 2 ** (2.6 * pitch) * (1 + 0.01 * group.uniform(-1, 1))
    tilt, hum_hz, hum = group.uniform(0, 0.6), group.uniform(50, 110), group.uniform(0.02, 0.15)
    tone = np.zeros_like(at)
    for k in range(1, 16, 2 if odd > 0.5 else 1):
        if k * hz < 0.45 * rate:
            phase = 2 * np.pi * k * hz * at + rng.uniform(0, 2 * np.pi)
            tone += np.sin(phase) / k ** (0.4 + 2.2 * timbre + tilt)
    beat = (at * (1 + 6 * tempo) + rng.random()) % 1
    envelope = np.exp(-beat * (1 + 8 * swing)) * np.minimum(1, beat * 60)
    mixed = tone / np.abs(tone).max() * envelope + hum * np.sin(2 * np.pi * hum_hz * at)
    mixed += 0.3 * noise * rng.normal(size=len(at))
    return (0.6 * mixed / np.abs(mixed).max()).astype(np.float32)
