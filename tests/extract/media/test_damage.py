"""Broken, hostile and odd files: a status for each, and what is told."""

import io
import os

import av
import numpy as np
import pytest

from extract.media import frames, probe
from store import Status
from tests.extract import media_files as media
from tests.extract.looking import EVERY_40_MS, indices, look


def test_what_decodes_before_the_damage_is_kept(tmp_path):
    source = media.write(
        tmp_path / "s.mp4",
        EVERY_40_MS,
        pictures=media.noisy(50),
        sound=media.tone(2.0),
        muxer={"movflags": "faststart"},
    )
    clip = look(media.cut_bytes(source, tmp_path / "t.mp4", 0.6))
    assert (clip.visual.status, clip.audio.status) == (Status.PARTIAL, Status.PARTIAL)
    got = indices(clip)
    whole = len(got) - 3  # of the last few, some refer to what is lost
    assert got[:whole] == list(range(whole))
    assert 10 < len(got) < 45
    assert clip.visual.detail


@pytest.mark.parametrize(
    ("name", "codec", "muxer"),
    [
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx", {}),
        ("a.avi", "mpeg4", {}),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_a_file_cut_short_is_partial_in_every_container(tmp_path, name, codec, muxer):
    every = range(0, 4000, 40)
    sound_ = None if codec == "libvpx" else media.tone(4.0)
    audio = {"audio_codec": "mp2"} if codec == "mpeg4" else {}
    path = media.write(
        tmp_path / name, every, codec=codec, gop=20, pictures=media.noisy(100), sound=sound_,
        muxer=muxer, **audio,
    )  # fmt: skip
    whole = look(path)
    assert (whole.visual.status, len(whole.visual.data[4096].pixels)) == (Status.OK, 100)
    cut = media.cut_bytes(path, tmp_path / f"cut-{name}", 0.6)
    clip = look(cut)
    got = indices(clip)
    assert (clip.visual.status, clip.audio.status) == (
        Status.PARTIAL, Status.PARTIAL if sound_ is not None else Status.ABSENT,
    )  # fmt: skip
    assert got == list(range(len(got)))
    assert 30 < len(got) < 90
    early = look(cut, end_seconds=0.8)
    assert early.visual.status == Status.OK
    assert indices(early)[:18] == list(range(18))


def test_a_fragment_whose_header_is_cut_off_is_missed(tmp_path):
    """No packet is damaged then: only the box says that it is longer than the file."""
    muxer = {"movflags": "frag_keyframe+empty_moov"}
    path = media.write(tmp_path / "f.mp4", range(0, 4000, 40), gop=20, muxer=muxer)
    data = path.read_bytes()
    last = data.rindex(b"moof")
    for end, status in ((last + 30, Status.PARTIAL), (last - 4, Status.OK)):
        path.write_bytes(data[:end])
        clip = look(path)
        assert (clip.visual.status, len(indices(clip))) == (status, 80)


def test_damage_beyond_what_was_asked_does_not_matter(tmp_path, plain):
    """A cap on seconds must not turn a clip that is fine so far into a partial one."""
    data = bytearray(media.write(tmp_path / "l.ts", range(0, 6000, 40), gop=10).read_bytes())
    data[-len(data) // 5 :] = bytes(len(data) // 5 + 1)[: len(data[-len(data) // 5 :])]
    (tmp_path / "l.ts").write_bytes(data)
    clip = look(tmp_path / "l.ts", end_seconds=2.0)
    assert clip.visual.status == Status.OK
    assert indices(clip) == list(range(50))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", Status.UNREADABLE),
        (b"hello, I am text\n", Status.UNREADABLE),
        (bytes(np.random.default_rng(0).integers(0, 256, 5000, np.uint8)), Status.UNREADABLE),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\ncanary.mp4\n#EXT-X-ENDLIST\n",
            Status.REFUSED,
        ),
        (b"ffconcat version 1.0\nfile canary.mp4\n", Status.REFUSED),
    ],
)
def test_what_is_no_media_has_a_status(tmp_path, plain, content, status):
    (tmp_path / "canary.mp4").write_bytes(plain.read_bytes())
    path = tmp_path / ("x.m3u8" if content.startswith(b"#EXT") else "x.mp4")
    path.write_bytes(content)
    clip = look(path)
    assert (clip.visual.status, clip.audio.status) == (status, status)
    assert clip.visual.detail
    assert "\n" not in clip.visual.detail


def test_missing_and_irregular_files(tmp_path):
    assert look(tmp_path / "none.mp4").visual.status == Status.MISSING
    assert look(tmp_path).visual.status in (Status.REFUSED, Status.UNREADABLE)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert look(tmp_path / "pipe.mp4").visual.status == Status.REFUSED


def test_caps(plain, monkeypatch):
    monkeypatch.setattr(probe, "MAX_PIXELS", 1000)
    assert look(plain).visual.status == Status.REFUSED
    monkeypatch.undo()
    monkeypatch.setattr(probe, "MAX_FILE_BYTES", 1000)
    assert look(plain).visual.status == Status.REFUSED
    monkeypatch.undo()
    monkeypatch.setattr(frames, "MAX_CLIP_BYTES", 100_000)
    assert (look(plain).visual.status, look(plain).audio.status) == (Status.REFUSED, Status.OK)


def test_a_header_of_days_is_refused(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(probe, "MAX_SECONDS", 1.0)
    clip = look(plain)
    assert clip.visual.status == Status.REFUSED
    assert "the header says 2 s" in clip.visual.detail


def test_frames_larger_than_the_header_says_are_not_decoded(tmp_path, monkeypatch):
    """The container says 64 x 48, the stream itself 128 x 96."""
    path = media.write(tmp_path / "x.mkv", EVERY_40_MS)
    data = bytearray(path.read_bytes())
    for element, value in ((b"\xb0", 128), (b"\xba", 96)):  # PixelWidth, PixelHeight
        at = data.index(element + b"\x81" + bytes([value]))
        data[at + 2] = value // 2
    path.write_bytes(data)
    monkeypatch.setattr(probe, "MAX_PIXELS", 64 * 48)
    assert look(path).visual.status == Status.REFUSED


def test_encrypted_streams_are_said_to_be(tmp_path):
    key = "00112233445566778899aabbccddeeff"
    path = media.write(
        tmp_path / "e.mp4", EVERY_40_MS, sound=media.tone(2.0),
        muxer={"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key},
    )  # fmt: skip
    clip = look(path)
    assert (clip.visual.status, clip.audio.status) == (Status.DECODE_ERROR, Status.DECODE_ERROR)
    assert (clip.visual.detail, clip.audio.detail) == (
        "the video is encrypted", "the audio is encrypted",
    )  # fmt: skip


def test_what_is_cut_off_or_padded_is_told(tmp_path):
    long = media.write(
        tmp_path / "l.mp4", range(0, 3000, 40), sound=media.tone(2.2), sound_start=0.8
    )
    clip = look(long, limit_seconds=1.5)
    assert (clip.visual.status, len(indices(clip))) == (Status.OK, 38)
    assert "the first 1.5 of 3.0 s" in clip.visual.detail
    assert "the first 1.5 of 3.0 s" in clip.audio.detail
    assert "silence up to second 0.78" in clip.audio.detail
    assert "first" not in look(long, limit_seconds=2.7).visual.detail  # within the tolerance
    assert "first" not in look(long, end_seconds=1.0, limit_seconds=1.5).visual.detail


def test_hdr_is_told(tmp_path):
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.color_trc = 16
        frame = av.VideoFrame.from_ndarray(media.picture(3, 64, 64), "rgb24").reformat(
            format="yuv420p"
        )
        frame.color_trc, frame.pts = 16, 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    assert "HDR (PQ) without tone mapping" in look(path).visual.detail


def test_of_several_streams_the_default_and_then_the_largest_is_taken(tmp_path):
    for default, wanted in (((), (96, 128)), ((0,), (48, 64))):
        path = tmp_path / f"{len(default)}.mkv"
        with av.open(str(path), "w", options={"default_mode": "passthrough"}) as out:
            streams = []
            for k, (width, height) in enumerate([(64, 48), (128, 96)]):
                stream = out.add_stream("libx264", rate=25)
                stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                stream.disposition = (
                    av.stream.Disposition.default if k in default else av.stream.Disposition(0)
                )
                streams.append(stream)
            for stream in streams:
                pixels = media.picture(5, stream.width, stream.height)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
                frame.pts = 0
                out.mux([*stream.encode(frame), *stream.encode(None)])
        assert look(path).visual.data[4096].pixels.shape[1:3] == wanted


def test_a_cover_picture_is_no_video(tmp_path):
    cover = io.BytesIO()
    with av.open(cover, "w", format="mjpeg") as out:
        stream = out.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        out.mux(
            stream.encode(
                av.VideoFrame.from_ndarray(media.picture(3, 64, 64), "rgb24").reformat(
                    format="yuvj420p"
                )
            )
        )
    path = tmp_path / "a.flac"
    media.write(path, sound=media.tone(1.0), audio_codec="flac")
    picture = cover.getvalue()
    block = b"".join(
        [
            (3).to_bytes(4, "big"), (10).to_bytes(4, "big"), b"image/jpeg", bytes(4),
            (64).to_bytes(4, "big") * 2, (24).to_bytes(4, "big"), bytes(4),
            len(picture).to_bytes(4, "big"), picture,
        ]
    )  # fmt: skip
    data = path.read_bytes()
    after_info = 4 + 4 + 34
    path.write_bytes(
        data[:4] + bytes([data[4] & 0x7F]) + data[5:after_info]
        + bytes([6]) + len(block).to_bytes(3, "big") + block + data[after_info:]
    )  # fmt: skip
    with av.open(str(path)) as container:
        assert container.streams.video
    assert (look(path).visual.status, look(path).audio.status) == (Status.ABSENT, Status.OK)


def test_links_do_not_lead_out_of_the_root(tmp_path, plain):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "in.mp4").write_bytes(plain.read_bytes())
    (root / "in.mp4").symlink_to(root / "sub" / "in.mp4")
    (root / "out.mp4").symlink_to(plain)
    (root / "folder").symlink_to(plain.parent)
    (tmp_path / "alias").symlink_to(root)
    for path in (root / "in.mp4", root / "sub/in.mp4", tmp_path / "alias" / "in.mp4"):
        assert look(path, root=tmp_path / "alias").visual.status == Status.OK
    for path in (root / "out.mp4", root / "folder" / "plain.mp4", root / "sub/../../alias/out.mp4"):
        clip = look(path, root=root)
        assert (clip.visual.status, clip.sha256) == (Status.REFUSED, bytes(32))
        assert "--follow-links" in clip.visual.detail
        assert look(path).visual.status == Status.OK
