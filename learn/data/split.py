"""`learn split`: the splits train, val and test for clips that have none.

By classes, no class is in two splits: base classes to train on, others to choose settings by, and
novel ones to be asked about. By clips, every class is in every split. Clips of one source (equal
cells in the column of groups, pieces of one file) are in one split; sources that several classes
share keep these classes together. The order of rows changes nothing.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learn.data.group_file import with_groups
from learn.data.stratified import Block, deal, whole_numbers
from store import Manifest, atomic, read_manifest
from store import open as open_store
from store.errors import ConfigError, InputError, choices

SPLITS = ("train", "val", "test")
CALLED = ("base", "val", "novel")
SHARES = (0.6, 0.15, 0.25)
BY = ("classes", "clips")
NAMED = 8  # classes in a line


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How clips are split.

    Raises:
        ConfigError: shares that are none, or no such way.
    """

    by: str = BY[0]
    label: str = "label"
    group: str | None = None  # None: the column `group`, if there is one; "none": no column
    group_file: str | Path | None = None  # sources by a table beside the manifest
    stratify: tuple[str, ...] = ()  # columns whose values each split is to have alike
    shares: tuple[int | float, ...] | None = None  # of classes or clips, for train, val, test
    min_clips: int = 1  # smaller classes are not asked about
    drop_small: bool = False  # by clips: what is too small for all splits is in none
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise ConfigError(f"`by` {self.by!r} is none of {choices(self.by, BY)}")
        whole = abs(sum(self.parts) - 1) < 1e-6
        if len(self.parts) != 3 or not whole or not all(0 <= x < 1 for x in self.parts):
            written = ",".join(f"{share:g}" for share in self.parts)
            raise ConfigError(
                f"`shares` {written} are not three shares of train, val and test that make 1, as "
                f"{','.join(map(str, SHARES))}; 0 leaves a split out"
            )
        if self.min_clips < 1:
            raise ConfigError(f"`min_clips` {self.min_clips} is not at least 1")

    @property
    def parts(self) -> tuple[int | float, ...]:
        """The shares of train, val and test."""
        return SHARES if self.shares is None else tuple(self.shares)

    @property
    def wanted(self) -> list[int]:
        """The splits that get anything."""
        return [s for s, share in enumerate(self.parts) if share > 0]

    def classes_of(self, count: int) -> list[int]:
        """How many of so many classes each split gets; where no shares were asked for, enough to
        ask questions of val and test, if there are that many."""
        least = (1, 1, 1)
        if self.shares is None and count >= 6:
            least = (1, 2, 5 if count >= 10 else 2)
        return whole_numbers(count, self.parts, least)


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A table of splits that was written."""

    manifest: str
    config: SplitConfig
    clips: int
    counts: Mapping[str, Mapping[str, int]]  # by split: classes, clips, sources
    without: Mapping[str, int]  # clips in no split, by reason
    uneven: Mapping[str, Mapping[str, Any]]  # by column of `stratify`: where shares differ most
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn split --json` prints."""
        settings = {name: getattr(self.config, name) for name in SplitConfig.__dataclass_fields__}
        return {
            "manifest": self.manifest,
            **settings,
            "group_file": str(self.config.group_file) if self.config.group_file else None,
            "stratify": list(self.config.stratify),
            "shares": list(self.config.parts),
            "clips": self.clips,
            "splits": {name: dict(counts) for name, counts in self.counts.items()},
            "without": dict(self.without),
            "uneven": {column: dict(worst) for column, worst in self.uneven.items()},
            "notes": list(self.notes),
        }


def split(source: str | Path, output: str | Path, **settings: Any) -> Split:
    """Write the clips of a manifest, or of a store, with a column of splits, `settings` being those
    of `SplitConfig`.

    >>> made = learn.split("my_store", "split.csv")
    >>> sorted(made.counts)
    ['test', 'train', 'val']

    Raises:
        ManifestError, MissingFile: a manifest that cannot be used.
        UnknownColumn: says which there are.
        InputError: `output` exists or is no CSV; too few classes, or sources of some class, which
            are named.
    """
    output, config = Path(output), SplitConfig(**settings)
    if output.suffix.lower() != ".csv":
        raise InputError(f"{output} is not called .csv, which is what is written")
    if output.exists():
        raise InputError(f"{output} exists; move it away or write another file")
    in_store = "://" in str(source) or (Path(source) / "store.json").is_file()
    manifest = open_store(source).manifest() if in_store else read_manifest(source)
    manifest = with_groups(manifest, config.group_file, config.group)
    dealt = splits_of(manifest, config)
    notes = list(dealt.notes)
    if "split" in manifest.columns:
        notes.append("the manifest had splits already: the new ones stand in their place")
    prefix, note = _prefix(manifest, output)
    table = Manifest(table={**manifest.table, "split": dealt.splits})
    write_table(output, table, prefix=prefix)
    return Split(
        manifest=str(output), config=config, clips=len(manifest), counts=dealt.counts(),
        without=dict(Counter(dealt.why_none.values())), uneven=dealt.uneven(manifest, config),
        notes=tuple(notes + note),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """The split of every clip; "" of one that is in none."""

    splits: tuple[str, ...]
    labels: Sequence[tuple[str, ...]]
    sources: Sequence[int]
    why_none: Mapping[int, str]  # by clip
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Classes, clips and sources of each split."""
        rows: dict[str, list[int]] = {name: [] for name in SPLITS}
        for row, name in enumerate(self.splits):
            if name:
                rows[name].append(row)
        return {
            name: {
                "classes": len({label for row in of_split for label in self.labels[row]}),
                "clips": len(of_split),
                "sources": len({self.sources[row] for row in of_split}),
            }
            for name, of_split in rows.items()
            if of_split
        }

    def uneven(self, manifest: Manifest, config: SplitConfig) -> dict[str, dict[str, Any]]:
        """For each column that was to be alike, the value whose shares differ most."""
        found = {}
        sizes = Counter(self.splits)
        names = [name for name in SPLITS if sizes[name]]
        for column in config.stratify:
            cells = Counter(zip(manifest.column(column), self.splits, strict=True))
            shares = {
                value: {name: cells[value, name] / sizes[name] for name in names}
                for value in sorted(set(manifest.column(column)))
            }
            worst = max(shares, key=lambda v: max(shares[v].values()) - min(shares[v].values()))
            found[column] = {"value": worst, **shares[worst]}
        return found


def splits_of(manifest: Manifest, config: SplitConfig) -> Dealt:
    """The split of every clip of a manifest.

    Raises:
        UnknownColumn, InputError: as `split`.
    """
    labels = manifest.labels(config.label)
    for column in config.stratify:
        manifest.column(column)
    sizes = Counter(label for names in labels for label in names)
    if not sizes:
        raise InputError(f"no clip has a label in column {config.label!r}; name one by `label`")
    sources = list(_sources(manifest, config.group))
    why_none = {row: "no label" for row, names in enumerate(labels) if not names}
    make = _by_classes if config.by == "classes" else _by_clips
    split_of, notes = make(manifest, labels, sources, sizes, why_none, config)
    return Dealt(
        splits=tuple(
            "" if row in why_none else SPLITS[split_of[row]] for row in range(len(manifest))
        ),
        labels=labels,
        sources=sources,
        why_none=why_none,
        notes=tuple(notes),
    )


def _by_classes(
    manifest: Manifest,
    labels: Sequence[tuple[str, ...]],
    sources: Sequence[int],
    sizes: Counter[str],
    why_none: dict[int, str],
    config: SplitConfig,
) -> tuple[dict[int, int], list[str]]:
    """A split for every row by its class, no class in two."""
    links = _Links()
    of_source: dict[int, str] = {}
    for names, source in zip(labels, sources, strict=True):
        for name in names:
            links.join(name, names[0])
            links.join(name, of_source.setdefault(source, name))
    members = links.sets(sorted(sizes))
    notes = []
    if together := [names for names in members if len(names) > 1]:
        notes.append(
            f"{sum(map(len, together))} classes stay together, in {len(together)} "
            f"set{'s' * (len(together) > 1)}, as clips of one source or with several labels link "
            f"them: {_listed(together[0])}"
        )
    profile = _profiles(manifest, labels, sizes, config.stratify)
    small = [names for names in members if min(map(sizes.__getitem__, names)) < config.min_clips]
    blocks = [
        Block(name=names[0], amounts=_sum(profile[name] for name in names))
        for names in members
        if names not in small
    ]
    limits = config.classes_of(len(sizes))
    limits[0] = max(limits[0] - sum(map(len, small)), 0)
    if len(blocks) < len(config.wanted) - bool(small and config.parts[0]):
        least = f" of {config.min_clips} clips or more" if small else ""
        raise InputError(
            f"{len(sizes)} classes are {len(blocks)} set{'s' * (len(blocks) != 1)} that can be "
            f"split{least}, and {len(config.wanted)} splits are wanted "
            f"({_listed(sorted(sizes))}); split `by` clips, or give one of the `shares` as 0"
        )
    dealt = deal(blocks, config.parts, seed=config.seed, room=(_CLASSES, limits))
    split_of_first = {block.name: s for block, s in zip(blocks, dealt, strict=True)}
    split_of_first |= {names[0]: 0 for names in small}
    split_of = {name: split_of_first[names[0]] for names in members for name in names}
    empty = [s for s in config.wanted if s not in split_of.values()]
    if empty:
        raise InputError(
            f"no class is left for {CALLED[empty[0]]} ({SPLITS[empty[0]]}), as sources link them: "
            f"{_listed(max(members, key=len))}; split `by` clips, or leave groups out with `group` "
            "none"
        )
    if small:
        notes.append(
            f"{sum(map(len, small))} classes of fewer than {config.min_clips} clips are for "
            f"training only: {_listed([name for names in small for name in names])}"
        )
    return {row: split_of[names[0]] for row, names in enumerate(labels) if names}, notes


def _by_clips(
    manifest: Manifest,
    labels: Sequence[tuple[str, ...]],
    sources: Sequence[int],
    sizes: Counter[str],
    why_none: dict[int, str],
    config: SplitConfig,
) -> tuple[dict[int, int], list[str]]:
    """A split for every row by its source, every class in all."""
    of_class: dict[str, set[int]] = defaultdict(set)
    for names, source in zip(labels, sources, strict=True):
        for name in names:
            of_class[name].add(source)
    splits = len(config.wanted)
    small = {
        name: f"{name} ({sizes[name]} clips of {len(of_class[name])} sources)"
        for name in sorted(sizes)
        if len(of_class[name]) < splits or sizes[name] < config.min_clips
    }
    least = f"{splits} sources" if config.min_clips <= splits else f"{config.min_clips} clips"
    if small and not config.drop_small:
        raise InputError(
            f"{len(small)} of {len(sizes)} classes have fewer than {least}, and cannot be in every "
            f"split: {_listed(list(small.values()))}; leave them out with `drop_small`, or split "
            "`by` classes"
        )
    if len(small) == len(sizes):
        raise InputError(f"no class has {least}: {_listed(list(small.values()))}")
    for row, names in enumerate(labels):
        if names and all(name in small for name in names):
            why_none[row] = "a class that is too small"
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, source in enumerate(sources):
        if row not in why_none:
            rows_of[source].append(row)
    columns = [manifest.column(name) for name in config.stratify]
    blocks = []
    for rows in rows_of.values():
        amounts: Counter[Hashable] = Counter()
        for row in rows:
            cells = [(i, column[row]) for i, column in enumerate(columns)]
            amounts.update([_CLIPS, *labels[row], *cells])
            amounts.update((name, cell) for name in labels[row] for cell in cells)
        needed = frozenset(name for row in rows for name in labels[row] if name not in small)
        blocks.append(
            Block(name=min(manifest.clip_ids[r] for r in rows), amounts=amounts, needed=needed)
        )
    dealt = deal(blocks, config.parts, seed=config.seed)
    split_of = {row: s for rows, s in zip(rows_of.values(), dealt, strict=True) for row in rows}
    _refuse_gaps(labels, split_of, set(sizes) - small.keys(), config)
    notes = [f"left out: {_listed(list(small.values()))}"] if small else []
    return split_of, notes


_CLASSES, _CLIPS = ("number", "classes"), ("number", "clips")


def _refuse_gaps(
    labels: Sequence[tuple[str, ...]],
    split_of: Mapping[int, int],
    classes: set[str],
    config: SplitConfig,
) -> None:
    """Refuse splits of which one lacks a class, because sources that classes share left none."""
    there = {(name, s) for row, s in split_of.items() for name in labels[row]}
    gaps = sorted({name for name in classes for s in config.wanted if (name, s) not in there})
    if gaps:
        raise InputError(
            f"{len(gaps)} classes share sources with others and cannot be in every split: "
            f"{_listed(gaps)}; leave groups out with `group` none, or split `by` classes"
        )


def _profiles(
    manifest: Manifest,
    labels: Sequence[tuple[str, ...]],
    sizes: Counter[str],
    columns: Sequence[str],
) -> dict[str, dict[Hashable, float]]:
    """What each class counts as: one class, and its share of each value of the columns."""
    profile: dict[str, dict[Hashable, float]] = {name: {_CLASSES: 1.0} for name in sizes}
    for i, column in enumerate(columns):
        cells = Counter(
            (name, cell)
            for names, cell in zip(labels, manifest.column(column), strict=True)
            for name in names
        )
        for (name, cell), count in cells.items():
            profile[name][i, cell] = count / sizes[name]
    return profile


def _sum(profiles: Iterator[Mapping[Hashable, int | float]]) -> dict[Hashable, float]:
    total: dict[Hashable, float] = defaultdict(float)
    for profile in profiles:
        for key, amount in profile.items():
            total[key] += amount
    return dict(total)


class _Links:
    """Which names belong together, by pairs."""

    def __init__(self) -> None:
        self._parent: dict[Hashable, Hashable] = {}

    def find(self, name: Hashable) -> Hashable:
        """The first of the names that belong with this one."""
        root = name
        while (above := self._parent.setdefault(root, root)) != root:
            root = above
        while self._parent[name] != root:
            self._parent[name], name = root, self._parent[name]
        return root

    def join(self, one: Hashable, other: Hashable) -> None:
        """These two belong together."""
        self._parent[self.find(one)] = self.find(other)

    def sets(self, names: Sequence[str]) -> list[list[str]]:
        """The names in sets that belong together, in the order given."""
        sets: dict[Hashable, list[str]] = {}
        for name in names:
            sets.setdefault(self.find(name), []).append(name)
        return list(sets.values())


def _sources(manifest: Manifest, group: str | None) -> Iterator[int]:
    """A number for the source of every clip: its group, and the file it is a piece of."""
    known = group != "none" and (group is not None or "group" in manifest.columns)
    groups = manifest.column(group or "group") if known else ("",) * len(manifest)
    links = _Links()
    for path, name in zip(manifest.paths, groups, strict=True):
        if name:
            links.join(("file", path), ("group", name))
    numbers: dict[Hashable, int] = {}
    for path in manifest.paths:
        yield numbers.setdefault(links.find(("file", path)), len(numbers))


def _prefix(manifest: Manifest, output: Path) -> tuple[str, list[str]]:
    """What goes before each path so that it holds where the table lies, and what to say of that."""
    if manifest.root is not None:
        home, root = output.resolve().parent, manifest.root.resolve()
        if root.is_relative_to(home):
            prefix = root.relative_to(home).as_posix()
            return ("" if prefix == "." else f"{prefix}/"), []
    return "", [
        "paths are as they were, and do not hold where this table lies: it is for --manifest, not "
        "for `extract run`"
    ]


def write_table(output: Path, manifest: Manifest, *, prefix: str = "") -> None:
    """Write a manifest as CSV, whole or not at all; `prefix` goes before its paths."""
    columns = {**manifest.table, "path": [prefix + path for path in manifest.paths]}
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(columns)
    table.writerows(zip(*columns.values(), strict=True))
    atomic.write_text(output, text.getvalue(), replace=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
