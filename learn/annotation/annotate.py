"""`learn annotate`: a page on this machine on which clips are labelled by keyboard."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from learn.annotation import strategies
from learn.annotation.annotations import Annotations
from learn.annotation.asked import AnnotateSettings
from learn.annotation.chooser import Chooser
from learn.annotation.estimate import draw_order
from learn.annotation.label_file import held
from learn.annotation.media import MediaFiles
from learn.annotation.pool import Pool, Source
from learn.annotation.session import Session
from learn.annotation.strategies import Strategy
from learn.annotation.thumbnails import Thumbnails
from learn.data import devices
from learn.data.media import Pictures
from learn.inference.judges import judges_of
from learn.inference.selection import NONE, runs_of, select_one
from store import open as open_store
from store import plugins
from store.errors import UnknownColumn, choices

if TYPE_CHECKING:
    from store import Manifest, Store

Say = Callable[[str], None]
SWITCH_SECONDS = 0.0005  # a turn of the interpreter; ten times as long is Python's own


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationSummary:
    """What a session left."""

    output: str
    clips: int  # that can be labelled
    labelled: dict[str, int]  # by column: with a class
    none_of_these: dict[str, int]
    classes: dict[str, int]
    acts: int  # of this session
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn annotate --json` prints."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelling:
    """An open session, and the threads that work for it."""

    session: Session
    before: int  # acts that the file had
    notes: tuple[str, ...]

    def summary(self, settings: AnnotateSettings, seconds: float) -> AnnotationSummary:
        """What is there now."""
        annotations = self.session.annotations
        named = {c: annotations.named(c) for c in annotations.columns}
        return AnnotationSummary(
            output=str(settings.output),
            clips=annotations.count,
            labelled={c: len(of) for c, of in named.items()},
            none_of_these={c: len(annotations.answered(c)) - len(of) for c, of in named.items()},
            classes={c: len(set(of.values())) for c, of in named.items()},
            acts=annotations.acts - self.before,
            seconds=round(seconds, 3),
        )


def annotate(
    settings: AnnotateSettings, *, pictures: Pictures, ready: Say, say: Say = lambda text: None
) -> AnnotationSummary:
    """Serve the page until it is told to stop; `ready` is told the address.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    from learn.annotation.server import serve

    begun = time.monotonic()
    with opened(settings, pictures) as labelling:
        for note in labelling.notes:
            say(note)
        title = Path(settings.store).name or "clips"

        async def run() -> None:
            await serve(
                labelling.session, title, settings.port, lambda site: ready(site.address),
                asyncio.Event(),
            )  # fmt: skip

        with _page_first():
            asyncio.run(run())
        return labelling.summary(settings, time.monotonic() - begun)


@contextmanager
def _page_first() -> Iterator[None]:
    """Let a fit stand in nobody's way: a key waits for a turn of the interpreter a few times, and a
    fit leaves one processor free."""
    turns, threads = sys.getswitchinterval(), torch.get_num_threads()
    sys.setswitchinterval(SWITCH_SECONDS)
    torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        sys.setswitchinterval(turns)
        torch.set_num_threads(threads)


@contextmanager
def opened(settings: AnnotateSettings, pictures: Pictures) -> Iterator[Labelling]:
    """The session, its file held and its threads at work.

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    fs = open_store(settings.store)
    source = _source(fs, settings)
    clips = source.all_clips()
    manifest = fs.manifest() if fs.manifest_names() else None
    group_of = _groups(manifest, settings.group)
    files = MediaFiles(clips, manifest, settings.media)
    with held(settings.output, files.columns, settings.labels) as file:
        named = [clip for clip, _ in file.lines]
        if named:
            source.refuse_unknown(list(dict.fromkeys(named)), str(settings.output))
        annotations = Annotations(file, files.cells, settings.classes, len(clips))
        seed = settings.seed + len(file.lines)  # another draw when it is started again
        strategy: Strategy = plugins.build(strategies.FAMILY, settings.strategy)
        pool = Pool(source, clips, settings.pool, seed)
        chooser = Chooser(
            source, pool, annotations, strategy, groups=group_of, drawn=draw_order(clips), seed=seed
        )
        thumbnails = Thumbnails(files, pictures)
        order = np.random.default_rng(seed).permutation(len(clips)).tolist()
        session = Session(annotations, chooser, files, thumbnails, [clips[i] for i in order])
        notes = [*filter(None, [file.note]), *_notes(files, clips, manifest, settings)]
        chooser.start()
        thumbnails.start()
        try:
            yield Labelling(session=session, before=annotations.acts, notes=tuple(notes))
        finally:
            chooser.close()
            thumbnails.close()


def _source(fs: "Store", settings: AnnotateSettings) -> Source:
    where = devices.chosen("cpu")
    (run,) = runs_of([settings.projection] if settings.projection else [], where).values()
    selection = select_one(
        fs, str(settings.projection or NONE), run, visual=settings.visual, audio=settings.audio,
        text=settings.text, given=[settings.mode] if settings.mode else [],
    )  # fmt: skip
    judges = judges_of(settings.head, None, "on", run, selection.features)
    return Source(selection=selection, judges=judges)


def _groups(
    manifest: "Manifest | None", column: str | None
) -> Callable[[Sequence[str]], Tensor | None]:
    """Equal numbers for clips of one source; a clip of which nothing is said stands alone.

    Raises:
        UnknownColumn: there is no such column.
    """
    name = column or "group"
    if column == NONE or (column is None and (manifest is None or name not in manifest.columns)):
        return lambda clips: None
    if manifest is None or name not in manifest.columns:
        known = manifest.columns if manifest is not None else ()
        raise UnknownColumn(f"no column {column!r}; there are {choices(str(column), known)}")
    of = {c: g for c, g in zip(manifest.clip_ids, manifest.column(name), strict=True) if g}

    def numbered(clips: Sequence[str]) -> Int64[Tensor, "_"]:
        sources = [("source", of[c]) if c in of else ("alone", c) for c in clips]
        number = {key: i for i, key in enumerate(dict.fromkeys(sources))}
        return torch.tensor([number[key] for key in sources], dtype=torch.int64)

    return numbered


LOOKED_AT = 200  # clips whose files are looked for before the page opens


def _notes(
    files: MediaFiles, clips: Sequence[str], manifest: "Manifest | None",
    settings: AnnotateSettings,
) -> Iterator[str]:  # fmt: skip
    """What to know before one begins."""
    some = clips[:: -(-len(clips) // LOOKED_AT)]
    if lost := [clip for clip in some if files.find(clip) is None]:
        yield (
            f"{len(lost)} of {len(some)} clips that were looked for are not below "
            f"{', '.join(map(str, settings.media))} (first {lost[0]!r}); they can be labelled but "
            "not be played; add another --media DIR"
        )
    for column in settings.labels:
        if manifest is not None and column in manifest.columns and any(manifest.column(column)):
            yield (
                f"column {column} of the store's manifest has labels already; they are not looked "
                f"at, and {settings.output.name} begins without them"
            )
