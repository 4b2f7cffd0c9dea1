"""Small media files whose every frame says which one it is, and whose sound says when.

A frame shows its index as eight vertical stripes, white for one, most significant bit first;
`read_index` reads them back after any scaling.
"""

import os
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from extract.media import decord_reader
from extract.media.decode import decode
from extract.processes import child

MILLI = Fraction(1, 1000)


def picture(index, width=128, height=96):
    bits = [(index >> (7 - k)) & 1 for k in range(8)]
    row = np.repeat([235 if b else 20 for b in bits], width // 8)
    row = np.pad(row, (0, width - len(row)), mode="edge")
    return np.broadcast_to(row[None, :, None], (height, width, 3)).astype(np.uint8)


def read_index(pixels):
    width = pixels.shape[1] // 8 * 8
    stripes = pixels[:, :width].reshape(len(pixels), 8, -1)
    inner = stripes[:, :, stripes.shape[2] // 4 : -(stripes.shape[2] // 4) or None]
    return int("".join("1" if level > 128 else "0" for level in inner.mean(axis=(0, 2))), 2)


def tone(seconds, rate=44_100, hz=440.0, level=0.3):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype("f4")[
        None
    ]


def click(seconds, at, rate=44_100):
    """Silence with a burst of 5 ms at second `at`."""
    sound = np.zeros((1, round(seconds * rate)), "f4")
    first = round(at * rate)
    sound[:, first : first + rate // 200] = 0.9
    return sound


def write(
    path,
    times_ms=(),
    *,
    pictures=None,
    size=(128, 96),
    codec="libx264",
    options=None,
    gop=250,
    last_ms=None,
    sound=None,
    rate=44_100,
    audio_codec="aac",
    sound_start=0.0,
    sample_aspect=None,
    muxer=None,
    tick=MILLI,
):
    """A file with frames at `times_ms`, and `sound` [channels, samples] from `sound_start` on."""
    packets = []
    with av.open(str(path), "w", options=muxer or {}) as out:
        if len(times_ms):
            # Stripes flip wholesale; without this the encoder would put key frames at each flip.
            defaults = {"sc_threshold": "0"} if codec in ("libx264", "mpeg4") else {}
            video = out.add_stream(codec, rate=25, options=defaults | (options or {}))
            video.width, video.height = size
            video.pix_fmt = {"gif": "rgb8"}.get(codec, "yuv420p")
            video.codec_context.time_base = (
                tick if codec not in ("mpeg4", "gif") else Fraction(1, 25)
            )
            video.codec_context.gop_size = gop
            video.codec_context.thread_count = 1
            if sample_aspect:
                video.codec_context.sample_aspect_ratio = sample_aspect
            base = video.codec_context.time_base
            for k, ms in enumerate(times_ms):
                pixels = pictures[k] if pictures is not None else picture(k, *size)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
                frame = frame.reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = round(Fraction(ms) * MILLI / base), base
                packets += video.encode(frame)
            packets += video.encode(None)
        if sound is not None:
            audio = out.add_stream(audio_codec, rate=rate)
            audio.codec_context.layout = "mono" if len(sound) == 1 else "stereo"
            kind = audio.codec_context.codec.audio_formats[0].name
            whole = {"s16": ("i2", 2**15 - 1), "s32": ("i4", 2**31 - 128)}.get(kind.rstrip("p"))
            data = (sound * whole[1]).astype(whole[0]) if whole else sound
            packed = np.ascontiguousarray(data if kind.endswith("p") else data.T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(packed, kind, audio.codec_context.layout.name)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(sound_start * rate)
            resampler = av.AudioResampler(
                kind, audio.codec_context.layout, rate, audio.codec_context.frame_size or None
            )
            for piece in [*resampler.resample(frame), *resampler.resample(None)]:
                packets += audio.encode(piece)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base):
            out.mux(packet)
    return Path(path)


def copy_cut(source, path, seconds):
    """What `ffmpeg -ss SECONDS -i SOURCE -c copy PATH` does: packets from the key frame before."""
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in inp.streams}
        inp.seek(round(seconds * av.time_base))
        for packet in inp.demux():
            if packet.dts is None:
                continue
            shift = round(seconds / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = streams[packet.stream.index]
            out.mux(packet)
    return Path(path)


def drop_head(source, path, packets):
    """A remux without the first packets: the file starts on a frame that refers to lost ones."""
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        for k, packet in enumerate(inp.demux(video=0)):
            if packet.dts is not None and k >= packets:
                packet.stream = stream
                out.mux(packet)
    return Path(path)


def turn(path, a, b, c, d):
    """Write a display matrix into an mp4's first track: (x, y) is shown at (ax + cy, bx + dy)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    unit = 1 << 16
    matrix = np.array([a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30], ">i4")
    data[at : at + 36] = matrix.tobytes()
    path.write_bytes(data)
    return path


def noisy(count, width=128, height=96, seed=0):
    """Pictures as `picture` gives, with noise, so that files have some size."""
    noise = np.random.default_rng(seed).integers(-25, 26, (count, height, width, 3))
    clear = np.stack([picture(k, width, height) for k in range(count)]).astype(int)
    return np.clip(clear + noise, 0, 255).astype("u1")


def cut_bytes(source, path, share):
    data = Path(source).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * share)])
    return Path(path)


def reckless(request):
    """Asks decord for 25 of all the frames it counts, as its users do; for decode processes."""
    if request.decoder != "pyav":
        child.risk("decord")
        reader = decord_reader._library().VideoReader(str(request.path), num_threads=1)
        reader.get_batch(np.linspace(0, len(reader) - 1, 25).astype(int))
    return decode(request)


def troubled(request):
    """Decodes, unless the file's name says otherwise; for decode processes, so free of torch."""
    if "hang" in request.path.name:
        time.sleep(600)
    if "crash" in request.path.name:
        os._exit(9)
    return decode(request)


class Dying:
    """A decoder whose process dies of one of the two streams."""

    def __init__(self, of):
        self.of = of

    def __call__(self, request):
        if request.sample_rates if self.of == "sound" else request.pick:
            os._exit(9)
        return decode(request)
