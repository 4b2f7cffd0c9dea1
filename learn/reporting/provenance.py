"""What the numbers of a report rest on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learn.reporting.inputs import Gathered
from learn.reporting.sections import Figure, Section, Table
from learn.reporting.stores import Stores

DIGITS = 16  # of a digest, in hex


def provenance(known: Gathered, stores: Stores) -> Section:
    section = Section(
        key="provenance",
        title="Provenance",
        lead="What the numbers rest on. Equal digests of episodes mean the same problems.",
    )
    rows: list[tuple[str, ...]] = []
    for question in known.questions:
        for saved in question.results:
            told = saved.result["episodes"]
            rows.append(
                (
                    known.names[str(saved.path)], "learn episodes", _place(told), told["split"],
                    ", ".join(told["features"].values()), str(told["seed"]),
                    told["sha256"][:DIGITS],
                )
            )  # fmt: skip
    for evaluated in known.evaluations:
        data = evaluated.told["data"]
        rows.append(
            (
                known.names[str(evaluated.path)], "learn evaluate", _place(data), data["split"],
                ", ".join(data["features"].values()), str(data["seed"]), "",
            )
        )  # fmt: skip
    for trained in known.trainings:
        about = trained.provenance
        rows.append(
            (
                known.names[str(trained.path)], "learn train", f"store {about['store_id']}",
                about["split"], ", ".join(about["features"].values()), str(about["seed"]),
                trained.recipe["sha256"][:DIGITS],
            )
        )  # fmt: skip
    of_runs = ("run", "command", "store", "split", "features", "seed", "digest")
    tables = [Table(caption="Runs", columns=of_runs, rows=tuple(rows))]
    features = [
        (
            name, Path(path).name, str(identity.get("network", "")),
            str(notes.get("weights", "untrained" if notes.get("untrained") else "")),
            _digest(identity), str(notes.get("licence", "")),
        )
        for path, name, identity, notes in stores.notes()
    ]  # fmt: skip
    if features:
        of_features = ("feature", "store", "network", "weights", "sha256 of weights", "licence")
        tables.append(Table(caption="Features", columns=of_features, rows=tuple(features)))
    section.figures.append(
        Figure(title="Runs and features", lead="", tables=tuple(tables), open_tables=True)
    )
    return section


def _place(told: Mapping[str, Any]) -> str:
    name = Path(told["store"]).name if told.get("store") else "not told"
    return f"{name}, {Path(told['manifest']).name}" if told.get("manifest") else name


def _digest(identity: Mapping[str, Any]) -> str:
    weights = identity.get("weights")
    return str(weights.get("sha256", ""))[:DIGITS] if isinstance(weights, Mapping) else ""
