"""The section that says what the numbers of a report rest on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from learn.data import records
from learn.reporting.inputs import ReportInputs
from learn.reporting.sections import Figure, Section, Table
from learn.reporting.stores import SourceFeature, Stores
from learn.training.run_files import COMMAND
from store.errors import InputError

MOST_BYTES = 1 << 20  # of what was typed
DIGITS = 16  # of a digest, in hex


def provenance_section(inputs: ReportInputs, stores: Stores) -> Section:
    """Every run with its store, seed and digest, and every feature with its weights."""
    tables = [
        Table(
            caption="Runs",
            columns=("run", "command", "store", "split", "features", "seed", "digest"),
            rows=tuple(_runs(inputs)),
        )
    ]
    if features := tuple(_feature(feature) for feature in stores.features()):
        columns = ("feature", "store", "network", "weights", "sha256 of weights", "licence")
        tables.append(Table(caption="Features", columns=columns, rows=features))
    lines = tuple(_lines(inputs))
    tables.append(Table(caption="Command lines", columns=("run", "command line"), rows=lines))
    return Section(
        key="provenance",
        title="Provenance",
        lead="What the numbers rest on. Equal digests of episodes mean the same problems.",
        figures=(
            Figure(title="Runs and features", lead="", tables=tuple(tables), open_tables=True),
        ),
    )


def _runs(inputs: ReportInputs) -> Iterator[tuple[str, ...]]:
    for question in inputs.questions:
        for saved in question.results:
            sampling = saved.result["episodes"]
            yield (
                inputs.run_name(saved.path), "learn episodes", _source(sampling),
                sampling["split"], *_features_and_seed(sampling), sampling["sha256"][:DIGITS],
            )  # fmt: skip
    for evaluation in inputs.evaluations:
        data = evaluation.record["data"]
        yield (
            inputs.run_name(evaluation.path), "learn evaluate", _source(data), data["split"],
            *_features_and_seed(data), "",
        )  # fmt: skip
    for training in inputs.trainings:
        about = training.provenance
        yield (
            inputs.run_name(training.path), "learn train", f"store {about['store_id']}",
            about["split"], *_features_and_seed(about), training.recipe["sha256"][:DIGITS],
        )  # fmt: skip


def _lines(inputs: ReportInputs) -> Iterator[tuple[str, ...]]:
    """What was typed, where the run keeps it."""
    saved = [result.path for question in inputs.questions for result in question.results]
    paths = [*saved, *(e.path for e in inputs.evaluations), *(t.path for t in inputs.trainings)]
    for path in paths:
        kept = command_of(path)
        yield inputs.run_name(path), kept or "not kept: called from Python, or by an older version"


def command_of(run: Path) -> str:
    """The command line that made a run; "" where it keeps none that can be read."""
    try:
        text = records.read_bytes(run / COMMAND, limit=MOST_BYTES).decode()
    except (InputError, OSError, UnicodeDecodeError):
        return ""
    return "; ".join(line for line in text.splitlines() if line.strip())


def _features_and_seed(record: Mapping[str, Any]) -> tuple[str, str]:
    return ", ".join(record["features"].values()), str(record["seed"])


def _source(record: Mapping[str, Any]) -> str:
    """The store, and the manifest where another was used."""
    name = Path(record["store"]).name if record.get("store") else "not told"
    return f"{name}, {Path(record['manifest']).name}" if record.get("manifest") else name


def _feature(feature: SourceFeature) -> tuple[str, ...]:
    notes = feature.notes
    return (
        feature.name,
        Path(feature.store).name,
        str(feature.identity.get("network", "")),
        str(notes.get("weights", "untrained" if notes.get("untrained") else "")),
        _weights_digest(feature.identity),
        str(notes.get("licence", "")),
    )


def _weights_digest(identity: Mapping[str, Any]) -> str:
    weights = identity.get("weights")
    return str(weights.get("sha256", ""))[:DIGITS] if isinstance(weights, Mapping) else ""
