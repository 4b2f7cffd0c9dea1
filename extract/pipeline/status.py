"""`extract status`: what of a manifest is in a store, feature by feature."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import store
from store import Feature, Manifest, Status
from store.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStatus:
    """Where a feature stands with the clips of one manifest."""

    feature: str
    modality: str
    committed: int  # clips, whatever became of them
    pending: int  # clips that are not committed
    counts: dict[str, int]  # committed clips by kind
    failed: dict[str, int]  # those of them that failed

    @classmethod
    def of(cls, feature: Feature, manifest: Manifest) -> "FeatureStatus":
        """The report of one feature."""
        known = feature.committed()
        found = Counter(known[clip_id] for clip_id in manifest.clip_ids if clip_id in known)
        committed = sum(found.values())
        return cls(
            feature=feature.name,
            modality=feature.modality,
            committed=committed,
            pending=len(manifest) - committed,
            counts={s.kind: found[s] for s in Status if found[s]},
            failed={s.kind: found[s] for s in Status if s.failed and found[s]},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """What `extract status` answers."""

    store: str
    clips: int
    features: list[FeatureStatus]

    @property
    def findings(self) -> list[str]:
        """What is left to do, one line each."""
        found = []
        for one in self.features:
            if one.pending:
                found.append(
                    f"{one.feature}: {one.pending} clips are pending; `extract run` goes on"
                )
            if one.failed:
                kinds = ",".join(one.failed)
                found.append(
                    f"{one.feature}: {sum(one.failed.values())} clips failed; "
                    f"`extract run --retry {kinds}` tries them again"
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return asdict(self) | {"findings": self.findings}


def status(manifest: Manifest | Path | str, store_dir: Path | str) -> StatusReport:
    """Where every feature of the store stands with the clips of the manifest.

    Raises:
        InputError: a manifest that cannot be used; a store without features.
        NotAStore: `store_dir` is none.
    """
    manifest = manifest if isinstance(manifest, Manifest) else store.read_manifest(manifest)
    fs = store.open(store_dir)
    if not fs.features:
        raise InputError(f"{fs.name} has no features yet; fill it with `extract run`")
    features = [FeatureStatus.of(fs[name], manifest) for name in fs.features]
    return StatusReport(store=fs.name, clips=len(manifest), features=features)
