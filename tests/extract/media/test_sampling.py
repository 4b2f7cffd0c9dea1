import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.media.samplers import Footage, thinned
from extract.media.samplers.shots import cuts
from extract.media.sampling import Sampling
from store.errors import ConfigError, InputError, UnknownPlugin, UnknownSetting

durations = st.floats(0.01, 200.0)


def footage(times, duration, key=None, changes=None):
    times = np.asarray(times, dtype=np.float64)
    return Footage(
        seconds=times,
        duration=duration,
        key=np.zeros(len(times), bool) if key is None else np.asarray(key),
        changes=lambda: np.zeros(len(times)) if changes is None else np.asarray(changes),
    )


def moments(duration, **how):
    """What is on screen of a clip with a frame every 10 ms."""
    times = np.arange(0, duration, 0.01)
    return times[Sampling(**how)(footage(times, duration))]


def centres_one_by_one(fps, duration):
    """The obvious twin: count up until the end."""
    moments, k = [], 0
    while (k + 0.5) / fps < duration:
        moments.append((k + 0.5) / fps)
        k += 1
    return moments or [duration / 2]


@settings(deadline=None)
@given(st.floats(0.05, 60.0), durations, st.floats(0.5, 40.0))
def test_looks_at_a_rate_fall_on_bin_centres(fps, duration, max_seconds):
    looks = moments(duration, fps=fps, max_seconds=max_seconds)
    wanted = centres_one_by_one(fps, min(duration, max_seconds))
    assert len(looks) == len(wanted)
    assert np.all(looks <= np.array(wanted) + 1e-9)
    assert np.all(looks > np.array(wanted) - 0.0101)


@settings(deadline=None)
@given(st.integers(1, 64), durations)
def test_a_number_of_looks_falls_on_segment_centres(frames, duration):
    looks = moments(duration, frames=frames, max_seconds=50.0)
    width = min(duration, 50) / frames
    assert looks == pytest.approx([k * width + width / 2 for k in range(frames)], abs=0.0101)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=40).map(sorted),
    st.lists(st.floats(-1, 40), min_size=1, max_size=20),
)
def test_the_frame_on_screen_is_the_last_that_appeared(times, wanted):
    got = footage(times, 31.0).on_screen(np.array(wanted))
    for index, moment in zip(got, wanted, strict=True):
        appeared = [i for i, t in enumerate(times) if t <= moment]
        assert index == (appeared[-1] if appeared else 0)


def test_one_frame_a_second_of_an_ordinary_clip():
    clip, short = footage(np.arange(75) / 25, 3.0), footage(np.arange(5) / 25, 0.2)
    assert Sampling(fps=1.0)(clip).tolist() == [12, 37, 62]
    assert Sampling(frames=4)(clip).tolist() == [9, 28, 46, 65]
    assert Sampling(fps=1.0)(short).tolist() == [2]
    assert Sampling(fps=1.0, max_seconds=2.0)(clip).tolist() == [12, 37]


def test_short_options_are_specs():
    clip = footage(np.arange(75) / 25, 3.0)
    for short, spec in (({"fps": 2.0}, "fps:rate=2"), ({"frames": 5}, "uniform:frames=5")):
        assert Sampling(**short)(clip).tolist() == Sampling(sample=spec)(clip).tolist()
        assert Sampling(**short).identity == Sampling(sample=spec).identity
    assert Sampling(sample="uniform").identity == {"frames": 8, "max_seconds": 30.0}


def test_a_frame_that_stays_is_taken_again():
    assert Sampling(frames=4)(footage([0.0, 1.9], 2.0)).tolist() == [0, 0, 0, 0]


def test_key_frames_are_thinned_evenly():
    key = np.zeros(90, bool)
    key[::10] = True
    clip = footage(np.arange(90) / 30, 3.0, key)
    assert Sampling(sample="keyframes")(clip).tolist() == list(range(0, 90, 10))
    assert Sampling(sample="keyframes:most=3")(clip).tolist() == [10, 40, 70]
    assert Sampling(sample="keyframes", max_seconds=1.0)(clip).tolist() == [0, 10, 20]
    assert Sampling(sample="keyframes")(footage([0.0, 0.1], 0.2)).tolist() == [0]


def test_the_middle_of_every_shot():
    changes = np.full(90, 0.01)
    changes[[30, 60]] = 0.4
    clip = footage(np.arange(90) / 30, 3.0, changes=changes)
    assert Sampling(sample="shots")(clip).tolist() == [15, 45, 75]
    assert Sampling(sample="shots")(footage([0.0, 0.1], 0.2)).tolist() == [1]
    assert Sampling(sample="shots:most=1")(clip).tolist() == [15]


def test_a_cut_right_after_a_cut_is_none_and_motion_neither():
    changes = np.full(90, 0.01)
    changes[[30, 31]] = 0.5  # one bright frame
    clip = footage(np.arange(90) / 30, 3.0, changes=changes)
    assert Sampling(sample="shots")(clip).tolist() == [15, 60]
    assert Sampling(sample="shots:shortest_seconds=0")(clip).tolist() == [15, 30, 60]
    assert not cuts(np.full(90, 0.2), 0.06, 3.0)[10:-10].any()
    assert not cuts(np.full(90, 0.01), 0.06, 3.0).any()


def test_a_selection_is_thinned_from_the_middle():
    assert thinned(np.arange(10), 20).tolist() == list(range(10))
    assert thinned(np.arange(10), 5).tolist() == [1, 3, 5, 7, 9]
    assert thinned(np.arange(9), 1).tolist() == [4]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"fps": 1.0, "frames": 3},
        {"fps": 1.0, "sample": "shots"},
        {"fps": 0.0},
        {"fps": -1.0},
        {"fps": 3000.0},
        {"fps": math.nan},
        {"frames": 0},
        {"frames": 70_000},
        {"sample": "uniform:frames=0"},
        {"sample": "fps:rate=1000", "max_seconds": 100.0},
        {"fps": 1.0, "max_seconds": 0.0},
        {"fps": 1.0, "max_seconds": math.inf},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=r"fps|frames|max_seconds"):
        Sampling(**wrong)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("shot", UnknownPlugin, "shots"),
        ("shots:mots=3", UnknownSetting, "most"),
        ("shots:most=x", ConfigError, "number"),
        ("shots:most=0", InputError, "most=0"),
        ("shots:threshold=2", InputError, "threshold"),
        ("keyframes:most=0", InputError, "most=0"),
        ("", ConfigError, "names nothing"),
    ],
)
def test_a_wrong_spec_says_what_exists(spec, error, says):
    with pytest.raises(error, match=says):
        Sampling(sample=spec)


def test_wrong_times_are_our_bug():
    with pytest.raises(ValueError, match="in order"):
        footage([1.0, 0.5], 2.0)
    with pytest.raises(ValueError, match="duration"):
        footage([0.0], 0.0)
