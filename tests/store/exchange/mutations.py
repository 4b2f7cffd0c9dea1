"""Damaged copies of files, each from a seed: bits, cuts, pieces moved, sizes blown up."""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HUGE = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


def mutation(data: bytes, seed: int) -> bytes:
    """A damaged copy; seeds one after the other take one way after the other."""
    ways = (_flipped, _cut, _spliced, _blown_up, _blown_up, _zeroed, _text_numbers)
    return ways[seed % len(ways)](bytearray(data), np.random.default_rng(seed))


def damaged_copies(source: Path, target: Path, count: int, seed: int) -> Iterator[Path]:
    """`count` copies of a file, or of a directory in which one file after the other is damaged."""
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for number in range(count):
        chosen = files[number % len(files)]
        data = mutation(chosen.read_bytes(), seed + number)
        copy = target / f"{number}{source.suffix}"
        for path in files:
            inside = copy if source.is_file() else copy / path.relative_to(source)
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(data if path == chosen else path.read_bytes())
        yield copy


def _flipped(data: bytearray, rng: np.random.Generator) -> bytes:
    for place in rng.integers(0, len(data), rng.integers(1, 5)):
        data[place] ^= 1 << rng.integers(8)
    return bytes(data)


def _cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: rng.integers(len(data))])


def _spliced(data: bytearray, rng: np.random.Generator) -> bytes:
    start, to = (int(place) for place in rng.integers(0, len(data), 2))
    piece = data[start : start + int(rng.integers(1, 200))]
    data[to : to + len(piece) * int(rng.integers(2))] = piece
    return bytes(data)


def _blown_up(data: bytearray, rng: np.random.Generator) -> bytes:
    """A small number that the file holds, in four or eight bytes, becomes an extreme one."""
    for _ in range(200):
        place = int(rng.integers(len(data)))
        width = int(rng.choice((4, 8)))
        if place + width <= len(data) and data[place + width - 1] == 0:
            value = HUGE[rng.integers(len(HUGE))] & ((1 << 8 * width) - 1)
            data[place : place + width] = struct.pack("<Q", value)[:width]
            break
    return bytes(data)


def _zeroed(data: bytearray, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(data)))
    data[place : place + 64] = bytes(len(data[place : place + 64]))
    return bytes(data)


def _text_numbers(data: bytearray, rng: np.random.Generator) -> bytes:
    """A digit of a header becomes a nine, a minus or a bracket."""
    places = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    for place in rng.choice(places, 3) if places else ():
        data[place] = rng.choice(bytearray(b"99-(["))
    return bytes(data)
