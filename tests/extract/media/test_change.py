"""Geometry and sound that the container and the codec tell differently, or that change within."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from extract.media import sound
from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract import odd_files as odd
from tests.extract.looking import EVERY_40_MS, indices, look


@pytest.mark.parametrize("where", ["codec", "container"])
def test_pixel_aspect_counts_wherever_it_stands(tmp_path, where):
    aspect = Fraction(2) if where == "codec" else None
    path = media.write(tmp_path / "x.mp4", range(0, 400, 40), sample_aspect=aspect)
    if where == "container":
        path = odd.into_sample_entry(path, b"avc1", odd.pixel_aspect_box(2, 1))
    assert look(path).visual.data[4096].pixels.shape == (10, 96, 256, 3)


def test_a_clean_aperture_is_told(tmp_path):
    path = media.write(tmp_path / "x.mp4", range(0, 400, 40))
    assert "crop" not in look(path).visual.detail
    path = odd.into_sample_entry(path, b"avc1", odd.clean_aperture_box(96, 80))
    clip = look(path)
    assert "the container's crop (16/16/8/8 pixels" in clip.visual.detail
    assert clip.visual.data[4096].pixels.shape == (10, 96, 128, 3)


def turning(path, turned):
    """Frames that ask for a quarter turn where `turned` says so, by a message in the stream."""
    source = media.write(path.with_suffix(".s.mkv"), EVERY_40_MS, gop=10, options={"bf": "0"})
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        for k, packet in enumerate(p for p in inp.demux(video=0) if p.size):
            # Display orientation: not cancelled, no flips, 90 degrees, for this picture only.
            bits = odd.Bits().u(1, 0).u(1, 0).u(1, 0).u(16, 1 << 14).ue(0).u(1, 0).u(1, 1).align()
            payload = int(bits.text, 2).to_bytes(len(bits.text) // 8, "big")
            message = bytes([6, 47, len(payload), *payload, 0x80])
            head = struct.pack(">I", len(message)) + message if turned(k) else b""
            data = av.Packet(head + bytes(packet))
            data.pts, data.dts, data.time_base = packet.pts, packet.dts, packet.time_base
            data.is_keyframe, data.stream = packet.is_keyframe, stream
            out.mux(data)
    return path


@pytest.mark.parametrize("turned", [lambda k: k == 0, lambda k: k % 10 == 0, lambda k: k >= 10])
def test_a_clip_is_turned_as_its_first_frame(tmp_path, turned):
    path = turning(tmp_path / "x.mp4", turned)
    shape = (128, 96) if turned(0) else (96, 128)
    for pick in (None, Sampling(fps=2.0), lambda _: np.array([10]), lambda _: np.array([0])):
        clip = look(path) if pick is None else look(path, pick=pick)
        assert clip.visual.status == Status.OK
        assert clip.visual.data[4096].pixels.shape[1:3] == shape
    assert "which side is up" in look(path).visual.detail


def test_a_rate_that_changes_is_resampled(tmp_path):
    data = b""
    for k, rate in enumerate((44_100, 48_000)):
        path = media.write(
            tmp_path / f"{k}.mp3", sound=media.tone(1.0, rate), rate=rate, audio_codec="libmp3lame",
            muxer={"write_xing": "0", "id3v2_version": "0"},
        )  # fmt: skip
        data += path.read_bytes()
    (tmp_path / "x.mp3").write_bytes(data)
    clip = look(tmp_path / "x.mp3")
    samples = clip.audio.data[16_000].samples
    assert clip.audio.status == Status.OK
    assert all(f"{rate} Hz 1 ch" in clip.audio.detail for rate in (44_100, 48_000))
    assert len(samples) / 16_000 == pytest.approx(2.1, abs=0.1)
    for piece in (samples[4000:12_000], samples[-12_000:-4000]):
        assert np.abs(np.fft.rfft(piece)).argmax() * 2 == pytest.approx(440, abs=4)


def test_a_layout_that_changes_keeps_every_channel():
    left, both = np.ones((1, 100), np.float32), np.stack([np.zeros(100), np.ones(100)])
    runs = [
        sound._Run(1000, 1, [(0.0, left)]),
        sound._Run(1000, 2, [(0.1, both.astype(np.float32))]),
    ]
    joined = sound._one_kind(runs, "").piece(0.0, 9.0)
    assert joined == pytest.approx([1.0] * 100 + [0.5] * 100)


def test_sound_that_falls_back_is_not_laid_over_what_was_before():
    ones = np.ones((1, 100), np.float32)
    joined = sound._joined([(0.0, ones), (0.0, 2 * ones), (0.5, ones)], 1000, 0.0, 9999)
    assert joined[0].tolist() == [1] * 100 + [2] * 100 + [0] * 300 + [1] * 100
    told = sound.Samples(stretches=[(0.0, ones), (0.7, ones)], rate=1000, damage="")
    assert told.gaps(0.0, 9.0) == "silence from second 0.10 to 0.70"


@pytest.mark.parametrize("layout", ["7.1", "5.1"])
def test_many_channels(tmp_path, layout):
    path, channels = tmp_path / "x.mp4", av.AudioLayout(layout).nb_channels
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=48_000)
        stream.codec_context.layout = layout
        data = np.repeat(media.tone(1.0, 48_000), channels, axis=0)
        for start in range(0, 47_104, 1024):
            piece = np.ascontiguousarray(data[:, start : start + 1024].T.reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(piece, "flt", layout)
            frame.sample_rate, frame.pts = 48_000, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    clip = look(path)
    assert clip.audio.status == Status.OK
    samples = clip.audio.data[16_000].samples
    level = 0.3 / 2**0.5 * (channels - 1) / channels  # one is for low notes only
    assert np.sqrt(np.mean(samples[2000:14_000] ** 2)) == pytest.approx(level, rel=0.1)
    assert not look(path).visual.data


def test_a_title_that_is_not_utf_8(tmp_path):
    path = media.write(tmp_path / "x.mkv", EVERY_40_MS)
    data = path.read_bytes()
    at = data.index(b"Lavf")
    path.write_bytes(data[:at] + b"Caf\xe9" + data[at + 4 :])
    assert indices(look(path)) == list(range(50))


@pytest.mark.parametrize("riff", [0, 0xFFFFFFFF, 0x7FFFFFFF + 36])
@pytest.mark.parametrize("samples", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_of_unknown_length(tmp_path, riff, samples):
    path = media.write(tmp_path / "x.wav", sound=media.tone(1.0), audio_codec="pcm_s16le")
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", riff)
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", samples)
    path.write_bytes(data)
    clip = look(path)
    assert (clip.audio.status, clip.audio.detail) == (Status.OK, "pyav")
    assert len(clip.audio.data[16_000].samples) == 16_000
    whole = media.write(tmp_path / "y.wav", sound=media.tone(1.0), audio_codec="pcm_s16le")
    assert look(media.cut_bytes(whole, whole, 0.6)).audio.status == Status.PARTIAL


@pytest.mark.parametrize(("name", "old", "new"), [
    ("x.mp4", b"avc1", b"vvc9"), ("x.mkv", b"V_MPEG4/ISO/AVC", b"V_QQQQQ/ISO/AVC"),
])  # fmt: skip
def test_a_codec_that_nobody_knows_is_named(tmp_path, name, old, new):
    path = media.write(tmp_path / name, EVERY_40_MS, sound=media.tone(2.0))
    path.write_bytes(path.read_bytes().replace(old, new))
    clip = look(path)
    assert clip.visual.status == Status.DECODE_ERROR
    assert new.decode()[:7] in clip.visual.detail
    assert clip.audio.status == Status.OK


def test_a_picture_in_tiles_is_refused():
    path = odd.case("grid.avif")
    clip = look(path)
    assert (clip.visual.status, clip.audio.status) == (Status.REFUSED, Status.ABSENT)
    assert "tiles" in clip.visual.detail
    assert look(odd.case("single.avif")).visual.status == Status.OK


def test_a_bug_of_ours_is_a_kind_with_a_cause(tmp_path, plain):
    def broken(_):
        raise ValueError("a sampler in trouble")

    clip = look(plain, pick=broken)
    assert (clip.visual.status, clip.audio.status) == (Status.DECODE_ERROR, Status.OK)
    assert clip.visual.detail == "ValueError: a sampler in trouble"


def test_a_piece_beyond_all_time_is_empty(plain):
    for start in (1e13, 1e300):
        clip = look(plain, start_seconds=start)
        assert (clip.visual.status, clip.audio.status) == (Status.EMPTY, Status.EMPTY)
        assert "the frames end at second 2.000" in clip.visual.detail
