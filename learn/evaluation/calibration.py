"""How often answers are right that are given with some confidence.

Of episodes, confidence is a softmax of the head's scores at one temperature, which is fitted on
every second episode and measured on the others. A protocol that gives probabilities is measured as
it is.

Shapes: Q = answers, N = classes.

Source: Guo et al., 2017, "On calibration of modern neural networks" (temperature, expected
calibration error).
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from learn.fewshot.metrics import AnyPredictor
from learn.fewshot.tasks import Episodes

BINS = 10  # of equal width
EPISODES = 200  # looked at, at most: their scores are made a second time


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of about one confidence."""

    confidence: float  # their mean
    right: float  # the share of them that is right
    answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The curve of confidence against truth."""

    answers: int
    error: float  # the mean distance of the two, weighted by answers
    temperature: float | None  # None: the probabilities are the protocol's own
    bins: tuple[Bin, ...]  # those with any answer, by confidence

    def to_dict(self) -> dict[str, Any]:
        """The curve as JSON has it."""
        return {**asdict(self), "bins": [asdict(one) for one in self.bins]}


def curve(
    confidence: Float[np.ndarray, "Q"],
    right: Bool[np.ndarray, "Q"],
    temperature: float | None = None,
) -> Calibration:
    """Answers in bins of equal width."""
    number = np.clip((confidence * BINS).astype(np.int64), 0, BINS - 1)
    counts = np.bincount(number, minlength=BINS)
    means = np.bincount(number, confidence, BINS) / np.maximum(counts, 1)
    shares = np.bincount(number, right, BINS) / np.maximum(counts, 1)
    error = float((np.abs(means - shares) * counts).sum() / max(len(confidence), 1))
    return Calibration(
        answers=len(confidence),
        error=error,
        temperature=temperature,
        bins=tuple(
            Bin(confidence=float(means[i]), right=float(shares[i]), answers=int(counts[i]))
            for i in np.flatnonzero(counts)
        ),
    )


def of_probabilities(
    probabilities: Float[np.ndarray, "Q N"], class_ids: Int[np.ndarray, "Q"]
) -> Calibration:
    """The curve of a protocol's own probabilities."""
    return curve(probabilities.max(1), probabilities.argmax(1) == class_ids)


def of_episodes(episodes: Episodes, predictor: AnyPredictor) -> Calibration | None:
    """The curve of a head; None where there is too little to fit and to measure on."""
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]  # to fit on, to measure on
    seen = 0
    for batch, part, scores in predictor.scores(episodes):
        targets = episodes.targets[batch.columns[part]]
        for i, of_one in enumerate(scores.astype(np.float64)):
            found[(seen + i) % 2].append((of_one, targets[i]))
        seen += len(scores)
        if seen >= EPISODES:
            break
    if not all(found):
        return None
    temperature = _temperature(found[0])
    shares = [_softmax(scores / temperature) for scores, _ in found[1]]
    return curve(
        np.concatenate([x.max(1) for x in shares]),
        np.concatenate([x.argmax(1) == t for x, (_, t) in zip(shares, found[1], strict=True)]),
        temperature,
    )


def _softmax(scores: Float[np.ndarray, "M N"]) -> Float[np.ndarray, "M N"]:
    raised = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(raised / raised.sum(1, keepdims=True))


def _temperature(found: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """The temperature that makes the right answers most likely."""
    from scipy.optimize import minimize_scalar

    widths = {scores.shape[1] for scores, _ in found}
    together = [
        (
            np.concatenate([s for s, _ in found if s.shape[1] == width]),
            np.concatenate([t for s, t in found if s.shape[1] == width]),
        )
        for width in widths
    ]
    spread = max(float(np.std(scores)) for scores, _ in together) or 1.0

    def cost(log_temperature: float) -> float:
        total = 0.0
        for scores, targets in together:
            scaled = scores / (spread * np.exp(log_temperature))
            scaled -= scaled.max(1, keepdims=True)
            own = np.take_along_axis(scaled, targets[:, None], 1)[:, 0]
            total -= float((own - np.log(np.exp(scaled).sum(1))).sum())
        return total

    best = minimize_scalar(cost, bounds=(np.log(1e-3), np.log(1e2)), method="bounded")
    return float(spread * np.exp(best.x))
