"""The stores that results came from: what may be read of them again, for maps and pictures."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from learn.reporting.inputs import Gathered
from store import open as open_store
from store import read_manifest
from store.errors import MicroshotError

if TYPE_CHECKING:
    from store import Manifest, Store


class Stores:
    """The stores that results came from, each opened once; what is gone is None, with a reason."""

    def __init__(self, known: Gathered) -> None:
        self._known = known
        self._open: dict[str, Store] = {}
        self._manifests: dict[tuple[str, str | None], Manifest | None] = {}

    def open(self, path: str) -> "Store":
        """Raises:
        MicroshotError: it is not there any more.
        """
        if path not in self._open:
            self._open[path] = open_store(path)
        return self._open[path]

    def told(self) -> Iterator[tuple[str, str | None, Mapping[str, str]]]:
        """Store, manifest and features of everything that names a store."""
        of_episodes = (
            saved.result["episodes"] for q in self._known.questions for saved in q.results
        )
        of_protocols = (evaluated.told["data"] for evaluated in self._known.evaluations)
        for data in (*of_episodes, *of_protocols):
            if data.get("store"):
                yield data["store"], data.get("manifest"), data["features"]

    def notes(self) -> Iterator[tuple[str, str, Mapping[str, Any], Mapping[str, Any]]]:
        """Store, feature, identity and notes of every feature that can still be read."""
        seen = set()
        for path, _, features in self.told():
            for name in features.values():
                if (path, name) in seen:
                    continue
                seen.add((path, name))
                try:
                    feature = self.open(path)[name]
                except MicroshotError:
                    continue
                yield path, name, feature.spec.identity, feature.notes

    def pretraining(self) -> dict[str, str]:
        """What the networks behind features were trained on, as far as their weights say."""
        found = {}
        for _, name, _, notes in self.notes():
            if notes.get("untrained"):
                continue
            weights = notes.get("weights", "published weights")
            _, said, data = str(notes.get("licence", "")).partition("trained on ")
            found[name] = f"{weights}, trained on {data if said else 'data it does not name'}"
        return found

    def manifest(self, path: str, named: str | None) -> "Manifest | None":
        """The manifest that results used, or the one the store keeps."""
        if (path, named) not in self._manifests:
            try:
                given = named and Path(named).is_file()
                table = read_manifest(named) if given and named else self.open(path).manifest()
            except MicroshotError:
                table = None
            self._manifests[path, named] = table
        return self._manifests[path, named]
