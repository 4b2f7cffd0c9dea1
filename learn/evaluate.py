"""`learn episodes`: every head, projection, mode and number of shots on the same saved episodes.

Shapes: V = clips, D = size of a vector, E = episodes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import hypot
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from torch import Tensor

from learn import episode_files, intervals, own_head, pools, views
from learn.answers import NOTHING, tally
from learn.data import Clips, choose_split, splits
from learn.episodes import CLASSIC, FAMILY, GROUPS, Episodes, draw_again, pool_of
from learn.heads import BesideHead, Context, Head
from learn.measures import View, measure
from learn.missing import Drop, curves
from learn.results import EpisodesResult, Inflation, Result
from learn.runs import Run
from learn.score import MEMORY, scorer
from learn.sides import (
    NONE,
    Side,
    crossed,
    features_of,
    in_play,
    load_side,
    modalities_of,
    runs_of,
    same_feature,
    vectors_of,
    where_is,
)
from learn.until import BLOCK, MOST, Until, draw_until
from store import open as open_store
from store import plugins, read_manifest
from store.errors import ConfigError, InputError, NotEnoughClips

if TYPE_CHECKING:
    from store import Feature, Manifest

Progress = Callable[[int, int, str], None]

EPISODES = 10_000
TUNING = 600  # episodes of the val split


def run_episodes(
    store_path: str | Path,
    *,
    manifest: str | Path | None = None,
    split: str | None = None,
    label: str = "label",
    group: str | None = None,
    groups: str = "within",
    inflation: bool = False,
    task: str = CLASSIC,
    ways: int = 5,
    shots: Sequence[int] = (1,),
    queries: int = 15,
    episodes: int | None = None,
    until_ci: float | None = None,
    max_episodes: int = MOST,
    seed: int = 0,
    visual: str | None = None,
    audio: str | None = None,
    heads: Sequence[str] = (),
    projections: Sequence[str | Path] = (),
    support: Sequence[str] = (),
    query: Sequence[str] = (),
    save_episodes: str | Path | None = None,
    episodes_file: str | Path | None = None,
    drop: Drop | None = None,
    query_store: str | Path | None = None,
    query_manifest: str | Path | None = None,
    query_split: str | None = None,
    ci: str = intervals.METHODS[0],
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> EpisodesResult:
    """Accuracy of every head × projection × mode × shots on the same episodes and clips.

    Heads default to prototypes, "own" is the one that a run was trained with; projections are run
    directories, "none" among them means stored vectors as they are; modes are v, a and av
    (`views.cells`). Where several projections are asked about a matrix of modes, each gives those
    cells that it can, and any cell one at least. With `episodes_file` the episodes are those of the
    file, and ways, shots, queries, episodes, groups and seed have no say.

    `task` is a plug-in of `learn/episodes`; of ways, shots, queries, episodes and groups it gets
    those that it knows and does not set itself.

    `memory` in bytes bounds what scoring takes beside the clips' rows and vectors.

    `groups`: groups of support and query are apart `within` each class, strictly across all classes
    of an episode (`strict`), or not (`mixed`). With `inflation` everything is scored once more on
    episodes of the same classes with groups mixed. `drop` adds what remains as queries lose a
    modality.

    With `query_store`, `query_manifest` or both, queries come from there and shots do not: classes
    are those that have one name in both, features the same in both.

    `episodes` is 10,000 by default. With `until_ci` that many (1,000 by default) are added until
    half the width of every interval is at most that, or there are `max_episodes`.

    Raises:
        NotEnoughClips: the episodes asked for cannot be drawn.
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    intervals.check(ci)
    until = None
    if until_ci is not None:
        until = Until(
            width=until_ci, block=BLOCK if episodes is None else episodes, most=max_episodes
        )
        if episodes_file:
            raise ConfigError("--until-ci draws episodes, and --episodes-file has them: name one")
    runs = runs_of(projections)
    specs = tuple(dict.fromkeys(heads or ("prototypes",)))
    built = {name: {spec: _head(spec, run) for spec in specs} for name, run in runs.items()}
    every = [head for of_run in built.values() for head in of_run.values()]
    store = open_store(store_path)
    table = read_manifest(manifest) if manifest else store.manifest()
    asked = {"visual": visual, "audio": audio}
    both = _makes_use(every, "other")
    if (support or query) and not both:
        named = views.cells(support, query, ())
        asked = {m: name for m, name in asked.items() if m in modalities_of(named)}
    features = features_of(store, runs, asked)
    in_all = [m for m in features if all(m in run.features for run in runs.values() if run)]
    cells = views.cells(support, query, in_all)
    features = in_play(features, cells, beside=in_all if both else ())
    chosen = choose_split(table, split, "test")
    pool = pool_of(episode_files.task_of(Path(episodes_file)) if episodes_file else _name(task))
    side = load_side(
        table, features, split="all" if pool == "base" else chosen, label=label, group=group,
        several=pool == "targets",
    )  # fmt: skip
    val = None
    if pool == "base":
        val = pools.of_val(side, table, chosen)
        side = pools.generalised(side, table, chosen)
    asker = query_store or query_manifest
    if asker:
        there = open_store(query_store or store_path)
        labels = read_manifest(query_manifest) if query_manifest else there.manifest()
        queried = choose_split(labels, query_split, "test")
        others = {m: same_feature(there, feature.name) for m, feature in features.items()}
        other = load_side(labels, others, split=queried, label=label, group=group)
        if pool != "split":
            raise ConfigError(f"--task {task} has no queries from elsewhere; leave --query-… out")
        side = crossed(side, other, same_store=query_store in (None, store_path))
    asked_of: dict[str, int | str] = {
        "ways": ways,
        "queries": queries,
        "episodes": (BLOCK if until else EPISODES) if episodes is None else episodes,
        "groups": groups,
    }
    if episodes_file:
        clips, draws = episode_files.load(Path(episodes_file), side.clips)
        side = side.keep(np.isin(side.clips.ids, clips.ids))
    else:
        draws = _draw(side.clips, task, shots, asked_of, seed)
    if inflation:
        _check_guard(side.clips, draws[0])
    base = None
    if drop or any(head.centred_by == "base" for head in every):
        base = _base(table, features, chosen)
    scored = _Task(
        heads=built, runs=runs, cells=_possible(runs, cells, side), features=features, side=side,
        base=base, draws=draws, memory=memory, val=val,
    )  # fmt: skip
    reached = None
    if until:
        draws, reached = draw_until(
            until, seed=seed, ci=ci,
            draw=lambda seed: _draw(side.clips, task, shots, asked_of, seed),
            score=lambda new: replace(scored, draws=new).results(ci),
        )  # fmt: skip
        scored = replace(scored, draws=draws)
    if save_episodes:
        episode_files.save(Path(save_episodes), side.clips, draws)
    points = None
    if drop:
        if draws[0].measure != "accuracy":
            raise ConfigError(f"--drop is about accuracy, and these episodes: {draws[0].measure}")
        points = curves(drop, heads=built, runs=runs, side=side, base=base, draws=draws, ci=ci)
    apart = GROUPS[0] if side.clips.groups is not None else "mixed"
    sampling = {
        "store": where_is(store_path),
        **(
            {
                "query_store": where_is(query_store or store_path),
                "query_manifest": where_is(query_manifest) if query_manifest else None,
                "query_split": queried,
            }
            if asker
            else {}
        ),
        "manifest": where_is(manifest) if manifest else None,
        "task": CLASSIC,
        "groups": apart,
        **{key: value for key, value in draws[0].sampling().items() if key != "shots"},
        **({} if reached is None else {"until_ci_reached": reached}),
        "split": chosen,
        "label": label,
        "group": None if side.clips.groups is None else group or "group",
        "classes": len(side.clips.classes),
        "clips": len(side.clips),
        "clips_sha256": side.clips.sha256,
        "dropped": side.dropped,
        "features": {modality: feature.name for modality, feature in features.items()},
    }
    results = []
    for result in scored.results(ci):
        results.append(result)
        if progress:
            progress(len(results), scored.size, "")
    inflated = _inflation(scored, results, ci) if inflation else None
    missing = None if points is None else list(points)
    return EpisodesResult(
        sampling=sampling, clips=side.clips, draws=draws, results=results, inflation=inflated,
        missing=missing,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Task:
    """All that is to be scored."""

    heads: Mapping[str, Mapping[str, Head]]  # by projection, as the next two
    runs: Mapping[str, Run | None]
    cells: Mapping[str, Sequence[tuple[str, str]]]  # by projection: pairs of modes it can compare
    features: Mapping[str, "Feature"]
    side: Side
    base: Side | None
    draws: Sequence[Episodes]
    memory: int
    val: Side | None  # of the same kind as `side`, to choose settings on

    @property
    def size(self) -> int:
        each = (len(self.cells[name]) * len(heads) for name, heads in self.heads.items())
        return sum(each) * len(self.draws)

    def results(self, ci: str) -> Iterator[Result]:
        """Row by row; vectors are made once per projection, tables of products once per head."""
        ids = set(self.side.clips.ids)
        queries = sum(draw.query.size for draw in self.draws)
        balanced = all(draw.balanced for draw in self.draws)
        tuned = self._tuned()
        for projection, run in self.runs.items():
            vectors = vectors_of(self.side.rows, run)
            of_val = vectors_of(self.val.rows, run) if self.val and tuned else None
            of_base = vectors_of(self.base.rows, run) if self.base else None
            heads = self.heads[projection]
            names = self._names(heads.values(), run)
            seen = len(run.trained_on & ids) if run else 0
            for cell in self.cells[projection]:
                pair = views.pair(vectors, *cell, common=run is not None)
                pair = pair if names is None else pair.with_names(names)
                base = views.pair(of_base, *cell, common=run is not None) if of_base else None
                val = views.pair(of_val, *cell, common=run is not None) if of_val else None
                notes = (self.features[modality].notes for modality in modalities_of([cell]))
                untrained = any(bool(of_feature.get("untrained")) for of_feature in notes)
                for spec, head in heads.items():
                    begun = time.monotonic()
                    context = _context(pair, base, balanced)
                    score = None
                    if any(draw.measure == "accuracy" for draw in self.draws):
                        score = scorer(head, pair, context, queries=queries, memory=self.memory)
                    for i, draw in enumerate(self.draws):
                        found = measure(
                            self.side.clips, draw, View(head, pair, context), score=score,
                            tuned=(tuned[i], View(head, val, context)) if tuned and val else None,
                        )  # fmt: skip
                        right, answered = found.of_episodes, found.answered
                        yield Result(
                            head=spec,
                            projection=projection,
                            support=cell[0],
                            query=cell[1],
                            ways=draw.ways,
                            shots=draw.sampling()["shots"],
                            queries=draw.sampling()["queries"],
                            episodes=len(draw),
                            accuracy=float(right.mean()),
                            ci95=intervals.ci95(right, ci),
                            ci_method=ci,
                            clips=len(self.side.clips),
                            seconds=round(time.monotonic() - begun, 3),
                            untrained=untrained,
                            transductive=head.transductive,
                            centred_by=head.centred_by,
                            seen_in_training=seen,
                            trained=views.mode_of(run.features) if run else NONE,
                            metric=draw.measure,
                            parts=found.parts,
                            of_episodes=right,
                            answers=NOTHING
                            if answered is None
                            else tally(self.side.clips, draw, answered),
                        )
                        begun = time.monotonic()

    def _tuned(self) -> list[Episodes]:
        """Episodes of the val split, one draw for each of ours; none where it has too few clips."""
        if self.val is None:
            return []
        try:
            return [
                draw_again(self.val.clips, draw, episodes=min(TUNING, len(draw)))
                for draw in self.draws
            ]
        except NotEnoughClips:
            return []

    def _names(self, heads: Iterable[Head], run: Run | None) -> Float[Tensor, "C E"] | None:
        """Vectors of the classes, where a head wants them and the run can give them."""
        wanted = _makes_use(heads, "names")
        if run is None or not wanted or not run.knows_names:
            return None
        return run.class_embeddings(self.side.clips.classes)


def _name(task: str) -> str:
    return plugins.parse_spec(task).name


def _head(spec: str, run: Run | None) -> Head:
    if spec == own_head.NAME:
        return own_head.of_episodes(run)
    return plugins.build("learn.heads", spec)


def _possible(
    runs: Mapping[str, Run | None], cells: Sequence[tuple[str, str]], side: Side
) -> dict[str, list[tuple[str, str]]]:
    """The cells of each projection, found by one clip.

    Raises:
        InputError: a projection has none, or a cell has no projection.
    """
    found, reasons = {}, dict[tuple[str, str], str]()
    one = side.keep(np.arange(len(side.clips)) < 1)
    for projection, run in runs.items():
        known = vectors_of(one.rows, run)
        why = {c: views.refusal(known, *c, common=run is not None) for c in cells}
        found[projection] = [cell for cell in cells if not why[cell]]
        reasons |= {cell: told for cell, told in why.items() if told}
        if not found[projection]:
            raise InputError(next(told for told in why.values() if told))
    for cell in cells:
        if not any(cell in able for able in found.values()):
            raise InputError(reasons[cell])
    return found


def _makes_use(heads: Iterable[Head], what: str) -> bool:
    """Does one of them learn from this beside the shots?"""
    return any(isinstance(head, BesideHead) and what in head.beside for head in heads)


def _base(manifest: "Manifest", features: Mapping[str, "Feature"], split: str) -> Side | None:
    """The clips of the split `train`, where it is none of those scored."""
    if split in ("all", "train") or "train" not in splits(manifest):
        return None
    side = load_side(manifest, features, split="train", label=None, group=NONE)
    return side if len(side.clips) else None


def _check_guard(clips: Clips, draw: Episodes) -> None:
    """Raises:
    ConfigError: there is no guard whose worth could be told.
    """
    if clips.groups is None:
        raise ConfigError(
            "--inflation needs to know which clips are of one source: give the manifest a column "
            "'group', or name one with --group"
        )
    if draw.facts.get("groups") == "mixed":
        raise ConfigError("--inflation is against groups apart; leave out --groups mixed")


def _inflation(task: _Task, guarded: Sequence[Result], ci: str) -> list[Inflation]:
    """What each result would gain if groups could meet: other episodes of the same classes."""
    found = []
    for draw in task.draws:
        side = task.side
        drawn = np.isin(side.clips.codes, np.unique(draw.classes))
        if side.clips.targets is None and not drawn.all():
            side = side.keep(drawn)
        mixed = draw_again(side.clips, draw, groups="mixed")
        own = (row for row in guarded if row.shots == draw.sampling()["shots"])
        for one, other in zip(
            own, replace(task, side=side, draws=[mixed]).results(ci), strict=True
        ):
            both = one.ci95, other.ci95
            found.append(
                Inflation(
                    head=one.head,
                    projection=one.projection,
                    support=one.support,
                    query=one.query,
                    shots=one.shots,
                    guarded=one.accuracy,
                    mixed=other.accuracy,
                    inflation=other.accuracy - one.accuracy,
                    ci95=None if None in both else hypot(*(half or 0.0 for half in both)),
                )
            )
    return found


def _draw(
    clips: Clips, task: str, shots: Sequence[int], asked: Mapping[str, int | str], seed: int
) -> list[Episodes]:
    """A draw for each number of shots, or one where the task draws that itself."""
    if not shots:
        raise ConfigError("no number of shots; name one at least")
    spec = plugins.parse_spec(task)
    known = {field.name for field in fields(plugins.module(FAMILY, spec.name).Config)}
    given = {key: value for key, value in asked.items() if key in known} | dict(spec.settings)
    counts = [{"shots": k} for k in dict.fromkeys(shots)]
    if "shots" in spec.settings or "shots" not in known:
        counts = [{}]
    built = [plugins.build(FAMILY, plugins.Spec(spec.name, given | one)) for one in counts]
    return [one(clips, seed=seed) for one in built]


def _context(pair: views.Pair, base: views.Pair | None, balanced: bool = True) -> Context:
    return Context(
        balanced=balanced,
        blocks=pair.blocks,
        support_mean=None if base is None else base.support.mean(0),
        query_mean=None if base is None else base.query.mean(0),
        origin=pair.support.mean(0),
    )
