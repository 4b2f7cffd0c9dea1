"""Trees of one file a class: `<DS>/features/<set>/{audio,video}/<stage>/<Class>.<suffix>`.

A stage is a split of the zero-shot protocol (`stage_1_train`, `stage_2_test_unseen`). A clip may
be in several; `split` comes from the first of them by name, `stage` names all.

Shapes: V = clips, N = their rows, D = embedding size.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Shaped

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats import Clips, Track
from store.exchange.formats._common import ends, labels, with_rows
from store.exchange.formats._names import quoted, unquoted
from store.exchange.formats._words import word_tracks

MODALITY_OF_FOLDER = {"audio": "audio", "video": "visual"}
NO_STAGE = "all"
BATCH_BYTES = 1 << 30  # of rows kept while class files are written
_STAGE = re.compile(r"stage_\d_(train|val|test)(_|$)")


class Entry(NamedTuple):
    """One clip on its way into a class file."""

    clip_id: str
    rows: Shaped[np.ndarray, "N D"]
    row_time_ms: Int32[np.ndarray, "N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """The tree; `read_class(path, modality)` and `write_class` know what a class file holds."""

    suffix: str
    set: str
    text: bool
    is_pickle: bool
    read_class: Callable[[Path, str], Clips]
    write_class: Callable[[Path, Sequence[Entry]], None]
    keeps: frozenset[str]

    def write(self, tracks: Sequence[Track], target: Path, *, label: str) -> int:
        folders = {modality: folder for folder, modality in MODALITY_OF_FOLDER.items()}
        modalities = [track.modality for track in tracks]
        if len(set(modalities)) < len(modalities) or not set(modalities) <= set(folders):
            raise InputError(
                f"features are {', '.join(modalities)}; the tree has one visual and one audio: "
                "name them with `features`"
            )
        written = 0
        for track in tracks:
            top = (
                target / "features" / quoted(self.set or "main_features") / folders[track.modality]
            )
            top.mkdir(parents=True)
            clip_ids: set[str] = set()
            for (stage, class_name), entries in _by_class(track, label):
                folder = top.joinpath(*(quoted(step) for step in stage.split("/")))
                folder.mkdir(parents=True, exist_ok=True)
                self.write_class(folder / f"{quoted(class_name)}{self.suffix}", entries)
                clip_ids.update(entry.clip_id for entry in entries)
            written += len(clip_ids)
        return written

    def read(self, source: Path, *, trust_pickle: bool) -> Sequence[Track]:
        root = self._root(source)
        tracks = []
        for folder, modality in MODALITY_OF_FOLDER.items():
            files = sorted(p for p in (root / folder).rglob(f"*{self.suffix}") if p.is_file())
            if files:
                if self.is_pickle:
                    safe_pickle.check_trust(files[0], trust_pickle)
                tracks.append(self._track(root, folder, modality, tuple(files)))
        if not tracks:
            raise InputError(f"{root} has no *{self.suffix} below audio or video")
        if self.text:
            tracks += word_tracks(root / "text", trust_pickle=trust_pickle)
        return tracks

    def _root(self, source: Path) -> Path:
        """The folder of the set: it holds audio, video or both."""
        if not source.is_dir():
            raise InputError(f"{source} is no directory")
        folders = [source, *(p for depth in ("*", "*/*") for p in sorted(source.glob(depth)))]
        roots = [p for p in folders if any((p / folder).is_dir() for folder in MODALITY_OF_FOLDER)]
        if self.set:
            roots = [p for p in roots if p.name == self.set]
        if len(roots) != 1:
            sets = ", ".join(p.name for p in roots)
            fix = f"say which with set=NAME: {sets}" if roots else "name the folder above them"
            raise InputError(f"{source} holds {len(roots)} sets of audio and video features; {fix}")
        return roots[0]

    def _track(self, root: Path, folder: str, modality: str, files: tuple[Path, ...]) -> Track:
        def clips() -> Iterator[Clips]:
            yield from self._clips(root / folder, modality, files)

        dim = self.read_class(files[0], modality).values.shape[1]
        name = f"{root.name}-{folder}"
        return Track(name=name, modality=modality, dim=dim, clips=clips, files=files)

    def _clips(self, top: Path, modality: str, files: Sequence[Path]) -> Iterator[Clips]:
        stages: dict[str, list[str]] = {}
        for path in files:
            for clip_id in self.read_class(path, modality).clip_ids:
                stages.setdefault(clip_id, []).append(_stage(path, top))
        seen: dict[str, bytes] = {}  # clip id -> digest of its rows and class
        for path in files:
            clips = self.read_class(path, modality)
            class_name = unquoted(path.name.removesuffix(self.suffix))
            fresh = []
            for i, clip_id in enumerate(clips.clip_ids):
                digest = sha256(class_name.encode("utf-8", "surrogatepass"))
                digest.update(clips.values[clips.offsets[i] : clips.offsets[i + 1]].tobytes())
                if clip_id not in seen:
                    fresh.append(i)
                elif seen[clip_id] != digest.digest():
                    raise InputError(f"{path}: clip {clip_id!r} has other rows in another file")
                seen[clip_id] = digest.digest()
            if fresh:
                yield _subset(clips, fresh, class_name, stages)


def _stage(path: Path, top: Path) -> str:
    return "/".join(unquoted(step) for step in path.parent.relative_to(top).parts) or NO_STAGE


def _split(stage: str) -> str:
    """train, val or test of a stage of the protocol; else the stage is a split itself."""
    last = stage.rpartition("/")[2]
    match = _STAGE.match(last)
    return match[1] if match else "" if stage == NO_STAGE else stage


def _subset(
    clips: Clips, indices: list[int], class_name: str, stages: dict[str, list[str]]
) -> Clips:
    counts = np.diff(clips.offsets)[indices]
    rows = np.concatenate([np.arange(clips.offsets[i], clips.offsets[i + 1]) for i in indices])
    clip_ids = tuple(clips.clip_ids[i] for i in indices)
    each = [stages[clip_id] for clip_id in clip_ids]
    split = tuple(_split(own[0]) for own in each)
    columns = {"label": (class_name,) * len(indices), "split": split}
    if any(own not in ([name], [NO_STAGE]) for own, name in zip(each, split, strict=True)):
        columns["stage"] = tuple(";".join(dict.fromkeys(own)) for own in each)
    return Clips(
        clip_ids=clip_ids,
        values=clips.values[rows],
        offsets=ends(counts),
        row_time_ms=clips.row_time_ms[rows],
        status=clips.status[indices],
        columns=columns,
    )


def _by_class(track: Track, label: str) -> Iterator[tuple[tuple[str, str], list[Entry]]]:
    """The clips of each stage and class; the track is read as often as its size asks for."""
    sizes: dict[tuple[str, str], int] = {}
    for clips in track.clips():
        for entry, keys in _entries(clips, label):
            for key in keys:
                sizes[key] = sizes.get(key, 0) + entry.rows.nbytes
    waiting = sorted(sizes)
    while waiting:
        batch: list[tuple[str, str]] = []
        total = 0
        while waiting and (not batch or total + sizes[waiting[0]] <= BATCH_BYTES):
            total += sizes[waiting[0]]
            batch.append(waiting.pop(0))
        entries_of: dict[tuple[str, str], list[Entry]] = {key: [] for key in batch}
        for clips in track.clips():
            for entry, keys in _entries(clips, label):
                for key in entries_of.keys() & keys:
                    entries_of[key].append(entry._replace(rows=entry.rows.copy()))
        yield from entries_of.items()


def _entries(clips: Clips, label: str) -> Iterator[tuple[Entry, set[tuple[str, str]]]]:
    stage_cells = clips.columns.get("stage") or clips.columns.get("split")
    indices = with_rows(clips).tolist()
    for i, class_name in zip(indices, labels(clips, label), strict=True):
        rows = slice(clips.offsets[i], clips.offsets[i + 1])
        stages = (stage_cells[i] if stage_cells else "") or NO_STAGE
        keys = {(stage.strip(), class_name) for stage in stages.split(";") if stage.strip()}
        yield Entry(clips.clip_ids[i], clips.values[rows], clips.row_time_ms[rows]), keys
