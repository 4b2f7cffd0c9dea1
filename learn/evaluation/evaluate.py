"""`learn evaluate`: one protocol on stored features and on any runs, for several label columns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.data import devices
from learn.data.clips import choose_split, clips_of, splits
from learn.data.features import FeatureNames
from learn.data.group_file import manifest_of
from learn.data.table import frame
from learn.evaluation.protocols import FAMILY, EvaluationProtocol, Finding, Material
from learn.inference.selection import absolute, runs_of, select
from learn.training.runs import refuse_existing
from store import atomic, plugins
from store import open as open_store
from store.errors import ConfigError, choices

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The findings of one call of `run_protocol`, with its settings and data."""

    protocol: str
    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    findings: Sequence[Finding]

    def to_dict(self) -> dict[str, Any]:
        """The object that `learn evaluate --json` prints."""
        return {
            "protocol": self.protocol,
            "settings": dict(self.settings),
            "data": dict(self.data),
            "results": [finding.to_dict() for finding in self.findings],
        }

    def to_pandas(self) -> "pd.DataFrame":
        """The findings as a table.

        Raises:
            ConfigError: pandas is not installed.
        """
        return frame(self.to_dict()["results"])

    def save(self, run_dir: Path) -> None:
        """Write a directory with `evaluation.json`; it appears whole or not at all.

        Raises:
            InputError: the directory exists.
        """
        refuse_existing(run_dir)
        with atomic.directory(run_dir) as staged:
            atomic.write_json(staged / "evaluation.json", self.to_dict())
            if any(finding.answers for finding in self.findings):
                answers = [dict(finding.answers) for finding in self.findings]
                atomic.write_json(staged / "answers.json", answers, indent=None)


def check_fusions(protocol: str, fusions: Sequence[str]) -> None:
    """Refuse a way of joining senses that the protocol does not have.

    Raises:
        ConfigError: names those that it has.
    """
    spec = plugins.parse_spec(protocol, FAMILY)
    known = getattr(plugins.build(FAMILY, protocol), "joins", ())
    for fusion in fusions:
        if fusion not in known:
            raise ConfigError(
                f"{spec.name} joins senses by {choices(fusion, known)}, not by {fusion!r}"
                if known
                else f"{spec.name} has one way to join senses; leave `fusion` out"
            )
    if fusions and spec.settings.get("fusion"):
        raise ConfigError(f"{protocol} names a fusion, and so does `fusion`; name it once")


def run_protocol(
    store_path: str | Path,
    protocol: str,
    *,
    manifest: str | Path | None = None,
    split: str | None = None,
    train_split: str = "train",
    val_split: str = "val",
    labels: Sequence[str] = ("label",),
    group: str | None = None,
    group_file: str | Path | None = None,
    visual: FeatureNames = None,
    audio: FeatureNames = None,
    text: FeatureNames = None,
    projections: Sequence[str | Path] = (),
    fusions: Sequence[str] = (),
    support: Sequence[str] = (),
    query: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
) -> Evaluation:
    """The findings of a protocol about every label column × projection × pair of modes.

    All of them are about the same clips of `split`: those with rows in every modality in play.

    >>> found = learn.run_protocol("my_store", "linear", support=["v"])
    >>> len(found.findings)
    1

    Raises:
        InputError, ConfigError, StoreError: one line that says what to do.
    """
    built: EvaluationProtocol = plugins.build(FAMILY, protocol)
    config = plugins.configure(FAMILY, plugins.parse_spec(protocol, FAMILY))
    check_fusions(protocol, fusions)
    if not labels:
        raise ConfigError("no label column; name one at least")
    runs = runs_of(projections, devices.chosen(device))
    store = open_store(store_path)
    table = manifest_of(store, manifest, group_file, group)
    chosen = choose_split(table, split, "test")
    used = [chosen, *({train_split} & set(splits(table)) - {chosen})]
    selection = select(
        store, runs, visual=visual, audio=audio, text=text, support=support, query=query,
        asked_about=lambda: [(None, clips_of(table, name)) for name in used],
    )  # fmt: skip
    features = selection.features
    material = Material(
        manifest=table, features=features, runs=runs, labels=tuple(dict.fromkeys(labels)),
        split=chosen, train_split=train_split, val_split=val_split, group=group,
        support=tuple(support), query=tuple(query), seed=seed,
        fusions=tuple(dict.fromkeys(fusions)),
    )  # fmt: skip
    findings = []
    for finding in built(material):
        findings.append(finding)
        if progress:
            progress(len(findings), len(findings), "")
    return Evaluation(
        protocol=plugins.parse_spec(protocol, FAMILY).name,
        settings={f.name: getattr(config, f.name) for f in fields(config)},
        data={
            "store": absolute(store_path),
            "manifest": absolute(manifest) if manifest else None,
            **({"group_file": absolute(group_file)} if group_file else {}),
            "split": chosen,
            "labels": list(material.labels),
            **({"scarce_text": selection.scarce.to_dict()} if selection.scarce else {}),
            "features": {modality: feature.name for modality, feature in features.items()},
            "seed": seed,
        },
        findings=findings,
    )
