"""Bits of a coded header, and the units that H.264 and HEVC are made of."""

from collections.abc import Iterator


class Bits:
    """Bits of a few bytes, from the front.

    Raises:
        ValueError: there are no more.
    """

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """The next bits as a number."""
        if count > self._left:
            raise ValueError("the header is cut short")
        self._left -= count
        return self._value >> self._left & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        """Leave bits out."""
        self.take(count)

    def ue(self) -> int:
        """An unsigned Exp-Golomb number."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros | self.take(zeros)) - 1

    def se(self) -> int:
        """A signed Exp-Golomb number."""
        value = self.ue()
        return (value + 1) // 2 if value % 2 else -value // 2


def nal_units(data: bytes, length_size: int) -> Iterator[bytes]:
    """The units of a packet: after their length, or without one, after a start code each."""
    if length_size:
        at = 0
        while at + length_size < len(data):
            size = int.from_bytes(data[at : at + length_size], "big")
            at += length_size
            if size:
                yield data[at : at + size]
            at += size
        return
    at = data.find(b"\0\0\1")
    while at >= 0:
        end = data.find(b"\0\0\1", at + 3)
        unit = data[at + 3 : end if end >= 0 else len(data)]
        if unit:
            yield unit
        at = end


def plain(data: bytes) -> bytes:
    """A unit's bytes without those that keep start codes out of it."""
    return data.replace(b"\0\0\3", b"\0\0")
