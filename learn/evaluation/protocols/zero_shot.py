"""Zero-shot and generalised zero-shot: clips against the names of classes, some never trained on.

Seen classes are those that the run was trained on, unseen ones are the others of the scored split.
All metrics are means over classes of the share of their clips that is named correctly:

    zsl             unseen classes, chosen among unseen classes alone
    seen, unseen    among all classes (S and U)
    harmonic_mean   2 S U / (S + U)
    ausuc           the area under U against S as beta goes from minus to plus infinity

Runs prefer what they know, so beta is taken off the scores of seen classes (calibrated stacking).
It is chosen for the best harmonic mean on the val split, of all values that change an answer there;
its unseen classes are those that the run does not know and the scored split does not have, or, said
so, those of both. Or it is given: `beta=0.2`, and `beta=0` is none. A score is the cosine of a clip
and a name in the common space; a clip in mode av without a vector of both is the mean of its two.
`rule=own` scores as the run's objective was tested where it was published: minus the distance from
a name, and in mode av that of the modality which CJME's attention chooses, the sum of both in
AVGZSLNet, that of sight in AVCA.

Source: Chao et al., 2016 (calibrated stacking, the area); Xian et al., 2017 (S, U, H per class);
Mercea et al., 2022 (audio-visual).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite

import numpy as np
from jaxtyping import Bool, Float, Int

from learn.data.evaluation_set import EvaluationSet
from learn.evaluation.metrics import OfClass
from learn.evaluation.protocols import Finding, Material, positions
from learn.fewshot import modes
from learn.fewshot.metrics import harmonic
from learn.training import own_head
from store.errors import ConfigError, InputError
from store.settings import Settings, setting

VAL = "val"
MOST = 400  # values of beta tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the protocol `zero_shot`."""

    beta: str = setting(VAL, main=True)  # or a number
    rule: str = setting("cosine", among=("cosine", "own"))

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.beta != VAL and self.number() is None:
            raise ConfigError(f"zero_shot: beta={self.beta!r} is neither {VAL} nor a number")

    def number(self) -> float | None:
        """The beta that is given; 0 is one."""
        try:
            value = float(self.beta)
        except ValueError:
            return None
        return value if isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scored:
    """Clips of seen and unseen classes against the names of both."""

    scores: Float[np.ndarray, "V C"]
    truth: Int[np.ndarray, "V"]
    names: tuple[str, ...]
    seen: Bool[np.ndarray, "C"]

    def recalls(self, beta: float, *, among: Bool[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
        """The recall of each class, predicted `among` some; NaN for a class without a clip."""
        scores = np.where(among, self.scores - beta * self.seen, -np.inf)
        correct = scores.argmax(1) == self.truth
        clips = np.bincount(self.truth, minlength=len(self.names))
        hits = np.bincount(self.truth[correct], minlength=len(self.names))
        return np.where(clips > 0, hits / np.maximum(clips, 1), np.nan)

    def seen_and_unseen(self, beta: float) -> tuple[float | None, float | None]:
        """The mean recalls S of seen and U of unseen classes; None where none has a clip."""
        recall = self.recalls(beta, among=np.ones_like(self.seen))
        return tuple(  # type: ignore[return-value]
            None if np.isnan(recalls).all() else float(np.nanmean(recalls))
            for recalls in (recall[self.seen], recall[~self.seen])
        )

    def betas(self) -> Float[np.ndarray, "_"]:
        """Values between those at which a prediction turns from seen to unseen, and beyond."""
        seen = self.scores[:, self.seen].max(1)
        turns = np.unique(seen - self.scores[:, ~self.seen].max(1))
        between = (turns[1:] + turns[:-1]) / 2
        if len(between) > MOST:
            between = between[np.linspace(0, len(between) - 1, MOST).round().astype(int)]
        return np.concatenate([turns[:1] - 1, between, turns[-1:] + 1, [0.0]])


@dataclass(frozen=True, slots=True, kw_only=True)
class ZeroShot:
    """Clips named by the vectors of class names."""

    config: Config

    def __call__(self, material: Material) -> Iterator[Finding]:
        """The findings about every label, projection and pair of modes."""
        for label in material.labels:
            scored = material.evaluation_set(material.split, label)
            val = None
            if self._tunes(material):
                val = material.evaluation_set(material.val_split, label)
            for projection, run in material.runs.items():
                if run is None:
                    raise InputError(
                        "stored features know no names of classes; train with them (learn train "
                        "--recipe cjme --labels FILE) and name the run with `projections`"
                    )
                unseen = [name for name in scored.clips.classes if name not in run.classes]
                if not unseen:
                    raise InputError(
                        f"{projection} was trained on every class of split {material.split!r} in "
                        f"column {label!r}: nothing is unseen; score another split, or use "
                        "`protocol` classify"
                    )
                for mode in self._modes(material, scored, projection):
                    yield self._finding(material, scored, val, label, projection, mode, unseen)

    def _tunes(self, material: Material) -> bool:
        return self.config.number() is None and material.has(material.val_split)

    def _modes(self, material: Material, scored: EvaluationSet, projection: str) -> list[str]:
        """The modes asked for, or all that the run can give."""
        asked = list(dict.fromkeys((*material.support, *material.query)))
        few = scored.keep(np.arange(len(scored.clips)) < 1)
        run = material.runs[projection]
        if self.config.rule == "own" and run is not None:
            able = list(own_head.name_scores(run, few.rows, run.classes[:1]))
            if lacking := [mode for mode in asked if mode not in able]:
                raise InputError(
                    f"{projection} has no test rule for mode {lacking[0]}; it has one for "
                    f"{', '.join(able)}"
                )
            return asked or [mode for mode in modes.MODES if mode in able]
        known = material.vectors(few, projection)
        return asked or [
            mode for mode in modes.MODES if not modes.refusal(known, mode, mode, common=True)
        ]

    def _finding(
        self,
        material: Material,
        scored: EvaluationSet,
        val: EvaluationSet | None,
        label: str,
        projection: str,
        mode: str,
        unseen: list[str],
    ) -> Finding:
        """The finding about one mode of one run."""
        run = material.runs[projection]
        assert run is not None
        rule = self.config.rule
        test = _score(material, scored, projection, mode, run.classes, unseen, rule)
        beta, chosen_on = self.config.number(), "given"
        if beta is None:
            beta, chosen_on = 0.0, "nothing: no val split has seen and unseen classes"
            val_classes = set() if val is None else set(val.clips.classes)
            new = val_classes - set(run.classes)
            apart = sorted(new - set(unseen) or new)
            if val is not None and apart and val_classes & set(run.classes):
                class_ids = _class_ids(val, [*run.classes, *apart])
                kept = val.keep(np.isin(val.clips.class_ids, class_ids))
                tuned = _score(material, kept, projection, mode, run.classes, apart, rule)
                beta, chosen_on = _best(tuned), material.val_split
                if set(apart) & set(unseen):
                    chosen_on += ", whose unseen classes are among those scored"
        s, u = test.seen_and_unseen(beta)
        zsl = np.nanmean(test.recalls(0.0, among=~test.seen)[~test.seen])
        values: dict[str, float] = {}
        if s is not None and u is not None:
            values = {
                "harmonic_mean": _harmonic(s, u),
                "seen": s,
                "unseen": u,
                "ausuc": _area(test),
            }
        elif u is not None:
            values = {"unseen": u}
        values |= {"zsl": float(zsl), "beta": beta}
        recall = test.recalls(beta, among=np.ones_like(test.seen))
        clips = np.bincount(test.truth, minlength=len(test.names))
        return material.finding(
            scored, projection, (mode, mode), values, label=label,
            classes=[
                OfClass(name=test.names[c], clips=int(clips[c]), recall=float(recall[c]))
                for c in np.flatnonzero(clips)
            ],
            about={
                "beta_chosen_on": chosen_on,
                "unseen_classes": unseen,
                "seen_classes_scored": int((clips[test.seen] > 0).sum()),
            },
        )  # fmt: skip


def _best(val: Scored) -> float:
    """The beta with the best harmonic mean; of equals the one nearest to zero."""
    # Another rule than that of episodes, `learn.fewshot.metrics.best_beta`, which rates a mean over
    # episodes and tries quantiles: here every value that changes a prediction is tried, up to MOST.
    rated: list[tuple[float, float, float]] = []
    for beta in val.betas().tolist():
        s, u = val.seen_and_unseen(beta)
        rated.append((_harmonic(s or 0.0, u or 0.0), -abs(beta), beta))
    return max(rated)[2]


def _harmonic(s: float, u: float) -> float:
    """The harmonic mean of two numbers; 0 where either is."""
    return float(harmonic(np.asarray(s), np.asarray(u)))


def _area(test: Scored) -> float:
    """The area under U against S."""
    corners = {test.seen_and_unseen(beta) for beta in test.betas().tolist()}
    points = sorted(corners, key=lambda p: (p[0], -p[1]))  # type: ignore[operator]
    s, u = (np.array([0.0 if x is None else x for x in axis]) for axis in zip(*points, strict=True))
    return float(((s[1:] - s[:-1]) * (u[1:] + u[:-1]) / 2).sum())


def _score(
    material: Material,
    scored: EvaluationSet,
    projection: str,
    mode: str,
    seen: tuple[str, ...],
    unseen: list[str],
    rule: str,
) -> Scored:
    run = material.runs[projection]
    assert run is not None
    names = (*seen, *unseen)
    if rule == "own":
        scores = own_head.name_scores(run, scored.rows, names)[mode].double().numpy()
    else:
        vectors = modes.common(material.vectors(scored, projection), mode)
        scores = (vectors @ run.class_embeddings(names).T).double().numpy()
    truth = positions(scored.clips.classes, names)[scored.clips.class_ids]
    return Scored(scores=scores, truth=truth, names=names, seen=np.arange(len(names)) < len(seen))


def _class_ids(val: EvaluationSet, names: list[str]) -> Int[np.ndarray, "_"]:
    class_ids = positions(names, val.clips.classes)
    return class_ids[class_ids >= 0]


def build(config: Config) -> ZeroShot:
    """The protocol that these settings describe."""
    return ZeroShot(config=config)
