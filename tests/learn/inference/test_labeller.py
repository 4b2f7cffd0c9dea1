"""Answers batch by batch: what is in their cells, and which clips are judged by what."""

import pytest
import torch

from learn.inference.embed import EmbeddedBatch
from learn.inference.examples import Examples
from learn.inference.labeller import (
    ABSTAINED,
    ANSWERED,
    NO_ROWS,
    Answer,
    Labeller,
    LabellerSettings,
    header,
    judged_by,
)  # fmt: skip
from store.errors import InputError


def settings(**changed):
    given = {
        "head": "prototypes",
        "inverted": None,
        "centred": True,
        "top": 2,
        "abstain_below": 0.0,
    }
    return LabellerSettings(**{**given, **changed})


def examples(clips=12, silent=(), blind=()):
    """Clips on two axes by turns, in both parts but where they lack one."""
    x = torch.eye(2).repeat(clips // 2, 1)
    present = {part: torch.ones(clips, dtype=torch.bool) for part in ("visual", "audio")}
    present["audio"][list(silent)] = False
    present["visual"][list(blind)] = False
    vectors = {part: x * has[:, None] for part, has in present.items()}
    return Examples(vectors=vectors, present=present, groups=None)


def batch_of(known):
    ids = tuple(f"q{i}" for i in range(len(known.present["visual"])))
    return EmbeddedBatch(ids, known.vectors, known.present)


NAMES = ["left", "right"] * 6


def test_cells_are_as_many_as_the_columns():
    for answer in (Answer(NO_ROWS), Answer(ABSTAINED, "", 0.5, (("a", 0.75),))):
        assert len(answer.cells(3)) == len(header("label", 3)) == 9
    answer = Answer(ANSWERED, "a", 0.25, (("a", 0.75), ("b", 0.125)))
    assert answer.cells(3) == [
        "a", "answered", "0.2500", "a", "0.7500", "b", "0.1250", "", "",
    ]  # fmt: skip


def test_clips_are_judged_by_what_they_have():
    batch = batch_of(examples(silent=(0, 2), blind=(1, 2)))
    assert judged_by(batch, ("visual", "audio")) == ["v", "a", "", *["av"] * 9]
    labeller = Labeller("side", NAMES, examples(), settings())
    answers = labeller.answer(batch)
    assert [a.status for a in answers] == [ANSWERED, ANSWERED, NO_ROWS, *[ANSWERED] * 9]
    assert [a.label for a in answers] == [*NAMES[:2], "", *NAMES[3:]]
    summary = labeller.summary().to_dict()
    assert {fitted["parts"] for fitted in summary["calibration"]} == {
        "visual+audio", "visual", "audio",
    }  # fmt: skip
    assert (summary["answered"], summary["abstained"], summary["no-rows"]) == (11, 0, 1)
    assert list(summary)[:6] == [
        "label", "classes", "support", "support_without_rows", "classes_without_rows",
        "calibration",
    ]  # fmt: skip


def test_what_the_support_does_not_hear_is_no_answer():
    labeller = Labeller("side", NAMES, examples(silent=range(12)), settings())
    (answer,) = {a.status for a in labeller.answer(batch_of(examples(blind=range(12))))}
    assert answer == NO_ROWS


def test_less_than_asked_for_is_no_answer_but_stays_in_the_ranks():
    labeller = Labeller("side", NAMES, examples(), settings(abstain_below=1.0))
    answers = labeller.answer(batch_of(examples()))
    assert {(a.status, a.label) for a in answers} == {(ABSTAINED, "")}
    assert [a.ranked[0][0] for a in answers] == NAMES


def test_a_support_without_rows_is_refused():
    with pytest.raises(InputError, match="no support clip with a side has rows"):
        Labeller("side", NAMES, examples(silent=range(12), blind=range(12)), settings())
