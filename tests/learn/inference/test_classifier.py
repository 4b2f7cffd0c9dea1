"""Confidence, calibration and novelty."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learn.inference.classifier import HEADS, fit
from learn.inference.left_out import Support
from learn.inference.vector_index import Inverted


@pytest.mark.parametrize("head", HEADS)
def test_confidence_is_better_than_uncalibrated(head):
    """Error of calibration on clips never seen, against softmax of the cosines as they are."""
    rng = torch.Generator().manual_seed(0)
    means = torch.randn(20, 32, generator=rng)

    def draw(each):
        class_ids = torch.arange(20).repeat_interleave(each)
        return F.normalize(
            means[class_ids] + 1.6 * torch.randn(len(class_ids), 32, generator=rng)
        ), class_ids

    x, class_ids = draw(8)
    held, truth = draw(200)
    present = (torch.ones(len(x), dtype=torch.bool),)
    classifier = fit(
        Support(vectors=(x,), present=present, class_ids=class_ids, classes=20), head=head
    )
    predictions = classifier.predict(held, 20)
    scores = classifier.index.search(held, len(classifier.index)).scores
    plain = scores[:, :20].double().softmax(-1)[:, 0]
    correct = (predictions.class_ids[:, 0] == truth).double()
    assert 0.5 < correct.mean() < 0.95
    ours, theirs = (error(p, correct) for p in (predictions.probabilities[:, 0], plain))
    assert ours < 0.1 < 0.3 < theirs
    assert classifier.calibration.enough


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("grouped", [True, False])
def test_calibration_leaves_a_clip_and_its_source_out(head, grouped):
    """Against a loop that makes the classifier anew without them, clip after clip."""
    rng = torch.Generator().manual_seed(2)
    class_ids = torch.arange(6).repeat_interleave(8)
    groups = torch.arange(48) // 2
    means = torch.randn(6, 16, generator=rng)[class_ids]
    source = torch.randn(24, 16, generator=rng)[groups]  # clips of a source are much alike
    x = F.normalize(means + 1.5 * source + 0.3 * torch.randn(48, 16, generator=rng), dim=-1)
    support = {
        "vectors": (x,),
        "present": (torch.ones(48, dtype=torch.bool),),
        "class_ids": class_ids,
    }
    fitted = fit(
        Support(**support, classes=6, groups=groups if grouped else None), head=head
    ).calibration
    correct, sure = [], []
    for i in range(48):
        rest = (groups != groups[i]) if grouped else torch.arange(48) != i
        by_class = [x[rest & (class_ids == c)] for c in range(6)]
        score = torch.stack(
            [
                (F.normalize(y.sum(0), dim=-1) @ x[i]) if head == "prototypes" else (y @ x[i]).max()
                for y in by_class
            ]
        ).double()
        correct.append(float(score.argmax() == class_ids[i]))
        sure.append(float((score / fitted.temperature).softmax(-1).max()))
    assert fitted.apart == ("group" if grouped else "clip")
    assert fitted.accuracy == pytest.approx(np.mean(correct))
    assert fitted.confidence == pytest.approx(np.mean(sure), abs=1e-5)
    assert fitted.accuracy < 0.8 if grouped else fitted.accuracy > 0.8


def error(p, correct):
    """Expected calibration error in ten bins."""
    bins = (p * 10).long().clamp_max(9)
    parts = [(p[bins == b].mean() - correct[bins == b].mean()).abs() * (bins == b).double().mean()
             for b in bins.unique()]  # fmt: skip
    return float(sum(parts))


def test_strange_clips_are_novel():
    rng = torch.Generator().manual_seed(1)
    means = torch.randn(10, 32, generator=rng)
    class_ids = torch.arange(10).repeat_interleave(6)
    known, more = (
        F.normalize(means[class_ids] + 0.5 * torch.randn(60, 32, generator=rng)) for _ in range(2)
    )
    strange = F.normalize(torch.randn(60, 32, generator=rng))
    present = (torch.ones(60, dtype=torch.bool),)
    judge = fit(Support(vectors=(known,), present=present, class_ids=class_ids, classes=10))
    familiar, novel = (judge.predict(x, 1).novelty for x in (more, strange))
    assert 0.25 < familiar.mean() < 0.75
    assert (novel > 0.95).double().mean() > 0.9


@pytest.mark.parametrize("head", HEADS)
def test_confidence_of_an_approximate_index_is_that_of_what_it_finds(head):
    """One cell of nearly as many as there are classes: what it finds is often the wrong one."""
    rng = torch.Generator().manual_seed(3)
    means = torch.randn(300, 32, generator=rng)
    class_ids = torch.arange(300).repeat_interleave(3)
    x, held = (
        F.normalize(means[class_ids] + torch.randn(900, 32, generator=rng)) for _ in range(2)
    )
    present = (torch.ones(900, dtype=torch.bool),)
    support = Support(vectors=(x,), present=present, class_ids=class_ids, classes=300)
    classifier = fit(support, head=head, index=Inverted(cells=120, probes=1))
    assert classifier.index.recall(held, classifier.neighbours) < 0.2
    predictions = classifier.predict(held, 1)
    right = (predictions.class_ids[:, 0] == class_ids).double().mean()
    sure = predictions.probabilities[:, 0]
    assert sure.mean() < right + 0.08
    assert sure.max() <= classifier.calibration.found < 0.95
    assert classifier.calibration.accuracy <= right + 0.08


def test_an_approximate_index_that_nothing_tests_gives_no_confidence():
    x = F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    present = (torch.ones(50, dtype=torch.bool),)
    alone = Support(vectors=(x,), present=present, class_ids=torch.arange(50), classes=50)
    assert fit(alone, index=Inverted(cells=10, probes=1)).predict(x, 1).probabilities.isnan().all()
    assert fit(alone).predict(x, 1).probabilities.isfinite().all()


def test_a_clip_as_familiar_as_all_others_is_not_novel():
    x = torch.ones(30, 4) / 2
    present = (torch.ones(30, dtype=torch.bool),)
    alike = Support(vectors=(x,), present=present, class_ids=torch.arange(30) // 15, classes=2)
    assert fit(alike).predict(x, 1).novelty.max() == 0
