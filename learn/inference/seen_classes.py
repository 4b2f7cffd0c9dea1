"""Classes that nobody asks about, as a projection sees them.

Shapes: V = clips, E = size of a name's vector.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learn.data.devices import CPU
from learn.data.evaluation_set import EvaluationSet
from learn.fewshot import modes
from learn.fewshot.fused import pairs_of
from learn.fewshot.fusions import Fusion, Prior
from learn.fewshot.fusions._shipped import encoders_of
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.guard import Guarded, Worth, both_sides
from learn.fewshot.heads import Head
from learn.fewshot.heads._transform import known_of
from learn.fewshot.sense_prior import Apart, Like, prior_of
from learn.inference.selection import vectors_on
from learn.training import worth_of_names
from learn.training.runs import Run

if TYPE_CHECKING:
    from store import Feature

ASKED_SEED = 0  # of the episodes that tell what names are worth


class Seen(NamedTuple):
    """Clips of other classes and their vectors."""

    clips: EvaluationSet
    vectors: Mapping[str, Float[Tensor, "V _"]]
    unseen: bool  # by the training of the vectors, if there was any


def seen_by(
    run: Run | None, fusion: Fusion, clips: EvaluationSet | None, device: torch.device
) -> Seen | None:
    """Clips whose classes the run was not trained on, or all of them, and so said; under the guard,
    which has nothing to learn from those, vectors of both sides. None where no two classes are
    left."""
    if clips is None:
        return None
    if not isinstance(fusion, Guarded):
        chosen, new = _unseen(clips, run)
        return Seen(chosen, vectors_on(device, chosen.rows, run), new)
    assert run is not None
    of_classes = _unfitted(clips, run)
    if of_classes is not None and fusion.names:
        of_classes = _with_names(of_classes, run)
    if of_classes is None:
        return None
    names = None
    if fusion.names:
        names = run.names_of_clips(of_classes.clips.class_ids, of_classes.clips.classes)
    vectors = both_sides(
        vectors_on(device, of_classes.rows, run),
        vectors_on(device, of_classes.rows, None),
        None if names is None else names.to(device),
    )
    return Seen(of_classes, vectors, unseen=True)


def apart_of(
    fusion: Fusion, run: Run | None, clips: EvaluationSet | None, senses: Sequence[str] = ()
) -> Apart | None:
    """Other classes as clips that are asked about are seen: by these senses, or all there are."""
    seen = seen_by(run, fusion, clips, CPU)
    if seen is None:
        return None
    pairs = pairs_of(fusion, {n: x for n, x in seen.vectors.items() if not senses or n in senses})
    contexts = [known_of(pair.support, pair.modality_dims) for pair in pairs]
    return Apart(
        clips=seen.clips.clips, pairs=pairs, contexts=lambda _: contexts, unseen=seen.unseen
    )


def prior_by(
    fusion: Fusion,
    head: Head,
    features: Mapping[str, "Feature"],
    senses: Sequence[str],
    run: Run | None,
    clips: EvaluationSet | None,
    like: Like,
) -> Prior | None:
    """Where the weights of these senses begin, by other classes; None of a fusion that does not
    weigh."""
    if not isinstance(fusion, Weighted):
        return None
    apart = apart_of(fusion, run, clips, senses) if fusion.prior == "auto" else None
    return prior_of(fusion, head, encoders_of(features, senses), apart, like)


def worth_of(run: Run, mode: str, clips: EvaluationSet | None) -> Worth:
    """What a class name is worth in clips of it: by the run, or else by other classes."""
    told = run.worth_of_names(mode)
    if told.classes or clips is None:
        return told
    new = _unfitted(clips, run)
    new = None if new is None else _with_names(new, run)
    if new is None:
        return told
    ids = new.clips.class_ids
    stored, projected = (vectors_on(CPU, new.rows, which) for which in (None, run))
    named = run.names_of_clips(ids, new.clips.classes)
    assert named is not None
    found = worth_of_names.measure(
        [
            worth_of_names.Asked(
                new.clips, tuple(stored[sense] for sense in modes.senses_in(mode, stored)),
                modes.common(projected, mode), named,
            )
        ],
        ASKED_SEED,
    )  # fmt: skip
    return told if found is None else Worth(*found)


def _unseen(apart: EvaluationSet, run: Run | None) -> tuple[EvaluationSet, bool]:
    """Those clips that the run was not trained on, if they are of two classes; else all, and so
    said."""
    if run is None:
        return apart, True
    new = _without(apart, run.trained_on)
    return (apart, False) if new is None else (new, True)


def _unfitted(apart: EvaluationSet, run: Run) -> EvaluationSet | None:
    """Those clips of classes that gave the run no gradients, whether or not they chose its epoch;
    None where they are not of two classes."""
    fitted = [clip in run.fitted_on for clip in apart.clips.ids]
    known = np.unique(apart.clips.class_ids[np.array(fitted, bool)])
    names = {apart.clips.classes[c] for c in known.tolist()}
    return _without(apart, run.fitted_on, names)


def _with_names(apart: EvaluationSet, run: Run) -> EvaluationSet | None:
    """Those clips whose classes' names the run knows; None where they are not of two classes."""
    unknown = {name for name in apart.clips.classes if not run.has_name(name)}
    return _without(apart, frozenset(), unknown)


def _without(
    clips: EvaluationSet, ids: frozenset[str], classes: Collection[str] = ()
) -> EvaluationSet | None:
    """The clips that are none of these and of none of these classes; None where fewer than two
    classes are left."""
    of_clip = (clips.clips.classes[c] for c in clips.clips.class_ids.tolist())
    wanted = [
        clip not in ids and name not in classes
        for clip, name in zip(clips.clips.ids, of_clip, strict=True)
    ]
    new = clips.keep(np.array(wanted, bool))
    return new if len(np.unique(new.clips.class_ids)) > 1 else None
