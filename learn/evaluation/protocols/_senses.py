"""How a probe joins several senses: one on all of them, or one each and what they say together.

    early      one probe on all vectors, each scaled to length 1
    late       a probe for each; the mean of their probabilities
    weighted   a probe for each and one on all vectors; the product of their probabilities, each
               to the power of its weight. The weights are those that make the classes of held-out
               clips likely: of the val split, else of clips that probes are fitted on, a fifth at
               a time

Shapes: V = clips, C = classes, B = probes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from learn.evaluation.protocols import Material, _logistic
from learn.evaluation.wording import JOINED_BY
from learn.fewshot.fusions._evidence import grid
from learn.fewshot.mode_pairs import senses_in

_, LATE, WEIGHTED = JOINED_BY
SHARPNESSES = (0.5, 1.0, 2.0)
LEAST = 1e-6  # of a probability: one probe alone rules out no class
FIFTH, FEW = 5, 2000  # of so few clips every fifth is held out in turn
RANDOM = 0
ALL = "all"  # the probe on all vectors

Vectors = Float[np.ndarray, "V _"]
Shares = Float[np.ndarray, "V C"]


def views(
    material: Material,
    vectors: Mapping[str, Tensor],
    projection: str,
    cell: tuple[str, str],
    side: int,
    fusion: str,
) -> list[Float[np.ndarray, "V _"]]:
    """The vectors of each probe on one side of a pair of modes: all joined, one per sense, or
    both."""
    senses = senses_in(cell[0], vectors)
    pair = material.pair(vectors, projection, cell)
    found = [(pair.query if side else pair.support).double().numpy()]
    if fusion in (LATE, WEIGHTED) and len(senses) > 1:
        alone = [vectors[sense].double().numpy() for sense in senses]
        found = alone if fusion == LATE else [*alone, *found]
    return found


def said(
    material: Material,
    cell: tuple[str, str],
    fusion: str,
    of_fits: Sequence[Sequence[float] | None],
) -> dict[str, Any]:
    """How senses were joined: the mean weights over all fits, by feature."""
    found: dict[str, Any] = {"fusion": fusion} if fusion else {}
    weights = [of for of in of_fits if of is not None]
    if weights:
        names = [material.features[sense].name for sense in senses_in(cell[0], material.features)]
        of_probes = zip((*names, ALL), np.mean(weights, axis=0).tolist(), strict=True)
        found["weights"] = dict(of_probes)
    return found


def joined(of_probes: Sequence[Shares], weights: Sequence[float] | None) -> Shares:
    """Probabilities of classes from those of every probe: their mean, or by weights."""
    if weights is None or len(of_probes) == 1:
        return np.asarray(np.mean(of_probes, axis=0))
    logs = sum(w * np.log(p.clip(LEAST)) for w, p in zip(weights, of_probes, strict=True))
    odds = np.exp(logs - np.max(logs, axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True))


def weights_of(of_probes: Sequence[Shares], class_ids: Int[np.ndarray, "V"]) -> tuple[float, ...]:
    """The mean weights, summing to 1, over all that are as likely as they make these clips' classes
    likely, under any sharpness."""
    logs = np.stack([np.log(p.clip(LEAST)) for p in of_probes])  # B V C
    own = np.arange(len(class_ids)), class_ids
    weights, likely = grid(len(of_probes)).double().numpy(), []
    for of_grid in weights:
        mixed = np.tensordot(of_grid, logs, axes=1)
        mixed -= mixed.max(1, keepdims=True)
        odds = [sharpness * mixed for sharpness in SHARPNESSES]
        likely.append([(x[own] - np.log(np.exp(x).sum(1))).sum() for x in odds])
    share = np.exp(np.array(likely) - np.max(likely)).sum(1)
    return tuple((share @ weights / share.sum()).tolist())


def held_out(
    fit_on: Sequence[Vectors],
    class_ids: Int[np.ndarray, "V"],
    groups: Int[np.ndarray, "V"] | None,
    classes: int,
    c: float,
) -> tuple[list[Float[np.ndarray, "_ C"]], Int[np.ndarray, "_"]] | None:
    """What probes on four fifths of the clips say of the others, clips of a group on one side; and
    the classes of these: of each fifth in turn where clips are few. None where too few are left to
    fit on."""
    own = np.arange(len(class_ids)) if groups is None else groups
    rng = np.random.default_rng(RANDOM)
    names, of_clip = np.unique(own, return_inverse=True)
    fifth = rng.permutation(len(names))[of_clip] % FIFTH
    said: list[list[Shares]] = []
    truth = []
    for turn in range(FIFTH if len(class_ids) <= FEW else 1):
        out = fifth == turn
        known = class_ids[~out]
        out &= np.isin(class_ids, known)
        if not out.any() or len(np.unique(known)) < 2:
            continue
        rest = fifth != turn
        said.append([_logistic.fit(x[rest], known, classes, c)[0](x[out]) for x in fit_on])
        truth.append(class_ids[out])
    if not said:
        return None
    return [np.concatenate(parts) for parts in zip(*said, strict=True)], np.concatenate(truth)
