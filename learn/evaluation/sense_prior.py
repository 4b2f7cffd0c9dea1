"""Where the weights of senses begin: classes of the same collection that nobody asks about.

Episodes of these classes are drawn as those scored are, and the weights that make their known
answers likely are the prior, drawn towards what is shipped for the encoders the fewer classes there
are (`learn/fewshot/fusions/_evidence.py`). No label of a clip that is scored enters.

Shapes: as in `learn.fewshot.fusions`.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from learn.data.clips import UNLABELLED, Clips, splits
from learn.evaluation.evaluation_set import EvaluationSet, load_evaluation_set
from learn.evaluation.pools import TRAIN, VAL
from learn.fewshot.apart import Apart, likelihood
from learn.fewshot.fusions import Fusion, Prior, equal
from learn.fewshot.fusions._evidence import from_classes
from learn.fewshot.fusions._shipped import Encoder, shipped
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.guard import STAND_BACK, GuardPrior, Worth
from learn.fewshot.heads import Head
from learn.fewshot.tasks import Episodes
from learn.training.runs import Run
from store import plugins
from store.errors import NotEnoughClips

if TYPE_CHECKING:
    from store import Feature, Manifest

EPISODES = 100
QUERIES = 5


def other_classes(
    manifest: "Manifest",
    features: "dict[str, Feature]",
    scored: EvaluationSet,
    *,
    split: str,
    label: str,
    group: str | None,
) -> EvaluationSet | None:
    """The labelled clips of train and val splits whose classes are not scored; None where there are
    no two such classes."""
    known = {TRAIN, VAL} & set(splits(manifest)) - {split}
    if not known or split == "all" or scored.clips.targets is not None:
        return None
    everything = load_evaluation_set(manifest, features, split="all", label=label, group=group)
    split_of = dict(zip(manifest.clip_ids, manifest.column("split"), strict=True))
    in_splits = np.array([split_of[clip] in known for clip in everything.clips.ids])
    names = np.array(everything.clips.classes)
    asked = np.isin(names, scored.clips.classes)
    kept = everything.keep(in_splits & ~asked[everything.clips.class_ids])
    return kept if len(np.unique(kept.clips.class_ids)) > 1 else None


def unseen(apart: EvaluationSet, run: Run | None) -> tuple[EvaluationSet, bool]:
    """Those clips that the run was not trained on, if they are of two classes; else all, and so
    said."""
    if run is None:
        return apart, True
    new = _without(apart, run.trained_on)
    return (apart, False) if new is None else (new, True)


def unfitted(apart: EvaluationSet, run: Run) -> EvaluationSet | None:
    """Those clips of classes that gave the run no gradients, whether or not they chose its epoch;
    None where they are not of two classes."""
    fitted = [clip in run.fitted_on for clip in apart.clips.ids]
    known = np.unique(apart.clips.class_ids[np.array(fitted, bool)])
    names = {apart.clips.classes[c] for c in known.tolist()}
    return _without(apart, run.fitted_on, names)


def with_names(apart: EvaluationSet, run: Run) -> EvaluationSet | None:
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


def prior_of(
    fusion: Fusion,
    head: Head,
    encoders: Sequence[Encoder],
    apart: Apart | None,
    episodes: Episodes,
) -> Prior | None:
    """The prior of a weighing fusion for these episodes; None of one that does not weigh."""
    if not isinstance(fusion, Weighted):
        return None
    if fusion.prior == "equal":
        return equal(len(encoders))
    before = shipped(encoders)
    if fusion.prior == "shipped" or apart is None:
        return before
    draw = _draw(apart.clips, episodes)
    if draw is None:
        return before
    classes = len(np.unique(draw.classes))
    found = from_classes(likelihood(head, apart, draw), classes, before)
    return found if apart.unseen else replace(found, origin=f"{found.origin}; seen in training")


def guard_prior(
    head: Head,
    stored: Prior | None,
    projected: Prior | None,
    apart: Apart | None,
    episodes: Episodes,
    *,
    names: Worth | None = None,
) -> GuardPrior:
    """Where the guard's weights begin: what classes that training did not see say of the sides,
    each mixed as its own prior says; stored vectors alone where there are no such classes. Names of
    classes count as what they are worth in shots."""
    draw = None if apart is None else _draw(apart.clips, episodes)
    share = None if names is None else names.beside(episodes.shots)
    known = GuardPrior.of(stored, projected, STAND_BACK, share, str(names or ""))
    if apart is None or draw is None:
        return known
    count, rest = len(known.stored.value), len(known.projected.value)
    extra = (0.0,) * (names is not None)  # nothing of names
    blocks = [
        (*known.stored.value, *(0.0,) * rest, *extra),
        (*(0.0,) * count, *known.projected.value, *extra),
    ]
    classes = len(np.unique(draw.classes))
    before = Prior(value=STAND_BACK.value, origin="stored vectors alone")
    found = from_classes(likelihood(head, apart, draw, blocks), classes, before)
    return GuardPrior.of(stored, projected, found, share, known.names_from)


def _draw(clips: Clips, like: Episodes) -> Episodes | None:
    """Episodes of these classes with as many ways, shots and queries as they allow, up to those of
    the episodes scored."""
    _, sizes = np.unique(clips.class_ids[clips.class_ids != UNLABELLED], return_counts=True)
    for shots in range(like.shots, 0, -1):
        for queries in (QUERIES, 2, 1):
            ways = min(like.ways, int((sizes >= shots + queries).sum()))
            if ways < 2:
                continue
            settings = {
                "ways": ways,
                "shots": shots,
                "queries": queries,
                "episodes": EPISODES,
                "groups": "mixed" if clips.groups is None else like.facts.get("groups", "within"),
            }
            try:
                spec = plugins.Spec("n_way_k_shot", settings)
                drawn: Episodes = plugins.build("learn.fewshot.tasks", spec)(clips, seed=like.seed)
            except NotEnoughClips:
                continue
            return drawn
    return None
