"""Sources of clips from a table beside the manifest, as `learn groups` writes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from store import read_manifest
from store.errors import ConfigError, InputError, MissingFile
from store.manifest import Manifest

if TYPE_CHECKING:
    from store import Store

GROUP = "group"


def manifest_of(
    store: "Store",
    manifest: str | Path | None,
    group_file: str | Path | None = None,
    group: str | None = None,
) -> Manifest:
    """The manifest at a path, or else the store's; its groups are those of the file, if there is
    one.

    Raises:
        MissingFile, ManifestError: a table that cannot be used.
        ConfigError, InputError: as `with_groups`.
    """
    table = read_manifest(manifest) if manifest else store.manifest()
    return with_groups(table, group_file, group)


def with_groups(
    manifest: Manifest, group_file: str | Path | None, group: str | None = None
) -> Manifest:
    """The manifest with the groups of the file in the place of its column `group`; a clip that the
    file does not name is a group of its own.

    Raises:
        MissingFile, ManifestError, UnknownColumn: a table without clip ids or groups.
        ConfigError: another column of groups is named too.
        InputError: none of the clips is in the file.
    """
    if group_file is None:
        return manifest
    if group is not None:
        raise ConfigError(
            f"`group` {group} and `group_file` {group_file} both say what is of one source; "
            "name one"
        )
    of_clip = read_groups(group_file)
    if not any(clip in of_clip for clip in manifest.clip_ids):
        raise InputError(
            f"none of the {len(of_clip)} clips of {group_file} is among the {len(manifest)} clips "
            f"here (it has {next(iter(of_clip))!r}, and here is {manifest.clip_ids[0]!r})"
        )
    cells = tuple(of_clip.get(clip, "") for clip in manifest.clip_ids)
    return Manifest(table={**manifest.table, GROUP: cells}, root=manifest.root)


def read_groups(path: str | Path) -> Mapping[str, str]:
    """The group of each clip of a table with `clip_id` and `group`; empty: its own.

    Raises:
        MissingFile, ManifestError, UnknownColumn: no such table.
    """
    if not Path(path).is_file():
        raise MissingFile(f"no group file {path}; make one with: learn groups STORE -o {path}")
    table = read_manifest(path, ids_suffice=True)
    return dict(zip(table.clip_ids, table.column(GROUP), strict=True))
