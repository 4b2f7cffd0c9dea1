"""Answers, and taking them back, from several windows."""

import pytest

from learn.annotation.annotations import Annotations, StaleError
from learn.annotation.label_file import NOTHING, Labels, held
from store.errors import ConfigError

COLUMNS = ("label", "mood")


@pytest.fixture
def annotations(tmp_path):
    with held(tmp_path / "l.csv", ("path", "clip_id"), COLUMNS) as file:
        yield Annotations(file, lambda clip: {"path": clip, "clip_id": clip}, ("cat",), 9)


def say(annotations, clip, name, window="w", column="label", none=False):
    version = annotations.version(clip)
    return annotations.answer(window, clip, column, name, none=none, version=version)


def test_columns_are_answered_apart(annotations):
    say(annotations, "a", "dog")
    say(annotations, "a", "good", column="mood")
    say(annotations, "a", "", none=True)
    assert annotations.labels("a") == Labels({"mood": "good"}, frozenset({"label"}))
    assert annotations.answered("label") == annotations.answered("mood") == {"a"}
    assert annotations.named("label") == {}
    say(annotations, "a", "cat")
    assert annotations.labels("a") == Labels({"label": "cat", "mood": "good"})
    assert annotations.classes("label") == {"cat": 1}
    assert annotations.classes("mood") == {"cat": 0, "good": 1}


def test_each_window_takes_back_its_own(annotations):
    say(annotations, "a", "x", "one")
    say(annotations, "b", "y", "two")
    say(annotations, "a", "z", "one")
    assert annotations.undo("two").clip == "b"
    assert annotations.labels("b") == NOTHING
    assert annotations.undo("two") is None
    assert annotations.undo("one").clip == "a"
    assert annotations.labels("a").of == {"label": "x"}
    annotations.undo("one")
    assert annotations.labels("a") == NOTHING
    assert annotations.undo("one") is None


def test_what_another_window_answered_since_stays(annotations):
    say(annotations, "a", "x", "one")
    seen = annotations.version("a")
    say(annotations, "a", "y", "two")
    with pytest.raises(StaleError, match="another window"):
        annotations.answer("one", "a", "label", "z", none=False, version=seen)
    with pytest.raises(StaleError, match="it stays"):
        annotations.undo("one")
    assert annotations.labels("a").of == {"label": "y"}


def test_acts_of_the_file_can_be_taken_back_after_a_restart(tmp_path):
    path, made = tmp_path / "l.csv", []
    for round_ in range(2):
        with held(path, ("path", "clip_id"), COLUMNS) as file:
            annotations = Annotations(file, lambda clip: {"path": clip, "clip_id": clip})
            if not round_:
                say(annotations, "a", "x")
                say(annotations, "b", "y")
                say(annotations, "a", "good", column="mood")
            made.append({clip: annotations.labels(clip) for clip in "ab"})
            if round_:
                assert annotations.undo("new").column == "mood"
                assert annotations.labels("a") == Labels({"label": "x"})
                assert annotations.undo("new").clip == "b"
                assert annotations.recent("label", 5) == ["a"]
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["", " x", "a;b", "x" * 201, "a\nb", "\x1b[2J"])
def test_names_that_no_table_could_hold_are_refused(annotations, name):
    with pytest.raises(ConfigError):
        say(annotations, "a", name)
    assert annotations.acts == 0


def test_clips_stand_in_the_order_of_their_first_answers(annotations):
    for clip, name in (("a", "x"), ("b", "y"), ("c", "z"), ("a", "y")):
        say(annotations, clip, name)
    say(annotations, "d", "good", column="mood")
    assert annotations.in_order("label") == ["a", "b", "c"]
    annotations.undo("w")
    annotations.undo("w")
    say(annotations, "a", "", none=True)
    assert annotations.in_order("label") == ["a", "b", "c"]
    assert annotations.in_order("mood") == []
