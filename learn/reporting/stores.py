"""The stores that results came from, read again for maps and pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.reporting.inputs import ReportInputs
from store import open as open_store
from store import read_manifest
from store.errors import InputError, MicroshotError

if TYPE_CHECKING:
    from store import Manifest, Store


NO_WEIGHTS = "none needed"  # the licence of an encoder that has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The store, manifest and features that a result was computed from."""

    store: str
    manifest: str | None
    features: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFeature:
    """A feature that results were computed from, and what its store says of it."""

    store: str
    name: str
    identity: Mapping[str, Any]
    notes: Mapping[str, Any]


def refuse_remote(store: str, remote: bool) -> None:
    """Refuse a bucket that a result names: results come from anybody, and asking tells who asks.

    Raises:
        InputError: the store is not on this machine, and buckets are not to be read.
    """
    if "://" in store and not remote:
        raise InputError(f"{store} is not on this machine; to read it, add `remote_stores`")


class Stores:
    """The stores that results came from, each opened once; what is gone is left out.

    Those that are not on this machine are only asked if `remote`.
    """

    def __init__(self, inputs: ReportInputs, *, remote: bool = False) -> None:
        self._inputs = inputs
        self._remote = remote
        self._open: dict[str, Store] = {}
        self._manifests: dict[tuple[str, str | None], Manifest | None] = {}

    def sources(self) -> Iterator[Source]:
        """The source of everything that names a store."""
        sampled = (saved.result["episodes"] for q in self._inputs.questions for saved in q.results)
        evaluated = (evaluation.record["data"] for evaluation in self._inputs.evaluations)
        for data in (*sampled, *evaluated):
            if data.get("store"):
                yield Source(
                    store=data["store"], manifest=data.get("manifest"), features=data["features"]
                )

    def notes(self) -> list[str]:
        """The stores that are not read, and why."""
        notes = []
        for store in dict.fromkeys(source.store for source in self.sources()):
            try:
                refuse_remote(store, self._remote)
            except InputError as error:
                notes.append(f"Nothing is said of features and clips of a store: {error}.")
        return notes

    def features(self) -> Iterator[SourceFeature]:
        """Every feature that can still be read, once."""
        seen = set()
        for source in self.sources():
            for name in source.features.values():
                if (source.store, name) in seen:
                    continue
                seen.add((source.store, name))
                try:
                    feature = self._store(source.store)[name]
                except MicroshotError:
                    continue
                yield SourceFeature(
                    store=source.store,
                    name=name,
                    identity=feature.spec.identity,
                    notes=feature.notes,
                )

    def pretraining(self) -> dict[str, str]:
        """The training data of each feature's network, as far as its weights say."""
        texts = {}
        for feature in self.features():
            learnt_nothing = feature.notes.get("licence") == NO_WEIGHTS
            if learnt_nothing or feature.notes.get("untrained"):
                continue
            weights = feature.notes.get("weights", "published weights")
            _, separator, data = str(feature.notes.get("licence", "")).partition("trained on ")
            trained_on = data if separator else "data it does not name"
            texts[feature.name] = f"{weights}, trained on {trained_on}"
        return texts

    def manifest(self, source: Source) -> "Manifest | None":
        """The manifest that a result used, or the one its store keeps; None if neither is left."""
        key = (source.store, source.manifest)
        if key not in self._manifests:
            try:
                self._manifests[key] = self._read_manifest(source)
            except MicroshotError:
                self._manifests[key] = None
        return self._manifests[key]

    def _read_manifest(self, source: Source) -> "Manifest":
        if source.manifest and Path(source.manifest).is_file():
            return read_manifest(source.manifest)
        return self._store(source.store).manifest()

    def _store(self, path: str) -> "Store":
        refuse_remote(path, self._remote)
        if path not in self._open:
            self._open[path] = open_store(path)
        return self._open[path]
