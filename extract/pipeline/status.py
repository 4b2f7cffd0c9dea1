"""`extract status`: what of a manifest is in a store, feature by feature."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import store
from extract.datasets.source import read_clips
from store import Feature, Manifest, Status
from store.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStatus:
    """Committed, failed and pending clips of one manifest in a feature."""

    feature: str
    modality: str
    committed: int  # clips, whatever became of them
    pending: int  # clips that are not committed
    counts: dict[str, int]  # committed clips by kind
    failed: dict[str, int]  # those of them that failed

    @classmethod
    def of(cls, feature: Feature, manifest: Manifest) -> "FeatureStatus":
        """The report of one feature."""
        codes, clips = np.unique(feature.status_of_keys(manifest.keys), return_counts=True)
        counts = Counter(
            {Status(c): n for c, n in zip(codes.tolist(), clips.tolist(), strict=True)}
        )
        del counts[Status.PENDING]
        committed = sum(counts.values())
        return cls(
            feature=feature.name,
            modality=feature.modality,
            committed=committed,
            pending=len(manifest) - committed,
            counts={s.kind: counts[s] for s in Status if counts[s]},
            failed={s.kind: counts[s] for s in Status if s.failed and counts[s]},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The result of `extract status`."""

    store: str
    clips: int
    features: list[FeatureStatus]

    @property
    def findings(self) -> list[str]:
        """Work that is left to do, one line each."""
        findings = []
        for status in self.features:
            if status.pending:
                findings.append(
                    f"{status.feature}: {status.pending} clips are pending; `extract run` goes on"
                )
            if status.failed:
                kinds = ",".join(status.failed)
                findings.append(
                    f"{status.feature}: {sum(status.failed.values())} clips failed; "
                    f"`extract run --retry {kinds}` tries them again"
                )
        return findings

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self) | {"findings": self.findings}


def status(manifest: Manifest | Path | str, store_dir: Path | str) -> StatusReport:
    """Count the manifest's clips by status in every feature of the store.

    Raises:
        InputError: a manifest that cannot be used; a store without features.
        NotAStore: `store_dir` is none.
    """
    manifest, _ = read_clips(manifest)
    fs = store.open(store_dir)
    if not fs.features:
        raise InputError(f"{fs.name} has no features yet; fill it with `extract run`")
    features = [FeatureStatus.of(fs[name], manifest) for name in fs.features]
    return StatusReport(store=fs.name, clips=len(manifest), features=features)
