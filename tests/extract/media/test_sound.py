"""Sound: where it lies on the clock, what becomes of its channels."""

import numpy as np
import pytest

from extract.media import sound
from store import Status
from tests.extract import media_files as media
from tests.extract.looking import EVERY_40_MS, look, onset_seconds


def test_the_click_sounds_when_the_flash_shows(tmp_path):
    """The flash and the click are at 1.2 s of one clock, whatever starts first."""
    dark, bright = np.zeros((96, 128, 3), "u1"), np.full((96, 128, 3), 255, "u1")
    flash = [bright if ms == 1200 else dark for ms in EVERY_40_MS]
    for name in ("both.mp4", "both.mkv", "both.ts"):
        path = media.write(
            tmp_path / name, EVERY_40_MS, pictures=flash, sound=media.click(2.0, 1.2)
        )
        clip = look(path, rates=(16_000, 32_000))
        shown = [p.mean() > 128 for p in clip.visual.data[4096].pixels].index(True)
        for rate in (16_000, 32_000):
            assert onset_seconds(clip.audio.data[rate]) == pytest.approx(
                clip.visual.data[4096].seconds[shown], abs=0.003
            ), name


def test_late_sound_is_padded_to_its_place(tmp_path):
    late = media.write(
        tmp_path / "late.mp4", EVERY_40_MS, sound=media.click(1.0, 0.2), sound_start=0.8
    )
    sound_ = look(late).audio.data[16_000]
    assert onset_seconds(sound_) == pytest.approx(1.0, abs=0.003)
    assert len(sound_.samples) / 16_000 == pytest.approx(1.8, abs=0.03)


def test_sound_that_begins_after_the_piece_is_none(tmp_path):
    path = media.write(
        tmp_path / "l.mp4", range(0, 4000, 40), sound=media.tone(1.0), sound_start=3.0
    )
    assert look(path, limit_seconds=2.0).audio.status == Status.EMPTY
    assert look(path, limit_seconds=3.5).audio.status == Status.OK


def test_frames_that_start_late_keep_their_time(tmp_path):
    path = media.write(tmp_path / "v.mp4", range(500, 1500, 40), sound=media.click(2.0, 1.0))
    clip = look(path)
    assert clip.visual.data[4096].seconds[0] == pytest.approx(0.5, abs=0.002)
    assert onset_seconds(clip.audio.data[16_000]) == pytest.approx(1.0, abs=0.003)


def test_the_clock_does_not_depend_on_what_is_asked(tmp_path):
    path = media.write(tmp_path / "v.mp4", range(500, 1500, 40), sound=media.click(2.0, 1.0))
    alone = look(path, side=64, rates=())
    assert alone.visual.data[64].seconds[0] == pytest.approx(0.5, abs=0.002)
    assert (alone.visual.status, alone.audio.status) == (Status.OK, Status.ABSENT)


def test_missing_modalities_are_data(tmp_path):
    mute = look(media.write(tmp_path / "mute.mp4", EVERY_40_MS))
    assert (mute.visual.status, mute.audio.status, mute.audio.data) == (
        Status.OK,
        Status.ABSENT,
        {},
    )
    blind = look(media.write(tmp_path / "blind.m4a", sound=media.tone(1.0)))
    assert (blind.visual.status, blind.audio.status, blind.visual.data) == (
        Status.ABSENT,
        Status.OK,
        {},
    )


def test_digital_silence_is_sound(tmp_path):
    path = media.write(tmp_path / "s.mp4", EVERY_40_MS, sound=np.zeros((1, 88_200), "f4"))
    assert look(path).audio.status == Status.OK


@pytest.mark.parametrize(
    ("codec", "name"), [("pcm_s16le", "a.wav"), ("flac", "a.flac"), ("libopus", "a.ogg")]
)
def test_sound_files(tmp_path, codec, name):
    path = media.write(
        tmp_path / name, sound=media.tone(1.0, 48_000), rate=48_000, audio_codec=codec
    )
    clip = look(path, rates=(48_000,))
    assert clip.audio.status == Status.OK
    assert np.sqrt(np.mean(clip.audio.data[48_000].samples ** 2)) == pytest.approx(
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
    assert np.abs(look(path).audio.data[16_000].samples).max() == pytest.approx(0.3, rel=0.05)


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
