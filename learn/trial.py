"""`learn try`: from a folder of clips to a page of answers, in one call.

    DIR/store          what the encoders of an install make of the clips
    DIR/clips.csv      the clips with their labels and splits
    DIR/results        as `learn episodes -o` writes them
    DIR/report.html    as `learn report -o` writes it
    DIR/try.json       the source that this is of
    DIR/done.json      the clips that the page is of; written last

Killed, it goes on where it stopped; once done, it has nothing to do until the clips change. Clips
are read, encoded and pictured by functions that are handed in: `learn` decodes nothing itself. What
needs torch is imported once the clips and their labels are known to be of use.
"""

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from learn.data.clips import Clips, load_clips, splits
from learn.data.group_file import with_groups
from learn.data.split import SplitConfig, splits_of, write_table
from store import Feature, Manifest, Status, Store, atomic
from store import open as open_store
from store.errors import InputError, NotEnoughClips, UnknownColumn, choices
from store.lock import alone

WAYS, SHOTS, QUERIES, EPISODES = 5, 5, 15, 2000  # at most
MAP_BY = "tsne"  # of the page
ENOUGH_CLASSES = 15  # from here on some are put aside: weights of the senses are told by them
NAMED = 8  # classes in a line
STORE, CLIPS, RESULTS, REPORT, SOURCE, DONE = (
    "store", "clips.csv", "results", "report.html", "try.json", "done.json",
)  # fmt: skip
Progress = Callable[..., None]
Thumbnails = Callable[[Sequence[Any]], Sequence[bytes | None]]  # of `learn.reporting.pictures`


@runtime_checkable
class ReadClips(Protocol):
    """Reads what a command was given."""

    def __call__(self, source: Path) -> tuple[Manifest, Sequence[str]]:
        """The manifest of a source, a folder or a table, and what is to be known of it."""


@runtime_checkable
class Extract(Protocol):
    """Fills a store."""

    def __call__(self, manifest: Manifest, store_dir: Path) -> Sequence[str]:
        """Store what encoders make of the clips, where that is not there; what is to be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What became of the clips."""

    output: str
    store: str
    report: str | None  # None: the clips have no labels
    results: Mapping[str, Any] | None  # as `EpisodesResult.to_dict`
    notes: tuple[str, ...]
    findings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn try --json` prints."""
        return {
            "output": self.output,
            "store": self.store,
            "report": self.report,
            "notes": list(self.notes),
            "findings": list(self.findings),
            **(self.results or {}),
        }


def try_clips(
    source: str | Path,
    output: str | Path,
    *,
    read: ReadClips,
    extract: Extract,
    thumbnails: Thumbnails | None = None,
    label: str = "label",
    group: str | None = None,
    group_file: str | Path | None = None,
    progress: Progress | None = None,
) -> Trial:
    """Encode clips, ask as many few-shot questions of them as they allow, and write the page.

    Raises:
        InputError: a source without media, or labels that allow no question, which is told before
            anything is encoded; clips of which none can be used; an output of something else.
    """
    source, output = Path(source), Path(output)
    _refuse_foreign(source, output)
    manifest, notes = read(source)
    manifest = with_groups(manifest, group_file, group)
    say = progress or _silent
    for note in notes:
        say(0, None, note)
    asked = _Labelled(manifest=manifest, label=label, group=group)
    if labelled := asked.exists:
        asked.check(source)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with alone(output / ".lock"):
            atomic.write_json(output / SOURCE, {"source": str(source.resolve())})
            if labelled and (before := _done(output, asked)) is not None:
                return replace(before, notes=(*notes, *before.notes))
            notes = [*notes, *extract(manifest, output / STORE)]
            fs = open_store(output / STORE)
            if not labelled:
                return _unlabelled(output, fs, manifest, notes)
            done = _asked(output, fs, asked, notes, thumbnails, say)
            kept = {"of": asked.digest, "trial": done.to_dict()}
            atomic.write_json(output / DONE, kept, durable=True)
            return done
    except BlockingIOError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise InputError(f"another process fills {output}; wait for it") from None


def _silent(done: int, total: int | None, message: str = "", status: str = "") -> None: ...


def _refuse_foreign(source: Path, output: Path) -> None:
    """Refuse a directory that holds something else, or a trial of other clips."""
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a new directory")
    if not output.is_dir() or not any(path.name != ".lock" for path in output.iterdir()):
        return
    try:
        of = str(json.loads((output / SOURCE).read_bytes())["source"])
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(
            f"{output} exists and is not of `learn try`; name a new directory"
        ) from None
    if of != str(source.resolve()):
        raise InputError(f"{output} is of {of}; name a new directory for {source}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labelled:
    """Clips and the columns that say what they show and where they are from."""

    manifest: Manifest
    label: str
    group: str | None

    @property
    def digest(self) -> list[str | None]:
        """What decides the answers, for JSON."""
        return [self.manifest.digest, self.label, self.group]

    @property
    def exists(self) -> bool:
        """Whether any clip has a label.

        Raises:
            UnknownColumn: there are columns of labels, and none of that name.
        """
        manifest = self.manifest
        if self.label in manifest.columns:
            return any(manifest.column(self.label))
        if manifest.label_columns:
            listed = choices(self.label, manifest.label_columns)
            raise UnknownColumn(f"no column {self.label!r}; name one by `label`: {listed}")
        return False

    def clips(self, split: str, of: Iterable[str] | None = None) -> Clips:
        """The labelled clips of a split, or those of them that are among `of`."""
        clips = load_clips(self.manifest, split=split, label=self.label, group=self.group)
        wanted = clips.labelled
        if of is not None:
            wanted = wanted & np.isin(clips.ids, list(of))
        return clips.keep(wanted)

    def question(self, of: Iterable[str] | None = None) -> tuple[str, int, int, int] | None:
        """The split that is asked about, and the most ways, shots and queries that it allows: test,
        unless it allows none; None if all clips allow none."""
        from learn.evaluation.feasible import numbers_that_work

        of = None if of is None else set(of)
        for split in ("test", "all"):
            if split == "all" or split in splits(self.manifest):
                clips = self.clips(split, of)
                numbers = numbers_that_work(clips, WAYS, SHOTS, QUERIES, "within")
                if numbers is not None:
                    return (split, *numbers)
        return None

    def check(self, source: Path) -> None:
        """Refuse labels that allow no question, before hours are spent on clips.

        Raises:
            NotEnoughClips: says what there is.
        """
        clips = self.clips("all")
        groups = range(len(clips)) if clips.groups is None else clips.groups.tolist()
        apart = set(zip(clips.class_ids.tolist(), groups, strict=True))
        if sum(n > 1 for n in Counter(class_id for class_id, _ in apart).values()) > 1:
            return
        without = f"without questions: extract run {source} --store DIR, then learn search"
        if len(clips.classes) == 1:
            raise NotEnoughClips(
                f"all clips are of one class, {clips.classes[0]!r}, and a question needs two; "
                f"{without}"
            )
        sizes = Counter(clips.classes[c] for c in clips.class_ids.tolist())
        listed = ", ".join(f"{name} {n}" for name, n in sizes.most_common(NAMED))
        of = " of different sources" if clips.groups is not None else ""
        raise NotEnoughClips(
            f"a question needs two classes with two clips{of} each, a shot and a query; clips by "
            f"class: {listed}{', …' if len(sizes) > NAMED else ''}; {without}"
        )

    def with_splits(self, usable: Sequence[str]) -> tuple["_Labelled", list[str]]:
        """The same with splits by classes, where there are none, classes enough, and questions do
        not become smaller; and a line that says so."""
        before = self.question(usable)
        classes = {name for names in self.manifest.labels(self.label) for name in names}
        if splits(self.manifest) or len(classes) < ENOUGH_CLASSES:
            return self, []
        try:
            dealt = splits_of(self.manifest, SplitConfig(label=self.label, group=self.group))
        except InputError:  # sources link all classes
            return self, []
        table = {**self.manifest.table, "split": dealt.splits}
        divided = replace(self, manifest=replace(self.manifest, table=table))
        after = divided.question(usable)
        if after is None or before is None or (after[0], *after[1:3]) != ("test", *before[1:3]):
            return self, []
        listed = ", ".join(f"{n['classes']} {name}" for name, n in dealt.counts().items())
        return divided, [f"split by classes, as the clips had no splits: {listed}"]


def _done(output: Path, asked: _Labelled) -> Trial | None:
    """The trial that is there already, of these very clips; what is there of others is removed."""
    try:
        kept = json.loads((output / DONE).read_bytes())
        if kept["of"] == asked.digest and (output / REPORT).is_file():
            trial = kept["trial"]
            names = ("output", "store", "report", "notes", "findings")
            notes = ("nothing is new since the page was written",)
            return Trial(
                output=str(output), store=str(output / STORE), report=str(output / REPORT),
                results={key: value for key, value in trial.items() if key not in names},
                notes=notes, findings=tuple(trial["findings"]),
            )  # fmt: skip
    except (OSError, ValueError, LookupError, TypeError):
        pass
    for name in (DONE, REPORT, CLIPS):
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / RESULTS, ignore_errors=True)
    return None


def _unlabelled(output: Path, fs: Store, manifest: Manifest, notes: Sequence[str]) -> Trial:
    """What is left to do with clips that have no labels."""
    usable, failed = _usable(fs, manifest), _failures(fs, manifest)
    some = next(iter([*usable["v"], *usable["a"]]), None)
    if some is None:
        raise InputError(f"none of the {len(manifest)} clips can be used: {failed}")
    lines = [f"of {len(manifest)} clips {failed}"] if failed else []
    return Trial(
        output=str(output), store=fs.name, report=None, results=None, notes=tuple(notes),
        findings=(
            *lines,
            f"no labels, so no questions; clips alike are found by: learn search {fs.name} "
            f"'{some}'",
        ),
    )  # fmt: skip


def _asked(
    output: Path,
    fs: Store,
    asked: _Labelled,
    notes: Sequence[str],
    thumbnails: Thumbnails | None,
    say: Progress,
) -> Trial:
    """Questions of labelled clips, and their page."""
    from learn.evaluation.episodes import run_episodes
    from learn.reporting.report import report

    manifest, said = asked.manifest, list[str]()
    usable, failed = _usable(fs, manifest), _failures(fs, manifest)
    modes = _modes(asked, usable)
    if modes is None:
        why = failed or "too few have pictures or sound"
        raise InputError(f"of {len(manifest)} clips {why}; what is left allows no question")
    if len(modes) == 1:
        left, mode = ("sound", "a") if modes == ("v",) else ("sight", "v")
        said.append(f"{left} is left out: {len(usable[mode])} of {len(manifest)} clips have any")
    asked, divided = asked.with_splits(usable[modes[-1]])
    question = asked.question(usable[modes[-1]])
    assert question is not None  # `_modes` found one, and `with_splits` keeps it
    split, ways, shots, queries = question
    every_shots = sorted({1, shots})
    said += divided
    said.append(
        f"{ways} ways, {' and '.join(map(str, every_shots))} shots and {queries} queries a class: "
        f"as many as the clips allow, up to {WAYS}, {SHOTS} and {QUERIES}"
    )
    for line in said:
        say(0, None, line)
    write_table(output / CLIPS, asked.manifest)
    result = run_episodes(
        output / STORE, manifest=output / CLIPS, split=split, label=asked.label, group=asked.group,
        ways=ways, shots=every_shots, queries=queries, episodes=EPISODES, support=modes,
        progress=say,
    )  # fmt: skip
    result.save(output / RESULTS)
    media = [manifest.root] if manifest.root else []
    title = f"Few-shot answers about {_name_of(output)}"
    report(
        (output / RESULTS,),
        output / REPORT,
        title=title,
        map_by=MAP_BY,
        media=media,
        thumbnails=thumbnails,
    )
    return Trial(
        output=str(output), store=fs.name, report=str(output / REPORT), results=result.to_dict(),
        notes=(*notes, *said), findings=(f"of {len(manifest)} clips {failed}",) if failed else (),
    )  # fmt: skip


def _name_of(output: Path) -> str:
    """The name of the source, or of a table's folder."""
    source = Path(json.loads((output / SOURCE).read_bytes())["source"])
    return source.name if source.is_dir() else f"{source.parent.name}/{source.name}"


def _features(fs: Store) -> dict[str, Feature]:
    """The feature of each modality."""
    from learn.data.features import SENSED, choose_feature

    chosen = {modality: choose_feature(fs, modality, None) for modality in SENSED}
    return {modality: feature for modality, feature in chosen.items() if feature is not None}


def _usable(fs: Store, manifest: Manifest) -> dict[str, list[str]]:
    """By mode, the clips that have rows in all that it looks at."""
    from learn.fewshot.modes import MODES

    ids = manifest.clip_ids
    has = {
        modality: {clip for clip, code in zip(ids, feature.status_of(ids), strict=True)
                   if Status(int(code)) == Status.OK}
        for modality, feature in _features(fs).items()
    }  # fmt: skip
    return {
        mode: [clip for clip in ids if all(clip in has.get(m, ()) for m in of)]
        for mode, of in MODES.items()
    }


def _failures(fs: Store, manifest: Manifest) -> str:
    """How many clips failed, by kind; nothing if none did."""
    worst: dict[str, Status] = {}
    for feature in _features(fs).values():
        for clip, code in zip(manifest.clip_ids, feature.status_of(manifest.clip_ids), strict=True):
            if (status := Status(int(code))).failed:
                worst[clip] = status
    counts = Counter(status.kind for status in worst.values())
    return ", ".join(f"{n} are {kind}" for kind, n in counts.most_common())


def _modes(asked: _Labelled, usable: Mapping[str, Sequence[str]]) -> tuple[str, ...] | None:
    """All modes, or the one sense that allows larger questions; None if there is no question."""
    found = {}
    for mode, ids in usable.items():
        if (question := asked.question(ids)) is not None:
            found[mode] = question[1:3]  # ways and shots; fewer queries are no reason
    if not found:
        return None
    best = max(found.values())
    if found.get("av") == best:
        return ("v", "a", "av")
    return ("v",) if found.get("v") == best else ("a",)
