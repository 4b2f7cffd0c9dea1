"""Every error a user can cause, in one tree.

MicroshotError               exit code 2; one line that names the value, the bound and the next step
├── InputError               what the user handed us: a manifest, a media folder, an option
│   ├── MissingFile
│   ├── ManifestError        all bad rows at once
│   ├── UnknownColumn        a column the manifest does not have
│   └── NotEnoughClips       the episodes asked for cannot be drawn from these clips
├── ConfigError              a SPEC or recipe names something that does not exist
│   ├── UnknownPlugin
│   ├── UnknownSetting
│   ├── WeightsError         weights that are missing, of another shape, or not to be trusted
│   └── ClusterError         a scheduler or workers that are not there, not safe, or not of one kind
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
    kind = "input"


class MissingFile(InputError):
    kind = "missing-file"


class ManifestError(InputError):
    kind = "manifest"


class UnknownColumn(InputError):
    kind = "unknown-column"


class NotEnoughClips(InputError):
    kind = "not-enough-clips"


class ConfigError(MicroshotError):
    kind = "config"


class UnknownPlugin(ConfigError):
    kind = "unknown-plugin"


class UnknownSetting(ConfigError):
    kind = "unknown-setting"


class WeightsError(ConfigError):
    kind = "weights"


class ClusterError(ConfigError):
    kind = "cluster"


class StoreError(MicroshotError):
    kind = "store"


class NotAStore(StoreError):
    kind = "not-a-store"


class UnknownFeature(StoreError):
    kind = "unknown-feature"


class DamagedStore(StoreError):
    kind = "damaged-store"


def choices(asked: str, known: Iterable[str]) -> str:
    """What exists, with a guess at what was meant: `a, b, c (did you mean 'b'?)`."""
    known = sorted(known)
    close = get_close_matches(asked, known, n=1)
    return (", ".join(known) or "nothing") + (f" (did you mean {close[0]!r}?)" if close else "")
