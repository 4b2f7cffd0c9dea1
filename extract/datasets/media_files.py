"""The media files of a folder, found by the names that lists of datasets give them.

Nothing outside the folder can be named, and links are not followed.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from store.names import UNPRINTABLE
from store.progress import in_steps

MEDIA_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv"}
    | {".ts", ".webm", ".aac", ".flac", ".m4a", ".mka", ".mp3", ".oga", ".ogg"}
    | {".opus", ".wav"}
)
# Lists may name what somebody made of a clip.
OTHER_SUFFIXES = frozenset({".jpeg", ".jpg", ".npy", ".png", ".pt", ".wmv"})
# Media whose containers no decode process opens (`extract/media/probe.py`).
UNREAD_SUFFIXES = frozenset({".asf", ".m2v", ".rm", ".rmvb", ".wma", ".wmv"})


class Ambiguous(Exception):  # noqa: N818 (an answer, not an error of anybody's)
    """Several files have that name."""


class MediaFiles:
    """All media files below a folder, without those that a run or a manifest would refuse.

    `unread` are of a kind that no decoder opens, `unnamed` have names that no manifest holds: not
    UTF-8, with a line break or another control character, or with a space at an end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unread: list[str] = []
        self.unnamed: list[str] = []
        self.paths: list[PurePosixPath] = []
        for path in sorted(in_steps("files", _walk(folder), None)):
            if path.suffix.lower() in UNREAD_SUFFIXES:
                self.unread.append(path.as_posix())
            elif UNPRINTABLE.search(name := path.as_posix()) or name != name.strip():
                self.unnamed.append(ascii(name)[1:-1])
            else:
                self.paths.append(path)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in self.paths:
            self._by_stem[path.stem].append(path)

    def __len__(self) -> int:
        return len(self.paths)

    def find(self, name: str) -> PurePosixPath | None:
        """The file of that name, relative to the folder; None if there is none.

        The suffix may lack or be another. Folders in front of the name decide between files of one
        name; they need not exist if only one has it.

        Raises:
            Ambiguous: they do not decide.
        """
        wanted = PurePosixPath(name)
        known = wanted.suffix.lower() in MEDIA_SUFFIXES | OTHER_SUFFIXES
        candidates = self._by_stem.get(wanted.stem if known else wanted.name, [])
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        same = [path for path in candidates if path.name == wanted.name]
        agreement = {path: _agreement(path, wanted) for path in same or candidates}
        best = max(agreement.values())
        first, *others = (path for path, count in agreement.items() if count == best)
        if others:
            raise Ambiguous(f"{name!r} may be {first} or {others[0]}")
        return first


def _walk(folder: Path) -> Iterator[PurePosixPath]:
    for directory, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside = PurePosixPath(Path(directory).relative_to(folder).as_posix())
        for name in files:
            suffix = PurePosixPath(name).suffix.lower()
            if suffix in MEDIA_SUFFIXES | UNREAD_SUFFIXES and not name.startswith("."):
                yield inside / name


def _agreement(path: PurePosixPath, wanted: PurePosixPath) -> int:
    """The number of folders, counted from the last, that are the same."""
    count = 0
    for left, right in zip(reversed(path.parts[:-1]), reversed(wanted.parts[:-1]), strict=False):
        if left != right:
            break
        count += 1
    return count
