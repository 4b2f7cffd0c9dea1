"""A store on disk: making, opening, and finding features and manifests in it."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from store import files, layout
from store.commit import Places
from store.errors import DamagedStore, MissingFile, NotAStore, UnknownFeature, choices
from store.feature import Feature
from store.manifest import Manifest, from_parquet, to_parquet, union
from store.names import is_safe_name
from store.packed import Packed
from store.spec import FeatureSpec

_SKELETON = {"commits", "data.zarr", "manifests", "tmp"}
MAX_STORE_JSON_BYTES = 1 << 16
_STAMP = "%Y%m%dt%H%M%S.%fz"
MANIFEST_NAME = re.compile(r"(\d{8}t\d{6}\.\d{6}z)-([0-9a-f]{12})\.parquet")


class Store:
    """A directory of features; `store.open` and `store.create` give one."""

    def __init__(self, path: Path, store_id: str) -> None:
        self.path = path
        self.store_id = store_id

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @property
    def features(self) -> list[str]:
        """Names of the features, sorted."""
        found = (path.parent.name for path in (self.path / "data.zarr").glob("*/zarr.json"))
        return sorted(filter(is_safe_name, found))

    def __getitem__(self, name: str) -> Feature:
        """A feature by its name, its slug, or a beginning that only it has.

        Raises:
            UnknownFeature: none or several are meant.
            DamagedStore: its attributes are not those it was made with.
        """
        known = self.features
        matching = [
            [one for one in known if one == name],
            [one for one in known if one.rpartition("-")[0] == name],
            [one for one in known if name and one.startswith(name)],
        ]
        found: list[str] = next(filter(None, matching), [])
        if len(found) > 1:
            raise UnknownFeature(f"{name!r} may be {', '.join(found)}; write more of the name")
        if not found:
            raise UnknownFeature(
                f"{self.path} has no feature {name!r}; it has {choices(name, known)}"
            )
        places = Places(root=self.path, feature_id=found[0])
        return Feature(places, read_spec(places))

    def add_feature(self, spec: FeatureSpec) -> Feature:
        """The feature of this identity, made if it is not there yet.

        Raises:
            DamagedStore: one of that name is there with another identity.
        """
        places = Places(root=self.path, feature_id=spec.feature_id)
        with files.writing(places.feature):
            files.make_directory(places.commits)
            files.make_directory(places.parts)
        self._put(places.parts / "zarr.json", layout.group_json({}))
        self._put(places.feature / "zarr.json", layout.group_json(layout.feature_attributes(spec)))
        found = read_spec(places)
        if found.digested != spec.digested:
            raise DamagedStore(
                f"{spec.feature_id} is there with another identity; run: store verify DIR"
            )
        return Feature(places, found)

    def add_manifest(self, manifest: Manifest) -> None:
        """Keep a manifest, unless it is the one kept last."""
        kept = self.manifest_names()
        if kept and kept[-1][1] == manifest.digest[:12]:
            return
        now = datetime.now(UTC).replace(tzinfo=None)
        if kept:  # a clock that went back must not change the order
            now = max(now, datetime.strptime(kept[-1][0], _STAMP) + timedelta(microseconds=1))
        name = f"{now.strftime(_STAMP)}-{manifest.digest[:12]}.parquet"
        self._put(self.path / "manifests" / name, to_parquet(manifest))

    def manifest(self) -> Manifest:
        """All kept manifests as one: in order of addition, later rows winning in their columns.

        Raises:
            MissingFile: none was kept.
            DamagedStore: a kept manifest cannot be read.
        """
        kept = self.manifest_names()
        if not kept:
            raise MissingFile(
                f"{self.path} keeps no manifest; run: extract run MANIFEST --store DIR"
            )
        return union([self.read_manifest(stamp, digest) for stamp, digest in kept])

    def manifest_names(self) -> list[tuple[str, str]]:
        """Time stamp and digest of each kept manifest, oldest first."""
        found = (MANIFEST_NAME.fullmatch(path.name) for path in (self.path / "manifests").glob("*"))
        return sorted((match[1], match[2]) for match in found if match)

    def read_manifest(self, stamp: str, digest: str) -> Manifest:
        """One kept manifest, which must have the digest in its name."""
        path = self.path / "manifests" / f"{stamp}-{digest}.parquet"
        manifest = from_parquet(path)
        if manifest.digest[:12] != digest:
            raise DamagedStore(f"{path} is not the manifest that was kept")
        return manifest

    def packed(self, feature: str, *, verify: bool = True, **where: str | Iterable[str]) -> Packed:
        """Rows, masks and times of a split (or of what else columns of the manifest say).

        `fs.packed("simclrv2", split="train").padded()`

        Raises:
            MissingFile: the store keeps no manifest.
            UnknownFeature, UnknownColumn: say which there are.
            DamagedStore: names the unit and file.
        """
        return self[feature].packed(self.manifest().select(**where).clip_ids, verify=verify)

    def _put(self, path: Path, data: bytes) -> bool:
        return files.put_if_absent(path, data, staging=self.path / "tmp")


def read_spec(places: Places) -> FeatureSpec:
    """The identity a feature was made with.

    Raises:
        DamagedStore: the attributes do not give the feature's own name.
    """
    path = places.feature / "zarr.json"
    data = files.read_small(path, limit_bytes=layout.MAX_METADATA_BYTES)
    return parse_spec(data, places.feature_id, where=str(path))


def parse_spec(data: bytes, feature_id: str, *, where: str) -> FeatureSpec:
    """The identity in the attributes of a feature's group.

    Raises:
        DamagedStore: they do not give the feature's own name.
    """
    try:
        document = json.loads(data)
        found: Mapping[str, Any] = document["attributes"]
        names = ("slug", "modality", "dim", "identity", "notes")
        spec = FeatureSpec(**{name: found[name] for name in names})
        sound = json.loads(layout.group_json(layout.feature_attributes(spec))) == document
    except Exception as error:  # whatever a hostile file makes the parser or the value object say
        raise DamagedStore(
            f"{where} does not describe a feature ({type(error).__name__})"
        ) from error
    if not sound or spec.feature_id != feature_id:
        raise DamagedStore(f"{where} describes another feature than {feature_id}")
    return spec


def open(path: str | Path) -> Store:
    """The store at `path`.

    Raises:
        NotAStore: nothing is there, something else, or a store of another format.
    """
    path = Path(path)
    if not (path / "store.json").is_file():
        what = "is no store" if path.exists() else "does not exist"
        raise NotAStore(f"{path} {what}; make one with: extract run MANIFEST --store {path}")
    data = files.read_small(path / "store.json", limit_bytes=MAX_STORE_JSON_BYTES)
    return Store(path, parse_store_json(data, where=str(path)))


def parse_store_json(data: bytes, *, where: str) -> str:
    """The id of a store.

    Raises:
        NotAStore: the file of something else, or of a store of another format.
    """
    try:
        found = json.loads(data)
        version, store_id = found["format"], found["store_id"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotAStore(f"{where}/store.json is not ours; name another directory") from error
    if version != layout.FORMAT:
        raise NotAStore(
            f"{where} has format {version!r}, this microshot reads {layout.FORMAT}; install a newer"
        )
    return str(store_id)


def new_store_json() -> bytes:
    """The `store.json` of a store that is being made."""
    written = datetime.now(UTC).isoformat(timespec="seconds")
    document = {"format": layout.FORMAT, "store_id": str(uuid4()), "created": written}
    return json.dumps(document).encode()


def create(path: str | Path) -> Store:
    """The store at `path`, made if nothing is there.

    Raises:
        NotAStore: something else is there.
    """
    path = Path(path)
    if (path / "store.json").exists():
        return open(path)
    if path.exists():
        if not path.is_dir():
            raise NotAStore(f"{path} is a file; name a directory")
        # A skeleton without store.json is a store being made, by us before a crash or by another.
        if others := sorted({entry.name for entry in path.iterdir()} - _SKELETON - {"store.json"}):
            raise NotAStore(
                f"{path} is no store and holds {others[0]!r}; name an empty or new directory"
            )
    with files.writing(path):
        for name in sorted(_SKELETON):
            files.make_directory(path / name)
    staging = path / "tmp"
    files.put_if_absent(path / "data.zarr" / "zarr.json", layout.group_json({}), staging=staging)
    files.put_if_absent(path / "store.json", new_store_json(), staging=staging)
    return open(path)
