"""The folders that the decode processes of a run may read."""

import os
from pathlib import Path

from store import Manifest

MANY = 256  # of which a child makes rules in less than a millisecond


def media_folders(manifest: Manifest, *, follow_links: bool) -> tuple[Path, ...]:
    """The manifest's folder; with `follow_links` also those to which links lead out of it.

    What counts is where files are, not by which link they are reached: so folders of links, and
    folders that are links, are looked through here, before any child is started.
    """
    assert manifest.root is not None
    root = manifest.root.resolve()
    if not follow_links:
        return (root,)
    real = {name: os.path.realpath(manifest.root / name) for name in map(_folder, manifest.paths)}
    found = set(real.values())
    for path in dict.fromkeys(manifest.paths):
        target = os.path.join(real[_folder(path)], os.path.basename(path))  # noqa: PTH118, PTH119
        if os.path.islink(target):  # noqa: PTH114 (a million of them)
            found.add(os.path.dirname(os.path.realpath(target)))  # noqa: PTH120
    return (root, *_outermost({folder for folder in map(Path, found) if folder != root}, root))


def _folder(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120


def _outermost(folders: set[Path], root: Path) -> tuple[Path, ...]:
    """The folders that lie in no other; the one around them all where they are too many."""
    kept: list[Path] = []
    for folder in sorted(folders, key=lambda path: len(path.parts)):
        if not any(folder.is_relative_to(other) for other in (root, *kept)):
            kept.append(folder)
        if len(kept) > MANY:
            return (Path(os.path.commonpath(folders)),)
    return tuple(kept)
