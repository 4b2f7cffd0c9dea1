"""The sample that nobody chooses, and how its clips are held against the others."""

import numpy as np
import torch

from learn.annotation import estimate
from learn.annotation.estimate import draw_order, is_due, sample_of, told_right
from learn.inference.examples import Examples
from learn.inference.fitted_head import FittedHead, Labelled
from learn.inference.judges import judges_of
from learn.inference.selection import NONE, select_one
from store import open as open_store


def test_the_order_knows_names_only_and_one_clip_in_eight_is_due():
    clips = [f"clip{i}" for i in range(200)]
    assert draw_order(clips) == draw_order(clips[::-1]) != sorted(clips)
    assert [n for n in range(33) if is_due(n)] == [7, 15, 23, 31]


def test_the_sample_is_the_answered_beginning_of_the_order():
    order = list("abcdef")
    assert sample_of(order, {"b", "c", "f"}, 2) == ("b", "c")
    assert sample_of(order, {"f"}, 3) == ("f",)
    assert sample_of(order, set(order), 0) == ()


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
        scores = FittedHead(judges.of((part,)), shots, 1 << 30).scores({part: x[clip : clip + 1]})
        assert told == (int(scores.argmax()) == int(class_ids[clip]))
    assert 0 < right.double().mean() <= 1
