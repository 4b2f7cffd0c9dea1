import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.sample import Sampling, on_screen
from store.errors import InputError

durations = st.floats(0.01, 200.0)


def centres_one_by_one(fps, duration):
    """The obvious twin: count up until the end."""
    found, k = [], 0
    while (k + 0.5) / fps < duration:
        found.append((k + 0.5) / fps)
        k += 1
    return found or [duration / 2]


@settings(deadline=None)
@given(st.floats(0.05, 60.0), durations, st.floats(0.5, 40.0))
def test_looks_at_a_rate_fall_on_bin_centres(fps, duration, max_seconds):
    looks = Sampling(fps=fps, max_seconds=max_seconds).wanted_seconds(duration)
    assert looks.tolist() == centres_one_by_one(fps, min(duration, max_seconds))


@settings(deadline=None)
@given(st.integers(1, 64), durations)
def test_a_number_of_looks_falls_on_segment_centres(frames, duration):
    looks = Sampling(frames=frames, max_seconds=50.0).wanted_seconds(duration)
    width = min(duration, 50) / frames
    assert looks == pytest.approx([k * width + width / 2 for k in range(frames)])


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=40).map(sorted),
    st.lists(st.floats(-1, 40), min_size=1, max_size=20),
)
def test_the_frame_on_screen_is_the_last_that_appeared(times, wanted):
    got = on_screen(np.array(times), np.array(wanted))
    for index, moment in zip(got, wanted, strict=True):
        appeared = [i for i, t in enumerate(times) if t <= moment]
        assert index == (appeared[-1] if appeared else 0)


def test_one_frame_a_second_of_an_ordinary_clip():
    times = np.arange(75) / 25
    assert Sampling(fps=1.0)(times, 3.0).tolist() == [12, 37, 62]
    assert Sampling(frames=4)(times, 3.0).tolist() == [9, 28, 46, 65]
    assert Sampling(fps=1.0)(times[:5], 0.2).tolist() == [2]
    assert Sampling(fps=1.0, max_seconds=2.0)(times, 3.0).tolist() == [12, 37]


def test_a_frame_that_stays_is_taken_again():
    assert Sampling(frames=4)(np.array([0.0, 1.9]), 2.0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"fps": 1.0, "frames": 3},
        {"fps": 0.0},
        {"fps": -1.0},
        {"fps": 3000.0},
        {"fps": math.nan},
        {"frames": 0},
        {"frames": 70_000},
        {"fps": 1.0, "max_seconds": 0.0},
        {"fps": 1.0, "max_seconds": math.inf},
    ],
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=r"fps|frames|max_seconds"):
        Sampling(**wrong)


def test_wrong_times_are_our_bug():
    with pytest.raises(ValueError, match="in order"):
        on_screen(np.array([1.0, 0.5]), np.array([0.2]))
    with pytest.raises(ValueError, match="duration"):
        Sampling(fps=1.0).wanted_seconds(0.0)
