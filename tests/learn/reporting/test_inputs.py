"""Directories read back: what belongs together, and what may not be compared."""

import pytest

import learn
from learn.reporting.inputs import read_inputs
from store.errors import InputError
from tests.learn.reporting.pages import FEW


def test_what_two_directories_repeat_is_told_once(paired, runs, tmp_path):
    kept = runs["heads"] / "episodes.safetensors"
    again = learn.run_episodes(paired, episodes_file=kept, support=("v",), heads=("ridge", "tim"))
    again.save(tmp_path / "again")
    first, both = read_inputs((runs["heads"],)), read_inputs((runs["heads"], tmp_path / "again"))
    assert len(both.questions[0].rows) == len(first.questions[0].rows)
    assert len(both.questions[0].results) == 2


def test_other_episodes_of_the_same_clips_are_refused(paired, runs, tmp_path):
    learn.run_episodes(paired, **FEW, shots=(1,), seed=1).save(tmp_path / "other")
    with pytest.raises(InputError, match="--episodes-file"):
        learn.report((runs["heads"], tmp_path / "other"), tmp_path / "r.html")
    # Other numbers of shots are another draw, and belong in the same drawing.
    learn.run_episodes(paired, **FEW, shots=(3,)).save(tmp_path / "more")
    assert len(read_inputs((runs["heads"], tmp_path / "more")).questions) == 1
    # Another number of ways is another question.
    learn.run_episodes(paired, **{**FEW, "ways": 2}, shots=(1,)).save(tmp_path / "ways")
    known = read_inputs((runs["heads"], tmp_path / "ways"))
    assert [question.sampling["ways"] for question in known.questions] == [4, 2]
