"""Answers to one question about clips, batch by batch: what `learn predict` writes in its columns.

A clip is judged by what it has: one without sound by sight alone, against the sight of the labelled
clips, and with a calibration of its own.

Shapes: S = support clips, B = clips of a batch, Q = those that have the same parts, D = size of a
vector.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from learn.data.devices import CPU
from learn.fewshot.budget import MEMORY
from learn.fewshot.fusions import WeighingFusion
from learn.fewshot.guard import NAMES, STORED
from learn.fewshot.mode_pairs import MODES, mode_of
from learn.fewshot.sense_prior import Like
from learn.inference.classifier import Calibration, Classifier, Predictions, fit
from learn.inference.embed import EmbeddedBatch
from learn.inference.examples import Examples
from learn.inference.fitted_head import HeadClassifier, Labelled
from learn.inference.judges import Judges
from learn.inference.left_out import Support, middle
from learn.inference.vector_index import Inverted
from store.errors import ConfigError, InputError

SHOWN = 4  # digits of a confidence
ANSWERED, ABSTAINED, NO_ROWS = "answered", "abstained", "no-rows"
NO_MATCH = "no-match"  # it has rows, and no labelled clip has any of that kind


def header(label: str, top: int, weighed: Sequence[str] = ()) -> list[str]:
    """The columns of a question; `weighed` are the features that a fusion weighs."""
    weights = [f"{label}_weight_{feature}" for feature in weighed]
    ranks = (f"{label}_{k}" for k in range(1, top + 1))
    return (
        [label, f"{label}_status", f"{label}_novelty"]
        + [column for rank in ranks for column in (rank, f"{rank}_confidence")]
        + weights
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LabellerSettings:
    """Settings that are the same for every question."""

    head: str  # of the gallery, which tells novelty, and answers where nothing else judges
    inverted: Inverted | None  # an approximate index; None: exact
    centred: bool  # stored vectors have a mean that says nothing; a trained space has none
    top: int
    abstain_below: float
    judges: Judges | None = None  # what answers; None: the gallery
    memory: int = MEMORY  # bytes for labelled clips side by side
    device: torch.device = CPU  # that searches


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSummary:
    """Counts of the answers to a question, and how far their confidences can be trusted."""

    label: str
    classes: int
    support: int
    support_without_rows: int
    classes_without_rows: tuple[str, ...]
    calibration: Mapping[str, Calibration]  # by the parts that clips were judged by
    recall: Mapping[str, float] | None  # likewise, of an approximate index
    statuses: Mapping[str, int]
    weights: Mapping[str, Mapping[str, float]]  # likewise, of a fusion that weighs: by feature
    prior: Mapping[str, str]  # likewise: where they begin
    classes_without_name: tuple[str, ...] = ()  # vectors of names: why these are no sense

    def to_dict(self) -> dict[str, Any]:
        """An entry of `labels` in what `learn predict --json` prints."""
        return {
            "label": self.label,
            "classes": self.classes,
            "support": self.support,
            "support_without_rows": self.support_without_rows,
            "classes_without_rows": list(self.classes_without_rows),
            "classes_without_name": list(self.classes_without_name),
            "calibration": [
                {"parts": parts, **asdict(fitted)} for parts, fitted in self.calibration.items()
            ],
            "weights": {parts: dict(of_parts) for parts, of_parts in self.weights.items()},
            "prior": dict(self.prior),
            **({} if self.recall is None else {"recall": dict(self.recall)}),
            **self.statuses,
        }


class Labeller:
    """One label column: a classifier for each set of parts that a clip may have."""

    def __init__(
        self, label: str, names: Sequence[str], examples: Examples, settings: LabellerSettings
    ) -> None:
        """`names` are the labels of the examples, "" where one has none.

        Raises:
            InputError: no example with a label can be judged by.
        """
        self.label = label
        self.settings = settings
        self.classes = sorted({name for name in names if name})
        self._names = names
        self._examples = examples
        self._has_rows = torch.stack(list(examples.present.values())).any(0)
        self._named = torch.tensor([name != "" for name in names])
        self._usable = self._has_rows & self._named
        if not self._usable.any():
            raise InputError(
                f"no support clip with a {label} has rows to judge by; name others or another mode"
            )
        self._origin = {part: self._middle(part) for part in examples.parts}
        self._classifiers: dict[tuple[str, ...], Classifier] = {}
        self._heads: dict[tuple[str, ...], HeadClassifier] = {}
        self._recall: dict[str, float] = {}
        self._statuses: Counter[str] = Counter()
        # So that what is wrong is said before the first row.
        calibration = self._calibration(examples.parts)
        if settings.abstain_below and not calibration.has_confidence:
            reason = "one class" if calibration.classes < 2 else "no class has two clips apart"
            raise ConfigError(
                f"`abstain_below` {settings.abstain_below:g} needs a confidence, and there is none "
                f"about {label} ({reason}); label more clips, or leave it out"
            )

    def cells(self, batch: EmbeddedBatch) -> list[list[str]]:
        """The cells under the columns of `header`, for every clip of the batch."""
        nothing = [""] * (2 * self.settings.top)
        rows = [["", NO_ROWS, "", *nothing]] * len(batch.ids)
        for parts, clips in _by_parts(batch, self._examples.parts):
            if not any(bool((self._usable & self._examples.present[p]).any()) for p in parts):
                for i in clips.tolist():  # sound alone, say, where no support clip has sound
                    rows[i] = ["", NO_MATCH, "", *nothing]
                continue
            names = [*parts, *(n for n in batch.vectors if n.startswith(STORED))]
            found = self._cells(parts, {name: batch.vectors[name][clips] for name in names})
            for i, cells in zip(clips.tolist(), found, strict=True):
                rows[i] = cells
        self._statuses.update(row[1] for row in rows)
        columns = 3 + len(nothing) + len(self.weighed)
        lacking = [""] * len(self.weighed)
        return [row if len(row) == columns else [*row, *lacking] for row in rows]

    def judged(
        self, batch: EmbeddedBatch
    ) -> Iterator[tuple[tuple[str, ...], Int64[Tensor, "Q"], Predictions, Calibration]]:
        """Of clips that have the same parts: these, the clips, what is predicted, and how far to
        trust that; nothing of clips that no example can be compared with."""
        for parts, clips in _by_parts(batch, self._examples.parts):
            if any(bool((self._usable & self._examples.present[p]).any()) for p in parts):
                names = [*parts, *(n for n in batch.vectors if n.startswith(STORED))]
                vectors = {name: batch.vectors[name][clips] for name in names}
                found = self._predictions(parts, vectors)
                yield parts, clips, found, self._calibration(parts)

    @property
    def _with_clips(self) -> list[str]:
        """The classes that have a clip to judge by."""
        return sorted({self._names[i] for i in torch.nonzero(self._usable)[:, 0].tolist()})

    @property
    def answered(self) -> int:
        """The number of clips answered so far."""
        return self._statuses[ANSWERED]

    def summary(self) -> LabelSummary:
        """The counts over all batches so far."""
        with_rows, judges = set(self._with_clips), self.settings.judges
        return LabelSummary(
            label=self.label,
            classes=len(self.classes),
            support=int(self._usable.sum()),
            support_without_rows=int((self._named & ~self._has_rows).sum()),
            classes_without_rows=tuple(name for name in self.classes if name not in with_rows),
            calibration={"+".join(parts): self._calibration(parts) for parts in self._classifiers},
            recall=None if self.settings.inverted is None else dict(self._recall),
            weights={"+".join(p): w for p in self._heads if (w := self._weights(p))},
            prior={
                "+".join(p): origin for p, h in self._heads.items() if (origin := h.fitted.origin)
            },
            statuses={s: self._statuses[s] for s in (ANSWERED, ABSTAINED, NO_ROWS, NO_MATCH)},
            classes_without_name=() if judges is None else judges.lacking(self._with_clips),
        )

    @property
    def weighed(self) -> tuple[str, ...]:
        """The features whose weights answers have."""
        judges = self.settings.judges
        if judges is None or not self._heads:
            return ()
        if len(self._examples.parts) < 2 and not judges.named:
            return ()
        return tuple(self._weights(self._examples.parts))

    def _weights(self, parts: tuple[str, ...]) -> dict[str, float]:
        """How much each feature counts for clips of these parts; empty where nothing weighs."""
        judges = self.settings.judges
        if judges is None or parts not in self._heads:
            return {}
        named = {part: judges.features[part].name for part in self._examples.parts
                 if part in judges.features}  # fmt: skip
        weights = self._heads[parts].fitted.weights
        if len(parts) == 1 and weights is None:
            return {name: float(part == parts[0]) for part, name in named.items()}
        if weights is None:
            return {}
        senses = [named[part] for part in parts] + [NAMES] * (len(weights) > len(parts))
        of_parts = dict(zip(senses, weights, strict=True))
        return dict.fromkeys(named.values(), 0.0) | of_parts

    def _calibration(self, parts: tuple[str, ...]) -> Calibration:
        """How far answers about clips of these parts can be trusted."""
        of_gallery = self._classifier(parts).calibration
        if self.settings.judges is None:
            return of_gallery
        of_head = self._head(parts).calibration
        return replace(of_head, novelty_at_most=of_gallery.novelty_at_most)

    def _predictions(
        self, parts: tuple[str, ...], vectors: Mapping[str, Float[Tensor, "Q _"]]
    ) -> Predictions:
        units = [self._unit(part, vectors[part]) for part in parts]
        queries, classifier = torch.cat(units, dim=-1), self._classifier(parts)
        if not classifier.index.exact and "+".join(parts) not in self._recall:
            recall = classifier.index.recall(queries, classifier.neighbours)
            self._recall["+".join(parts)] = recall
        if self.settings.judges is None:
            return classifier.predict(queries, self.settings.top)
        found = self._head(parts).predict(vectors, self.settings.top)
        return found._replace(novelty=classifier.novelty(queries))

    def _cells(
        self, parts: tuple[str, ...], vectors: Mapping[str, Float[Tensor, "Q _"]]
    ) -> Iterator[list[str]]:
        predictions = self._predictions(parts, vectors)
        weights = [f"{w:.4f}" for w in self._weights(parts).values()] if self.weighed else []
        names, asked = self.classes, self.settings.abstain_below
        lacking = [""] * (2 * (self.settings.top - predictions[0].shape[1]))
        for class_ids, probabilities, novelty in zip(
            *(x.tolist() for x in predictions), strict=True
        ):
            # No confidence is less than any that is asked for. As it is shown: a clip whose
            # confidence reads .9 is answered where .9 is asked for.
            sure = class_ids[0] >= 0 and (not asked or round(probabilities[0], SHOWN) >= asked)
            cells = [names[class_ids[0]], ANSWERED] if sure else ["", ABSTAINED]
            cells.append("" if novelty != novelty else f"{novelty:.4f}")
            for class_id, p in zip(class_ids, probabilities, strict=True):
                if class_id >= 0:
                    cells.append(names[class_id])
                    cells.append("" if p != p else f"{p:.{SHOWN}f}")
            found = 3 + 2 * len(class_ids)
            if len(cells) < found:
                cells += [""] * (found - len(cells))
            yield [*cells, *lacking, *weights]

    def _classifier(self, parts: tuple[str, ...]) -> Classifier:
        """The classifier of clips that have exactly these parts."""
        if parts not in self._classifiers:
            self._classifiers[parts] = self._fit(parts)
        return self._classifiers[parts]

    def _head(self, parts: tuple[str, ...]) -> HeadClassifier:
        """The head that judges clips of exactly these parts."""
        if parts not in self._heads:
            examples, judges = self._examples, self.settings.judges
            assert judges is not None
            has = torch.stack([examples.present[part] for part in parts])
            named = judges.knows(self._with_clips)
            question = Like.of_labelled(self._class_ids(torch.nonzero(self._usable)[:, 0]))
            judge = judges.of(parts, question, named=named)
            # What is joined before the head, or judged by a head each, takes clips that have all.
            any_will_do = isinstance(judge.fusion, WeighingFusion)
            usable = self._usable & (has.any(0) if any_will_do else has.all(0))
            clips = torch.nonzero(usable)[:, 0]
            if not len(clips):
                raise InputError(
                    f"no labelled clip has {' and '.join(parts)}, and {judges.fusion} fusion needs "
                    "one of each class that has both; use `fusion` weighted or another `mode`"
                )
            names = [n for n in examples.vectors if n in parts or n.startswith(STORED)]
            class_ids = self._class_ids(clips)
            vectors = {name: examples.vectors[name][clips] for name in names}
            if named and judges.run is not None:
                of_names = judges.run.names_of_clips(class_ids.numpy(), self.classes)
                vectors |= {} if of_names is None else {NAMES: of_names}
            shots = Labelled(
                vectors=vectors,
                present={part: examples.present[part][clips] for part in parts},
                class_ids=class_ids,
                groups=None if examples.groups is None else examples.groups[clips],
            )
            self._heads[parts] = HeadClassifier(judge, shots, self.settings.memory)
        return self._heads[parts]

    def _fit(self, parts: tuple[str, ...]) -> Classifier:
        examples = self._examples
        usable = self._usable & torch.stack([examples.present[p] for p in parts]).any(0)
        clips = torch.nonzero(usable)[:, 0]
        present = tuple(examples.present[p][clips] for p in parts)
        support = Support(
            vectors=tuple(
                self._unit(p, examples.vectors[p][clips]) * has[:, None]
                for p, has in zip(parts, present, strict=True)
            ),
            present=present,
            class_ids=self._class_ids(clips),
            classes=len(self.classes),
            uncentred=tuple(F.normalize(examples.vectors[p][clips], dim=-1) for p in parts)
            if self.settings.centred
            else None,
            groups=None if examples.groups is None else examples.groups[clips],
        )
        known = self.settings
        return fit(support, head=known.head, index=known.inverted, device=known.device)

    def _middle(self, part: str) -> Float[Tensor, "D"]:
        """The mean of the classes' means, so that no class weighs more for having more clips."""
        x = self._examples.vectors[part]
        used = self._usable & self._examples.present[part]
        if not self.settings.centred or not used.any():
            return torch.zeros_like(x[0])
        return middle(F.normalize(x[used], dim=-1), self._class_ids(torch.nonzero(used)[:, 0]))

    def _class_ids(self, clips: Int64[Tensor, "_"]) -> Int64[Tensor, "_"]:
        class_id = {name: c for c, name in enumerate(self.classes)}
        return torch.tensor([class_id[self._names[i]] for i in clips.tolist()], dtype=torch.int64)

    def _unit(self, part: str, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return F.normalize(F.normalize(x, dim=-1) - self._origin[part], dim=-1)


def judged_by(batch: EmbeddedBatch, parts: Sequence[str]) -> list[str]:
    """The mode of each clip: v, a, av or nothing."""
    present = torch.stack([batch.present[part] for part in parts]).long()
    codes = (present * (1 << torch.arange(len(parts)))[:, None]).sum(0)
    of_code = {}
    for code in torch.unique(codes).tolist():
        there = [part for i, part in enumerate(parts) if code >> i & 1]
        joint = next((part for part in there if part in MODES), None)  # a network's one of all
        of_code[code] = joint or (mode_of(there) if there else "")
    return [of_code[code] for code in codes.tolist()]


def _by_parts(
    batch: EmbeddedBatch, parts: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Int64[Tensor, "Q"]]]:
    """Sets of parts, and the indices of the clips that have exactly these; of none, no clips."""
    present = torch.stack([batch.present[part] for part in parts])
    for pattern in torch.unique(present, dim=1).T:
        if pattern.any():
            parts_present = tuple(p for p, has in zip(parts, pattern.tolist(), strict=True) if has)
            yield parts_present, _matching(present, pattern)


def _matching(present: Bool[Tensor, "P B"], pattern: Bool[Tensor, "P"]) -> Int64[Tensor, "Q"]:
    return torch.nonzero((present == pattern[:, None]).all(0))[:, 0]
