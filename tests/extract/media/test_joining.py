"""Parts of a joined file: under other numbers, without one of the streams, short, in any container.

Each part says by its frames which one it is, and clicks half a second after it begins.
"""

from fractions import Fraction

import av
import numpy as np
import pytest

from extract.media.decode import Decoder
from extract.media.outline import outlined
from extract.media.pids import begins_late, pid_spans
from extract.media.sampling import Sampling
from store import Status
from tests.extract import media_files as media
from tests.extract import odd_files as odd
from tests.extract.looking import indices, look
from tests.extract.media.test_time import clicks

OTHER = {"mpegts_start_pid": "512"}
NUMBERS = {
    "streams": OTHER,
    "streams and table": OTHER | {"mpegts_pmt_start_pid": "4352"},
    "programme too": OTHER | {"mpegts_pmt_start_pid": "4352", "mpegts_service_id": "7"},
}


def part(path, first, *, frames=25, sound=True, **more):
    """Frames from number `first` on, 25 a second."""
    return media.write(
        path, range(0, 40 * frames, 40), gop=10,
        pictures=[media.picture(first + k, *more.get("size", (128, 96))) for k in range(frames)],
        sound=media.click(0.04 * frames, 0.5) if sound else None, **more,
    )  # fmt: skip


def numbers(*firsts, frames=25):
    return [first + k for first in firsts for k in range(frames)]


@pytest.mark.parametrize("how", NUMBERS)
@pytest.mark.parametrize("bytes_a_packet", [188, 192])
def test_a_part_under_other_numbers_follows(tmp_path, how, bytes_a_packet):
    made = [part(tmp_path / f"{k}.ts", k, muxer=m) for k, m in ((0, {}), (100, NUMBERS[how]))]
    path = odd.concatenated(tmp_path / "x.ts", *made)
    data = path.read_bytes()
    stamp = bytes(bytes_a_packet - 188)
    path.write_bytes(b"".join(stamp + data[k : k + 188] for k in range(0, len(data), 188)))
    clip = look(path)
    assert clip.audio.status == Status.OK
    assert clip.visual.status == Status.OK or "cut short" in clip.visual.detail
    assert indices(clip) == numbers(0, 100)
    assert np.diff(clicks(clip)) == pytest.approx(1.04, abs=0.01)
    for stream in (clip.visual, clip.audio):
        assert "the stream changes (PID" in stream.detail
        assert "time begins anew at second 1.04: joined" in stream.detail
    assert indices(look(path, start_seconds=1.51, end_seconds=1.7)) == list(range(111, 116))
    sparse = look(path, pick=Sampling(fps=4.0))
    seconds = clip.visual.data[4096].seconds
    expected = [indices(clip)[int(np.abs(seconds - s).argmin())]
                for s in sparse.visual.data[4096].seconds]  # fmt: skip
    assert indices(sparse) == expected


def test_numbers_may_change_while_time_goes_on(tmp_path):
    later = part(tmp_path / "b.ts", 100, muxer=OTHER | {"output_ts_offset": "3"})
    clip = look(odd.concatenated(tmp_path / "x.ts", part(tmp_path / "a.ts", 0), later))
    assert indices(clip) == numbers(0, 100)
    assert "the stream changes" in clip.visual.detail
    assert "begins anew" not in clip.visual.detail
    assert "no picture from second" in clip.visual.detail
    assert np.diff(clicks(clip)) == pytest.approx(3.0, abs=0.1)


def test_the_larger_part_may_be_any(tmp_path):
    """The best stream is the one to decode, and what was before it goes with it."""
    made = [part(tmp_path / "a.ts", 0), part(tmp_path / "b.ts", 100, size=(256, 96), muxer=OTHER)]
    for order in (made, made[::-1]):
        clip = look(odd.concatenated(tmp_path / "x.ts", *order))
        assert len(indices(clip)) == 50
        assert len(clicks(clip)) == 2


def test_a_part_in_another_codec_is_told(tmp_path):
    made = [
        part(tmp_path / "a.ts", 0),
        part(tmp_path / "b.ts", 100, codec="mpeg2video", tick=Fraction(1, 25), muxer=OTHER),
    ]
    clip = look(odd.concatenated(tmp_path / "x.ts", *made))
    assert clip.visual.status == Status.PARTIAL
    assert "another codec and is not read (PID 512: mpeg2video)" in clip.visual.detail
    assert clip.audio.status == Status.OK
    assert len(clicks(clip)) == 2


def test_streams_side_by_side_are_no_parts(tmp_path):
    path = tmp_path / "x.ts"
    source = part(tmp_path / "a.ts", 0)
    with av.open(str(source)) as inp, av.open(str(path), "w") as out:
        streams = [[out.add_stream_from_template(s) for _ in range(2)] for s in inp.streams]
        for packet in inp.demux():
            if packet.size:
                for stream in streams[packet.stream_index]:
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts = packet.pts, packet.dts
                    again.time_base, again.stream = packet.time_base, stream
                    again.is_keyframe = packet.is_keyframe
                    out.mux(again)
    clip = look(path)
    assert indices(clip) == numbers(0)
    assert len(clicks(clip)) == 1
    assert "changes" not in clip.visual.detail + clip.audio.detail


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_part_without_sound_leaves_the_sound_of_others_where_it_is(tmp_path, silent):
    made = [part(tmp_path / f"{k}.ts", 50 * k, sound=k != silent) for k in range(3)]
    clip = look(odd.concatenated(tmp_path / "x.ts", *made))
    assert indices(clip) == numbers(0, 50, 100)
    seconds = clip.visual.data[4096].seconds
    flashes = [seconds[25 * k] + 0.52 for k in range(3) if k != silent]
    assert clicks(clip) == pytest.approx(flashes, abs=0.06)


@pytest.mark.parametrize("frames", [5, 10])
def test_short_parts_follow_too(tmp_path, frames):
    made = [part(tmp_path / f"{k}.ts", k, frames=frames) for k in (0, 50, 100)]
    clip = look(odd.concatenated(tmp_path / "x.ts", *made))
    assert indices(clip) == numbers(0, 50, 100, frames=frames)
    assert np.all(np.diff(clip.visual.data[4096].seconds) > 0.03)
    assert clip.visual.detail.count("begins anew") == 1


def boxes(data):
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at : at + size]
        at += size


def fragments(folder, *more, **settings):
    """An mp4 in fragments behind which those of a second one stand, whose time begins at 0."""
    flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    first, second = (part(folder / f"{k}.mp4", k, muxer=flags, **settings) for k in (0, 100))
    kept = [b for kind, b in boxes(first.read_bytes()) if kind != b"mfra"]
    kept += [b for kind, b in boxes(second.read_bytes()) if kind in (b"moof", b"mdat")]
    (folder / "x.mp4").write_bytes(b"".join(kept))
    return folder / "x.mp4"


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_fragments_whose_time_begins_anew_are_all_shown(tmp_path, decoder):
    clip = look(fragments(tmp_path), decoder=decoder)
    assert (clip.visual.status, clip.audio.status) == (Status.OK, Status.OK)
    assert indices(clip) == numbers(0, 100)
    assert "begins anew" in clip.visual.detail
    assert len(clicks(clip)) == 2


def clock_set_back(path, since_ms, to_ms):
    """A Matroska file whose clusters are timed anew from one on; its index knows nothing of it."""
    data = bytearray(path.read_bytes())
    at = data.index(b"\x1f\x43\xb6\x75")
    while at > 0:
        begin = at + 4 + (9 - data[at + 4].bit_length())
        begin += 6 * (data[begin] == 0xBF)  # a checksum, which nobody asks
        stamp = slice(begin + 2, begin + 2 + (data[begin + 1] & 127))
        time = int.from_bytes(data[stamp], "big")
        time -= (since_ms - to_ms) * (time >= since_ms)
        data[stamp] = time.to_bytes(stamp.stop - stamp.start, "big")
        at = data.find(b"\x1f\x43\xb6\x75", begin)
    path.write_bytes(data)
    return path


def slow(path, seconds=12, **more):
    """Five frames a second, stored far out of order."""
    return media.write(
        path, range(0, 1000 * seconds, 200), gop=20, options={"bf": "4", "b-pyramid": "normal"},
        pictures=[media.picture(k) for k in range(5 * seconds)],
        sound=media.click(seconds, 0.5) + media.click(seconds, seconds - 5.5), **more,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["fragments", "clusters", "segments"])
def test_a_piece_behind_a_restart_is_that_of_the_whole(tmp_path, kind):
    if kind == "fragments":
        path = fragments(tmp_path, frames=150)
    elif kind == "clusters":
        path = clock_set_back(slow(tmp_path / "x.mkv", 40), 20_000, 5000)
    else:
        path = odd.concatenated(tmp_path / "x.mkv", *2 * [slow(tmp_path / "a.mkv")])
    whole = look(path)
    assert whole.visual.status == Status.OK
    assert "begins anew" in whole.visual.detail
    count = {"fragments": 300, "clusters": 200, "segments": 120}[kind]
    assert len(indices(whole)) == count
    seconds, heard = whole.visual.data[4096].seconds, clicks(whole)
    decoder = Decoder()
    starts = {"fragments": (3.1, 6.2, 8.3, 11.0), "clusters": (10.0, 18.0, 24.1, 34.2, 38.0),
              "segments": (3.1, 11.0, 12.0, 18.3, 20.2)}  # fmt: skip
    for start in starts[kind]:
        piece = look(path, start_seconds=start, end_seconds=start + 1.0, decode_with=decoder)
        shown = np.searchsorted(seconds, start, side="right") - 1
        expected = np.array(indices(whole))[shown : np.searchsorted(seconds, start + 1.0)]
        assert indices(piece) == expected.tolist(), start
        inside = [t - start for t in heard if start <= t < start + 1.0]
        assert clicks(piece) == pytest.approx(inside, abs=0.05)


@pytest.mark.parametrize(
    ("name", "count", "read"),
    [("x.flv", 2, 1), ("x.avi", 2, 2), ("x.mkv", 2, 2), ("x.mkv", 3, 2), ("x.webm", 3, 2)],
)
def test_a_further_file_is_told_or_read(tmp_path, name, count, read):
    kinds = {
        "avi": {"audio_codec": "pcm_s16le", "codec": "mpeg4"},
        "webm": {"audio_codec": "libopus", "codec": "libvpx", "rate": 48_000},
    }.get(name[2:], {})
    made = [part(tmp_path / f"{k}-{name}", 50 * k, **kinds) for k in range(count)]
    clip = look(odd.concatenated(tmp_path / name, *made))
    for stream in (clip.visual, clip.audio):
        assert stream.status == (Status.OK if read == count else Status.PARTIAL)
        assert "another file follows in this one" in stream.detail
    assert indices(clip) == numbers(*(50 * k for k in range(read)))
    assert len(clicks(clip)) == read
    assert "follows" not in look(made[0]).visual.detail


def seen(reader, folder, data):
    """What a reader says of a file with that content."""
    (folder / "seen").write_bytes(data)
    with (folder / "seen").open("rb") as file:
        return reader(file, len(data))


def transport(packets, step=188, lead=0):
    """Transport packets with these PIDs."""
    return b"".join(
        (bytes(lead) + b"\x47" + pid.to_bytes(2, "big")).ljust(step, b"\xff") for pid in packets
    )


@pytest.mark.parametrize(("step", "lead"), [(188, 0), (192, 4), (204, 0)])
def test_spans_of_numbers(tmp_path, step, lead):
    data = transport([0, 256, 257] * 4 + [256] * 4 + [300] * 9, step, lead)
    cut = data[: 16 * step] + b"junk" * 7 + data[16 * step :]
    for given, shift in ((data, 0), (cut, 28)):
        spans = seen(pid_spans, tmp_path, given)
        assert spans[0] == (lead, 9 * step + lead)
        assert spans[256] == (step + lead, 15 * step + lead)
        assert spans[300] == (16 * step + lead + shift, 24 * step + lead + shift)
        assert begins_late(spans) == spans[300][0]
    assert begins_late(seen(pid_spans, tmp_path, data[: 12 * step])) == 0
    assert seen(pid_spans, tmp_path, np.random.default_rng(0).bytes(100_000)) == {}


def test_whether_time_only_rises_is_seen_from_outside(tmp_path):
    one, two = (slow(tmp_path / f"{k}.mkv", muxer=more)
                for k, more in enumerate(({}, {"live": "1"})))  # fmt: skip
    joined = odd.concatenated(tmp_path / "x.mkv", one, one)
    endless = tmp_path / "y.mkv"
    data = bytearray(one.read_bytes())
    at = data.index(b"\x1f\x43\xb6\x75") + 4
    width = 9 - data[at].bit_length()
    data[at : at + width] = (
        b"\xff" if width == 1 else bytes([(2 << 8 - width) - 1]) + b"\xff" * (width - 1)
    )
    endless.write_bytes(data)
    given = [path.read_bytes() for path in (one, two, joined, endless)]
    steady = [seen(outlined, tmp_path, data).steady for data in given]
    assert steady == [True, True, False, False]
