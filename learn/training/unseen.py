"""Episodes of classes that training does not see: which, and when a state is the better one.

A projection is worth what it does to classes it was not trained on. Those are the val split's
where it has classes of its own; where there is no val split, some of the train classes are put
aside, if enough of them can be spared.

A state of a training takes the place of another only where its gain, on the same episodes, is more
than the gain's own standard error: over episodes or over classes, whichever is larger, as many
episodes can be drawn from four classes and say little about a fifth. And in no mode that is the
same on both sides may it have lost more than that against the state before training: answers across
modes are no reason to spoil those within one.

Shapes: V = clips, E = episodes, C = classes, M = modes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from learn.data.clips import UNLABELLED, Clips
from learn.fewshot import modes as views
from learn.fewshot.default_head import NAME, resolved
from learn.fewshot.heads import Head
from learn.fewshot.heads._transform import known_of
from learn.fewshot.kept import queries_of
from learn.fewshot.scoring import scorer
from learn.fewshot.tasks import Episodes
from store import plugins
from store.errors import NotEnoughClips

SHOTS = (1, 5)
EPISODES = 300  # of each number of shots
WAYS, QUERIES = 5, 5
SPARED = 4  # classes put aside, at least
SHARE = 5  # one class in so many is put aside
HEAD = resolved(NAME)  # for runs without a head of their own, and for stored rows: what answers
_STREAM = 0x5EED  # of random numbers: which classes are put aside


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unseen:
    """Clips to train on, and clips of other classes to validate on."""

    train: Clips
    val: Clips
    what: str  # the validation, in words


def of_split(train: Clips, val: Clips, seed: int) -> Unseen | None:
    """The clips of a val split whose classes training lacks; None where they are too few."""
    new = np.array([name not in train.classes for name in val.classes], bool)
    labelled = val.class_ids != UNLABELLED
    wanted = labelled & (new[val.class_ids] if len(new) else False)
    apart = val.keep(wanted)
    if not draw(apart, seed):
        return None
    what = f"episodes of {len(apart.classes)} classes of split {val.split!r}, which training lacks"
    return Unseen(train=train, val=apart, what=what)


def put_aside(train: Clips, seed: int) -> Unseen | None:
    """Train clips without some of their classes, and the clips of these; None where too few can be
    spared."""
    count = max(SPARED, len(train.classes) // SHARE)
    if len(train.classes) < 2 * count:
        return None
    order = np.random.default_rng([seed, _STREAM]).permutation(len(train.classes))
    aside = np.isin(train.class_ids, order[:count])
    val = train.keep(aside)
    if not draw(val, seed):
        return None
    what = (
        f"episodes of {count} of {len(train.classes)} train classes, put aside by seed {seed}: "
        f"{', '.join(val.classes)}"
    )
    return Unseen(train=train.keep(~aside), val=val, what=what)


def draw(clips: Clips, seed: int) -> tuple[Episodes, ...]:
    """Episodes of one shot and of more, with as many ways and queries as the clips allow; none if
    they are too few."""
    _, sizes = np.unique(clips.class_ids[clips.class_ids != UNLABELLED], return_counts=True)
    most = (_drawn(clips, sizes, shots, seed) for shots in SHOTS)
    return tuple(episodes for episodes in most if episodes is not None)


def _drawn(clips: Clips, sizes: np.ndarray, shots: int, seed: int) -> Episodes | None:
    for ways in range(min(WAYS, int((sizes > shots).sum())), 1, -1):
        for queries in range(QUERIES, 0, -1):
            if int((sizes >= shots + queries).sum()) < ways:
                continue
            settings = {"ways": ways, "shots": shots, "queries": queries, "episodes": EPISODES}
            try:
                spec = plugins.Spec("n_way_k_shot", settings)
                drawn: Episodes = plugins.build("learn.fewshot.tasks", spec)(clips, seed=seed)
            except NotEnoughClips:
                continue
            return drawn
    return None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Accuracies of one state on drawn episodes: a row for the mean over all modes asked about,
    then one for each mode that is the same on both sides."""

    episodes: Float64[np.ndarray, "M E"]
    classes: Float64[np.ndarray, "M C"]

    @property
    def mean(self) -> float:
        """The mean over episodes and all modes."""
        return float(self.episodes[0].mean())

    def gains(self, other: "Scores") -> tuple[Float64[np.ndarray, "M"], Float64[np.ndarray, "M"]]:
        """The mean gains over another state on the same episodes, and their standard errors."""
        found = self.episodes - other.episodes, self.classes - other.classes
        errors = [x.std(axis=1, ddof=1) / x.shape[1] ** 0.5 for x in found]
        return found[0].mean(1), np.maximum(*errors)

    def better(self, best: "Scores", start: "Scores") -> bool:
        """Whether this state takes the place of the best one so far."""
        gains, errors = self.gains(best)
        since_start, of_start = self.gains(start)
        return bool(gains[0] > errors[0] and (since_start[1:] >= -of_start[1:]).all())

    def to_dict(self) -> dict[str, list[list[float]]]:
        """All numbers, as checkpoints have them."""
        return {"episodes": self.episodes.tolist(), "classes": self.classes.tolist()}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Sequence[Sequence[float]]]) -> "Scores":
        """What `to_dict` gave."""
        return cls(episodes=np.array(facts["episodes"]), classes=np.array(facts["classes"]))


def scores(
    vectors: Mapping[str, Float[Tensor, "V _"]],
    clips: Clips,
    drawn: Sequence[Episodes],
    head: Head | None,
) -> Scores:
    """The accuracies of a run's vectors in every mode, and across modes where there are several."""
    unit = {name: F.normalize(x, dim=-1).cpu() for name, x in vectors.items()}
    singles = views.modes_of(unit)
    pairs = [(s, q) for s in singles for q in singles]
    if len(singles) > 1 and set(singles) <= set(views.SINGLE):
        joint = views.mode_of(unit)
        pairs.append((joint, joint))
    within = [i for i, (s, q) in enumerate(pairs) if s == q]
    classes = np.concatenate([e.classes[:, e.targets].ravel() for e in drawn])  # of every query
    counts = np.bincount(classes, minlength=len(clips.classes))
    of_episodes, of_queries = [], []
    for episodes in drawn:
        found = np.stack([correct(unit, *pair, episodes, head) for pair in pairs])
        rows = np.concatenate([found.mean(0, keepdims=True), found[within]])
        of_episodes.append(rows.mean(2))
        of_queries.append(rows.reshape(len(rows), -1))
    sums = [np.bincount(classes, x, len(counts)) for x in np.concatenate(of_queries, axis=1)]
    return Scores(
        episodes=np.concatenate(of_episodes, axis=1),
        classes=np.stack(sums)[:, counts > 0] / counts[counts > 0],
    )


def correct(
    vectors: Mapping[str, Float[Tensor, "V _"]],
    support: str,
    query: str,
    episodes: Episodes,
    head: Head | None,
    *,
    common: bool = True,
) -> Float64[np.ndarray, "E M"]:
    """1 for every query that is answered rightly, else 0."""
    head = head or plugins.build("learn.fewshot.heads", HEAD)
    pair = views.pair(vectors, support, query, common=common)
    context = known_of(pair.support, pair.modality_dims)
    predictions = scorer(head, pair, context, queries=queries_of([episodes]))(episodes)
    return np.asarray(predictions == episodes.targets, np.float64)


def complete(clips: Clips, counts: Mapping[str, np.ndarray]) -> Clips:
    """The same clips, with labels only where no modality is missing: so episodes lack nothing."""
    whole = np.logical_and.reduce([n > 0 for n in counts.values()])
    class_ids = np.where(whole, clips.class_ids, UNLABELLED).astype(np.int32)
    return replace(clips, class_ids=class_ids)
