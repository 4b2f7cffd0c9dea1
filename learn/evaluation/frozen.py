"""`learn benchmark`: clips, splits and episodes that are the same for everybody, and their scores.

A plan says which classes and how many clips; lists and a seed decide the rest, so that who has the
lists makes the same benchmark, and two digests prove it. What may be passed on is `ids.json`: ids
of clips by split and digests of the episodes, no label and no medium.

3massiv-5k: 20 base, 6 val and 8 novel concepts of 3MASSIV, 150 clips each at most, of these 30 %
in Hindi at most and in other languages as they are; concepts of one family on one side. Control
tasks ask about the format of the sound and of the picture: there the weight of a fusion must go to
sound and to sight.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from learn.data.features import SENSED, choose_feature
from learn.data.group_file import GROUP, manifest_of
from learn.data.split import SPLITS, SplitConfig, splits_of, write_table
from learn.data.stratified import digest, whole_numbers
from learn.evaluation.episodes import run_episodes
from learn.evaluation.results import EpisodesResult
from learn.fewshot.modes import MODES
from learn.training.runs import refuse_existing
from store import atomic
from store import open as open_store
from store.errors import InputError, choices
from store.manifest import Manifest

if TYPE_CHECKING:
    from store import Store

CLIPS, EPISODES, IDS, RESULT = "manifest.csv", "episodes.safetensors", "ids.json", "benchmark.json"
NAMED = 5  # classes in a line

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A benchmark: which classes and clips, and what is asked."""

    label: str
    family: str  # column; its values are on one side
    stratify: str  # column whose values each class is to have as it has them
    most_of: tuple[str, float]  # value of that column, and its largest share of a class
    classes: tuple[int, int, int]  # in train, val, test
    clips: int  # of a class, at most
    shots: tuple[int, ...]
    queries: int
    episodes: int
    controls: Mapping[str, str]  # column: the modality that its weight must go to
    ways: int = 5
    control_shots: int = 5
    seed: int = 0


PLANS = {
    "3massiv-5k": Plan(
        label="concept", family="family", stratify="language", most_of=("Hindi", 0.3),
        classes=(20, 6, 8), clips=150, shots=(1, 5, 10, 20), queries=15, episodes=10_000,
        controls={"audio_format": "audio", "video_format": "visual"},
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrozenBenchmark:
    """A benchmark that was made of a store, and scored on it."""

    name: str
    output: str
    splits: Mapping[str, Mapping[str, int]]  # classes and clips
    ids_sha256: str
    episodes_sha256: Mapping[str, str]  # by number of shots
    result: EpisodesResult
    controls: Sequence[Mapping[str, Any]]
    notes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn benchmark --json` prints."""
        return {
            "benchmark": self.name,
            "output": self.output,
            "splits": {name: dict(counts) for name, counts in self.splits.items()},
            "ids_sha256": self.ids_sha256,
            "episodes_sha256": dict(self.episodes_sha256),
            "controls": [dict(row) for row in self.controls],
            "notes": list(self.notes),
            **self.result.to_dict(),
        }


def benchmark(
    name: str,
    store_path: str | Path,
    output: Path,
    *,
    manifest: str | Path | None = None,
    group_file: str | Path | None = None,
    visual: str | None = None,
    audio: str | None = None,
    heads: Sequence[str] = (),
    episodes: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> FrozenBenchmark:
    """Make a benchmark of the clips of a store, draw its episodes, and score features on them.

    Fewer `episodes` than the plan has are other episodes, which is noted.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    plan = plan_of(name)
    refuse_existing(output)
    store = open_store(store_path)
    table = manifest_of(store, manifest, group_file)
    usable = _with_rows(store, table, visual, audio)
    chosen, notes = choose(plan, table, usable)
    if episodes is not None and episodes != plan.episodes:
        notes.append(f"{episodes} episodes, and not the {plan.episodes} of the benchmark")
    asked: dict[str, Any] = {
        "ways": plan.ways, "queries": plan.queries, "seed": plan.seed, "visual": visual,
        "audio": audio, "heads": tuple(heads), "episodes": episodes or plan.episodes,
        "device": device, "progress": progress, "support": _modes(store),
    }  # fmt: skip
    with atomic.directory(output) as staged:
        write_table(staged / CLIPS, chosen)
    result = run_episodes(
        store_path, manifest=output / CLIPS, split=SPLITS[2], label=plan.label, shots=plan.shots,
        save_episodes=output / EPISODES, **asked,
    )  # fmt: skip
    controls = [
        _control(plan, column, modality, chosen, store_path, output / CLIPS, asked)
        for column, modality in plan.controls.items()
        if column in chosen.columns
    ]
    ids = {s: sorted(_where(chosen.clip_ids, chosen.column("split"), s)) for s in SPLITS}
    digests = {str(draw.shots): draw.sha256 for draw in result.draws}
    ids_sha256 = hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest()
    made = FrozenBenchmark(
        name=name, output=str(output), splits=_counts(plan, chosen), ids_sha256=ids_sha256,
        episodes_sha256=digests, result=result, controls=controls, notes=notes,
    )  # fmt: skip
    told = {"benchmark": name, "sha256": ids_sha256, "episodes_sha256": digests, "clips": ids}
    atomic.write_json(output / IDS, told)
    atomic.write_json(output / RESULT, made.to_dict())
    return made


def plan_of(name: str) -> Plan:
    """The plan of a benchmark.

    Raises:
        InputError: there is none of that name.
    """
    if name not in PLANS:
        raise InputError(f"no benchmark {name!r}; there are {choices(name, PLANS)}")
    return PLANS[name]


def choose(plan: Plan, table: Manifest, usable: Sequence[bool]) -> tuple[Manifest, list[str]]:
    """The clips of a benchmark with their splits, and what was left out.

    Raises:
        UnknownColumn, InputError: a column is missing, or classes are too few or too small.
    """
    labels = table.labels(plan.label)
    values, of_class = table.column(plan.stratify), defaultdict[str, list[int]](list)
    for row, names in enumerate(labels):
        if len(names) == 1 and usable[row]:
            of_class[names[0]].append(row)
    notes, lost = [], sum(not ok for ok in usable)
    if lost:
        notes.append(f"{lost} clips without rows are left out: ids are not those of all clips")
    taken = {name: _of_class(plan, rows, table, values) for name, rows in of_class.items()}
    least = max(plan.shots) + plan.queries
    small = sorted(name for name, rows in taken.items() if len(rows) < least)
    large = sorted(taken.keys() - set(small))
    if len(large) < sum(plan.classes):
        raise InputError(
            f"{len(large)} of {len(taken)} classes in column {plan.label!r} have {least} clips or "
            f"more, and {sum(plan.classes)} are needed (too small: "
            f"{', '.join(small[:NAMED]) or 'none'})"
        )
    large.sort(key=lambda name: (-len(of_class[name]), name))
    kept = table.select(
        sorted(table.clip_ids[r] for name in large[: sum(plan.classes)] for r in taken[name])
    )
    total = sum(plan.classes)
    dealt = splits_of(
        kept,
        SplitConfig(
            label=plan.label, group=plan.family if plan.family in kept.columns else "none",
            stratify=(plan.stratify,), shares=tuple(n / total for n in plan.classes),
            seed=plan.seed,
        ),
    )  # fmt: skip
    chosen = replace(kept, table={**kept.table, "split": dealt.splits})
    counts = [c["classes"] for c in _counts(plan, chosen).values()]
    if tuple(counts) != plan.classes:
        raise InputError(
            f"families allow {counts} classes in {', '.join(SPLITS)}, and not {list(plan.classes)}"
        )
    return _sources_apart(chosen, notes), notes


def _of_class(plan: Plan, rows: Sequence[int], table: Manifest, values: Sequence[str]) -> list[int]:
    """The clips of a class that are taken: of each value as many as it has of all, and of one no
    more than its share; which, their ids and the seed decide."""
    of_value = defaultdict[str, list[int]](list)
    for row in sorted(rows, key=lambda row: digest(plan.seed, table.clip_ids[row])):
        of_value[values[row]].append(row)
    value, share = plan.most_of
    others = sum(len(own) for name, own in of_value.items() if name != value)
    limited = min(len(of_value[value]), int(plan.clips * share), int(others * share / (1 - share)))
    wanted = {name: len(own) for name, own in sorted(of_value.items()) if name != value and own}
    room = min(plan.clips - min(limited, int(plan.clips * share)), others)
    amounts = whole_numbers(room, [n / others for n in wanted.values()], [0] * len(wanted))
    amounts = [min(n, len(of_value[name])) for n, name in zip(amounts, wanted, strict=True)]
    taken = [row for n, name in zip(amounts, wanted, strict=True) for row in of_value[name][:n]]
    limited = min(limited, int(len(taken) * share / (1 - share)))
    return sorted(taken + of_value[value][:limited])


def _sources_apart(chosen: Manifest, notes: list[str]) -> Manifest:
    """The clips without those whose source is in a later split too."""
    if GROUP not in chosen.columns:
        notes.append("no groups are known: copies may be in two splits; `learn groups` finds them")
        return chosen
    order = {name: i for i, name in enumerate(SPLITS)}
    last: dict[str, int] = {}
    pairs = list(zip(chosen.column(GROUP), chosen.column("split"), strict=True))
    for group, split in pairs:
        last[group] = max(last.get(group, 0), order[split])
    apart = [not group or order[split] == last[group] for group, split in pairs]
    if left := apart.count(False):
        notes.append(f"{left} clips are left out, as copies of them are in a later split")
    return chosen.select([c for c, ok in zip(chosen.clip_ids, apart, strict=True) if ok])


def _control(
    plan: Plan, column: str, modality: str, chosen: Manifest, store_path: str | Path, path: Path,
    asked: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """The accuracy of a task that one sense carries, and where the weight went."""
    sizes = Counter(_where(chosen.column(column), chosen.column("split"), SPLITS[2]))
    least = plan.control_shots + plan.queries
    ways = min(plan.ways, sum(n >= least for name, n in sizes.items() if name))
    row: dict[str, Any] = {"label": column, "weight_should_go_to": modality, "ways": ways}
    if ways < 2:
        return {**row, "why_not": f"fewer than 2 values have {least} novel clips"}
    result = run_episodes(
        store_path, manifest=path, split=SPLITS[2], label=column, shots=(plan.control_shots,),
        **{**asked, "ways": ways},
    ).to_dict()  # fmt: skip
    modes = {one["support"]: one for one in result["results"]}
    row["accuracy"] = {mode: one["accuracy"] for mode, one in modes.items()}
    weights = modes.get("av", {}).get("weights")
    if weights:
        row["weights"] = weights
    return row


def _with_rows(
    store: "Store", table: Manifest, visual: str | None, audio: str | None
) -> Sequence[bool]:
    """Whether each clip has rows in every feature that is asked about."""
    usable = np.ones(len(table), bool)
    for modality, name in zip(SENSED, (visual, audio), strict=True):
        feature = choose_feature(store, modality, name)
        if feature is not None:
            usable &= feature.locate(table.clip_ids).rows > 0
    return [bool(ok) for ok in usable]


def _modes(store: "Store") -> list[str]:
    """The modes of sight and sound that the store has features of: benchmarks are of these."""
    known = {store[name].modality for name in store.features} & set(SENSED)
    return [mode for mode, of in MODES.items() if set(of) <= known]


def _where(cells: Sequence[str], splits: Sequence[str], split: str) -> list[str]:
    return [cell for cell, own in zip(cells, splits, strict=True) if own == split]


def _counts(plan: Plan, chosen: Manifest) -> dict[str, dict[str, int]]:
    found = {}
    for split in SPLITS:
        of_split = _where(chosen.column(plan.label), chosen.column("split"), split)
        found[split] = {"classes": len(set(of_split)), "clips": len(of_split)}
    return found
