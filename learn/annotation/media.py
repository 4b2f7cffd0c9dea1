"""The media files of clips, found by clip id alone and only below the folders that were named."""

import os
from collections.abc import Collection, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from learn.data.media import Media
from store.manifest_rows import path_fault

if TYPE_CHECKING:
    from store import Manifest


class MediaFiles:
    """Files by clip id: of the clips given and no others."""

    def __init__(
        self, clips: Collection[str], manifest: "Manifest | None", roots: Sequence[Path]
    ) -> None:
        """Without a manifest, a clip's id is its path."""
        self._roots = [root.resolve() for root in roots]
        self._clips = frozenset(clips)
        self._manifest = manifest
        self._line: Mapping[str, int] = {}
        if manifest is not None:
            self._line = {
                clip: i for i, clip in enumerate(manifest.clip_ids) if clip in self._clips
            }
            self._start, self._end = manifest.start_seconds, manifest.end_seconds

    def find(self, clip: str) -> Media | None:
        """The clip's file; None of a clip that is unknown, or whose file is not there, is no
        regular file, or lies outside all roots once its links are followed."""
        if clip not in self._clips:
            return None
        path, start, end = clip, 0.0, inf
        if self._manifest is not None and clip in self._line:
            i = self._line[clip]
            path, start, end = self._manifest.paths[i], float(self._start[i]), float(self._end[i])
        if path_fault(path) is not None:
            return None
        for root in self._roots:
            try:
                real = Path(os.path.realpath(root / path))
            except (OSError, ValueError):  # a name that is too long, or links in a ring
                continue
            inside = next((r for r in self._roots if real.is_relative_to(r)), None)
            if inside is not None and real.is_file():
                within = str(real.relative_to(inside))
                return Media(root=inside, path=within, start_seconds=start, end_seconds=end)
        return None

    def cells(self, clip: str) -> dict[str, str]:
        """What the manifest says of a clip, without its labels."""
        found = {"path": clip, "clip_id": clip}
        if self._manifest is not None and clip in self._line:
            i = self._line[clip]
            for name in self.columns:
                found[name] = self._manifest.column(name)[i]
        return found

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `cells`."""
        known = ("path", "clip_id", "start_seconds", "end_seconds", "split", "group")
        table = self._manifest.columns if self._manifest is not None else known[:2]
        return tuple(name for name in known if name in table)
