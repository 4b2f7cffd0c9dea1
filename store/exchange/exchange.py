"""Features out of a store into other people's files, and back.

export(store.open(DIR), "hdf5", Path("features.h5"))
import_("npz:values=audio,clip_id=clip,modality=audio", Path("features.npz"), Path("DIR"))
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from store import atomic, plugins
from store.errors import InputError, MissingFile
from store.exchange import importing
from store.exchange.formats import Clips, Format, Track
from store.features.feature import Feature
from store.progress import Progress, counter
from store.status import Status
from store.store import Store, create

FAMILY = "store.exchange.formats"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The outcome of an export."""

    output: str
    format: str
    features: list[str]
    clips: int
    left_out: int  # clips that the format cannot hold
    status: dict[str, int]  # clips by kind

    def to_dict(self) -> dict[str, Any]:
        """The object that `store export --json` prints."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """The outcome of an import."""

    store: str
    format: str
    features: list[str]
    clips: int
    status: dict[str, int]  # clips by kind
    left_out: list[str]  # arrays and columns of the file that are not in the store
    bent: int  # clips whose numbers float16 cannot hold, or not as they were
    notes: list[str]  # lines for people: what was guessed, what may be missed

    def to_dict(self) -> dict[str, Any]:
        """The object that `store import --json` prints."""
        return asdict(self)


def export(
    store: Store,
    format_spec: str,
    output: Path,
    *,
    features: Sequence[str] = (),
    label: str = "label",
    progress: Progress | None = None,
) -> Exported:
    """Write features (all, if none is named) into a new file or directory.

    Formats that sort clips by class take it from the manifest's column `label`, and leave out
    clips without rows, which the result counts by kind.

    Raises:
        InputError: the output exists, or the format cannot tell what is in the store.
        ConfigError: no such format, or no such setting of it.
    """
    made: Format = plugins.build(FAMILY, format_spec)
    name = plugins.parse_spec(format_spec, FAMILY).name
    chosen = _chosen(store, features, made, name)
    table = _columns(store)
    advance = counter(progress, sum(feature.clips for feature in chosen))
    tracks = [_leaving(feature, table, advance) for feature in chosen]
    with _new(output) as target:
        written = made.write(tracks, target, label=label)
    counts: Counter[Status] = Counter()
    for feature in chosen:
        counts.update(feature.status_counts())
    return Exported(
        output=str(output),
        format=name,
        features=[feature.name for feature in chosen],
        clips=written,
        left_out=sum(counts.values()) - written,
        status={status.kind: count for status, count in sorted(counts.items())},
    )


def import_(
    format_spec: str,
    source: Path,
    store_dir: Path | str,
    *,
    trust_pickle: bool = False,
    progress: Progress | None = None,
) -> Imported:
    """Commit the features of a file or directory to a store, made if need be.

    Everything is read and checked before anything is written. An import that was interrupted goes
    on where it stopped; one that was done adds nothing.

    Raises:
        MissingFile: there is no source.
        InputError: it is not of this format, damaged, or a pickle nobody trusts.
        ConfigError: no such format, or no such setting of it.
    """
    parsed = plugins.parse_spec(format_spec, FAMILY)
    settings = asdict(plugins.configure(FAMILY, parsed))
    made: Format = plugins.build(FAMILY, parsed)
    if not source.exists():
        raise MissingFile(f"no {source} to import")
    with _reading(source):
        tracks = list(made.read(source, trust_pickle=trust_pickle))
        specs = [importing.identity(track, parsed.name, settings, source) for track in tracks]
        rounding = {track.name: importing.Rounding() for track in tracks}
        known = importing.checked(tracks, rounding)
        importing.manifest_of(known, {}, source)  # refuses what no manifest may say
    notes = [line for name, own in rounding.items() for line in own.notes(name)]
    notes += importing.advice(tracks, known, parsed.name, settings)
    store = create(store_dir)
    counts: Counter[str] = Counter()
    advance = counter(progress, len(known) * len(tracks))
    names = []
    for track, spec in zip(tracks, specs, strict=True):
        feature = store.add_feature(spec)
        names.append(feature.name)
        for clips in importing.units(track.clips()):
            if not feature.has_unit(feature.unit_name(clips.clip_ids)):
                feature.commit(
                    importing.unit_rows(clips, parsed.name), {"imported_from": source.name}
                )
            advance(len(clips.clip_ids))
        for status, count in store[feature.name].status_counts().items():
            counts[status.kind] += count
    importing.keep_manifest(store, known, source)
    return Imported(
        store=str(store_dir),
        format=parsed.name,
        features=names,
        clips=len(known),
        status=dict(sorted(counts.items())),
        left_out=list(dict.fromkeys(name for track in tracks for name in track.left_out)),
        bent=sum(own.bent + own.beyond for own in rounding.values()),
        notes=notes,
    )


# ── out ──────────────────────────────────────────────────────────────────────────────────────────


def _chosen(store: Store, names: Sequence[str], made: Format, format_name: str) -> list[Feature]:
    """The features to write, as many as the format holds.

    Raises:
        InputError: there are none, or too many.
    """
    chosen = [store[name] for name in (names or store.features)]
    if not chosen:
        raise InputError(f"{store.name} has no features; run: extract run MANIFEST --store DIR")
    if len(chosen) > 1 and "features" not in made.keeps:
        raise InputError(
            f"{format_name} holds one feature, these are {len(chosen)}; name one with `features`: "
            + ", ".join(feature.name for feature in chosen)
        )
    return chosen


def _columns(store: Store) -> dict[str, dict[str, str]]:
    """The manifest's columns as {column: {clip id: cell}}."""
    try:
        manifest = store.manifest()
    except MissingFile:
        return {}
    return {
        name: dict(zip(manifest.clip_ids, cells, strict=True))
        for name, cells in manifest.table.items()
        if name != "clip_id"
    }


def _leaving(
    feature: Feature, table: Mapping[str, Mapping[str, str]], advance: Callable[[int], None]
) -> Track:
    def clips() -> Iterator[Clips]:
        for clip_ids, values, offsets in feature.scan():
            yield Clips(
                clip_ids=tuple(clip_ids),
                values=values,
                offsets=offsets,
                row_time_ms=feature.read_times(clip_ids),
                status=feature.status_of(clip_ids),
                columns={
                    c: tuple(cells.get(i, "") for i in clip_ids) for c, cells in table.items()
                },
            )
            advance(len(clip_ids))

    known = {"origin": feature.spec.digested, "notes": dict(feature.notes)}
    return Track(
        name=feature.name, modality=feature.modality, dim=feature.dim, clips=clips, known=known
    )


@contextmanager
def _new(output: Path) -> Iterator[Path]:
    """A name beside `output` to write to; it becomes `output` when all went well.

    Raises:
        InputError: `output` exists, or cannot be written.
    """
    if output.exists() or output.is_symlink():
        raise InputError(f"{output} exists; name a new file or remove it")
    if not output.absolute().parent.is_dir():
        raise InputError(f"no directory {output.absolute().parent} to write {output.name} to")
    try:
        with atomic.staged(output, replace=False, durable=True) as target:
            yield target
    except OSError as error:
        raise InputError(
            f"cannot write {output}: {error.strerror or error}; nothing was written: make room, or "
            "name another place"
        ) from error


# ── in ───────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Name the source in every complaint about it."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise InputError(f"{source} needs more memory than there is; split it") from error
    except InputError as error:
        message = str(error)
        raise type(error)(message if str(source) in message else f"{source}: {message}") from error
