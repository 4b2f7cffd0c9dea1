"""Every error a user can cause, in one tree.

MicroshotError               exit code 2; a line with the value, the bound and the next step
├── InputError               what the user handed us: a manifest, a media folder, an option
│   ├── MissingFile
│   ├── ManifestError        all bad rows at once
│   ├── UnknownColumn        a column the manifest does not have
│   └── NotEnoughClips       the episodes asked for cannot be drawn from these clips
├── ProcessError             a process that we need does not start
├── ConfigError              a SPEC or recipe names something that does not exist
│   ├── UnknownPlugin
│   ├── UnknownSetting
│   ├── WeightsError         weights that are missing, of another shape, or not to be trusted
│   └── ClusterError         a scheduler or workers not there, not safe, or not of one kind
└── StoreError               the store on disk is not what we were told
    ├── NotAStore
    ├── UnknownFeature
    └── DamagedStore
"""

# ruff: noqa: N818 (`kind` says what they are; an Error suffix would say it again)
from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class MicroshotError(Exception):
    """Base of every error the user can fix; `kind` is stable and machine-readable."""

    kind: ClassVar[str] = "error"


class InputError(MicroshotError):
    """Something the user handed us cannot be used: a manifest, a media folder, an option."""

    kind = "input"


class NotEnoughMemory(MicroshotError):
    """What a command needs is more than `--memory` gives it."""

    kind = "memory"


class MissingFile(InputError):
    """A file or folder that was named is not there."""

    kind = "missing-file"


class ManifestError(InputError):
    """A manifest has bad rows; the message names all of them."""

    kind = "manifest"


class UnknownColumn(InputError):
    """The manifest does not have the column that was named."""

    kind = "unknown-column"


class NotEnoughClips(InputError):
    """The episodes asked for cannot be drawn from these clips."""

    kind = "not-enough-clips"


class ProcessError(MicroshotError):
    """A process that we need does not start."""

    kind = "process"


class ConfigError(MicroshotError):
    """A SPEC or a recipe says something that cannot be."""

    kind = "config"


class UnknownPlugin(ConfigError):
    """A SPEC or a recipe names a plug-in that does not exist."""

    kind = "unknown-plugin"


class UnknownSetting(ConfigError):
    """A SPEC or a recipe names a setting that its plug-in does not have."""

    kind = "unknown-setting"


class WeightsError(ConfigError):
    """Weights are missing, of another shape, or not to be trusted."""

    kind = "weights"


class ClusterError(ConfigError):
    """A scheduler or its workers are not there, not safe, or not of one kind."""

    kind = "cluster"


class StoreError(MicroshotError):
    """The store on disk is not what we were told, or refuses to be written."""

    kind = "store"


class NotAStore(StoreError):
    """The directory or bucket holds something else, or a store of another format."""

    kind = "not-a-store"


class UnknownFeature(StoreError):
    """The store has no such feature, or several that may be meant."""

    kind = "unknown-feature"


class DamagedStore(StoreError):
    """Something in the store is not as it was written."""

    kind = "damaged-store"


def choices(asked: str, known: Iterable[str]) -> str:
    """The names that exist, with a guess at the one meant: `a, b, c (did you mean 'b'?)`."""
    known = sorted(known)
    close = get_close_matches(asked, known, n=1)
    return (", ".join(known) or "nothing") + (f" (did you mean {close[0]!r}?)" if close else "")
