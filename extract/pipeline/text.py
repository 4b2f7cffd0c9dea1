"""`extract text`: a table of what is said or written in clips → one row or more for each clip.

The table names clips by their ids, as the store's manifest has them. A clip whose cell is empty has
no text, which is data; a clip that the table does not name is not looked at, and may come later.
The digest of each clip's text is kept, so that another text for the same clip is noticed.

Shapes: R = rows of a text, D = embedding size.
"""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

import store
from extract.pipeline.result import FeatureReport
from extract.texts import DEFAULT, FAMILY, TextEncoder
from store import Feature, FeatureSpec, Manifest, Status, plugins
from store.errors import ConfigError, InputError, MissingFile
from store.names import is_safe_name
from store.parts.unit_rows import UnitRows
from store.progress import Progress, counter

COLUMNS = ("clip_id", "text")
KIND = "text"
CLIPS_PER_UNIT = 1024
MAX_CHARACTERS = 1 << 20  # of one clip
SHOWN = 3  # clips in one message
MOST_ROWS = 4096  # of one clip


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResult:
    """What became of a table."""

    feature: str
    kind: str
    encoder: str
    clips: int  # that the table names
    new: int  # committed by this run
    counts: Mapping[str, int]  # clips of the table by kind
    not_named: int  # clips of the manifest that the table does not name
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON has it."""
        return asdict(self)


def text(
    table: str | Path,
    store_dir: str | Path,
    *,
    encoder: str | TextEncoder = DEFAULT,
    kind: str = KIND,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TextResult:
    """Store what an encoder makes of the text of every clip that a table `clip_id,text` names.

    `kind` says what text it is (transcript, onscreen …): each is a feature of its own. Everything
    is read and checked before anything is written; a run that was interrupted goes on, and one that
    was done adds nothing.

    Raises:
        MissingFile, NotAStore: no such table or store.
        InputError: a table that cannot be used, or other texts than the feature was made of.
        ConfigError, WeightsError: an encoder that cannot be had.
    """
    begun = time.perf_counter()
    check_kind(kind)
    fs = store.open(store_dir)
    manifest = fs.manifest()
    texts = checked(read_texts(Path(table)), manifest, str(table))
    made: TextEncoder = (
        plugins.build(FAMILY, encoder, device=device) if isinstance(encoder, str) else encoder
    )
    spec = spec_of(made, kind)
    present = fs[spec.feature_id] if spec.feature_id in fs.features else None
    if present is not None:
        _check_same(present, texts)
    feature = present or fs.add_feature(spec)
    new = _write(feature, made, texts, manifest, progress)
    chosen = np.isin(np.asarray(manifest.clip_ids, object), list(texts))
    report = FeatureReport.of(
        fs[feature.name], manifest.keys[chosen], new=new, by_others=0, fill=1.0
    )
    return TextResult(
        feature=feature.name, kind=kind, encoder=made.name, clips=len(texts), new=new,
        counts=report.counts, not_named=len(manifest) - len(texts),
        seconds=time.perf_counter() - begun,
    )  # fmt: skip


def check_kind(kind: str) -> None:
    """Refuse a kind of text that cannot be part of a feature's name.

    Raises:
        ConfigError: says which can.
    """
    if not is_safe_name(kind) or len(kind) > 24:
        raise ConfigError(f"kind {kind!r}: up to 24 of a-z 0-9 . _ - name a kind of text")


def spec_of(encoder: TextEncoder, kind: str) -> FeatureSpec:
    """The identity of what an encoder makes of one kind of text."""
    return FeatureSpec(
        slug=encoder.slug if kind == KIND else f"{encoder.slug}-{kind}",
        modality="text", dim=encoder.dim, identity={**encoder.identity, "kind": kind},
        notes=encoder.notes,
    )  # fmt: skip


def rows_of(feature: Feature, text: str, *, encoder: str = "") -> Float32[np.ndarray, "R D"]:
    """The rows that the encoder of a feature of text makes of another text, to search by.

    The encoder is the one that the feature's identity names. A model that was read from a folder is
    told by its SPEC, and must be the same.

    Raises:
        InputError: no feature of text, or one that this encoder did not make.
        ConfigError, WeightsError: an encoder that cannot be had.
    """
    identity = feature.spec.identity
    if feature.spec.modality != "text":
        raise InputError(f"{feature.name} is no feature of text")
    made: TextEncoder = plugins.build(FAMILY, encoder or _spec_in(identity), device="cpu")
    if spec_of(made, str(identity.get("kind", KIND))).feature_id != feature.name:
        raise InputError(
            f"{feature.name} was made by another encoder than {encoder or made.name}; name it with "
            "`encoder` as `extract text` was told it"
        )
    pieces = made.pieces(text)[:MOST_ROWS]
    return made(pieces) if pieces else np.empty((0, made.dim), np.float32)


def _spec_in(identity: Mapping[str, Any]) -> plugins.Spec:
    """The encoder that an identity names, with those of its settings that the identity has."""
    name = str(identity.get("network", ""))
    keys = [field.name for field in fields(plugins.config_type(FAMILY, name))]
    return plugins.Spec(name=name, settings={k: identity[k] for k in keys if k in identity})


def read_texts(path: Path) -> dict[str, str]:
    """The text of every clip of a CSV with the columns `clip_id` and `text`, blanks at the ends
    taken off.

    Raises:
        MissingFile: there is no such file.
        InputError: no CSV in UTF-8, other columns, a clip without a name or twice.
    """
    if not path.is_file():
        raise MissingFile(f"no table {path}; write a CSV with the columns {','.join(COLUMNS)}")
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for line, clip, cell in _rows(csv.reader(file, strict=True), path):
                if not clip:
                    raise InputError(f"{path}: line {line} has no clip_id")
                if clip in found:
                    raise InputError(f"{path}: line {line} has clip {clip!r} again; one row a clip")
                if len(cell) > MAX_CHARACTERS:
                    raise InputError(
                        f"{path}: the text of clip {clip!r} has {len(cell)} characters; at most "
                        f"{MAX_CHARACTERS} are read"
                    )
                found[clip] = cell
    except UnicodeDecodeError as fault:
        raise InputError(f"{path} is not UTF-8 (byte {fault.start}); save it as UTF-8") from None
    except csv.Error as fault:
        raise InputError(f"{path} is no CSV: {fault}") from None
    except OSError as fault:
        raise InputError(f"{path} cannot be read: {fault.strerror or fault}") from None
    if not any(found.values()):
        what = "no clip in it has any text" if found else "it names no clip"
        raise InputError(f"{path}: {what}; it is a CSV with the columns {','.join(COLUMNS)}")
    return found


def _rows(reader: Any, path: Path) -> Iterator[tuple[int, str, str]]:
    """The line, clip and text of every row."""
    limit = csv.field_size_limit(4 * MAX_CHARACTERS)
    try:
        header = [name.strip() for name in next(reader, [])]
        if wrong := [name for name in COLUMNS if header.count(name) != 1]:
            has = ", ".join(map(repr, header[:8])) or "no column at all"
            raise InputError(f"{path} needs the column {wrong[0]!r} once; it has {has}")
        of_clip, of_text = map(header.index, COLUMNS)
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                if len(cells) != len(header):
                    raise InputError(
                        f"{path}: line {line} has {len(cells)} cells, not {len(header)}; put text "
                        "with commas in quotes"
                    )
                yield line, cells[of_clip].strip(), cells[of_text].strip()
            line = reader.line_num + 1
    finally:
        csv.field_size_limit(limit)


def checked(texts: Mapping[str, str], manifest: Manifest, name: str) -> Mapping[str, str]:
    """The texts, if every clip is in the manifest.

    Raises:
        InputError: names some that are not.
    """
    known = set(manifest.clip_ids)
    if unknown := [clip for clip in texts if clip not in known]:
        shown = ", ".join(map(repr, unknown[:SHOWN])) + (", …" if len(unknown) > SHOWN else "")
        raise InputError(
            f"{name}: {len(unknown)} of {len(texts)} clips are not in the store's manifest "
            f"({shown}); it has clip ids such as {manifest.clip_ids[0]!r}"
        )
    return texts


def digest_of(cell: str) -> bytes:
    """The digest of a clip's text, which stands where that of its media would; zeros of none."""
    return sha256(cell.encode("utf-8", "surrogatepass")).digest() if cell else bytes(32)


def _check_same(feature: Feature, texts: Mapping[str, str]) -> None:
    """Refuse texts that the feature's clips were not made of.

    Raises:
        InputError: names one.
    """
    other = [
        clip
        for part in feature.parts()
        for clip, digest in zip(part.clip_ids, part.media_sha256, strict=True)
        if clip in texts and digest.any() and digest.tobytes() != digest_of(texts[clip])
    ]
    if other:
        raise InputError(
            f"{feature.name} was made of other text for {len(other)} clips (first {other[0]!r}); "
            f"name another kind with `kind`, or remove the feature first: store remove DIR "
            f"{feature.name}"
        )


def _write(
    feature: Feature,
    encoder: TextEncoder,
    texts: Mapping[str, str],
    manifest: Manifest,
    progress: Progress | None,
) -> int:
    """Commit the clips that the feature lacks; how many there were."""
    order = [clip for clip in manifest.clip_ids if clip in texts]
    advance, new = counter(progress, len(order)), 0
    for clips in _batched(order):
        status = feature.status_of(clips)
        lacking = [c for c, s in zip(clips, status, strict=True) if s == Status.PENDING]
        if lacking:
            new += len(lacking) * feature.commit(_unit(encoder, lacking, texts))
        since = [c for c, s in zip(clips, status, strict=True) if s == Status.ABSENT and texts[c]]
        if since:  # clips that had no text when they were committed
            new += feature.commit_lacking(_unit(encoder, since, texts))
        advance(len(clips))
    return new


def _batched(clips: Sequence[str]) -> Iterator[list[str]]:
    left = iter(clips)
    while unit := list(islice(left, CLIPS_PER_UNIT)):
        yield unit


def _unit(encoder: TextEncoder, clips: Sequence[str], texts: Mapping[str, str]) -> UnitRows:
    """The rows of some clips."""
    pieces = [encoder.pieces(texts[clip])[:MOST_ROWS] if texts[clip] else [] for clip in clips]
    flat = [piece for of_clip in pieces for piece in of_clip]
    values = encoder(flat) if flat else np.empty((0, encoder.dim), np.float32)
    counts = np.array([len(of_clip) for of_clip in pieces], np.uint16)
    status = np.where(counts > 0, Status.OK, Status.ABSENT).astype(np.uint8)
    digests = b"".join(digest_of(texts[clip]) for clip in clips)
    return UnitRows(
        clip_ids=tuple(clips),
        values=values.astype(np.float16),
        row_time_ms=np.zeros(len(values), np.int32),
        row_count=counts,
        status=status,
        media_sha256=np.frombuffer(digests, np.uint8).reshape(-1, 32),
        detail=tuple(encoder.name if n else "no text" for n in counts.tolist()),
    )
