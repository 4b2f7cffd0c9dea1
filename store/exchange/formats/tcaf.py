"""The feature tree of TCaF and AV-DIFF: one pickle a class with sequences of rows.

    <DS>/features/<set>/{audio,video}/<stage>/<Class>.pkl
    {"features": [array (T, D) …], "video_names": [bytes …], "fps": [25 …]}

A row stands for 16 frames of video or .96 s of sound, as in the published features. `row_time_ms`,
a key of ours that others pass over, holds the times themselves.

Source: Mercea et al., ECCV 2022 (temporal and cross-modal attention, TCaF).
"""

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from store import safe_pickle
from store.errors import InputError
from store.exchange.formats import Clips
from store.exchange.formats._common import ends, matrix, spaced, text
from store.exchange.formats._tree import Entry, Tree
from store.settings import Settings, setting
from store.status import Status

USUAL_FPS = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """The set in the tree, its word embeddings, and the time that a row stands for."""

    set: str = ""  # when read: the only one there is
    text: bool = False  # also read text/*.npy
    frames_per_row: int = setting(16, at_least=1)
    audio_hop_seconds: float = setting(0.96, above=0, below=3600)


def build(config: Config) -> Tree:
    """The tree whose class files are pickles of sequences."""
    return Tree(
        suffix=".pkl", set=config.set, text=config.text, is_pickle=True,
        read_class=partial(_read, config), write_class=partial(_write, config),
        keeps=frozenset({"rows", "times", "clip_ids", "features", "split"}),
    )  # fmt: skip


def _read(config: Config, path: Path, modality: str) -> Clips:
    where = str(path)
    content = safe_pickle.mapping(
        safe_pickle.read(path, trust_pickle=True), ("features", "video_names"), name=where
    )
    names = [text(name, where) for name in safe_pickle.items(content["video_names"], name=where)]
    sequences = [
        matrix(np.atleast_2d(safe_pickle.array(rows, name=where)), where)
        for rows in safe_pickle.items(content["features"], name=where)
    ]
    if len(names) != len(sequences) or len({rows.shape[1] for rows in sequences}) > 1 or not names:
        raise InputError(
            f"{where} has {len(names)} names for {len(sequences)} sequences "
            f"of size {sorted({rows.shape[1] for rows in sequences})[:4]}"
        )
    if sum(rows.nbytes for rows in sequences) > safe_pickle.MAX_PICKLE_BYTES:
        raise InputError(f"{where} swells beyond {safe_pickle.MAX_PICKLE_BYTES} bytes")
    counts = np.array([len(rows) for rows in sequences], dtype=np.int64)
    return Clips(
        clip_ids=tuple(names),
        values=np.concatenate(sequences),
        offsets=ends(counts),
        row_time_ms=_times(config, content, counts, modality, where),
        status=np.where(counts > 0, Status.OK, Status.EMPTY).astype(np.uint8),
        columns={},
    )


def _times(
    config: Config, content: Mapping[Any, Any], counts: np.ndarray, modality: str, where: str
) -> np.ndarray:
    if "row_time_ms" in content:
        each = [
            safe_pickle.array(t, name=where)
            for t in safe_pickle.items(content["row_time_ms"], name=where)
        ]
        if [t.shape for t in each] != [(n,) for n in counts] or any(t.dtype != "i4" for t in each):
            raise InputError(f"{where}: row_time_ms does not fit the features")
        return np.concatenate(each)
    if modality == "audio":
        return spaced(counts, config.audio_hop_seconds)
    fps = safe_pickle.items(content.get("fps", [USUAL_FPS] * len(counts)), name=where)
    each_rate = [safe_pickle.array(rate, name=where) for rate in fps]
    if any(rate.size != 1 or rate.dtype.kind not in "iuf" for rate in each_rate):
        raise InputError(f"{where}: fps does not fit the features")
    rates = [float(rate.item()) for rate in each_rate]
    if len(rates) != len(counts) or not all(1e-3 < rate < 1e6 for rate in rates):
        raise InputError(f"{where}: fps does not fit the features")
    return np.concatenate(
        [spaced(counts[i : i + 1], config.frames_per_row / rate) for i, rate in enumerate(rates)]
    )


def _write(config: Config, path: Path, entries: Sequence[Entry]) -> None:
    content = {
        "features": [entry.rows.astype(np.float32) for entry in entries],
        "video_names": [entry.clip_id.encode() for entry in entries],
        "fps": [_fps(config, entry.row_time_ms) for entry in entries],
        "row_time_ms": [np.array(entry.row_time_ms) for entry in entries],
    }
    with path.open("xb") as file:
        pickle.dump(content, file, protocol=4)


def _fps(config: Config, row_time_ms: np.ndarray) -> float:
    """Frames a second, from the time step of rows that stand for `frames_per_row` frames each."""
    step = float(np.median(np.diff(row_time_ms))) if len(row_time_ms) > 1 else 0.0
    return 1000 * config.frames_per_row / step if step > 0 else USUAL_FPS
