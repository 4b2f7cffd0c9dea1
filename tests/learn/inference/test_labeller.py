"""Answers batch by batch: what is in their cells, and which clips are judged by what."""

import pytest
import torch

from learn.commands.answer_tables import prediction_lines
from learn.inference.embed import EmbeddedBatch
from learn.inference.examples import Examples
from learn.inference.labeller import (
    ABSTAINED,
    ANSWERED,
    NO_MATCH,
    NO_ROWS,
    Labeller,
    LabellerSettings,
    header,
    judged_by,
)  # fmt: skip
from store.errors import ConfigError, InputError


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


def test_cells_are_as_many_as_the_columns_and_written_as_they_read():
    """Of two classes, three are shown: the third is empty; a clip without rows has a status."""
    labeller = Labeller("label", NAMES, examples(blind=[4]), settings(top=3))
    known = batch_of(examples(silent=[5], blind=[5, 6]))
    rows = labeller.cells(known)
    assert {len(row) for row in rows} == {len(header("label", 3))} == {9}
    assert rows[5] == ["", NO_ROWS, *[""] * 7]
    for parts, clips, found, _ in labeller.judged(known):
        for i, ids, shares, novelty in zip(
            clips.tolist(), *(x.tolist() for x in found), strict=True
        ):
            ranked = [
                cell
                for class_id, share in zip(ids, shares, strict=True)
                if class_id >= 0
                for cell in (labeller.classes[class_id], f"{share:.4f}")
            ]
            wanted = [ranked[0], ANSWERED, f"{novelty:.4f}", *ranked]
            assert rows[i] == wanted + [""] * (9 - len(wanted)), parts


def test_clips_are_judged_by_what_they_have():
    batch = batch_of(examples(silent=(0, 2), blind=(1, 2)))
    assert judged_by(batch, ("visual", "audio")) == ["v", "a", "", *["av"] * 9]
    labeller = Labeller("side", NAMES, examples(), settings())
    answers = labeller.cells(batch)
    assert [a[1] for a in answers] == [ANSWERED, ANSWERED, NO_ROWS, *[ANSWERED] * 9]
    assert [a[0] for a in answers] == [*NAMES[:2], "", *NAMES[3:]]
    summary = labeller.summary().to_dict()
    assert {fitted["parts"] for fitted in summary["calibration"]} == {
        "visual+audio", "visual", "audio",
    }  # fmt: skip
    assert (summary["answered"], summary["abstained"], summary["no-rows"]) == (11, 0, 1)
    assert list(summary)[:7] == [
        "label", "classes", "support", "support_without_rows", "classes_without_rows",
        "classes_without_name",
        "calibration",
    ]  # fmt: skip


def test_what_the_support_does_not_hear_is_no_answer():
    labeller = Labeller("side", NAMES, examples(silent=range(12)), settings())
    (answer,) = {a[1] for a in labeller.cells(batch_of(examples(blind=range(12))))}
    assert answer == NO_MATCH  # it has rows: that is not what it lacks


def test_less_than_asked_for_is_no_answer_but_stays_in_the_ranks():
    labeller = Labeller("side", NAMES, examples(), settings(abstain_below=1.0))
    answers = labeller.cells(batch_of(examples()))
    assert {(a[1], a[0]) for a in answers} == {(ABSTAINED, "")}
    assert [a[3] for a in answers] == NAMES


def test_a_support_without_rows_is_refused():
    with pytest.raises(InputError, match="no support clip with a side has rows"):
        Labeller("side", NAMES, examples(silent=range(12), blind=range(12)), settings())


def test_one_class_has_no_confidence_and_cannot_be_asked_for_one():
    labeller = Labeller("side", ["left"] * 12, examples(), settings())
    answers = labeller.cells(batch_of(examples()))
    assert {a[1] for a in answers} == {ANSWERED}
    assert all(a[3:5] == ["left", ""] for a in answers)
    (fitted, *_) = labeller.summary().to_dict()["calibration"]
    assert (fitted["accuracy"], fitted["confidence"], fitted["classes"]) == (None, None, 1)
    with pytest.raises(ConfigError, match=r"`abstain_below` 0.5 needs a confidence.*one class"):
        Labeller("side", ["left"] * 12, examples(), settings(abstain_below=0.5))


@pytest.mark.parametrize("head", ["prototypes", "nearest"])
def test_classes_of_noise_are_not_told_apart_by_clips_left_out(head):
    """The mean of two classes of three holds a sixth of each clip, which pushes it to its own."""
    accuracies = []
    for seed in range(40):
        x = torch.randn(6, 32, generator=torch.Generator().manual_seed(seed))
        noise = Examples(
            vectors={"visual": x}, present={"visual": torch.ones(6, dtype=torch.bool)}, groups=None
        )
        labeller = Labeller("label", list("aaabbb"), noise, settings(head=head))
        accuracies.append(labeller.summary().calibration["visual"].accuracy)
    assert sum(accuracies) / len(accuracies) < 0.55


def test_what_few_clips_cannot_say_is_said(capsys):
    labeller = Labeller("side", NAMES[:6], examples(6), settings())
    labeller.cells(batch_of(examples()))
    counts = labeller.summary().to_dict()
    assert counts["calibration"][0]["novelty_at_most"] == 6 / 7
    answered = {"output": "o", "clips": 12, "mode": "av", "by": "prototypes", "index": "exact"}
    prediction_lines({**answered, "seconds": 0.0, "labels": [counts]})
    text = " ".join(capsys.readouterr().out.split())
    assert "6 right" in text
    assert "% right" not in text
    assert "0.86 at most with 6 clips left out, so no clip can be above 0.95" in text
