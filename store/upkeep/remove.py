"""Taking a feature out of a store.

What is removed is moved to tmp/removed-…/ first, commit records before anything else, so that no
reader takes half a feature for a whole one; `store gc` deletes it once it is old enough. A removal
that was cut short is finished by the same command. No link is followed.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from store import atomic
from store.errors import UnknownFeature
from store.features.feature import Feature
from store.spec import settings_of
from store.storage import posix
from store.store import Store

# In this order: without its records nothing of a feature counts, and its group is what lists it.
PLACES = ("commits", "quarantine", "views", "data.zarr", "index")
VECTORS = "index/vectors"  # of all features: a cache, and what was removed is in it as well


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A feature that was taken out, and where it lies until `store gc` deletes it."""

    feature: str
    clips: int
    trash: str  # a path inside the store

    def to_dict(self) -> dict[str, Any]:
        """The object that `store remove --json` prints."""
        return asdict(self)


def remove(store: Store, name: str) -> Removed:
    """Move a feature to the trash of its store.

    Raises:
        UnknownFeature: none or several are meant.
        DamagedStore: a link is where a directory of the store should be.
        StoreError: the disk refused.
    """
    path = store.path
    feature = chosen(store, name)
    clips = feature.clips
    places = [(p, posix.inside(path, f"{p}/{feature.name}")) for p in PLACES]
    places.append(("vectors", posix.inside(path, VECTORS)))
    trash = posix.inside(path, f"tmp/removed-{token_hex(8)}")
    with posix.writing(path):
        posix.make_directory(trash)
        for place, there in places:
            if there.is_dir():
                _move(there, trash / place)
    return Removed(feature=feature.name, clips=clips, trash=trash.relative_to(path).as_posix())


def chosen(store: Store, name: str) -> Feature:
    """The one feature that is meant; of several, the settings are shown that tell them apart."""
    try:
        return store[name]
    except UnknownFeature as error:
        meant = [f for f in store.features if f.startswith(name) and name]
        identities = [settings_of(store[f].spec.identity) for f in meant]
        keys = {key for identity in identities for key in identity}
        differ = sorted(k for k in keys if len({repr(i.get(k)) for i in identities}) > 1)
        if len(meant) < 2 or not differ:
            raise
        told = "; ".join(
            f"{f}: " + ", ".join(f"{key}={identity.get(key)!r}" for key in differ[:4])
            for f, identity in zip(meant, identities, strict=True)
        )
        raise UnknownFeature(f"{error} ({told})") from None


def _move(there: Path, target: Path) -> None:
    there.rename(target)
    atomic.fsync(there.parent)
    atomic.fsync(target.parent)
