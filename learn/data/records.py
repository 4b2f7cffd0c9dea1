"""What the JSON files of results and trainings say, checked before anything believes it.

They may come from anybody: a file is a regular one of bounded size, and every field that is read
has its type. What a record says beyond its fields is kept and not looked at.
"""

import io
import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import numpy as np

from store.errors import InputError

MAX_BYTES = 1 << 28  # answers of 100,000 classes take 100 MB


class Draw(TypedDict):
    """The episodes of one number of shots, as `result.json` has them."""

    shots: int
    sha256: str
    classes_never_drawn: NotRequired[list[str]]
    classes_of_too_few_clips: NotRequired[list[str] | None]  # None: not known


Mode = Literal["v", "a", "av", "t", "vt", "at", "avt"]


class Sampled(TypedDict):
    """The clips and episodes of a result."""

    store: NotRequired[str | None]
    manifest: NotRequired[str | None]
    task: NotRequired[str]
    groups: NotRequired[Literal["within", "strict", "mixed"]]
    ways: float
    queries: float
    min_ways: NotRequired[float]
    max_ways: NotRequired[float]
    max_queries: NotRequired[float]
    max_shots: NotRequired[float]
    alpha: NotRequired[float]
    episodes: int
    split: str | None
    seed: int
    label: str
    group: str | None
    group_file: NotRequired[str]
    classes: int
    clips: int
    clips_sha256: NotRequired[str]
    dropped: dict[str, int]
    features: dict[str, str]
    draws: list[Draw]
    sha256: str
    measure: NotRequired[str]
    uneven: NotRequired[bool]


class Scored(TypedDict):
    """One row of `result.json`."""

    head: str
    projection: str
    support: Mode
    query: Mode
    shots: int
    episodes: int
    accuracy: float
    ci95: float | None
    ci_method: str
    untrained: bool
    transductive: bool
    centred_by: str
    seen_in_training: int
    trained: NotRequired[str]
    parts: NotRequired[dict[str, Any]]
    fusion: NotRequired[str]
    weights: NotRequired[dict[str, dict[str, float]] | None]
    prior: NotRequired[dict[str, Any] | None]
    guard: NotRequired[str]
    projected: NotRequired[dict[str, Any] | None]


class EpisodesRecord(TypedDict):
    """`result.json` of `learn episodes`."""

    episodes: Sampled
    results: list[Scored]


class Answered(TypedDict):
    """How one class fared."""

    name: str
    asked: int
    right: int


class ConfusedClip(TypedDict):
    """A clip that was taken for another class."""

    clip_id: str
    times: int


class Confusion(TypedDict):
    """A class taken for another."""

    truth: str
    answer: str
    times: int
    of: int
    clips: list[ConfusedClip]


class MatrixRecord(TypedDict):
    """What every class was taken for."""

    classes: list[str]
    times: list[list[int]]
    of: list[list[int]]


class BinRecord(TypedDict):
    """Answers of about one confidence."""

    confidence: float
    right: float
    answers: int


class CalibrationRecord(TypedDict):
    """Confidence against truth."""

    answers: int
    error: float
    temperature: float | None
    bins: list[BinRecord]


class TallyRecord(TypedDict):
    """One of `answers.json`."""

    classes: list[Answered]
    confusions: list[Confusion]
    matrix: NotRequired[MatrixRecord]
    calibration: NotRequired[CalibrationRecord]


class ClassScore(TypedDict):
    """How well one class was told."""

    name: str
    recall: NotRequired[float]
    average_precision: NotRequired[float]


class Evaluated(TypedDict):
    """One row of `evaluation.json`."""

    label: str
    projection: str
    support: str
    query: str
    clips: int
    metrics: dict[str, float | None]
    classes: list[ClassScore]
    untrained: bool
    seen_in_training: int


class EvaluatedAnswers(TypedDict):
    """One of `answers.json` of `learn evaluate`."""

    matrix: NotRequired[MatrixRecord]
    calibration: NotRequired[CalibrationRecord]


class EvaluatedData(TypedDict):
    """The clips of an evaluation."""

    store: NotRequired[str | None]
    manifest: NotRequired[str | None]
    split: str | None
    features: dict[str, str]
    seed: int


class EvaluationRecord(TypedDict):
    """`evaluation.json` of `learn evaluate`."""

    protocol: str
    settings: dict[str, Any]
    data: EvaluatedData
    results: list[Evaluated]


# `config.json` of `learn train`; `from` is no name in Python.
TrainingConfig = TypedDict(
    "TrainingConfig", {"recipe": dict[str, Any], "sha256": str, "from": str, "set": list[str]}
)


class BegunFrom(TypedDict):
    """The run that a training began from, and the clips behind it."""

    run: str
    trained_on: list[str]
    fitted_on: list[str]


class Provenance(TypedDict):
    """`provenance.json` of `learn train`."""

    store_id: str
    features: dict[str, str]
    dims: dict[str, int]
    split: str | None
    clips: list[str]
    clips_sha256: str
    classes: list[str]
    labels_sha256: NotRequired[str | None]
    val_clips: list[str]
    seed: int
    init_sha256: NotRequired[str | None]  # of the weights that a training began from
    init: NotRequired[BegunFrom]


class TrainingDone(TypedDict):
    """`done.json` of `learn train`."""

    files: dict[str, str]
    run: str
    clips: int
    val_clips: int
    epochs: int
    best_epoch: int
    loss: float | None
    val_loss: float | None
    val_accuracy: float | None
    seconds: float
    validation: NotRequired[str]
    against_stored: NotRequired[dict[str, Any]]


class Epoch(TypedDict):
    """A line of `metrics.jsonl` at the end of an epoch."""

    event: str
    stage: NotRequired[str | int]
    loss: float
    val_loss: float | None
    val_accuracy: float | None


def read(path: Path, kind: Any) -> Any:
    """The record in a JSON file, of one of the types above or a list of them.

    Raises:
        InputError: the file is missing, none of ours, or lacks or mistypes a field.
    """
    return checked(parse(read_bytes(path), path), kind, path)


def checked(value: Any, kind: Any, path: Path) -> Any:
    """A value that is of this kind, unchanged.

    Raises:
        InputError: names the first field that is not.
    """
    try:
        msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as fault:
        raise InputError(f"{path} does not say what it should: {fault}") from None
    return value


def parse(data: bytes, path: Path) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as fault:
        raise InputError(f"{path} is not JSON ({str(fault)[:80]})") from None


def read_bytes(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """A whole file of bounded size; devices and pipes are not waited for.

    Raises:
        InputError: it is missing, no regular file, or larger.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InputError(f"{path} is no regular file")
            data = file.read(limit + 1)
    except OSError as fault:
        raise InputError(f"cannot read {path}: {fault.strerror or fault}") from None
    if len(data) > limit:
        raise InputError(f"{path} is larger than {limit >> 20} MiB; it is none of ours")
    return data


def read_numbers(path: Path) -> np.ndarray:
    """The numbers of an npy file of bounded size.

    Raises:
        InputError: it is none, or has other bytes than its header says.
    """
    data = read_bytes(path)
    file = io.BytesIO(data)
    try:
        np.lib.format.read_magic(file)  # what `np.save` writes of numbers is version 1
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
        wanted = math.prod(shape) * dtype.itemsize
    except Exception as fault:  # numpy raises many types on damaged bytes
        raise InputError(f"{path} is no npy file ({str(fault)[:80]})") from None
    if dtype.kind not in "iuf" or wanted != len(data) - file.tell():
        raise InputError(f"{path} does not hold the numbers that it says")
    flat = np.frombuffer(data, dtype, offset=file.tell())
    return flat.reshape(shape, order="F" if by_columns else "C")


def same_length(path: Path, *parts: Sequence[Any]) -> None:
    """Refuse a record whose parts should be as many and are not.

    Raises:
        InputError: they are not.
    """
    if len({len(part) for part in parts}) > 1:
        raise InputError(f"{path}: its parts do not belong together; score it again")
