"""A store on disk: making, opening, and finding features and manifests in it."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from store.errors import DamagedStore, MissingFile, NotAStore, UnknownFeature, choices
from store.features.feature import Feature
from store.features.identity import make_feature, read_spec
from store.features.packed import Packed
from store.kept import KeptFile
from store.manifest import MAX_KEPT_BYTES, Manifest, from_parquet, pieces, to_parquet, union
from store.names import is_safe_name
from store.parts import layout
from store.parts.commit import FeatureKeys
from store.spec import FeatureSpec
from store.storage import posix
from store.storage.storage import Storage, directory, storage_at

_SKELETON = {"commits", "data.zarr", "manifests", "tmp"}
MAX_STORE_JSON_BYTES = 1 << 16
_STAMP = "%Y%m%dt%H%M%S.%fz"
MANIFEST_NAME = re.compile(r"(\d{8}t\d{6}\.\d{6}z)-([0-9a-f]{12})\.parquet")


class Store:
    """Features in a directory or a bucket; `store.open` and `store.create` give one."""

    def __init__(self, storage: Storage, store_id: str) -> None:
        self.storage = storage
        self.store_id = store_id

    def __repr__(self) -> str:
        return f"Store({self.name!r})"

    @property
    def name(self) -> str:
        """The path or URL it was opened with."""
        return self.storage.name

    @property
    def path(self) -> Path:
        """The directory it is.

        Raises:
            InputError: it is in a bucket.
        """
        return directory(self.storage)

    @property
    def features(self) -> list[str]:
        """Names of the features, sorted."""
        names = filter(is_safe_name, self.storage.names("data.zarr/"))
        return [name for name in names if self.storage.exists(f"data.zarr/{name}/zarr.json")]

    def keys_of(self, feature: str) -> FeatureKeys:
        """The keys under which a feature lies."""
        return FeatureKeys(storage=self.storage, feature_id=feature)

    def __getitem__(self, name: str) -> Feature:
        """A feature by its name, its slug, or a beginning that only it has.

        Raises:
            UnknownFeature: none or several are meant.
            DamagedStore: its attributes are not those it was made with.
        """
        known = self.features
        matching = [
            [feature for feature in known if feature == name],
            [feature for feature in known if feature.rpartition("-")[0] == name],
            [feature for feature in known if name and feature.startswith(name)],
        ]
        meant: list[str] = next(filter(None, matching), [])
        if len(meant) > 1:
            raise UnknownFeature(f"{name!r} may be {', '.join(meant)}; write more of the name")
        if not meant:
            raise UnknownFeature(
                f"{self.name} has no feature {name!r}; it has {choices(name, known)}"
            )
        keys = self.keys_of(meant[0])
        return Feature(keys, read_spec(keys))

    def __iter__(self) -> Iterator[str]:
        """The names of the features."""
        return iter(self.features)

    def __contains__(self, name: object) -> bool:
        """Whether a feature has exactly this name."""
        return name in self.features

    def add_feature(self, spec: FeatureSpec) -> Feature:
        """The feature of this identity, made if it is not there yet.

        Raises:
            DamagedStore: one of that name is there with another identity.
        """
        keys = self.keys_of(spec.feature_id)
        make_feature(self.storage, spec)
        stored = read_spec(keys)
        if stored.digested != spec.digested:
            raise DamagedStore(
                f"{spec.feature_id} is there with another identity; run: store verify DIR"
            )
        return Feature(keys, stored)

    def add_manifest(self, manifest: Manifest) -> list[KeptFile]:
        """Keep a manifest, unless it is the one kept last; a large one in several files."""
        stretches = pieces(manifest)
        digests = [stretch.digest[:12] for stretch in stretches]
        kept = self.manifest_names()
        if [digest for _, digest in kept[-len(digests) :]] == digests:
            kept = kept[-len(digests) :]
            return _kept_files([stamp for stamp, _ in kept], digests, stretches)
        now = datetime.now(UTC).replace(tzinfo=None)
        if kept:  # a clock that went back must not change the order
            now = max(now, datetime.strptime(kept[-1][0], _STAMP) + timedelta(microseconds=1))
        stamps = [(now + timedelta(microseconds=i)).strftime(_STAMP) for i in range(len(stretches))]
        files = _kept_files(stamps, digests, stretches)
        for file, stretch in zip(files, stretches, strict=True):
            self.storage.put_if_absent(file.key, to_parquet(stretch))
        return files

    def manifest(self) -> Manifest:
        """All kept manifests as one: in order of addition, later rows winning in their columns.

        Raises:
            MissingFile: none was kept.
            DamagedStore: a kept manifest cannot be read.
        """
        kept = self.manifest_names()
        if not kept:
            raise MissingFile(
                f"{self.name} keeps no manifest; run: extract run MANIFEST --store DIR"
            )
        return union([self.read_manifest(stamp, digest) for stamp, digest in kept])

    def manifest_names(self) -> list[tuple[str, str]]:
        """Time stamp and digest of each kept manifest, oldest first."""
        matches = map(MANIFEST_NAME.fullmatch, self.storage.names("manifests/"))
        return sorted((match[1], match[2]) for match in matches if match)

    def read_manifest(self, stamp: str, digest: str) -> Manifest:
        """One kept manifest, which must have the digest in its name."""
        key = f"manifests/{stamp}-{digest}.parquet"
        manifest = from_parquet(self.storage.get(key, limit_bytes=MAX_KEPT_BYTES), name=key)
        if manifest.digest[:12] != digest:
            raise DamagedStore(f"{key} is not the manifest that was kept")
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


def _kept_files(
    stamps: Sequence[str], digests: Sequence[str], stretches: Sequence[Manifest]
) -> list[KeptFile]:
    return [
        KeptFile(key=f"manifests/{stamp}-{digest}.parquet", rows=len(stretch))
        for stamp, digest, stretch in zip(stamps, digests, stretches, strict=True)
    ]


def open(where: str | Path) -> Store:
    """The store in a directory or at a URL like `s3://BUCKET/PREFIX`.

    >>> [name.partition("-")[0] for name in store.open("my_store").features]
    ['synthetic', 'synthetic']

    Raises:
        NotAStore: nothing is there, something else, or a store of another format.
    """
    storage = storage_at(where)
    if not storage.exists("store.json"):
        raise NotAStore(_no_store(storage))
    data = storage.get("store.json", limit_bytes=MAX_STORE_JSON_BYTES)
    return Store(storage, parse_store_json(data, where=storage.name))


def _no_store(storage: Storage) -> str:
    """What is wrong with a place that holds no store, and how to make one."""
    name, path = storage.name, storage.local_path
    if path is not None and path.is_file():
        return f"{name} is a file, no store; make one with: extract run {name} --store DIR"
    if path is not None and path.is_dir() and any(path.iterdir()):
        return (
            f"{name} is no store, but a folder of other things; if they are clips: "
            f"extract run {name} --store DIR"
        )
    problem = "is no store" if path is None or path.exists() else "does not exist"
    return f"{name} {problem}; make one with: extract run MANIFEST --store {name}"


def find(where: str | Path) -> Store | None:
    """The store there, or None where `create` would make one. Writes nothing.

    >>> store.find("nothing_here") is None
    True

    Raises:
        NotAStore: something else is there.
    """
    storage = storage_at(where)
    if storage.exists("store.json"):
        return open(where)
    _check_free(storage)
    return None


def parse_store_json(data: bytes, *, where: str) -> str:
    """The id of a store.

    Raises:
        NotAStore: the file of something else, or of a store of another format.
    """
    try:
        document = json.loads(data)
        version, store_id = document["format"], document["store_id"]
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


def create(where: str | Path) -> Store:
    """The store in a directory or at a URL, made if nothing is there.

    >>> store.create("another_store").features
    []

    Raises:
        NotAStore: something else is there.
    """
    storage = storage_at(where)
    if storage.exists("store.json"):
        return open(where)
    _check_free(storage)
    if (path := storage.local_path) is not None:
        with posix.writing(path):
            for name in sorted(_SKELETON):
                posix.make_directory(path / name)
    storage.put_if_absent("data.zarr/zarr.json", layout.group_json({}))
    storage.put_if_absent("store.json", new_store_json())
    return open(where)


def _check_free(storage: Storage) -> None:
    """Nothing is there, or what is there is a store being made, by us before a crash or by another.

    Raises:
        NotAStore: something else is there.
    """
    if (path := storage.local_path) is not None:
        if not path.exists():
            return
        if not path.is_dir():
            raise NotAStore(f"{path} is a file; name a directory")
        names, hint = {entry.name for entry in path.iterdir()}, "name an empty or new directory"
    else:
        names, hint = set(storage.names("")), "name a new prefix"
    if others := sorted(names - _SKELETON - {"store.json"}):
        raise NotAStore(f"{storage.name} is no store and holds {others[0]!r}; {hint}")
