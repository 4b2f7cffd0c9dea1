"""Which frames come out of a file, when, and how they look."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from extract.media import stretches, timeline
from extract.media.clip import Frames, Request, Sound
from extract.media.decode import decode
from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract.looking import EVERY_40_MS, indices, look, onset_seconds, tracks


def test_every_frame_is_the_right_one_at_the_right_time(plain):
    clip = look(plain)
    assert (clip.visual.status, clip.audio.status) == (Status.OK, Status.OK)
    assert indices(clip) == list(range(50))
    assert clip.visual.data[4096].seconds == pytest.approx(np.arange(50) * 0.04, abs=1e-6)


@pytest.mark.parametrize(
    "wanted", [[0], [49], [19, 20], [21], [5, 5, 5, 33], list(range(0, 50, 7))]
)
def test_a_sparse_pick_gives_the_same_pixels_as_decoding_everything(plain, wanted):
    dense, sparse = look(plain), look(plain, pick=lambda _: np.array(wanted))
    np.testing.assert_array_equal(
        sparse.visual.data[4096].pixels, dense.visual.data[4096].pixels[np.array(wanted)]
    )
    assert indices(sparse) == wanted


def test_only_stretches_with_wanted_frames_are_decoded(plain):
    video, _ = tracks(plain)
    shown = timeline.timeline(video)
    spans = stretches.stretches(video, shown, [shown.at[shown.timestamps[k]] for k in (2, 45)])
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
    assert clip.visual.data[4096].seconds == pytest.approx([times[i] / 1000 for i in indices(clip)])


def test_key_frames_and_shots_are_found_in_the_file(tmp_path):
    """Three shots of 20, 10 and 20 frames, told apart by their background; a key frame every 15."""
    level = [40] * 20 + [120] * 10 + [200] * 20
    pixels = [np.clip(media.picture(k) // 8 + level[k], 0, 255).astype("u1") for k in range(50)]
    path = media.write(tmp_path / "s.mp4", EVERY_40_MS, pictures=pixels, gop=15)
    looked = {
        name: look(path, pick=Sampling(sample=name)).visual.data[4096].seconds / 0.04
        for name in ("keyframes", "shots")
    }
    assert looked["keyframes"] == pytest.approx([0, 15, 30, 45])
    assert looked["shots"] == pytest.approx([10, 25, 40])


@pytest.mark.parametrize("name", ["cut.mp4", "cut.mov"])
def test_preroll_of_a_stream_copied_cut_is_not_shown(tmp_path, plain, name):
    cut = media.copy_cut(plain, tmp_path / name, 1.0)
    clip = look(cut)
    assert indices(clip) == list(range(25, 50))
    assert clip.visual.data[4096].seconds == pytest.approx(np.arange(25) * 0.04, abs=0.03)
    flash = clip.visual.data[4096].seconds[indices(clip).index(30)]  # shown at 1.2 s of the whole
    assert onset_seconds(clip.audio.data[16_000]) == pytest.approx(flash, abs=0.003)
    video, _ = tracks(cut)
    assert len(video.packets) == 30  # five of them are pre-roll
    assert len(timeline.timeline(video).timestamps) == 25
    for k in (0, 7, 24):
        assert indices(look(cut, pick=lambda _, k=k: np.array([k]))) == [25 + k]


def test_a_cut_between_frames_begins_with_the_next_one(tmp_path, plain):
    clip = look(media.copy_cut(plain, tmp_path / "cut.mp4", 1.013))
    assert clip.visual.status == Status.OK
    assert indices(clip) == list(range(indices(clip)[0], 50))
    assert indices(clip)[0] in (25, 26)  # 25 is on screen when the cut begins
    assert clip.visual.data[4096].seconds[0] < 0.04


def test_leading_pictures_of_a_file_that_begins_with_an_open_group_are_not_shown(tmp_path):
    path = open_groups(tmp_path / "open.mkv")
    with av.open(str(path)) as container:
        keys = [k for k, p in enumerate(container.demux(video=0)) if p.size and p.is_keyframe]
    clip = look(media.drop_head(path, tmp_path / "tail.mkv", keys[1]))
    shown = indices(clip)
    assert clip.visual.status == Status.OK
    assert shown == list(range(shown[0], 50))
    whole = look(path).visual.data[4096].pixels[shown[0] :]
    np.testing.assert_array_equal(clip.visual.data[4096].pixels, whole)


def test_frames_whose_key_frame_is_missing_are_not_shown(tmp_path, plain):
    clip = look(media.drop_head(plain, tmp_path / "headless.mkv", 6))
    assert indices(clip) == list(range(20, 50))
    assert clip.visual.data[4096].seconds[0] >= 0


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_avi_has_no_presentation_times_and_is_counted(tmp_path, codec):
    options = {"bf": "2"} if codec == "mpeg4" else {}
    path = media.write(tmp_path / "old.avi", EVERY_40_MS, codec=codec, options=options)
    clip = look(path)
    assert indices(clip) == list(range(50))
    assert np.diff(clip.visual.data[4096].seconds) == pytest.approx(0.04, abs=1e-6)
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
    assert clip.visual.status == Status.OK
    assert indices(clip) == list(range(25))


def test_rotation_is_applied(tmp_path):
    sideways = [np.rot90(media.picture(k, 128, 96), 1) for k in range(25)]
    path = media.write(tmp_path / "r.mp4", range(0, 1000, 40), pictures=sideways, size=(96, 128))
    assert look(path).visual.data[4096].pixels.shape[1:3] == (128, 96)
    clip = look(media.turn(path, 0, 1, -1, 0), side=48)
    assert clip.visual.data[48].pixels.shape == (25, 48, 64, 3)
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
    shown = look(media.turn(path, a, b, c, d)).visual.data[4096].pixels[0].mean(axis=2)
    x, y = way @ [-1, -1]
    height, width = shown.shape
    assert (height, width) == ((96, 128) if turns % 2 == 0 else (128, 96))
    corner = shown[12 if y < 0 else height - 12, 12 if x < 0 else width - 12]
    assert corner > 200
    assert (shown > 128).mean() == pytest.approx(1 / 16, abs=0.01)


def test_a_broken_display_matrix_changes_nothing(tmp_path):
    path = media.write(tmp_path / "m.mp4", [0, 40])
    for matrix in ((1, 1, -1, 1), (0, 0, 0, 0), (2, 1, 1, 2), (1, 3, -3, 1)):
        assert look(media.turn(path, *matrix)).visual.data[4096].pixels.shape == (2, 96, 128, 3)


def test_scaling_keeps_the_aspect_and_never_enlarges(plain):
    clip = decode(Request(path=plain, pick=Sampling(frames=2), short_sides=(48, 96, 500)))
    assert {s: f.pixels.shape[1:3] for s, f in clip.visual.data.items()} == {
        48: (48, 64),
        96: (96, 128),
        500: (96, 128),
    }
    assert indices(clip, 48) == indices(clip, 500)


def test_pixels_that_are_not_square_are_made_so(tmp_path):
    path = media.write(tmp_path / "sar.mp4", range(0, 400, 40), sample_aspect=Fraction(3, 2))
    assert look(path).visual.data[4096].pixels.shape[1:3] == (96, 192)


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
    got = look(path).visual.data[4096].pixels[0, 30, 30].astype(int)
    assert got == pytest.approx([204, 51, 25.5], abs=3)


@pytest.mark.parametrize("size", [(48, 64), (66, 50), (128, 96)])
def test_odd_sizes(tmp_path, size):
    path = media.write(tmp_path / "s.mp4", range(0, 400, 40), size=size)
    assert look(path).visual.data[4096].pixels.shape == (10, size[1], size[0], 3)
    assert indices(look(path)) == list(range(10))


def test_one_frame_is_enough(tmp_path):
    clip = look(media.write(tmp_path / "one.mp4", [0]), pick=Sampling(fps=1.0))
    assert clip.visual.status == Status.OK
    assert len(clip.visual.data[4096].pixels) == 1


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
