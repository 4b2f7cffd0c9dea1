"""Time stamps that begin anew, jump or repeat, and frames that stand for long."""

from fractions import Fraction

import av
import numpy as np
import pytest

from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract import odd_files as odd
from tests.extract.looking import EVERY_40_MS, indices, look


def parts(folder, name, sound=True, **more):
    """Two files that follow one another: 1 s each, a click at .5 s, frames 0 to 24, 100 to 124."""
    made = []
    for k in (0, 100):
        pictures = [media.picture(k + j) for j in range(25)]
        made.append(
            media.write(
                folder / f"{k}-{name}",
                range(0, 1000, 40),
                pictures=pictures,
                gop=10,
                sound=media.click(1.0, 0.5) if sound else None,
                **more,
            )
        )
    return made


def clicks(clip):
    """Seconds at which the sound becomes loud."""
    loud = np.abs(clip.audio.data[16_000].samples) > 0.2
    at = np.flatnonzero(loud) / 16_000
    return at[np.diff(at, prepend=-1) > 0.1]


@pytest.mark.parametrize("sound", [True, False])
def test_joined_files_follow_one_another(tmp_path, sound):
    path = odd.concatenated(tmp_path / "both.ts", *parts(tmp_path, "x.ts", sound))
    clip = look(path)
    assert clip.visual.status in (Status.OK, Status.PARTIAL)
    assert "time begins anew at second 1.0" in clip.visual.detail
    got = indices(clip)
    assert (got[:25], got[-24:]) == (list(range(25)), list(range(101, 125)))
    seconds = clip.visual.data[4096].seconds
    assert np.all(np.diff(seconds) > 0.01)
    assert seconds[-1] == pytest.approx(2.0, abs=0.1)
    if sound:
        assert "time begins anew" in clip.audio.detail
        first, second = clicks(clip)
        assert first == pytest.approx(0.5, abs=0.05)
        flash = seconds[got.index(113)]  # shown .52 s into the second part
        assert second == pytest.approx(flash - 0.02, abs=0.05)
    assert indices(look(path, end_seconds=0.7))[:17] == list(range(17))


@pytest.mark.parametrize(("name", "codec"), [("x.ogg", "libopus"), ("x.ogg", "flac")])
def test_chained_sound_is_heard_in_full(tmp_path, name, codec):
    made = [
        media.write(
            tmp_path / f"{k}{name}", sound=media.tone(1.0, 48_000, hz), rate=48_000,
            audio_codec=codec,
        )
        for k, hz in enumerate((500.0, 2000.0))
    ]  # fmt: skip
    clip = look(odd.concatenated(tmp_path / name, *made), rates=(48_000,))
    samples = clip.audio.data[48_000].samples
    assert clip.audio.status == Status.OK
    assert "time begins anew" in clip.audio.detail or codec == "flac"  # which goes on by itself
    assert len(samples) / 48_000 == pytest.approx(2.0, abs=0.03)
    for piece, hz in ((samples[10_000:34_000], 500), (samples[62_000:86_000], 2000)):
        assert np.abs(np.fft.rfft(piece)).argmax() * 2 == pytest.approx(hz, abs=4)


def test_a_file_in_a_file_is_told(tmp_path):
    for name in ("x.mp4", "x.wav"):
        sound = {"audio_codec": "pcm_s16le"} if name.endswith("wav") else {}
        times = () if sound else EVERY_40_MS
        part = media.write(tmp_path / name, times, sound=media.tone(2.0), **sound)
        clip = look(odd.concatenated(tmp_path / f"two-{name}", part, part))
        assert clip.audio.status == Status.PARTIAL
        assert "another file follows" in clip.audio.detail
        assert look(part).audio.status == Status.OK


def jumping(path, *, tail_at=20_000):
    """Fifty frames, the second half of them much later; TS says nothing of how long they last."""
    times = [*range(0, 1000, 40), *range(tail_at, tail_at + 1000, 40)]
    return media.write(path, times, gop=25)


def test_a_frame_does_not_stand_for_what_is_missing(tmp_path):
    clip = look(jumping(tmp_path / "x.ts"), pick=Sampling(fps=1.0))
    assert clip.visual.data[4096].seconds == pytest.approx([0.48, 0.96, 20.48], abs=0.05)
    assert "no picture from second 1.96 to 20.00" in clip.visual.detail
    spread = look(jumping(tmp_path / "y.ts"), pick=Sampling(frames=8))
    assert 1 <= len(indices(spread)) < 8


def test_a_frame_that_says_that_it_lasts_does(tmp_path):
    clip = look(jumping(tmp_path / "x.mp4"), pick=Sampling(fps=1.0))
    assert len(indices(clip)) == 21
    assert "no picture" not in clip.visual.detail


def test_slides_stand_as_long_as_slides_do(tmp_path):
    path = media.write(tmp_path / "x.ts", range(0, 20_000, 4000))
    assert indices(look(path, pick=Sampling(fps=0.5))) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv"])
def test_the_last_frame_lasts_as_long_as_the_file_says(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        packets = []
        for k in range(25):
            frame = av.VideoFrame.from_ndarray(media.picture(k), "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        last = max(packets, key=lambda p: p.pts)
        for packet in packets:
            packet.duration = 1 if packet is not last else 100
            out.mux(packet)
    clip = look(path, pick=Sampling(fps=1.0))
    assert indices(clip) == [12, 24, 24, 24, 24]


def test_frames_that_claim_one_moment_are_told(tmp_path):
    source = media.write(tmp_path / "s.mkv", EVERY_40_MS, options={"bf": "0"})
    with av.open(str(source)) as inp, av.open(str(tmp_path / "x.mkv"), "w") as out:
        stream = out.add_stream_from_template(inp.streams.video[0])
        for k, packet in enumerate(p for p in inp.demux(video=0) if p.size):
            packet.pts = packet.dts = 40 * (k - (k == 30))
            packet.stream = stream
            out.mux(packet)
    clip = look(tmp_path / "x.mkv")
    assert clip.visual.status == Status.PARTIAL
    assert "1 frames have the time stamp of another" in clip.visual.detail


def test_a_guessed_length_is_no_fact(tmp_path):
    """An mp3 whose first frames have fewer bits than the rest, without a header that counts."""
    parts = []
    for k, rate in enumerate((32_000, 192_000)):
        with av.open(str(tmp_path / f"{k}.mp3"), "w", options={"write_xing": "0"}) as out:
            stream = out.add_stream("libmp3lame", rate=44_100)
            stream.bit_rate = rate
            stream.codec_context.layout = "mono"
            frame = av.AudioFrame.from_ndarray(media.tone(2.0 + 4 * k), "fltp", "mono")
            frame.sample_rate, frame.pts = 44_100, 0
            pieces = av.AudioResampler("fltp", "mono", 44_100, 1152)
            for piece in [*pieces.resample(frame), *pieces.resample(None)]:
                out.mux(stream.encode(piece))
            out.mux(stream.encode(None))
        data = (tmp_path / f"{k}.mp3").read_bytes()
        parts.append(data[data.index(b"\xff\xfb") :])
    path = tmp_path / "x.mp3"
    path.write_bytes(b"".join(parts))
    clip = look(path, limit_seconds=9.0)
    assert len(clip.audio.data[16_000].samples) / 16_000 == pytest.approx(8.1, abs=0.2)
    assert "first" not in clip.audio.detail
    assert "the first 3 s of more" in look(path, limit_seconds=3.0).audio.detail


@pytest.mark.parametrize("noisy", [True, False])
def test_frames_without_time_stamps_are_spread_evenly(tmp_path, noisy):
    """H.264 in a programme stream, which gives a time to one frame a packet only."""
    pictures = media.noisy(50) if noisy else None
    path = media.write(
        tmp_path / "x.mpg", EVERY_40_MS, gop=10, options={"bf": "2"}, tick=Fraction(1, 25),
        pictures=pictures,
    )  # fmt: skip
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        assert any(p.pts is None and p.dts is None for p in packets)
    with av.open(str(path)) as container:
        shown = [f.to_ndarray(format="gray") for f in container.decode(video=0)]
    clip = look(path)
    frames = clip.visual.data[4096]
    assert clip.visual.status == Status.OK
    assert frames.seconds == pytest.approx([0.04 * k for k in range(50)], abs=1e-3)
    assert "frames have no time stamp: times are spread evenly" in clip.visual.detail
    apart = [np.abs(a.mean(axis=2) - b).mean() for a, b in zip(frames.pixels, shown, strict=True)]
    assert max(apart) < 20
    sparse = look(path, pick=Sampling(fps=2.0)).visual.data[4096]
    picked = np.rint(sparse.seconds / 0.04).astype(int)
    np.testing.assert_array_equal(sparse.pixels, frames.pixels[picked])
