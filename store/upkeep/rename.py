"""Giving a feature another name.

A feature's name holds the digest of its identity, the slug among it, and the names of its units
follow from it. So a new slug is a new feature: every unit is written again under it, those that are
there already are skipped, and only when all of them are sound is the old one removed.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from store.errors import ConfigError, DamagedStore
from store.parts.part import Part
from store.parts.unit_rows import UnitRows
from store.progress import in_steps
from store.storage import posix
from store.store import Store
from store.upkeep.remove import PLACES, chosen, remove


@dataclass(frozen=True, slots=True, kw_only=True)
class Renamed:
    """A feature's old and new name, and what was written again."""

    old: str
    feature: str
    units: int
    clips: int
    trash: str

    def to_dict(self) -> dict[str, Any]:
        """The object that `store rename --json` prints."""
        return asdict(self)


def rename(store: Store, old: str, slug: str) -> Renamed:
    """Write a feature again under another slug, and move the old one to the trash.

    Raises:
        UnknownFeature: none or several are meant by `old`.
        ConfigError: a slug that cannot be a name, or the one it has.
        DamagedStore: a unit is not as it was written; nothing was removed then.
        StoreError: the disk refused.
    """
    path = store.path
    feature = chosen(store, old)
    spec = replace(feature.spec, slug=slug)
    if spec.feature_id == feature.name:
        raise ConfigError(f"{feature.name} is called {slug!r} already; name another")
    for place in PLACES:
        for of in (feature.name, spec.feature_id):
            posix.inside(path, f"{place}/{of}")
    renamed = store.add_feature(spec)
    parts = feature.parts()
    for part in in_steps("units", parts, len(parts)):
        part.verify()
        writer = part.attributes().get("writer", {})
        renamed.commit(_rows(part), writer, retry=part.record.retry)
    known = store[renamed.name].committed()
    if known != feature.committed():
        raise DamagedStore(
            f"{renamed.name} does not hold the clips of {feature.name}; nothing was removed, "
            "run: store verify DIR"
        )
    removed = remove(store, feature.name)
    return Renamed(
        old=feature.name, feature=renamed.name, units=len(parts), clips=len(known),
        trash=removed.trash,
    )  # fmt: skip


def _rows(part: Part) -> UnitRows:
    return UnitRows(
        clip_ids=tuple(part.clip_ids),
        values=np.asarray(part.rows(0, part.record.rows)),
        row_time_ms=part.row_time_ms,
        row_count=part.row_count.astype(np.uint16),
        status=part.status,
        media_sha256=part.media_sha256,
        detail=tuple(part.details),
    )
