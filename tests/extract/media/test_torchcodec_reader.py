"""torchcodec against PyAV, in decode processes: the library where it loads, and what stands for it
everywhere.
"""

import subprocess
import sys
from fractions import Fraction
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from extract.media import doubted, torchcodec_reader
from extract.media.clip import NVDEC, TORCHCODEC, Request
from extract.media.decode import Decoder, decode
from extract.media.frames import plan
from extract.media.packets import Media
from extract.media.probe import examined
from extract.media.sampling import Sampling
from extract.pipeline.options import Options
from extract.pipeline.outputs import with_room
from extract.pipeline.unit_encoder import feature_spec
from extract.processes.pool import Limits, process_map
from extract.processes.sandbox import AUTO, OFF, Sandbox
from store import Status
from store.errors import ConfigError
from tests.extract import media_files as media
from tests.extract.fakes import Frames
from tests.extract.looking import EVERY_40_MS, every

STUB = str(Path(__file__).parents[1] / "stub")
SIDE = 4096
INSTALLED = find_spec("torchcodec") is not None


def in_child(requests, decoder=TORCHCODEC, mode="auto"):
    folders = tuple({request.path.parent for request in requests})
    limits = Limits(deadline_seconds=120.0, sandbox=Sandbox(mode=mode, readable=folders))
    limits = with_room(limits, decoder)
    return list(process_map(Decoder(decoder), requests, workers=1, limits=limits))


@cache
def why_not_the_library(path):
    """What the library says at a file without anything odd, where it does not decode it."""
    if not INSTALLED:
        return "torchcodec is not installed"
    request = Request(path=path, pick=every, short_sides=(SIDE,), decoder=TORCHCODEC)
    told = in_child([request])[0].value.visual.detail
    return told if "does not load" in told else ""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two seconds, B-frames, a key frame every 20, noise: 128 x 96."""
    path = tmp_path_factory.mktemp("media") / "plain.mp4"
    return media.write(path, EVERY_40_MS, gop=20, pictures=media.noisy(50))


@pytest.fixture
def stub(monkeypatch):
    monkeypatch.syspath_prepend(STUB)


@pytest.fixture(params=["stub", "library"])
def by(request, plain):
    """Which torchcodec the children find."""
    if request.param == "stub":
        request.getfixturevalue("stub")
    elif why := why_not_the_library(plain):
        pytest.skip(why)


def files(folder, plain):
    """Files by the reason why PyAV decodes them, if there is one."""
    write = partial(media.write, times_ms=EVERY_40_MS)
    short = write(folder / "short.mp4", pictures=media.noisy(50), muxer={"movflags": "faststart"})
    long = [*range(0, 1000, 40), *range(1000, 3000, 250)]
    return {
        plain: "",
        media.turn(write(folder / "turned.mp4"), 0, 1, -1, 0): "",
        media.turn(write(folder / "mirrored.mp4"), -1, 0, 0, 1): "",
        write(folder / "wide.mp4", sample_aspect=Fraction(3, 2)): "",
        write(folder / "narrow.mp4", size=(72, 48)): "",
        media.write(folder / "variable.mp4", long): "",
        media.write(folder / "one.mp4", [0]): "",
        media.copy_cut(plain, folder / "cut.mp4", 1.0): "frames not to be shown",
        media.drop_head(plain, folder / "headless.mkv", 6): "frames not to be shown",
        write(folder / "old.avi", codec="mpeg4"): "frames not to be shown",
        media.cut_bytes(short, short, 0.6): "damage",
        media.turn(
            write(folder / "both.mp4", sample_aspect=Fraction(3, 2)), 0, 1, -1, 0
        ): "turned, and pixels not square",
    }  # fmt: skip


@pytest.mark.usefixtures("by")
def test_it_gives_what_pyav_gives_or_leaves_it_to_pyav(tmp_path, plain):
    reasons = files(tmp_path, plain)
    picks = [every, Sampling(fps=3.0)]
    asked = [
        Request(path=path, pick=pick, short_sides=(64, SIDE), decoder=decoder)
        for path in reasons for pick in picks for decoder in (TORCHCODEC, "pyav")
    ]  # fmt: skip
    outcomes = in_child(asked)
    assert outcomes[0].confinement.layers  # as any decode process is
    assert len(outcomes) == 4 * len(reasons)
    for request, ours, theirs in zip(asked[::2], outcomes[::2], outcomes[1::2], strict=True):
        ours, theirs, why = ours.value.visual, theirs.value.visual, reasons[request.path]
        told = f"pyav ({why})" if why else "torchcodec (cpu)"
        assert ours.detail.startswith(told), request.path
        assert ours.status == theirs.status
        for side, frames in ours.data.items():
            expected = theirs.data[side]
            np.testing.assert_array_equal(frames.seconds, expected.seconds)
            assert frames.pixels.shape == expected.pixels.shape
            difference = np.abs(frames.pixels.astype(int) - expected.pixels)
            assert difference.mean() < (1e-9 if why else 3.0)
            if side == SIDE:
                shown = [media.read_index(frame) for frame in frames.pixels]
                assert shown == [media.read_index(frame) for frame in expected.pixels]


def planned(path):
    opened = Media(examined(path))
    track, _ = opened.tracks()
    wanted = plan(track, every, origin=0.0, start_seconds=0.0, end_seconds=9.0)
    first, _ = doubted.first_frame(track, wanted)
    return opened, track, wanted, (SIDE,), first, "cpu"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda p, s: (np.roll(p, 1, axis=0), s), "wrong pixels"),
        (lambda p, s: (p, s + 0.04), "wrong times"),
        (lambda p, s: (p[:-1], s[:-1]), "wrong times"),
        (lambda p, s: (p[:0], s[:0]), "no frame"),
        (lambda p, s: (np.concatenate([p[:9], p[8:9], p[10:]]), s), "twice"),
    ],
)
def test_a_wrong_answer_is_not_believed(plain, monkeypatch, wrong, says):
    by_pyav = decode(Request(path=plain, pick=every, short_sides=(SIDE,), decoder="pyav"))
    frames = by_pyav.visual.data[SIDE]
    asked = planned(plain)

    def gives(pixels, seconds):
        given = list(zip(pixels, seconds, strict=True))
        monkeypatch.setattr(torchcodec_reader, "_read", lambda *_: iter(given))

    gives(frames.pixels, frames.seconds)
    assert len(torchcodec_reader.pictures(*asked).frames) == 50
    gives(*wrong(frames.pixels, frames.seconds))
    with pytest.raises(doubted.Unfit, match=says):
        torchcodec_reader.pictures(*asked)


def test_a_shape_that_is_not_the_files_is_not_believed():
    with pytest.raises(doubted.Unfit, match="shape"):
        torchcodec_reader._same_shape(np.zeros((2, 96, 64, 3), np.uint8), (96, 128, 3))


def test_a_library_that_does_not_load_leaves_it_to_pyav(plain, tmp_path, monkeypatch):
    broken = tmp_path / "torchcodec"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    request = Request(path=plain, pick=every, short_sides=(SIDE,), decoder=TORCHCODEC)
    visual = in_child([request])[0].value.visual
    assert visual.status == Status.OK
    assert visual.detail == "pyav (torchcodec does not load: RuntimeError)"


def test_a_machine_without_it_says_so_before_anything_is_decoded(plain, monkeypatch):
    monkeypatch.setattr(torchcodec_reader, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'microshot\[torchcodec\]'"):
        Options(decoder=TORCHCODEC)
    asked = Request(path=plain, pick=every, short_sides=(SIDE,), decoder=TORCHCODEC)
    assert decode(asked).visual.detail == "pyav (no torchcodec here)"


@pytest.mark.usefixtures("stub")
def test_a_card_is_opened_by_a_process_that_is_not_confined(plain):
    for mode in ("auto", "require"):
        with pytest.raises(ConfigError, match="--sandbox off"):
            Options(decoder=NVDEC, sandbox=mode)
    assert Options(decoder=NVDEC, sandbox="off").decoder == "torchcodec:device=cuda"
    request = Request(path=plain, pick=every, short_sides=(SIDE,), decoder=NVDEC)
    visual = in_child([request], NVDEC, "off")[0].value.visual
    # The stub decodes on a processor only, so with a card it says so.
    assert visual.detail in ("pyav (no NVIDIA card here)", "pyav (torchcodec: AssertionError)")


def test_only_who_asks_for_torch_gets_room_for_it():
    limits = Limits(deadline_seconds=1.0, sandbox=AUTO)
    for decoder in ("auto", "pyav", "decord", "pyav-yuv"):
        assert with_room(limits, decoder) == limits
    assert with_room(limits, TORCHCODEC).memory_bytes == 9 << 30
    unconfined = Limits(deadline_seconds=1.0, sandbox=OFF)
    assert with_room(unconfined, NVDEC).memory_bytes == -1  # no limit


def test_it_is_part_of_the_identity():
    spec = feature_spec(Frames(), Sampling(fps=1.0), TORCHCODEC)
    assert spec.identity["sampling"]["decoder"] == "torchcodec"


def test_it_stays_out_of_the_process_that_asks(plain):
    code = (
        f"import sys\nsys.path.insert(0, {STUB!r})\nfrom pathlib import Path\n"
        "from extract.media.clip import Request\nfrom extract.media.decode import Decoder\n"
        "from extract.media.sampling import Sampling\n"
        "from extract.processes.pool import Limits, process_map\n"
        "from extract.processes.sandbox import Sandbox\n"
        f"r = Request(path=Path({str(plain)!r}), pick=Sampling(fps=25.0), short_sides=(4096,),"
        " decoder='torchcodec')\n"
        "limits = Limits(deadline_seconds=60.0, memory_bytes=9 << 30,"
        " sandbox=Sandbox(readable=(r.path.parent,)))\n"
        "(o,) = process_map(Decoder('torchcodec'), [r], workers=1, limits=limits)\n"
        "print(o.value.visual.detail, [m for m in ('torchcodec', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torchcodec (cpu) []"
