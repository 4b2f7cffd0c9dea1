"""Files that lie or change their mind: flags of containers rewritten, fields, joined parts."""

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.extract import media_files as media

# Enough of each codec to write it with key frames every 20 frames.
CODECS = {
    "mpeg4": {"options": {"bf": "0"}},
    "mpeg2video": {"options": {"bf": "2"}},
    "libx264": {"options": {"preset": "ultrafast", "bf": "2"}},
    "libx265": {"options": {"preset": "ultrafast", "x265-params": "log-level=none:pools=1"}},
    "libvpx": {"options": {"cpu-used": "8", "deadline": "realtime"}},
    "libvpx-vp9": {"options": {"cpu-used": "8", "deadline": "realtime"}},
}


def can_write(codec):
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True


def every_packet_flagged(source, path, which=lambda k: True):
    """A remux whose packets are flagged as key frames by `which`, whatever they hold."""
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        k = 0
        for packet in inp.demux(video=0):
            if not packet.size:
                continue
            packet.is_keyframe = which(k)
            packet.stream = stream
            out.mux(packet)
            k += 1
    return Path(path)


def without_sync_table(path):
    """An mp4 without its table of key frames: by the standard, every frame then counts as one."""
    data = path.read_bytes()
    at = data.index(b"stss")
    path.write_bytes(data[:at] + b"free" + data[at + 4 :])
    return path


def into_sample_entry(path, kind, box):
    """An mp4 with a box more in its first sample entry; its index lies behind its media."""
    data = bytearray(path.read_bytes())
    at = data.index(kind, data.index(b"stsd")) - 4
    end = at + int.from_bytes(data[at : at + 4], "big")
    data[end:end] = box
    start = data.index(b"moov")
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", kind):
        start = data.index(name, start if name != kind else data.index(b"stsd"))
        size = int.from_bytes(data[start - 4 : start], "big") + len(box)
        data[start - 4 : start] = size.to_bytes(4, "big")
    path.write_bytes(data)
    return path


def pixel_aspect_box(wide, high):
    return struct.pack(">I4sII", 16, b"pasp", wide, high)


def clean_aperture_box(width, height):
    return struct.pack(">I4s8I", 40, b"clap", width, 1, height, 1, 0, 1, 0, 1)


class Bits:
    """Bits to be written: H.264 by hand, one macroblock at a time."""

    def __init__(self):
        self.text = ""

    def u(self, count, value):
        self.text += f"{value:0{count}b}"
        return self

    def ue(self, *values):
        for value in values:
            code = f"{value + 1:b}"
            self.text += "0" * (len(code) - 1) + code
        return self

    def align(self):
        self.text += "0" * (-len(self.text) % 8)
        return self

    def unit(self, kind):
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        raw = int(text, 2).to_bytes(len(text) // 8, "big")
        out, zeros = bytearray(), 0
        for byte in raw:
            if zeros == 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = 0 if byte else zeros + 1
        return b"\0\0\0\1" + bytes([kind]) + bytes(out)


def field_coded(path, frames=50, group=10, width=128):
    """H.264 in fields, a packet each. The upper half says which frame it is, in raw samples; the
    lower half is raw in the first frame of a group only, and elsewhere as in the field before.
    """
    across = width // 16
    parameters = (
        Bits().u(8, 77).u(8, 0).u(8, 30).ue(0, 0, 2, 2).u(1, 0).ue(across - 1, 1)
        .u(1, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 0).unit(0x67)
    )  # fmt: skip
    # No CABAC, no weights, no filter in the loop as every slice says.
    picture = Bits().ue(0, 0).u(1, 0).u(1, 0).ue(0, 0, 0).u(1, 0).u(2, 0).ue(0, 0, 0)
    picture = picture.u(1, 1).u(1, 0).u(1, 0).unit(0x68)
    packets = []
    for k in range(frames):
        shown = media.picture(k, width, 16)[0, ::16, 0]
        for bottom in (0, 1):
            idr = k % group == 0 and not bottom
            intra = k % group == 0
            bits = Bits().ue(0, 7 if intra else 5, 0).u(4, k % group).u(1, 1).u(1, bottom)
            if idr:
                bits.ue(0)
            if not intra:
                bits.u(1, 0).u(1, 0)  # as many references as usual, in the usual order
            bits.u(1, 0).u(1, 0) if idr else bits.u(1, 0)
            bits.ue(0).ue(1)  # quantiser, no filter
            levels = [*map(int, shown), *[40 + 4 * k] * across * intra]
            for level in levels:
                if not intra:
                    bits.ue(0)  # none is skipped
                bits.ue(25 if intra else 30).align()  # raw samples
                for _ in range(256):
                    bits.u(8, level)
                for _ in range(128):
                    bits.u(8, 128)
            if not intra:
                bits.ue(across)
            head = parameters + picture if idr else b""
            packets.append(head + bits.unit(0x65 if idr else 0x61))
    return packets


def mux_fields(path, packets, *, flag_all, extradata_from):
    """The packets of `field_coded`, 20 ms each, in any container."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(extradata_from)
        for k, data in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = 20 * k
            packet.duration = 20
            packet.is_keyframe = flag_all or k % 20 == 0
            out.mux(packet)
    return Path(path)


def concatenated(path, *parts):
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def case(name):
    """A file that nothing here can write, from beside $MICROSHOT_MEDIA."""
    path = Path(os.environ.get("MICROSHOT_MEDIA", "")) / ".." / "cases" / "media" / name
    if not os.environ.get("MICROSHOT_MEDIA") or not path.exists():
        pytest.skip(f"$MICROSHOT_MEDIA has no {name} beside it")
    return path
