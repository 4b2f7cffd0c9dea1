"""`learn predict`: labels for clips of a store from a few labelled ones, a CSV row a clip.

A clip is judged by what it has (`labeller`), by a head and a fusion of `learn episodes`
(`fitted_head`) or the nearest in a gallery (`classifier`). Another class is another row of the
support.
"""

import csv
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from learn.data import devices
from learn.data.clips import splits
from learn.data.evaluation_set import EvaluationSet
from learn.data.features import FeatureNames
from learn.data.group_file import manifest_of, with_groups
from learn.data.other_classes import other_classes
from learn.inference.embed import (
    EmbeddedBatch,
    all_clips,
    embed,
    parts_of,
    refuse_unknown,
    without,
)
from learn.inference.examples import join, read_groups, read_labels
from learn.inference.judges import Judges, judges_of
from learn.inference.labeller import Labeller, LabellerSettings, LabelSummary, header, judged_by
from learn.inference.selection import NONE, Selection, runs_of, select_one
from learn.inference.settings import HEADS, PredictSettings, parse_index
from learn.inference.vector_cache import VectorCache
from store import atomic, read_manifest
from store import open as open_store
from store.errors import InputError
from store.features.streaming import MEMORY_BYTES
from store.manifest import Manifest

if TYPE_CHECKING:
    from store import Feature, Store

Progress = Callable[..., None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSummary:
    """Counts of labelled clips, and how sure the answers are."""

    output: str
    clips: int
    in_support: int
    mode: str
    projection: str
    features: Mapping[str, str]
    head: str
    fusion: str  # "" where nothing is joined, and of a gallery
    guard: str  # on or off; "" of stored vectors, and of a gallery
    index: str
    seconds: float
    labels: tuple[LabelSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn predict --json` prints."""
        return {
            "output": self.output,
            "clips": self.clips,
            "in_support": self.in_support,
            "mode": self.mode,
            "projection": self.projection,
            "features": dict(self.features),
            "by": self.head,
            "fusion": self.fusion,
            "guard": self.guard,
            "index": self.index,
            "seconds": self.seconds,
            "labels": [label.to_dict() for label in self.labels],
        }


def predict(
    store_path: str | Path,
    *,
    support: str | Path,
    output: str | Path,
    query: str | Path | None = None,
    labels: Sequence[str] = ("label",),
    group: str | None = None,
    group_file: str | Path | None = None,
    manifest: str | Path | None = None,
    mode: str | None = None,
    projection: str | Path | None = None,
    head: str | None = None,
    fusion: str | None = None,
    guard: str = "on",
    names: str = "on",
    by: str | None = None,
    index: str = "exact",
    top: int = 5,
    abstain_below: float = 0.0,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    memory_bytes: int = MEMORY_BYTES,
    device: str = "auto",
    progress: Progress | None = None,
) -> PredictionSummary:
    """Label clips, and say how sure the answers are; the answers themselves are in `output`.

    `support` and `query` name clips of the store by `clip_id` (or `path`); without `query`, every
    clip of the store that is not in the support is labelled. `head`, `fusion`, `guard` and `names`
    are those of `run_episodes`, which gives the same answers on the same shots: how much each sense
    and a projection count begins at what classes tell that are not asked about, those of the splits
    train and val of `manifest` or else of the store. `by` prototypes or nearest, or an approximate
    `index`, looks in a gallery instead. The file is written beside its final name and renamed when
    it is whole.

    >>> known = fs.manifest().select(split="train").to_pandas()[["label"]]
    >>> known.to_csv("labelled.csv")
    >>> summary = learn.predict("my_store", support="labelled.csv", output="answers.csv")
    >>> len(Path("answers.csv").read_text().splitlines()) - 1 == 120 - len(known)
    True

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    begun = time.monotonic()
    settings = PredictSettings(
        support=support, query=query, output=Path(output), labels=tuple(dict.fromkeys(labels)),
        group=group, group_file=group_file, manifest=manifest, by=by, head=head, fusion=fusion,
        guard=guard, names=names, index=index, top=top, abstain_below=abstain_below,
        memory_bytes=memory_bytes,
    )  # fmt: skip
    where = devices.chosen(device)
    (run,) = runs_of([projection] if projection else [], where).values()
    store = open_store(store_path)
    selection = select_one(
        store, str(projection or NONE), run, visual=visual, audio=audio, text=text,
        given=[mode] if mode else [],
    )  # fmt: skip
    prediction = _prepare(settings, store, selection, where)
    clips = prediction.write(progress)
    return prediction.summary(clips, time.monotonic() - begun)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Prediction:
    """The clips to label, and a labeller for each question."""

    settings: PredictSettings
    selection: Selection
    judges: Judges | None
    ids: Sequence[str] | None  # None: all that are not in the support
    support: frozenset[str]
    labellers: tuple[Labeller, ...]

    def write(self, progress: Progress | None) -> int:
        """Answer batch by batch, for how many clips is returned; the file appears whole or not at
        all."""
        columns = [
            column
            for labeller in self.labellers
            for column in header(labeller.label, self.settings.top, labeller.weighed)
        ]
        done, total = 0, self._total()
        with (
            atomic.staged(self.settings.output, replace=False) as staged,
            staged.open("w", encoding="utf-8", newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["clip_id", "mode", *columns])
            for batch in self._batches():
                writer.writerows(self._rows(batch))
                done += len(batch.ids)
                if progress:
                    progress(done, total, f"{done} of {total} clips looked at{self._answered()}")
        return done

    def _batches(self) -> Iterator[EmbeddedBatch]:
        """The clips that are asked about."""
        if self.ids is not None:
            return _embed(self.selection, self.ids, self.settings, self.judges)
        (run,) = self.selection.runs.values()
        features = self.selection.features
        cache = VectorCache(features, run, both=_both(self.judges))
        every = cache.batches(
            lambda: _embed(self.selection, all_clips(features), self.settings, self.judges)
        )
        return (without(batch, self.support) for batch in every)

    def _answered(self) -> str:
        """How many of them have an answer to each question."""
        counts = {x.label: x.answered for x in self.labellers}
        if len(counts) == 1:
            return f", {next(iter(counts.values()))} answered"
        return "".join(f", {n} answered about {label}" for label, n in counts.items())

    def _rows(self, batch: EmbeddedBatch) -> Iterator[list[str]]:
        columns = [labeller.cells(batch) for labeller in self.labellers]
        modes = judged_by(batch, _parts(self.selection))
        for clip, mode, *cells in zip(batch.ids, modes, *columns, strict=True):
            yield [clip, mode, *chain.from_iterable(cells)]

    def _total(self) -> int:
        """The clips to answer for, about: where a clip was tried twice it counts twice."""
        if self.ids is not None:
            return len(self.ids)
        clips = [feature.committed_clips for feature in self.selection.features.values()]
        return max(clips) - len(self.support)

    def _guard(self) -> str:
        (run,) = self.selection.runs.values()
        if self.judges is None or run is None:
            return ""
        return "on" if self.judges.guard else "off"

    def summary(self, clips: int, seconds: float) -> PredictionSummary:
        """The summary of what was written."""
        ((mode, _),) = self.selection.cells
        (projection,) = self.selection.runs
        return PredictionSummary(
            output=str(self.settings.output),
            clips=clips,
            in_support=sum(clip in self.support for clip in self.ids or ()),
            mode=mode,
            projection=projection,
            features={m: feature.name for m, feature in self.selection.features.items()},
            head=self.judges.spec if self.judges else self.settings.by or HEADS[0],
            fusion=self.judges.fusion if self.judges and len(_parts(self.selection)) > 1 else "",
            guard=self._guard(),
            index=self.settings.index,
            seconds=round(seconds, 3),
            labels=tuple(labeller.summary() for labeller in self.labellers),
        )


def _prepare(
    settings: PredictSettings, store: "Store", selection: Selection, device: torch.device
) -> _Prediction:
    """Read the support and fit the labellers, refusing what is wrong before anything is written."""
    judges = _judges(settings, selection)
    labeller = replace(
        _labeller(settings, judges, centred=None in selection.runs.values()), device=device
    )
    table = read_manifest(settings.support, ids_suffice=True)
    columns = {label: read_labels(table, label) for label in settings.labels}
    refuse_unknown(selection.features, table.clip_ids, str(settings.support))
    ids: Sequence[str] | None = None
    if settings.query:
        ids = read_manifest(settings.query, ids_suffice=True).clip_ids
        refuse_unknown(selection.features, ids, str(settings.query))
    groups = read_groups(
        with_groups(table, settings.group_file, settings.group), store, settings.group
    )
    known = _manifest_of_others(settings, store, judges)
    of_question = {
        label: judges
        and replace(judges, others=_others(settings, judges, known, label, names, ids or ()))
        for label, names in columns.items()
    }
    batches = list(_embed(selection, table.clip_ids, settings, judges))
    examples = join(batches, _parts(selection), groups)
    return _Prediction(
        settings=settings,
        selection=selection,
        judges=judges,
        ids=ids,
        support=frozenset(table.clip_ids),
        labellers=tuple(
            Labeller(label, names, examples, replace(labeller, judges=of_question[label]))
            for label, names in columns.items()
        ),
    )


def _judges(settings: PredictSettings, selection: Selection) -> Judges | None:
    """What answers; None: the gallery."""
    if settings.gallery:
        return None
    (run,) = selection.runs.values()
    return judges_of(
        settings.head, settings.fusion, settings.guard, run, selection.features, settings.names
    )


def _manifest_of_others(
    settings: PredictSettings, store: "Store", judges: Judges | None
) -> Manifest | None:
    """What tells of classes that are not asked about; None where nobody would learn from them, or
    nothing is known of splits."""
    if judges is None or not judges.learns_from_others:
        return None
    if settings.manifest is None and not store.manifest_names():
        return None
    table = manifest_of(store, settings.manifest, settings.group_file, settings.group)
    return table if splits(table) else None


def _others(
    settings: PredictSettings,
    judges: Judges | None,
    manifest: Manifest | None,
    label: str,
    names: Sequence[str],
    asked: Sequence[str],
) -> "Callable[[Mapping[str, Feature]], EvaluationSet | None]":
    """What gives, of clips with rows in some features, the classes that nobody asks about in this
    question, without the clips that are asked about; what it has read it keeps.

    Of the store's own manifest, which was not named, a column that does not serve says nothing.
    """
    if judges is None or manifest is None:
        return lambda _: None
    group = settings.group if settings.group in (*manifest.columns, "none") else None
    known: dict[tuple[str, ...], EvaluationSet | None] = {}

    def of_features(features: "Mapping[str, Feature]") -> EvaluationSet | None:
        try:
            if tuple(features) not in known:
                known[tuple(features)] = other_classes(
                    manifest, features, asked=set(names), label=label, group=group,
                    without=frozenset(asked),
                )  # fmt: skip
            return known[tuple(features)]
        except InputError:
            if settings.manifest is not None:
                raise
            return None

    if settings.manifest is not None:  # what is wrong with it is told, whoever learns from it
        of_features(judges.features)
    return of_features


def _labeller(
    settings: PredictSettings, judges: Judges | None, *, centred: bool
) -> LabellerSettings:
    """The settings of the labeller of one question."""
    return LabellerSettings(
        head=settings.by or HEADS[0],
        judges=judges,
        inverted=parse_index(settings.index),
        centred=centred,
        top=settings.top,
        abstain_below=settings.abstain_below,
    )


def _parts(selection: Selection) -> tuple[str, ...]:
    (run,) = selection.runs.values()
    ((mode, _),) = selection.cells
    return parts_of(mode, run, selection.features)


def _embed(
    selection: Selection, ids: Sequence[str], settings: PredictSettings, judges: Judges | None
) -> Iterator[EmbeddedBatch]:
    (run,) = selection.runs.values()
    return embed(
        selection.features, ids, run, memory_bytes=settings.memory_bytes, both=_both(judges)
    )


def _both(judges: Judges | None) -> bool:
    """Whether stored vectors are wanted beside the projection's."""
    return judges is not None and judges.guard
