"""`learn episodes`: every head, projection, mode and number of shots on the same saved episodes.

Shapes: V = clips, D = size of a vector, E = episodes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from learn.data.clips import Clips, choose_split, splits
from learn.evaluation import pools
from learn.evaluation.benchmark import Scoring, check_guard, makes_use, possible, worth_of_guard
from learn.evaluation.evaluation_set import (
    NONE,
    EvaluationSet,
    features_of,
    in_play,
    load_evaluation_set,
    modalities_of,
    runs_of,
    same_feature,
    where_is,
)
from learn.evaluation.missing_modality import Drop, curves
from learn.evaluation.results import EpisodesResult
from learn.evaluation.until_ci import BLOCK, MOST, Until, draw_until
from learn.fewshot import episode_files, modes, statistics
from learn.fewshot.heads import Head
from learn.fewshot.scoring import MEMORY
from learn.fewshot.tasks import CLASSIC, FAMILY, GROUPS, Episodes, pool_of
from learn.training import own_head
from learn.training.runs import Run
from store import open as open_store
from store import plugins, read_manifest
from store.errors import ConfigError

if TYPE_CHECKING:
    from store import Feature, Manifest

Progress = Callable[[int, int, str], None]

EPISODES = 10_000


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
    ci: str = statistics.METHODS[0],
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> EpisodesResult:
    """Accuracy of every head × projection × mode × shots on the same episodes and clips.

    Heads default to prototypes, "own" is the one that a run was trained with; projections are run
    directories, "none" among them means stored vectors as they are; modes are v, a and av
    (`views.cells`). Where several projections are asked about a matrix of modes, each gives those
    cells that it can, and any cell one at least. With `episodes_file` the episodes are those of the
    file, and ways, shots, queries, episodes, groups and seed have no say.

    `task` is a plug-in of `learn/fewshot/tasks`; of ways, shots, queries, episodes and groups it
    gets those that it knows and does not set itself.

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
    statistics.check(ci)
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
    both = makes_use(every, "other")
    if (support or query) and not both:
        named = modes.cells(support, query, ())
        asked = {m: name for m, name in asked.items() if m in modalities_of(named)}
    features = features_of(store, runs, asked)
    in_all = [m for m in features if all(m in run.features for run in runs.values() if run)]
    cells = modes.cells(support, query, in_all)
    features = in_play(features, cells, beside=in_all if both else ())
    chosen = choose_split(table, split, "test")
    pool = pool_of(episode_files.task_of(Path(episodes_file)) if episodes_file else _name(task))
    side = load_evaluation_set(
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
        other = load_evaluation_set(labels, others, split=queried, label=label, group=group)
        if pool != "split":
            raise ConfigError(f"--task {task} has no queries from elsewhere; leave --query-… out")
        side = pools.crossed(side, other, same_store=query_store in (None, store_path))
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
        check_guard(side.clips, draws[0])
    base = None
    if drop or any(head.centred_by == "base" for head in every):
        base = _base(table, features, chosen)
    scored = Scoring(
        heads=built, runs=runs, cells=possible(runs, cells, side), features=features, side=side,
        base=base, draws=draws, memory=memory, val=val,
        ids=frozenset(clip.partition("/")[2] if asker else clip for clip in side.clips.ids),
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
    inflated = worth_of_guard(scored, results, ci) if inflation else None
    missing = None if points is None else list(points)
    return EpisodesResult(
        sampling=sampling, clips=side.clips, draws=draws, results=results, inflation=inflated,
        missing=missing,
    )  # fmt: skip


def _name(task: str) -> str:
    return plugins.parse_spec(task).name


def _head(spec: str, run: Run | None) -> Head:
    if spec == own_head.NAME:
        return own_head.of_episodes(run)
    return plugins.build("learn.fewshot.heads", spec)


def _base(
    manifest: "Manifest", features: Mapping[str, "Feature"], split: str
) -> EvaluationSet | None:
    """The clips of the split `train`, where it is none of those scored."""
    if split in ("all", "train") or "train" not in splits(manifest):
        return None
    side = load_evaluation_set(manifest, features, split="train", label=None, group=NONE)
    return side if len(side.clips) else None


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
