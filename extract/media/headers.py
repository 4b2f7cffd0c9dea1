"""What the header of a packet says: whether decoding may begin there, and whether it is one field.

Containers flag packets as key frames, and some flag every one of them, or those at which a picture
only begins to build up. So the flag is a hint, and the first bytes of the coded picture decide.
Nothing is decoded here.

Sources: ISO/IEC 14496-10 (H.264) 7.3, ISO/IEC 23008-2 (HEVC) 7.3, ISO/IEC 14496-2 6.2.5,
ISO/IEC 13818-2 6.2.3, RFC 6386 9.1, the VP9 and AV1 bitstream specifications.
"""

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any

from extract.media.bits import Bits, nal_units, plain

MPEG4_VOP, MPEG_PICTURE, MPEG_EXTENSION = b"\0\0\1\xb6", b"\0\0\1\0", b"\0\0\1\xb5"
MPEG_SEQUENCE = b"\0\0\1\xb3"
DISPLAY_ORIENTATION, RECOVERY_POINT = 47, 6  # kinds of supplemental information
INTRA = (2, 4, 7, 9)  # slice types of H.264 that refer to no other picture
CHROMA_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)


class Entry(IntEnum):
    """Whether decoding may begin at a packet."""

    NO = 0
    PERHAPS = 1  # the picture builds up from here, or what follows may refer to what is before
    YES = 2
    UNKNOWN = 3  # of codecs that are not read here: the decoded frame will say


Field = tuple[int, int]  # parity, and the number of the picture it belongs to


class Headers:
    """The headers of one video stream's packets; what they have in common is remembered."""

    def __init__(self, context: Any) -> None:
        self.extradata: bytes = context.extradata or b""
        name = context.name.removeprefix("lib").replace("dav1d", "av1").replace("aom-", "")
        name = {"vpx": "vp8", "vpx-vp9": "vp9"}.get(name, name)
        self.turned = False  # some picture says how it is to be turned
        self.fields = False  # some packet holds one field
        self.may_have_fields = False  # or some may
        self._intra = bool(context.codec.intra_only)
        self._length_size = 0  # of the units of H.264 and HEVC; 0: they begin with a start code
        self._sequences: dict[int, tuple[bool, int, bool]] = {}  # separate planes, bits, no fields
        self._sequence_of: dict[int, int] = {}  # of a picture parameter set
        self._still = False  # AV1: pictures have no type, and are key frames
        readers: dict[str, Callable[[bytes], Entry]] = {
            "h264": self._h264, "hevc": self._hevc, "mpeg4": self._mpeg4,
            "mpeg1video": self._mpeg2, "mpeg2video": self._mpeg2,
            "vp8": lambda data: Entry.NO if data[0] & 1 else Entry.YES,
            "vp9": self._vp9, "av1": self._av1,
            "theora": lambda data: Entry.NO if data[0] & 0xC0 else Entry.YES,
        }  # fmt: skip
        self._read = readers.get(name)
        self.name = name
        self._configure()

    @property
    def read(self) -> bool:
        """Whether the headers of this codec are read, so that flags need not be believed."""
        return self._read is not None or self._intra

    def entry(self, packet: Any) -> Entry:
        """Whether decoding may begin at the packet."""
        if self._intra:
            return Entry.YES
        if self._read is None:
            return Entry.UNKNOWN
        data = bytes(packet)
        try:
            return self._read(data) if data else Entry.NO
        except (IndexError, ValueError, KeyError):  # it is cut short, or noise
            return Entry.NO

    def field(self, packet: Any) -> Field | None:
        """The field that the packet holds; None where it holds a whole frame."""
        if not self.may_have_fields:
            return None
        try:
            found = (self._h264_field if self.name == "h264" else _mpeg2_field)(bytes(packet))
        except (IndexError, ValueError, KeyError):
            return None
        self.fields = self.fields or found is not None
        return found

    def _configure(self) -> None:
        """Read what stands before all packets."""
        data = self.extradata
        try:
            if self.name == "h264" and data[:1] == b"\1":
                self._length_size = (data[4] & 3) + 1
                at = 6
                for count in (data[5] & 31, None):
                    if count is None:
                        count, at = data[at], at + 1
                    for _ in range(count):
                        size = int.from_bytes(data[at : at + 2], "big")
                        self._parameters(data[at + 2 : at + 2 + size])
                        at += 2 + size
            elif self.name == "h264":
                for unit in nal_units(data, 0):
                    self._parameters(unit)
            elif self.name == "hevc" and data[:3] > b"\0\0\1":
                self._length_size = (data[21] & 3) + 1
            elif self.name == "mpeg2video":
                self.may_have_fields = not _progressive(data)
            elif self.name == "av1" and data[:1] == b"\x81":
                self._av1(data[4:])
        except (IndexError, ValueError, KeyError):
            pass  # packets bring what they need with them, or do not decode

    # ── H.264 and HEVC ───────────────────────────────────────────────────────────────────────────

    def _parameters(self, unit: bytes) -> None:
        """Remember an H.264 sequence or picture parameter set."""
        kind = unit[0] & 31
        if kind == 7:
            number, sequence = _sequence(Bits(plain(unit[1:])))
            self._sequences[number] = sequence
            self.may_have_fields = self.may_have_fields or not sequence[2]
        elif kind == 8:
            bits = Bits(plain(unit[1:64]))
            number = bits.ue()
            self._sequence_of[number] = bits.ue()

    def _h264(self, data: bytes) -> Entry:
        recovery, intra, slices = -1, True, 0
        for unit in nal_units(data, self._length_size):
            kind = unit[0] & 31
            if kind == 5:
                return Entry.YES
            if kind in (7, 8):
                self._parameters(unit)
            elif kind == 6:
                recovery = self._supplement(plain(unit[1:]), recovery)
            elif kind in (1, 2):
                bits = Bits(plain(unit[1:24]))
                bits.ue()
                intra = intra and bits.ue() in INTRA
                slices += 1
        if slices and intra and recovery == 0:
            return Entry.YES
        return Entry.PERHAPS if slices and (intra or recovery >= 0) else Entry.NO

    def _supplement(self, data: bytes, recovery: int) -> int:
        """Frames until the picture is whole, -1 if it does not say; notes orientations."""
        at = 0
        while at + 2 < len(data):
            values = []
            for _ in range(2):
                value = 0
                while data[at] == 255:
                    value, at = value + 255, at + 1
                values.append(value + data[at])
                at += 1
            kind, size = values
            if kind == RECOVERY_POINT:
                recovery = Bits(data[at : at + size]).ue()
            self.turned = self.turned or kind == DISPLAY_ORIENTATION
            at += size
        return recovery

    def _h264_field(self, data: bytes) -> Field | None:
        parities, number = set(), 0
        for unit in nal_units(data, self._length_size):
            kind = unit[0] & 31
            if kind in (7, 8):
                self._parameters(unit)
            if kind not in (1, 2, 5):
                continue
            bits = Bits(plain(unit[1:32]))
            bits.ue()
            bits.ue()
            planes, width, whole = self._sequences[self._sequence_of[bits.ue()]]
            bits.skip(2 if planes else 0)
            number = bits.take(width)
            if whole or not bits.take(1):
                return None
            parities.add(bits.take(1))
        return (parities.pop(), number) if len(parities) == 1 else None

    def _hevc(self, data: bytes) -> Entry:
        for unit in nal_units(data, self._length_size):
            kind = unit[0] >> 1 & 63
            if kind == 39:
                self._supplement(plain(unit[2:]), -1)
            elif kind < 32:
                return Entry.YES if 16 <= kind <= 21 else Entry.NO
        return Entry.NO

    # ── MPEG-1, MPEG-2, MPEG-4 part 2 ────────────────────────────────────────────────────────────

    def _mpeg2(self, data: bytes) -> Entry:
        if MPEG_SEQUENCE in data[:64] and self.name == "mpeg2video":
            self.may_have_fields = self.may_have_fields or not _progressive(data)
        at = data.index(MPEG_PICTURE)
        return Entry.YES if data[at + 5] >> 3 & 7 == 1 else Entry.NO

    def _mpeg4(self, data: bytes) -> Entry:
        at = data.index(MPEG4_VOP)
        return Entry.YES if data[at + 4] >> 6 == 0 else Entry.NO

    # ── VP9 and AV1 ──────────────────────────────────────────────────────────────────────────────

    def _vp9(self, data: bytes) -> Entry:
        bits = Bits(data[:2])
        bits.skip(2)
        profile = bits.take(1) | bits.take(1) << 1
        bits.skip(1 if profile == 3 else 0)
        shows_an_old_one, refers = bits.take(1), bits.take(1)
        return Entry.NO if shows_an_old_one or refers else Entry.YES

    def _av1(self, data: bytes) -> Entry:
        for kind, unit in _obus(data):
            if kind == 1:
                self._still = bool(unit[0] >> 3 & 1)
            elif kind in (3, 6):
                shows_an_old_one, of_type, shown = unit[0] >> 7, unit[0] >> 5 & 3, unit[0] >> 4 & 1
                key = self._still or (not shows_an_old_one and of_type == 0 and shown)
                return Entry.YES if key else Entry.NO
        return Entry.NO


def _sequence(bits: Bits) -> tuple[int, tuple[bool, int, bool]]:
    """The number of an H.264 sequence parameter set, and what slices are read by."""
    profile = bits.take(8)
    bits.skip(16)
    number, separate = bits.ue(), False
    if profile in CHROMA_PROFILES:
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.take(1))
        bits.ue()
        bits.ue()
        bits.skip(1)
        if bits.take(1):
            for k in range(12 if chroma == 3 else 8):
                if bits.take(1):
                    _skip_scaling_list(bits, 16 if k < 6 else 64)
    width = bits.ue() + 4
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.skip(1)
        bits.ue()
        bits.ue()
        for _ in range(min(bits.ue(), 255)):
            bits.ue()
    bits.ue()
    bits.skip(1)
    bits.ue()
    bits.ue()
    return number, (separate, width, bool(bits.take(1)))


def _skip_scaling_list(bits: Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last


def _progressive(data: bytes) -> bool:
    """Whether an MPEG-2 sequence says that all its frames are whole."""
    at = data.find(MPEG_EXTENSION)
    while at >= 0 and data[at + 4] >> 4 != 1:
        at = data.find(MPEG_EXTENSION, at + 4)
    return at >= 0 and bool(data[at + 5] & 8)


def _mpeg2_field(data: bytes) -> Field | None:
    pictures = data.count(MPEG_PICTURE)
    at = data.index(MPEG_PICTURE)
    number = data[at + 4] << 2 | data[at + 5] >> 6
    at = data.index(MPEG_EXTENSION, at)
    while data[at + 4] >> 4 != 8:
        at = data.index(MPEG_EXTENSION, at + 4)
    structure = data[at + 6] & 3
    return None if structure == 3 or pictures > 1 else (structure, number)


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kinds of an AV1 packet's units, and their first bytes."""
    at = 0
    while at < len(data):
        head = data[at]
        at += 2 if head & 4 else 1
        size = len(data) - at
        if head & 2:
            size = 0
            for k in range(8):
                byte, at = data[at], at + 1
                size |= (byte & 127) << 7 * k
                if not byte & 128:
                    break
        yield head >> 3 & 15, data[at : at + min(size, 16)]
        at += size
