import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from extract import decode as decoding
from extract import packets, pictures, probe, sound
from extract.decode import Frames, Request, Sound, decode
from extract.sample import Sampling
from store import Status
from tests.extract import media

EVERY_40_MS = range(0, 2000, 40)  # 50 frames at 25 fps


def every(footage):
    return np.arange(len(footage.seconds))


def look(path, pick=every, side=4096, rates=(16_000,), **more):
    """By PyAV, unless told otherwise; decord stays out of a process that may hold a GPU."""
    more = {"decoder": "pyav"} | more
    return decode(Request(path=path, pick=pick, short_sides=(side,), sample_rates=rates, **more))


def indices(clip, side=4096):
    return [media.read_index(p) for p in clip.frames[side].pixels]


def tracks(path):
    return packets.Media(probe.examined(path)).tracks()


def onset_seconds(sound):
    return np.flatnonzero(np.abs(sound.samples) > 0.2)[0] / sound.rate


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two seconds, B-frames, a key frame every 20, a click at 1.2 s."""
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    return media.write(path, EVERY_40_MS, gop=20, sound=media.click(2.0, 1.2))


def test_every_frame_is_the_right_one_at_the_right_time(plain):
    clip = look(plain)
    assert (clip.visual, clip.audio) == (Status.OK, Status.OK)
    assert indices(clip) == list(range(50))
    assert clip.frames[4096].seconds == pytest.approx(np.arange(50) * 0.04, abs=1e-6)


@pytest.mark.parametrize(
    "wanted", [[0], [49], [19, 20], [21], [5, 5, 5, 33], list(range(0, 50, 7))]
)
def test_a_sparse_pick_gives_the_same_pixels_as_decoding_everything(plain, wanted):
    dense, sparse = look(plain), look(plain, pick=lambda _: np.array(wanted))
    np.testing.assert_array_equal(
        sparse.frames[4096].pixels, dense.frames[4096].pixels[np.array(wanted)]
    )
    assert indices(sparse) == wanted


def test_only_stretches_with_wanted_frames_are_decoded(plain):
    video, _ = tracks(plain)
    shown = packets.timeline(video)
    spans = pictures.stretches(video, shown, [shown.at[shown.stamps[k]] for k in (2, 45)])
    assert [start for start, _ in spans] == [0, 40]
    assert spans[0][1] < 12


def open_groups(path):
    """Groups of ten frames whose first B-frames refer to the group before."""
    params = "open-gop=1:keyint=10:min-keyint=10:scenecut=0:bframes=3:b-adapt=0"
    return media.write(path, EVERY_40_MS, options={"x264-params": params})


def test_open_groups_of_pictures_decode_from_the_key_frame_before(tmp_path):
    path = open_groups(tmp_path / "open.mkv")
    assert indices(look(path)) == list(range(50))
    for k in range(50):
        assert indices(look(path, pick=lambda _, k=k: np.array([k]))) == [k]


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path):
    times = [*range(0, 1000, 40), *range(1000, 3000, 250)]
    path = media.write(tmp_path / "vfr.mp4", times)
    clip = look(path, pick=Sampling(fps=4.0))
    wanted = [(k + 0.5) / 4 for k in range(11)]  # the last frame lasts 40 ms
    assert indices(clip) == [max(i for i, ms in enumerate(times) if ms / 1000 <= t) for t in wanted]
    assert clip.frames[4096].seconds == pytest.approx([times[i] / 1000 for i in indices(clip)])


def test_key_frames_and_shots_are_found_in_the_file(tmp_path):
    """Three shots of 20, 10 and 20 frames, told apart by their background; a key frame every 15."""
    level = [40] * 20 + [120] * 10 + [200] * 20
    pixels = [np.clip(media.picture(k) // 8 + level[k], 0, 255).astype("u1") for k in range(50)]
    path = media.write(tmp_path / "s.mp4", EVERY_40_MS, pictures=pixels, gop=15)
    looked = {
        name: look(path, pick=Sampling(sample=name)).frames[4096].seconds / 0.04
        for name in ("keyframes", "shots")
    }
    assert looked["keyframes"] == pytest.approx([0, 15, 30, 45])
    assert looked["shots"] == pytest.approx([10, 25, 40])


def test_the_click_sounds_when_the_flash_shows(tmp_path):
    """The flash and the click are at 1.2 s of one clock, whatever starts first."""
    dark, bright = np.zeros((96, 128, 3), "u1"), np.full((96, 128, 3), 255, "u1")
    flash = [bright if ms == 1200 else dark for ms in EVERY_40_MS]
    for name in ("both.mp4", "both.mkv", "both.ts"):
        path = media.write(
            tmp_path / name, EVERY_40_MS, pictures=flash, sound=media.click(2.0, 1.2)
        )
        clip = look(path, rates=(16_000, 32_000))
        shown = [p.mean() > 128 for p in clip.frames[4096].pixels].index(True)
        for rate in (16_000, 32_000):
            assert onset_seconds(clip.sound[rate]) == pytest.approx(
                clip.frames[4096].seconds[shown], abs=0.003
            ), name


def test_late_sound_is_padded_to_its_place(tmp_path):
    late = media.write(
        tmp_path / "late.mp4", EVERY_40_MS, sound=media.click(1.0, 0.2), sound_start=0.8
    )
    sound_ = look(late).sound[16_000]
    assert onset_seconds(sound_) == pytest.approx(1.0, abs=0.003)
    assert len(sound_.samples) / 16_000 == pytest.approx(1.8, abs=0.03)


def test_sound_that_begins_after_the_piece_is_none(tmp_path):
    path = media.write(
        tmp_path / "l.mp4", range(0, 4000, 40), sound=media.tone(1.0), sound_start=3.0
    )
    assert look(path, limit_seconds=2.0).audio == Status.EMPTY
    assert look(path, limit_seconds=3.5).audio == Status.OK


def test_frames_that_start_late_keep_their_time(tmp_path):
    path = media.write(tmp_path / "v.mp4", range(500, 1500, 40), sound=media.click(2.0, 1.0))
    clip = look(path)
    assert clip.frames[4096].seconds[0] == pytest.approx(0.5, abs=0.002)
    assert onset_seconds(clip.sound[16_000]) == pytest.approx(1.0, abs=0.003)


def test_the_clock_does_not_depend_on_what_is_asked(tmp_path):
    path = media.write(tmp_path / "v.mp4", range(500, 1500, 40), sound=media.click(2.0, 1.0))
    alone = look(path, side=64, rates=())
    assert alone.frames[64].seconds[0] == pytest.approx(0.5, abs=0.002)
    assert (alone.visual, alone.audio) == (Status.OK, Status.ABSENT)


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
def test_preroll_of_a_stream_copied_cut_is_not_shown(tmp_path, plain, name):
    cut = media.copy_cut(plain, tmp_path / name, 1.0)
    clip = look(cut)
    assert indices(clip) == list(range(25, 50))
    assert clip.frames[4096].seconds == pytest.approx(np.arange(25) * 0.04, abs=0.03)
    flash = clip.frames[4096].seconds[indices(clip).index(30)]  # shown at 1.2 s of the whole
    assert onset_seconds(clip.sound[16_000]) == pytest.approx(flash, abs=0.003)
    video, _ = tracks(cut)
    assert len(video.packets) == 30  # five of them are pre-roll
    assert len(packets.timeline(video).stamps) == 25
    for k in (0, 7, 24):
        assert indices(look(cut, pick=lambda _, k=k: np.array([k]))) == [25 + k]


def test_a_cut_between_frames_begins_with_the_next_one(tmp_path, plain):
    clip = look(media.copy_cut(plain, tmp_path / "cut.mp4", 1.013))
    assert clip.visual == Status.OK
    assert indices(clip) == list(range(indices(clip)[0], 50))
    assert indices(clip)[0] in (25, 26)  # 25 is on screen when the cut begins
    assert clip.frames[4096].seconds[0] < 0.04


def test_leading_pictures_of_a_file_that_begins_with_an_open_group_are_not_shown(tmp_path):
    path = open_groups(tmp_path / "open.mkv")
    with av.open(str(path)) as container:
        keys = [k for k, p in enumerate(container.demux(video=0)) if p.size and p.is_keyframe]
    clip = look(media.drop_head(path, tmp_path / "tail.mkv", keys[1]))
    shown = indices(clip)
    assert clip.visual == Status.OK
    assert shown == list(range(shown[0], 50))
    whole = look(path).frames[4096].pixels[shown[0] :]
    np.testing.assert_array_equal(clip.frames[4096].pixels, whole)


def test_frames_whose_key_frame_is_missing_are_not_shown(tmp_path, plain):
    clip = look(media.drop_head(plain, tmp_path / "headless.mkv", 6))
    assert indices(clip) == list(range(20, 50))
    assert clip.frames[4096].seconds[0] >= 0


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_has_no_presentation_times_and_is_counted(tmp_path, codec):
    options = {"bf": "2"} if codec == "mpeg4" else {}
    path = media.write(tmp_path / "old.avi", EVERY_40_MS, codec=codec, options=options)
    clip = look(path)
    assert indices(clip) == list(range(50))
    assert np.diff(clip.frames[4096].seconds) == pytest.approx(0.04, abs=1e-6)
    assert indices(look(path, pick=lambda _: np.array([31]))) == [31]


@pytest.mark.parametrize(
    ("codec", "name", "options"),
    [
        ("libx265", "h.mp4", {"x265-params": "log-level=none:pools=1"}),
        ("libvpx-vp9", "v.webm", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("libvpx", "v8.webm", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "10"}),
        ("gif", "a.gif", {}),
    ],
)
def test_other_codecs(tmp_path, codec, name, options):
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg cannot write {codec}")
    path = media.write(tmp_path / name, range(0, 1000, 40), codec=codec, options=options)
    clip = look(path, pick=Sampling(frames=25))
    assert clip.visual == Status.OK
    assert indices(clip) == list(range(25))


def test_rotation_is_applied(tmp_path):
    sideways = [np.rot90(media.picture(k, 128, 96), 1) for k in range(25)]
    path = media.write(tmp_path / "r.mp4", range(0, 1000, 40), pictures=sideways, size=(96, 128))
    assert look(path).frames[4096].pixels.shape[1:3] == (128, 96)
    clip = look(media.turn(path, 0, 1, -1, 0), side=48)
    assert clip.frames[48].pixels.shape == (25, 48, 64, 3)
    assert indices(clip, 48) == list(range(25))


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_all_eight_display_matrices(tmp_path, turns, mirrored):
    """A corner is marked; where it must be seen is computed from the matrix itself."""
    way = np.linalg.matrix_power([[0, -1], [1, 0]], turns) @ (
        [[-1, 0], [0, 1]] if mirrored else np.eye(2)
    )
    (a, c), (b, d) = way.astype(int).tolist()
    stored = np.full((96, 128, 3), 20, "u1")
    stored[:24, :32] = 235  # left of and above the middle: (-1, -1) from it
    path = media.write(tmp_path / "m.mp4", [0, 40], pictures=[stored] * 2)
    shown = look(media.turn(path, a, b, c, d)).frames[4096].pixels[0].mean(axis=2)
    x, y = way @ [-1, -1]
    height, width = shown.shape
    assert (height, width) == ((96, 128) if turns % 2 == 0 else (128, 96))
    corner = shown[12 if y < 0 else height - 12, 12 if x < 0 else width - 12]
    assert corner > 200
    assert (shown > 128).mean() == pytest.approx(1 / 16, abs=0.01)


def test_a_broken_display_matrix_changes_nothing(tmp_path):
    path = media.write(tmp_path / "m.mp4", [0, 40])
    for matrix in ((1, 1, -1, 1), (0, 0, 0, 0), (2, 1, 1, 2), (1, 3, -3, 1)):
        assert look(media.turn(path, *matrix)).frames[4096].pixels.shape == (2, 96, 128, 3)


def test_scaling_keeps_the_aspect_and_never_enlarges(plain):
    clip = decode(Request(path=plain, pick=Sampling(frames=2), short_sides=(48, 96, 500)))
    assert {s: f.pixels.shape[1:3] for s, f in clip.frames.items()} == {
        48: (48, 64),
        96: (96, 128),
        500: (96, 128),
    }
    assert indices(clip, 48) == indices(clip, 500)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = media.write(tmp_path / "sar.mp4", range(0, 400, 40), sample_aspect=Fraction(3, 2))
    assert look(path).frames[4096].pixels.shape[1:3] == (96, 192)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colours_follow_the_frames_own_matrix_and_range(tmp_path, matrix, full):
    """Y, Cb, Cr computed here from the definitions of BT.709 and BT.601."""
    red, green, blue = 0.8, 0.2, 0.1
    kr, kb = (0.2126, 0.0722) if matrix == 1 else (0.299, 0.114)
    y = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - y) / (2 * (1 - kb)), (red - y) / (2 * (1 - kr))
    levels = (
        (255 * y, 128 + 255 * cb, 128 + 255 * cr)
        if full
        else (16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr)
    )
    path = tmp_path / "c.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane, level in zip(frame.planes, levels, strict=True):
            plane.update(np.full(plane.height * plane.line_size, round(level), "u1").tobytes())
        frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, 0
        out.mux([*stream.encode(frame), *stream.encode(None)])
    got = look(path).frames[4096].pixels[0, 30, 30].astype(int)
    assert got == pytest.approx([204, 51, 25.5], abs=3)


@pytest.mark.parametrize("size", [(48, 64), (66, 50), (128, 96)])
def test_odd_sizes(tmp_path, size):
    path = media.write(tmp_path / "s.mp4", range(0, 400, 40), size=size)
    assert look(path).frames[4096].pixels.shape == (10, size[1], size[0], 3)
    assert indices(look(path)) == list(range(10))


def test_one_frame_is_enough(tmp_path):
    clip = look(media.write(tmp_path / "one.mp4", [0]), pick=Sampling(fps=1.0))
    assert clip.visual == Status.OK
    assert len(clip.frames[4096].pixels) == 1


def test_pieces(plain):
    clip = look(plain, start_seconds=1.0, end_seconds=1.4)
    assert indices(clip) == list(range(25, 35))
    assert clip.frames[4096].seconds[0] == 0.0
    assert onset_seconds(clip.sound[16_000]) == pytest.approx(0.2, abs=0.003)
    assert len(clip.sound[16_000].samples) == 6400


def test_a_piece_sounds_like_the_same_stretch_of_the_whole(tmp_path):
    path = media.write(tmp_path / "a.m4a", sound=media.tone(6.0))
    whole, piece = look(path), look(path, start_seconds=4.0, end_seconds=5.0)
    np.testing.assert_allclose(
        piece.sound[16_000].samples[100:-100], whole.sound[16_000].samples[64_100:79_900], atol=1e-3
    )


def test_a_piece_beyond_the_end_is_empty(plain):
    clip = look(plain, start_seconds=7.0, end_seconds=9.0)
    assert (clip.visual, clip.audio) == (Status.EMPTY, Status.EMPTY)


def test_the_first_frame_of_a_piece_may_have_been_on_screen_before(tmp_path):
    path = media.write(tmp_path / "slow.mp4", range(0, 4000, 1000))
    clip = look(path, start_seconds=1.5, end_seconds=2.5)
    assert indices(clip) == [1, 2]
    assert clip.frames[4096].seconds == pytest.approx([0.0, 0.5])


@pytest.fixture(scope="module")
def minute(tmp_path_factory):
    """A minute at 5 frames/s, a key frame every 4 s, and a click at 40.2 s."""
    path = tmp_path_factory.mktemp("long") / "minute.mp4"
    pixels = [media.picture(k % 256) for k in range(300)]
    return media.write(
        path, range(0, 60_000, 200), pictures=pixels, gop=20, sound=media.click(60.0, 40.2)
    )


def remuxed(source, path, kinds=("video", "audio")):
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        kept = [s for s in inp.streams if s.type in kinds]
        streams = {s.index: out.add_stream_from_template(s) for s in kept}
        for packet in inp.demux(kept):
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return path


@pytest.mark.parametrize("name", ["m.mp4", "m.mkv", "m.ts"])
def test_a_piece_is_the_same_however_it_is_reached(tmp_path, minute, name, monkeypatch):
    path = remuxed(minute, tmp_path / name)
    pieces = [(40.0, 41.0), (39.9, 44.05), (57.0, 70.0), (3.2, 9.0), (0.0, 1.0), (40.0, 41.0)]
    sought = [look(path, start_seconds=a, end_seconds=b) for a, b in pieces]
    monkeypatch.setattr(packets, "SEEKING", ("nothing",))
    for (a, b), piece in zip(pieces, sought, strict=True):
        decoding._last = None
        front = look(path, start_seconds=a, end_seconds=b)
        assert (piece.visual, piece.audio) == (front.visual, front.audio) == (Status.OK, Status.OK)
        assert indices(piece) == indices(front)
        np.testing.assert_array_equal(piece.frames[4096].pixels, front.frames[4096].pixels)
        np.testing.assert_array_equal(piece.frames[4096].seconds, front.frames[4096].seconds)
        np.testing.assert_allclose(
            piece.sound[16_000].samples, front.sound[16_000].samples, atol=2e-3
        )
    flash = sought[0].frames[4096].seconds[indices(sought[0]).index(201)]
    assert onset_seconds(sought[0].sound[16_000]) == pytest.approx(flash, abs=0.003)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("before", [(-8.0, 2.0), (-8.0,)])
def test_a_seek_that_lands_too_late_is_not_believed(tmp_path, minute, monkeypatch, before, silent):
    if silent:
        minute = remuxed(minute, tmp_path / "silent.mp4", kinds=("video",))
    right = look(minute, start_seconds=40.0, end_seconds=41.0)
    monkeypatch.setattr(packets, "BEFORE_SECONDS", before)
    monkeypatch.setattr(decoding, "_last", None)
    again = look(minute, start_seconds=40.0, end_seconds=41.0)
    assert indices(again) == indices(right) == list(range(200, 205))
    if not silent:
        np.testing.assert_array_equal(again.sound[16_000].samples, right.sound[16_000].samples)


def test_pieces_of_one_file_share_one_open_and_read_little(minute, monkeypatch):
    opens, read = [], []
    keep = packets.Track.keep
    monkeypatch.setattr(packets, "opened", lambda path: opens.append(path) or probe.opened(path))
    monkeypatch.setattr(
        packets.Track, "keep", lambda self, packet: read.append(packet) or keep(self, packet)
    )
    decoding._last = None
    for second in map(float, range(20, 60, 2)):
        clip = look(minute, start_seconds=second, end_seconds=second + 1.0)
        assert indices(clip)[0] == round(5 * second) % 256
    assert len(opens) == 1
    with av.open(str(minute)) as container:
        total = sum(1 for p in container.demux() if p.size)
    assert len(read) / 20 < total / 4


def test_a_file_that_changed_is_opened_anew(tmp_path):
    path = media.write(tmp_path / "x.mp4", EVERY_40_MS)
    first = look(path)
    media.write(path, range(0, 400, 40))
    second = look(path)
    assert first.sha256 != second.sha256
    assert len(indices(second)) == 10


def test_links_do_not_lead_out_of_the_root(tmp_path, plain):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "in.mp4").write_bytes(plain.read_bytes())
    (root / "in.mp4").symlink_to(root / "sub" / "in.mp4")
    (root / "out.mp4").symlink_to(plain)
    (root / "folder").symlink_to(plain.parent)
    (tmp_path / "alias").symlink_to(root)
    for path in (root / "in.mp4", root / "sub/in.mp4", tmp_path / "alias" / "in.mp4"):
        assert look(path, root=tmp_path / "alias").visual == Status.OK
    for path in (root / "out.mp4", root / "folder" / "plain.mp4", root / "sub/../../alias/out.mp4"):
        clip = look(path, root=root)
        assert (clip.visual, clip.sha256) == (Status.REFUSED, bytes(32))
        assert "--follow-links" in clip.visual_detail
        assert look(path).visual == Status.OK


def test_missing_modalities_are_data(tmp_path):
    mute = look(media.write(tmp_path / "mute.mp4", EVERY_40_MS))
    assert (mute.visual, mute.audio, mute.sound) == (Status.OK, Status.ABSENT, {})
    blind = look(media.write(tmp_path / "blind.m4a", sound=media.tone(1.0)))
    assert (blind.visual, blind.audio, blind.frames) == (Status.ABSENT, Status.OK, {})


def test_digital_silence_is_sound(tmp_path):
    path = media.write(tmp_path / "s.mp4", EVERY_40_MS, sound=np.zeros((1, 88_200), "f4"))
    assert look(path).audio == Status.OK


@pytest.mark.parametrize(
    ("codec", "name"), [("pcm_s16le", "a.wav"), ("flac", "a.flac"), ("libopus", "a.ogg")]
)
def test_sound_files(tmp_path, codec, name):
    path = media.write(
        tmp_path / name, sound=media.tone(1.0, 48_000), rate=48_000, audio_codec=codec
    )
    clip = look(path, rates=(48_000,))
    assert clip.audio == Status.OK
    assert np.sqrt(np.mean(clip.sound[48_000].samples ** 2)) == pytest.approx(
        0.3 / 2**0.5, rel=0.02
    )


def test_mono_is_the_mean_unless_it_cancels():
    left = media.tone(0.5)[0]
    np.testing.assert_allclose(sound.mono(np.stack([left, left * 0.5])), left * 0.75, atol=1e-6)
    np.testing.assert_array_equal(
        sound.mono(np.stack([left * 0.9, -left])), sound.mono(np.stack([left * 0.9, -left]))
    )
    np.testing.assert_array_equal(sound.mono(np.stack([left, -left])), left)
    assert not sound.mono(np.zeros((2, 9), np.float32)).any()


def test_antiphase_stereo_is_not_silence(tmp_path):
    path = media.write(
        tmp_path / "x.wav",
        sound=np.concatenate([media.tone(1.0), -media.tone(1.0)]),
        audio_codec="pcm_s16le",
    )
    assert np.abs(look(path).sound[16_000].samples).max() == pytest.approx(0.3, rel=0.05)


def test_gaps_in_sound_are_silent_and_jitter_is_not_a_gap():
    ones = np.ones((1, 100), np.float32)
    joined = sound._joined([(0.0, ones), (0.12, ones)], 1000, 0.0, 9999)
    assert joined.shape == (1, 200)  # 20 ms off: jitter
    joined = sound._joined([(0.0, ones), (0.3, ones)], 1000, 0.0, 9999)
    assert joined[0].tolist() == [1] * 100 + [0] * 200 + [1] * 100
    assert sound._joined([(0.0, ones)], 1000, 0.05, 9999).shape == (1, 50)
    assert sound._joined([(0.0, ones), (9e9, ones)], 1000, 0.0, 150).shape == (1, 100)
    assert sound._joined([(0.0, ones), (0.1, ones)], 1000, 0.0, 150).shape == (1, 150)
    assert sound._joined([(1.0, ones)], 1000, 0.0, 150).shape == (1, 0)


def test_resampling_keeps_length_and_pitch():
    wave = sound.resample(media.tone(1.0)[0], 44_100, 16_000)
    assert len(wave) == 16_000
    assert np.abs(np.fft.rfft(wave)).argmax() == 440


def test_what_decodes_before_the_damage_is_kept(tmp_path):
    source = media.write(
        tmp_path / "s.mp4",
        EVERY_40_MS,
        pictures=media.noisy(50),
        sound=media.tone(2.0),
        muxer={"movflags": "faststart"},
    )
    clip = look(media.cut_bytes(source, tmp_path / "t.mp4", 0.6))
    assert (clip.visual, clip.audio) == (Status.PARTIAL, Status.PARTIAL)
    got = indices(clip)
    whole = len(got) - 3  # of the last few, some refer to what is lost
    assert got[:whole] == list(range(whole))
    assert 10 < len(got) < 45
    assert clip.visual_detail


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
    assert (whole.visual, len(whole.frames[4096].pixels)) == (Status.OK, 100)
    cut = media.cut_bytes(path, tmp_path / f"cut-{name}", 0.6)
    clip = look(cut)
    got = indices(clip)
    assert (clip.visual, clip.audio) == (
        Status.PARTIAL, Status.PARTIAL if sound_ is not None else Status.ABSENT,
    )  # fmt: skip
    assert got == list(range(len(got)))
    assert 30 < len(got) < 90
    early = look(cut, end_seconds=0.8)
    assert early.visual == Status.OK
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
        assert (clip.visual, len(indices(clip))) == (status, 80)


def test_damage_beyond_what_was_asked_does_not_matter(tmp_path, plain):
    """A cap on seconds must not turn a clip that is fine so far into a partial one."""
    data = bytearray(media.write(tmp_path / "l.ts", range(0, 6000, 40), gop=10).read_bytes())
    data[-len(data) // 5 :] = bytes(len(data) // 5 + 1)[: len(data[-len(data) // 5 :])]
    (tmp_path / "l.ts").write_bytes(data)
    clip = look(tmp_path / "l.ts", end_seconds=2.0)
    assert clip.visual == Status.OK
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
    assert (clip.visual, clip.audio) == (status, status)
    assert clip.visual_detail
    assert "\n" not in clip.visual_detail


def test_missing_and_irregular_files(tmp_path):
    assert look(tmp_path / "none.mp4").visual == Status.MISSING
    assert look(tmp_path).visual in (Status.REFUSED, Status.UNREADABLE)
    os.mkfifo(tmp_path / "pipe.mp4")
    assert look(tmp_path / "pipe.mp4").visual == Status.REFUSED


def test_caps(plain, monkeypatch):
    monkeypatch.setattr(probe, "MAX_PIXELS", 1000)
    assert look(plain).visual == Status.REFUSED
    monkeypatch.undo()
    monkeypatch.setattr(probe, "MAX_FILE_BYTES", 1000)
    assert look(plain).visual == Status.REFUSED
    monkeypatch.undo()
    monkeypatch.setattr(pictures, "MAX_CLIP_BYTES", 100_000)
    assert (look(plain).visual, look(plain).audio) == (Status.REFUSED, Status.OK)


def test_a_header_of_days_is_refused(tmp_path, plain, monkeypatch):
    monkeypatch.setattr(probe, "MAX_SECONDS", 1.0)
    clip = look(plain)
    assert clip.visual == Status.REFUSED
    assert "the header says 2 s" in clip.visual_detail


def test_frames_larger_than_the_header_says_are_not_decoded(tmp_path, monkeypatch):
    """The container says 64 x 48, the stream itself 128 x 96."""
    path = media.write(tmp_path / "x.mkv", EVERY_40_MS)
    data = bytearray(path.read_bytes())
    for element, value in ((b"\xb0", 128), (b"\xba", 96)):  # PixelWidth, PixelHeight
        at = data.index(element + b"\x81" + bytes([value]))
        data[at + 2] = value // 2
    path.write_bytes(data)
    monkeypatch.setattr(probe, "MAX_PIXELS", 64 * 48)
    assert look(path).visual == Status.REFUSED


def test_encrypted_streams_are_said_to_be(tmp_path):
    key = "00112233445566778899aabbccddeeff"
    path = media.write(
        tmp_path / "e.mp4", EVERY_40_MS, sound=media.tone(2.0),
        muxer={"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key},
    )  # fmt: skip
    clip = look(path)
    assert (clip.visual, clip.audio) == (Status.DECODE_ERROR, Status.DECODE_ERROR)
    assert (clip.visual_detail, clip.audio_detail) == (
        "the video is encrypted", "the audio is encrypted",
    )  # fmt: skip


def test_what_is_cut_off_or_padded_is_told(tmp_path):
    long = media.write(
        tmp_path / "l.mp4", range(0, 3000, 40), sound=media.tone(2.2), sound_start=0.8
    )
    clip = look(long, limit_seconds=1.5)
    assert (clip.visual, len(indices(clip))) == (Status.OK, 38)
    assert "the first 1.5 of 3.0 s" in clip.visual_detail
    assert "the first 1.5 of 3.0 s" in clip.audio_detail
    assert "silence up to second 0.78" in clip.audio_detail
    assert "first" not in look(long, limit_seconds=2.7).visual_detail  # within the tolerance
    assert "first" not in look(long, end_seconds=1.0, limit_seconds=1.5).visual_detail


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
    assert "HDR (PQ) without tone mapping" in look(path).visual_detail


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
        assert look(path).frames[4096].pixels.shape[1:3] == wanted


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
    assert (look(path).visual, look(path).audio) == (Status.ABSENT, Status.OK)


def test_the_digest_is_that_of_the_file(plain):
    import hashlib

    assert look(plain).sha256 == hashlib.sha256(plain.read_bytes()).digest()


def test_value_objects_refuse_to_be_born_wrong():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="never fall"):
        Frames(pixels=pixels, seconds=np.array([1.0, 0.5]))
    with pytest.raises(ValueError, match="times"):
        Frames(pixels=pixels[:0], seconds=np.zeros(0))
    with pytest.raises(ValueError, match="no sound"):
        Sound(samples=np.zeros(0, np.float32), rate=16_000)
    with pytest.raises(ValueError, match="piece"):
        Request(path=Path("x"), start_seconds=2.0, end_seconds=1.0)
