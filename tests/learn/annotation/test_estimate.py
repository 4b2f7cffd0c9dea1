"""The sample that nobody chooses, and how its clips are held against the others."""

import numpy as np
import torch

from learn.annotation import estimate
from learn.annotation.estimate import draw_order, is_due, sample_of, told_right
from learn.fewshot.sense_prior import Like
from learn.inference.examples import Examples
from learn.inference.fitted_head import FittedHead, Labelled
from learn.inference.judges import judges_of
from learn.inference.selection import NONE, select_one
from store import open as open_store


def test_the_order_knows_names_only_and_one_clip_in_eight_is_due():
    clips = [f"clip{i}" for i in range(200)]
    assert draw_order(clips) == draw_order(clips[::-1]) != sorted(clips)
    assert [n for n in range(33) if is_due(n)] == [7, 15, 23, 31]


def test_the_sample_is_what_was_drawn_and_not_what_was_chosen():
    order = [f"{i:02d}" for i in range(40)]
    answers = [*order[20:27], "00", *order[27:34], "39", *order[34:38], "02", "01"]
    assert sample_of(order, answers) == ("00",)  # 39 was chosen, though a draw was due
    skipped = [*order[20:27], "00", *order[27:34], "03"]  # 01 and 02 wait
    assert sample_of(order, skipped) == ("00", "03")
    assert sample_of(order, order[:8]) == ("07",)
    assert sample_of(order, []) == ()


def test_clips_are_told_by_heads_that_never_saw_them(filled, monkeypatch):
    monkeypatch.setattr(estimate, "FOLDS", 100)
    selection = select_one(open_store(filled), NONE, None)
    judges = judges_of(None, None, "on", None, selection.features)
    rng = np.random.default_rng(0)
    class_ids = torch.arange(30) % 3
    part = next(iter(selection.features))
    x = torch.from_numpy(rng.standard_normal((30, 8))).float()
    x += torch.nn.functional.one_hot(class_ids, 8) * 2
    has = torch.ones(30, dtype=torch.bool)
    sample = torch.tensor([3, 8, 11, 20, 25])
    right = told_right(judges, Examples(vectors={part: x}, present={part: has}, groups=None),
                       class_ids, sample)  # fmt: skip
    for clip, told in zip(sample.tolist(), right.tolist(), strict=True):
        others = torch.tensor([i for i in range(30) if i != clip])
        shots = Labelled(vectors={part: x[others]}, present={part: has[others]},
                         class_ids=class_ids[others])  # fmt: skip
        scores = FittedHead(judges.of((part,), Like.of_labelled(class_ids)), shots, 1 << 30).scores(
            {part: x[clip : clip + 1]}
        )
        assert told == (int(scores.argmax()) == int(class_ids[clip]))
    assert 0 < right.double().mean() <= 1


def test_a_clip_that_only_itself_would_tell_is_not_told(filled):
    """Labels that mean nothing: a head that saw the clip is right, one that did not guesses."""
    selection = select_one(open_store(filled), NONE, None)
    judges = judges_of(None, None, "on", None, selection.features)
    part = next(iter(selection.features))
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.standard_normal((60, 200))).float()
    class_ids = torch.from_numpy(rng.permutation(np.arange(60) % 4))
    has = torch.ones(60, dtype=torch.bool)
    whole = Labelled(vectors={part: x}, present={part: has}, class_ids=class_ids)
    seen = (
        FittedHead(judges.of((part,), Like.of_labelled(class_ids)), whole, 1 << 30)
        .scores({part: x})
        .argmax(1)
    )
    assert (seen == class_ids).double().mean() > 0.95
    examples = Examples(vectors={part: x}, present={part: has}, groups=None)
    right = told_right(judges, examples, class_ids, torch.arange(60))
    assert right.double().mean() < 0.5
