"""`learn episodes`: every head, projection, mode and number of shots on the same saved episodes.

Shapes: V = clips, D = size of a vector, E = episodes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from learn import episode_files, intervals, views
from learn.data import (
    UNLABELLED,
    Clips,
    Rows,
    choose_feature,
    choose_split,
    load_clips,
    load_rows,
    splits,
)
from learn.episodes import Episodes
from learn.heads import Context, Head
from learn.results import EpisodesResult, Result
from learn.runs import Run, load_run
from learn.score import scorer
from store import open as open_store
from store import plugins, read_manifest
from store.errors import ConfigError, InputError

if TYPE_CHECKING:
    from store import Feature, Manifest, Store

NONE = "none"  # the projection that is none: stored vectors as they are
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Side:
    """Clips with rows in every modality in play."""

    clips: Clips
    rows: Mapping[str, Rows]
    dropped: Mapping[str, int]  # how many lack a label, or rows of a modality

    def keep(self, wanted: Bool[np.ndarray, "V"]) -> "_Side":
        rows = {modality: rows.keep(wanted) for modality, rows in self.rows.items()}
        return replace(self, clips=self.clips.keep(wanted), rows=rows)


def run_episodes(
    store_path: str | Path,
    *,
    manifest: str | Path | None = None,
    split: str | None = None,
    label: str = "label",
    group: str | None = None,
    ways: int = 5,
    shots: Sequence[int] = (1,),
    queries: int = 15,
    episodes: int = 10_000,
    seed: int = 0,
    visual: str | None = None,
    audio: str | None = None,
    heads: Sequence[str] = (),
    projections: Sequence[str | Path] = (),
    support: Sequence[str] = (),
    query: Sequence[str] = (),
    save_episodes: str | Path | None = None,
    episodes_file: str | Path | None = None,
    ci: str = intervals.METHODS[0],
    progress: Progress | None = None,
) -> EpisodesResult:
    """Accuracy of every head × projection × mode × shots on the same episodes and clips.

    Heads default to prototypes; projections are run directories, "none" among them means stored
    vectors as they are; modes are v, a and av (`views.cells`). With `episodes_file` the episodes
    are those of the file, and ways, shots, queries, episodes and seed have no say.

    Raises:
        NotEnoughClips: the episodes asked for cannot be drawn.
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    intervals.check(ci)
    built = {spec: _head(spec) for spec in dict.fromkeys(heads or ("prototypes",))}
    paths = dict.fromkeys(map(str, projections or (NONE,)))
    runs = {path: None if path == NONE else load_run(Path(path)) for path in paths}
    store = open_store(store_path)
    table = read_manifest(manifest) if manifest else store.manifest()
    asked = {"visual": visual, "audio": audio}
    if support or query:
        named = views.cells(support, query, ())
        asked = {m: name for m, name in asked.items() if m in _modalities(named)}
    features = _features(store, runs, asked)
    in_all = [m for m in features if all(m in run.features for run in runs.values() if run)]
    cells = views.cells(support, query, in_all)
    features = _in_play(features, cells)
    chosen = choose_split(table, split, "test")
    side = _load(table, features, split=chosen, label=label, group=group)
    if episodes_file:
        clips, draws = episode_files.load(Path(episodes_file), side.clips)
        side = side.keep(np.isin(side.clips.ids, clips.ids))
    else:
        draws = _draw(side.clips, ways, shots, queries, episodes, seed)
    if save_episodes:
        episode_files.save(Path(save_episodes), side.clips, draws)
    base = None
    if any(head.centred_by == "base" for head in built.values()):
        base = _base(table, features, chosen)
    task = _Task(
        heads=built, runs=runs, cells=cells, features=features, side=side, base=base, draws=draws
    )
    sampling = {
        **{key: value for key, value in draws[0].sampling().items() if key != "shots"},
        "split": chosen,
        "label": label,
        "group": None if side.clips.groups is None else group or "group",
        "classes": len(side.clips.classes),
        "clips": len(side.clips),
        "dropped": side.dropped,
        "features": {modality: feature.name for modality, feature in features.items()},
    }
    results = []
    for result in task.results(ci):
        results.append(result)
        if progress:
            progress(len(results), task.size, "")
    return EpisodesResult(sampling=sampling, clips=side.clips, draws=draws, results=results)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """All that is to be scored."""

    heads: Mapping[str, Head]
    runs: Mapping[str, Run | None]
    cells: Sequence[tuple[str, str]]
    features: Mapping[str, "Feature"]
    side: _Side
    base: _Side | None
    draws: Sequence[Episodes]

    @property
    def size(self) -> int:
        return len(self.runs) * len(self.cells) * len(self.heads) * len(self.draws)

    def results(self, ci: str) -> Iterator[Result]:
        """Row by row; vectors are made once per projection, tables of products once per head."""
        ids = set(self.side.clips.ids)
        queries = sum(draw.query.size for draw in self.draws)
        for projection, run in self.runs.items():
            vectors = _vectors(self.side, run)
            of_base = _vectors(self.base, run) if self.base else None
            seen = len(run.trained_on & ids) if run else 0
            for cell in self.cells:
                pair = views.pair(vectors, *cell, common=run is not None)
                base = views.pair(of_base, *cell, common=run is not None) if of_base else None
                notes = (self.features[modality].notes for modality in _modalities([cell]))
                untrained = any(bool(of_feature.get("untrained")) for of_feature in notes)
                for spec, head in self.heads.items():
                    begun = time.monotonic()
                    score = scorer(head, pair, _context(pair, base), queries=queries)
                    for draw in self.draws:
                        accuracy = score(draw)
                        yield Result(
                            head=spec,
                            projection=projection,
                            support=cell[0],
                            query=cell[1],
                            ways=draw.ways,
                            shots=draw.shots,
                            queries=draw.queries,
                            episodes=len(draw),
                            accuracy=float(accuracy.mean()),
                            ci95=intervals.ci95(accuracy, ci),
                            ci_method=ci,
                            clips=len(self.side.clips),
                            seconds=round(time.monotonic() - begun, 3),
                            untrained=untrained,
                            transductive=head.transductive,
                            centred_by=head.centred_by,
                            seen_in_training=seen,
                            of_episodes=accuracy,
                        )
                        begun = time.monotonic()


def _head(spec: str) -> Head:
    return plugins.build("learn.heads", spec)


def _features(
    store: "Store", runs: Mapping[str, Run | None], asked: Mapping[str, str | None]
) -> dict[str, "Feature"]:
    """By modality: the feature asked for, the one a run was trained on, or the only one."""
    found = {}
    for modality, name in asked.items():
        trained = (run.features.get(modality) for run in runs.values() if run)
        there = (one for one in trained if one in store.features)
        feature = choose_feature(store, modality, name or next(there, None))
        if feature is None:
            continue
        for run in filter(None, runs.values()):
            run.check(feature)
        found[modality] = feature
    return found


def _modalities(cells: Sequence[tuple[str, str]]) -> set[str]:
    return {modality for cell in cells for mode in cell for modality in views.MODES[mode]}


def _in_play(
    features: Mapping[str, "Feature"], cells: Sequence[tuple[str, str]]
) -> dict[str, "Feature"]:
    """The features that some mode needs: only they decide which clips are scored."""
    wanted = _modalities(cells)
    if not wanted:
        raise InputError("no visual or audio feature to score; run: extract run MANIFEST")
    if missing := sorted(wanted - set(features)):
        raise InputError(
            f"the modes asked for need {missing[0]} features, and the store has none; run: "
            f"extract run MANIFEST --{missing[0]} SPEC"
        )
    return {modality: feature for modality, feature in features.items() if modality in wanted}


def _load(
    manifest: "Manifest",
    features: Mapping[str, "Feature"],
    *,
    split: str,
    label: str | None,
    group: str | None,
) -> _Side:
    """The clips of a split that have rows in every modality, and a label where one is named."""
    clips = load_clips(manifest, split=split, label=label, group=group)
    rows = {modality: load_rows(feature, clips.ids) for modality, feature in features.items()}
    usable = {modality: r.valid for modality, r in rows.items()}
    if label:
        usable["label"] = clips.codes != UNLABELLED
    dropped = {f"no {what}": int((~has).sum()) for what, has in usable.items()}
    side = _Side(clips=clips, rows=rows, dropped=dropped)
    return side.keep(np.logical_and.reduce(list(usable.values())))


def _base(manifest: "Manifest", features: Mapping[str, "Feature"], split: str) -> _Side | None:
    """The clips of the split `train`, where it is none of those scored."""
    if split in ("all", "train") or "train" not in splits(manifest):
        return None
    side = _load(manifest, features, split="train", label=None, group=NONE)
    return side if len(side.clips) else None


def _draw(
    clips: Clips, ways: int, shots: Sequence[int], queries: int, episodes: int, seed: int
) -> list[Episodes]:
    if not shots:
        raise ConfigError("no number of shots; name one at least")
    asked = {"ways": ways, "queries": queries, "episodes": episodes}
    specs = [plugins.Spec("n_way_k_shot", {**asked, "shots": k}) for k in dict.fromkeys(shots)]
    return [plugins.build("learn.episodes", spec)(clips, seed=seed) for spec in specs]


def _vectors(side: _Side, run: Run | None) -> dict[str, Float[Tensor, "V _"]]:
    """One vector per clip and modality: the mean row, or a unit vector in the common space."""
    if run is not None:
        return run.embed(side.rows)
    return {modality: rows.means() for modality, rows in side.rows.items()}


def _context(pair: views.Pair, base: views.Pair | None) -> Context:
    return Context(
        blocks=pair.blocks,
        support_mean=None if base is None else base.support.mean(0),
        query_mean=None if base is None else base.query.mean(0),
        origin=pair.support.mean(0),
    )
