"""How well clips are told that nobody has chosen: the estimate by which one knows when to stop.

Labels that a strategy asks for are of the hardest clips, so nothing that is counted on them says
what to expect of the others. So one clip in eight is the next of an order that knows nothing of
clips but their names: a fair sample of what was left then. Each is held against a head fitted
without it. Which they are follows from the order of answers, so no file says so.

Shapes: S = labelled clips, n = clips of the sample, D = size of a vector.
"""

from collections.abc import Sequence
from hashlib import sha256
from itertools import islice

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from learn.fewshot.budget import MEMORY
from learn.fewshot.fusions import WeighingFusion
from learn.fewshot.guard import STORED
from learn.fewshot.sense_prior import Like
from learn.inference.examples import Examples
from learn.inference.fitted_head import FittedHead, Labelled
from learn.inference.judges import Judges

EVERY = 8  # clips, of which one is drawn
PASSED_OVER = 8  # clips of the order that may be waiting
FOLDS = 5  # shares in which the sample is left out


def draw_order(clips: Sequence[str]) -> list[str]:
    """The clips in an order that their names alone decide, as if it were drawn."""
    return sorted(clips, key=lambda clip: sha256(clip.encode()).digest())


def is_due(answers: int) -> bool:
    """Whether the clip after so many answers is one that is drawn."""
    return answers % EVERY == EVERY - 1


def sample_of(order: Sequence[str], answers: Sequence[str]) -> tuple[str, ...]:
    """Of clips in the order in which they were answered, those that had been drawn; each was one of
    the first few of the order that had no answer, as some are skipped or shown in another window.
    """
    done: set[str] = set()
    found: list[str] = []
    for number, clip in enumerate(answers):
        if is_due(number) and clip in islice((c for c in order if c not in done), PASSED_OVER):
            found.append(clip)
        done.add(clip)
    return tuple(found)


def told_right(
    judges: Judges,
    examples: Examples,
    class_ids: Int64[Tensor, "S"],
    sample: Int64[Tensor, "n"],
) -> Bool[Tensor, "n"]:
    """Whether each clip of the sample is told by the labelled clips without its share of it."""
    right = torch.zeros(len(sample), dtype=torch.bool)
    folds = min(FOLDS, len(sample))
    for fold in range(folds):
        held = torch.arange(fold, len(sample), folds)
        left = torch.ones(len(class_ids), dtype=torch.bool)
        left[sample[held]] = False
        right[held] = _told(judges, examples, class_ids, left, sample[held])
    return right


def _told(
    judges: Judges,
    examples: Examples,
    class_ids: Int64[Tensor, "S"],
    left: Bool[Tensor, "S"],
    held: Int64[Tensor, "_"],
) -> Bool[Tensor, "_"]:
    """Of the clips held out, those that a head on what is left tells by what they have."""
    right = torch.zeros(len(held), dtype=torch.bool)
    has = torch.stack([examples.present[part] for part in examples.parts])
    for pattern in torch.unique(has[:, held], dim=1).T:
        parts = tuple(p for p, there in zip(examples.parts, pattern.tolist(), strict=True) if there)
        if not parts:
            continue
        asked = (has[:, held] == pattern[:, None]).all(0)
        judge = judges.of(parts, Like.of_labelled(class_ids[left]))
        of_parts = has[pattern]
        any_will_do = isinstance(judge.fusion, WeighingFusion)
        usable = left & (of_parts.any(0) if any_will_do else of_parts.all(0))
        clips = torch.nonzero(usable)[:, 0]
        if not len(clips):
            continue
        names = [n for n in examples.vectors if n in parts or n.startswith(STORED)]
        shots = Labelled(
            vectors={name: examples.vectors[name][clips] for name in names},
            present={part: examples.present[part][clips] for part in parts},
            class_ids=class_ids[clips],
        )
        head = FittedHead(judge, shots, MEMORY)
        of_asked = held[asked]
        scores = head.scores({name: examples.vectors[name][of_asked] for name in names})
        right[asked] = head.classes[scores.argmax(1)] == class_ids[of_asked]
    return right


def half_width(share: float, count: int) -> float:
    """Half the width of the 95 % interval of a share (Agresti and Coull, 1998)."""
    adjusted = (share * count + 2) / (count + 4)
    return float(1.96 * (adjusted * (1 - adjusted) / (count + 4)) ** 0.5)
