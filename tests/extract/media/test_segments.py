"""Pieces of one file: the same frames and sound however they are reached."""

import av
import numpy as np
import pytest

from extract.media import packets, probe
from extract.media.decode import Decoder
from store import Status
from tests.extract import media_files as media
from tests.extract.looking import EVERY_40_MS, indices, look, onset_seconds


def test_pieces(plain):
    clip = look(plain, start_seconds=1.0, end_seconds=1.4)
    assert indices(clip) == list(range(25, 35))
    assert clip.visual.data[4096].seconds[0] == 0.0
    assert onset_seconds(clip.audio.data[16_000]) == pytest.approx(0.2, abs=0.003)
    assert len(clip.audio.data[16_000].samples) == 6400


def test_a_piece_sounds_like_the_same_stretch_of_the_whole(tmp_path):
    path = media.write(tmp_path / "a.m4a", sound=media.tone(6.0))
    whole, piece = look(path), look(path, start_seconds=4.0, end_seconds=5.0)
    np.testing.assert_allclose(
        piece.audio.data[16_000].samples[100:-100],
        whole.audio.data[16_000].samples[64_100:79_900],
        atol=1e-3,
    )


def test_a_piece_beyond_the_end_is_empty(plain):
    clip = look(plain, start_seconds=7.0, end_seconds=9.0)
    assert (clip.visual.status, clip.audio.status) == (Status.EMPTY, Status.EMPTY)


def test_the_first_frame_of_a_piece_may_have_been_on_screen_before(tmp_path):
    path = media.write(tmp_path / "slow.mp4", range(0, 4000, 1000))
    clip = look(path, start_seconds=1.5, end_seconds=2.5)
    assert indices(clip) == [1, 2]
    assert clip.visual.data[4096].seconds == pytest.approx([0.0, 0.5])


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
    decoder = Decoder()
    sought = [look(path, start_seconds=a, end_seconds=b, decode_with=decoder) for a, b in pieces]
    monkeypatch.setattr(packets, "SEEKING", ("nothing",))
    for (a, b), piece in zip(pieces, sought, strict=True):
        front = look(path, start_seconds=a, end_seconds=b)
        assert (
            (piece.visual.status, piece.audio.status)
            == (front.visual.status, front.audio.status)
            == (Status.OK, Status.OK)
        )
        assert indices(piece) == indices(front)
        np.testing.assert_array_equal(
            piece.visual.data[4096].pixels, front.visual.data[4096].pixels
        )
        np.testing.assert_array_equal(
            piece.visual.data[4096].seconds, front.visual.data[4096].seconds
        )
        np.testing.assert_allclose(
            piece.audio.data[16_000].samples, front.audio.data[16_000].samples, atol=2e-3
        )
    flash = sought[0].visual.data[4096].seconds[indices(sought[0]).index(201)]
    assert onset_seconds(sought[0].audio.data[16_000]) == pytest.approx(flash, abs=0.003)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("before", [(-8.0, 2.0), (-8.0,)])
def test_a_seek_that_lands_too_late_is_not_believed(tmp_path, minute, monkeypatch, before, silent):
    if silent:
        minute = remuxed(minute, tmp_path / "silent.mp4", kinds=("video",))
    expected = look(minute, start_seconds=40.0, end_seconds=41.0)
    monkeypatch.setattr(packets, "BEFORE_SECONDS", before)
    again = look(minute, start_seconds=40.0, end_seconds=41.0)
    assert indices(again) == indices(expected) == list(range(200, 205))
    if not silent:
        np.testing.assert_array_equal(
            again.audio.data[16_000].samples, expected.audio.data[16_000].samples
        )


def test_pieces_of_one_file_share_one_open_and_read_little(minute, monkeypatch):
    opens, read = [], []
    keep = packets._Reading.keep
    monkeypatch.setattr(
        packets, "opened", lambda *given: opens.append(given) or probe.opened(*given)
    )
    monkeypatch.setattr(
        packets._Reading, "keep", lambda self, packet: read.append(packet) or keep(self, packet)
    )
    decoder = Decoder()
    for second in map(float, range(20, 60, 2)):
        clip = look(minute, start_seconds=second, end_seconds=second + 1.0, decode_with=decoder)
        assert indices(clip)[0] == round(5 * second) % 256
    assert len(opens) == 1
    with av.open(str(minute)) as container:
        total = sum(1 for p in container.demux() if p.size)
    assert len(read) / 20 < total / 4


def test_a_file_that_changed_is_opened_anew(tmp_path):
    path = media.write(tmp_path / "x.mp4", EVERY_40_MS)
    decoder = Decoder()
    first = look(path, decode_with=decoder)
    media.write(path, range(0, 400, 40))
    second = look(path, decode_with=decoder)
    assert first.sha256 != second.sha256
    assert len(indices(second)) == 10


def test_a_damaged_file_is_not_kept_open(tmp_path, plain):
    """Its decoders may be in any state."""
    decoder = Decoder()
    look(plain, decode_with=decoder)
    assert decoder.media is not None
    cut = media.cut_bytes(
        media.write(tmp_path / "s.mkv", EVERY_40_MS, pictures=media.noisy(50)),
        tmp_path / "cut.mkv",
        0.7,
    )
    assert look(cut, decode_with=decoder).visual.status == Status.PARTIAL
    assert decoder.media is None
