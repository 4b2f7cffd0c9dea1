"""decord against PyAV, always in decode processes: it must not be loaded where torch may be."""

import subprocess
import sys
from fractions import Fraction
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest

from extract.media import decord_reader, doubted
from extract.media.clip import Request
from extract.media.decode import decode, safely
from extract.media.frames import Plan, plan
from extract.media.packets import Media
from extract.media.probe import examined
from extract.media.samplers import Footage
from extract.media.sampling import Sampling
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import Sandbox
from store import Status
from tests.extract import media_files as media

pytestmark = pytest.mark.skipif(find_spec("decord") is None, reason="decord has no wheel here")
EVERY_40_MS = range(0, 2000, 40)
SIDE = 4096


def every(footage: Footage):
    return np.arange(len(footage.seconds))


def in_child(requests, function=decode, **options):
    sandbox = Sandbox(readable=tuple({request.path.parent for request in requests}))
    limits = Limits(deadline_seconds=60.0, sandbox=sandbox)
    outcomes = process_map(function, requests, workers=1, limits=limits, **options)
    return [outcome.value for outcome in outcomes]


def both(path, pick=every, side=SIDE):
    """The clip by decord where it may, and by PyAV."""
    asked = [
        Request(path=path, pick=pick, short_sides=(side,), decoder=decoder)
        for decoder in ("decord", "pyav")
    ]
    return in_child(asked)


def indices(clip, side=SIDE):
    return [media.read_index(p) for p in clip.visual.data[side].pixels]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two seconds, B-frames, a key frame every 20, noise: 128 x 96."""
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    return media.write(path, EVERY_40_MS, gop=20, pictures=media.noisy(50))


def same(ours, theirs, side=SIDE, most=3.0):
    np.testing.assert_array_equal(ours.visual.data[side].seconds, theirs.visual.data[side].seconds)
    assert ours.visual.data[side].pixels.shape == theirs.visual.data[side].pixels.shape
    difference = np.abs(ours.visual.data[side].pixels.astype(int) - theirs.visual.data[side].pixels)
    assert difference.mean() < most
    assert indices(ours, side) == indices(theirs, side)


@pytest.mark.parametrize("pick", [every, Sampling(fps=3.0), Sampling(frames=90)])
@pytest.mark.parametrize("side", [SIDE, 64])
def test_both_give_the_same_frames_at_the_same_times(plain, pick, side):
    by_decord, by_pyav = both(plain, pick, side)
    assert by_decord.visual.detail.startswith("decord")
    assert by_pyav.visual.detail == "pyav (asked for)"
    same(by_decord, by_pyav, side)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """Five seconds of the same."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    return media.write(path, range(0, 5000, 40), gop=20, pictures=media.noisy(125))


def test_decord_is_taken_where_it_pays(plain, long):
    ask = partial(Request, path=long, sample_rates=(16_000,))
    clips = in_child(
        [
            ask(pick=every, short_sides=(SIDE,)),
            ask(pick=every, short_sides=(64,)),
            ask(pick=Sampling(fps=2.0), short_sides=(SIDE,)),
            ask(pick=every, short_sides=(SIDE, 64)),
            ask(pick=every, short_sides=(SIDE,), start_seconds=1.0),
            Request(path=plain, pick=every, short_sides=(SIDE,)),
        ]
    )
    assert [clip.visual.detail for clip in clips] == [
        "decord (100% of the frames)",
        "pyav (frames are scaled)",
        "pyav (few of the frames)",
        "pyav (frames are scaled)",
        "pyav (a piece)",
        "pyav (few frames)",
    ]
    assert {clip.visual.status for clip in clips} == {Status.OK}
    assert indices(clips[4]) == list(range(25, 125))


def test_decord_is_not_taken_where_its_memory_would_come_anew(long, monkeypatch):
    monkeypatch.setattr(decord_reader, "MOST_BYTES", 1)
    clip = decode(Request(path=long, pick=every, short_sides=(SIDE,)))
    assert clip.visual.detail == "pyav (many large frames)"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut.mp4", "frames not to be shown"),
        ("headless.mkv", "frames not to be shown"),
        ("open.mkv", ""),
        ("variable.mp4", ""),
        ("turned.mp4", "rotated or HDR"),
        ("mirrored.mp4", "rotated or HDR"),
        ("wide.mp4", "pixels not square"),
        ("narrow.mp4", "decord"),
        ("old.avi", "the container"),
        ("short.mp4", "damage"),
        ("still.mp4", ""),
        ("one.mp4", ""),
    ],
)
def test_what_decord_gets_wrong_is_pyavs(tmp_path, plain, name, reason):
    path = tmp_path / name
    write = partial(media.write, path)
    match path.stem:
        case "cut":  # stream-copied: decord shows the pre-roll and reads it for what was asked
            media.copy_cut(plain, path, 1.0)
        case "headless":
            media.drop_head(plain, path, 6)
        case "open":  # open groups of pictures, whole
            write(EVERY_40_MS, options={"x264-params": "open-gop=1:keyint=10:scenecut=0:bframes=3"})
        case "variable":
            write([*range(0, 1000, 40), *range(1000, 3000, 250)])
        case "turned":
            media.turn(write(EVERY_40_MS), 0, 1, -1, 0)
        case "mirrored":
            media.turn(write(EVERY_40_MS), -1, 0, 0, 1)
        case "wide":
            write(EVERY_40_MS, sample_aspect=Fraction(3, 2))
        case "narrow":  # lines are padded, and decord does not expect it
            write(EVERY_40_MS, size=(72, 48))
        case "old":
            write(EVERY_40_MS, codec="mpeg4")
        case "short":
            write(EVERY_40_MS, pictures=media.noisy(50), muxer={"movflags": "faststart"})
            media.cut_bytes(path, path, 0.6)
        case "still":
            write(EVERY_40_MS, pictures=[media.picture(5)] * 50)
        case "one":
            write([0])
    by_decord, by_pyav = both(path)
    assert by_decord.visual.status == by_pyav.visual.status
    if reason:
        assert by_decord.visual.detail.startswith(f"pyav ({reason}")
        np.testing.assert_array_equal(
            by_decord.visual.data[SIDE].pixels, by_pyav.visual.data[SIDE].pixels
        )
    else:
        assert by_decord.visual.detail.startswith("decord")
        same(by_decord, by_pyav)


@pytest.fixture(scope="module")
def loops(tmp_path_factory):
    """A stream-copied cut on which decord loops for ever, until SIGKILL."""
    folder = tmp_path_factory.mktemp("media")
    pictures = [media.picture(k % 256) for k in range(500)]
    whole = media.write(folder / "whole.mp4", range(0, 20_000, 40), pictures=pictures)
    return media.copy_cut(whole, folder / "cut.mp4", 8.1)


def test_a_cut_on_which_decord_loops_is_pyavs(loops):
    by_decord, by_pyav = both(loops, Sampling(frames=25))
    assert by_decord.visual.detail == "pyav (frames not to be shown)"
    same(by_decord, by_pyav, most=0.1)
    first = indices(by_pyav)[0]
    assert first == pytest.approx(203 + 6, abs=1)  # the middle of the first 25th of the cut


def test_a_decord_that_loops_costs_half_a_deadline(loops):
    """As if nothing had spoken against it."""
    request = Request(path=loops, pick=Sampling(frames=25), short_sides=(SIDE,), decoder="decord")
    limits = Limits(deadline_seconds=4.0, sandbox=Sandbox(readable=(loops.parent,)))
    (outcome,) = process_map(media.reckless, [request], workers=1, limits=limits, again=safely)
    assert outcome.status == outcome.value.visual.status == Status.OK
    assert outcome.earlier == "decord: not done after 2 s"
    assert outcome.value.visual.detail == "pyav (second try)"
    assert indices(outcome.value)[0] == pytest.approx(209, abs=1)


def planned(path) -> tuple[Media, object, Plan, int, object]:
    opened = Media(examined(path))
    track, _ = opened.tracks()
    wanted = plan(track, every, origin=0.0, start_seconds=0.0, end_seconds=9.0)
    first, _ = doubted.first_frame(track, wanted)
    return opened, track, wanted, SIDE, first


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda p, s: (np.roll(p, 1, axis=0), s), "wrong pixels"),
        (lambda p, s: (p, s + 0.04), "wrong times"),
        (lambda p, s: (p[..., :1], s), "shape"),
        (lambda p, s: (p[:-1], s), "shape"),
        (lambda p, s: (np.concatenate([p[:9], p[8:9], p[10:]]), s), "twice"),
    ],
)
def test_a_wrong_answer_is_not_believed(plain, monkeypatch, wrong, says):
    by_pyav = decode(Request(path=plain, pick=every, short_sides=(SIDE,), decoder="pyav"))
    frames = by_pyav.visual.data[SIDE]
    asked = planned(plain)
    monkeypatch.setattr(decord_reader, "_read", lambda *_: (frames.pixels, frames.seconds))
    assert len(decord_reader.pictures(*asked).frames) == 50
    monkeypatch.setattr(decord_reader, "_read", lambda *_: wrong(frames.pixels, frames.seconds))
    with pytest.raises(doubted.Unfit, match=says):
        decord_reader.pictures(*asked)


def test_a_machine_without_it_has_pyav(plain, monkeypatch):
    monkeypatch.setattr(decord_reader, "find_spec", lambda name: None)
    asked = Request(path=plain, pick=every, short_sides=(SIDE,), decoder="decord")
    clip = decode(asked)
    assert clip.visual.detail == "pyav (no decord here)"


def test_it_stays_out_of_the_process_that_holds_the_gpu(plain):
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from extract.media.clip import Request\nfrom extract.media.decode import decode\n"
        "from extract.media.sampling import Sampling\n"
        "from extract.processes.pool import Limits, process_map\n"
        "from extract.processes.sandbox import Sandbox\n"
        f"r = Request(path=Path({str(plain)!r}), pick=Sampling(fps=25.0), short_sides=(4096,),"
        " decoder='decord')\n"
        "limits = Limits(deadline_seconds=60.0, sandbox=Sandbox(readable=(r.path.parent,)))\n"
        "(o,) = process_map(decode, [r], workers=1, limits=limits)\n"
        "print(o.value.visual.detail[:6], [m for m in ('decord', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "decord []"
