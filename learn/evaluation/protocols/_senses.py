"""How a probe joins several senses: one on all of them, or one each and what they say together.

    early      one probe on all vectors, each scaled to length 1
    late       a probe for each; the mean of their probabilities
    weighted   a probe for each; the product of their probabilities, each to the power of its
               weight. The weights are those that make the classes of held-out clips likeliest:
               of the val split, else of a fifth of the clips that probes are fitted on

Shapes: V = clips, C = classes, B = senses, G = weights of a grid.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from learn.evaluation.protocols import _logistic
from learn.fewshot.fusions._evidence import grid

EARLY, LATE, WEIGHTED = WAYS = ("early", "late", "weighted")
SHARPNESSES = (0.5, 1.0, 2.0)
LEAST = 1e-6  # of a probability: one probe alone rules out no class
FIFTH = 5
RANDOM = 0

Vectors = Float[np.ndarray, "V _"]
Shares = Float[np.ndarray, "V C"]


def joined(of_senses: Sequence[Shares], weights: Sequence[float] | None) -> Shares:
    """Probabilities of classes from those of every sense: their mean, or by weights."""
    if weights is None or len(of_senses) == 1:
        return np.asarray(np.mean(of_senses, axis=0))
    logs = sum(w * np.log(p.clip(LEAST)) for w, p in zip(weights, of_senses, strict=True))
    odds = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def weights_of(of_senses: Sequence[Shares], class_ids: Int[np.ndarray, "V"]) -> tuple[float, ...]:
    """The weights, summing to 1, under which these clips' classes are likeliest; of equals the most
    even."""
    logs = np.stack([np.log(p.clip(LEAST)) for p in of_senses])  # B V C
    own = np.arange(len(class_ids)), class_ids
    best: tuple[float, float, tuple[float, ...]] | None = None
    for weights in grid(len(of_senses)).double().numpy():
        mixed = np.tensordot(weights, logs, axes=1)
        mixed -= mixed.max(1, keepdims=True)
        for sharpness in SHARPNESSES:
            odds = sharpness * mixed
            likely = float((odds[own] - np.log(np.exp(odds).sum(1))).mean())
            found = (round(likely, 9), -float(np.square(weights).sum()), tuple(weights.tolist()))
            best = found if best is None else max(best, found)
    assert best is not None
    return best[2]


def held_out(
    fit_on: Sequence[Vectors],
    class_ids: Int[np.ndarray, "V"],
    groups: Int[np.ndarray, "V"] | None,
    classes: int,
    c: float,
) -> tuple[list[Shares], Int[np.ndarray, "_"]] | None:
    """What probes on four fifths of the clips say of the others, clips of a group on one side; and
    the classes of these. None where too few are left to fit on."""
    own = np.arange(len(class_ids)) if groups is None else groups
    rng = np.random.default_rng(RANDOM)
    place = np.empty(len(own), np.int64)
    for class_id in np.unique(class_ids):  # groups of every class in turn, in random order
        clips = np.flatnonzero(class_ids == class_id)
        names, of_clip = np.unique(own[clips], return_inverse=True)
        place[clips] = rng.permutation(len(names))[of_clip] % FIFTH
    out = place == 0
    out &= np.isin(class_ids, class_ids[~out]) & ~np.isin(own, own[~out])
    if not out.any() or len(np.unique(class_ids[~out])) < 2:
        return None
    said = [_logistic.fit(x[~out], class_ids[~out], classes, c)[0](x[out]) for x in fit_on]
    return said, class_ids[out]
