"""The identity of a feature, and the digest that names it."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from store.errors import ConfigError

STORE_DTYPE = "float16"
MAX_SPEC_BYTES = 1 << 16
_SLUG = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,82}")  # with "-" and 12 hex: at most 96 characters


def normalised(value: Any, where: str = "value") -> Any:
    """`value` as plain JSON data in which equal numbers are written equally.

    Raises:
        ConfigError: NaN, infinity, a key that is no text, or anything JSON cannot say.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{where} is {value}; identities and notes hold finite numbers only")
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, Mapping):
        if bad := [key for key in value if not isinstance(key, str)]:
            raise ConfigError(f"{where} has the key {bad[0]!r}; keys are text")
        return {key: normalised(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalised(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise ConfigError(
        f"{where} is a {type(value).__name__}; write it as text, number, list or mapping"
    )


def canonical_json(value: Any) -> bytes:
    """One spelling per value: sorted keys, no blanks, ASCII, 1.0 written as 1."""
    text = json.dumps(normalised(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def settings_of(identity: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested settings by dotted key: `sampling.fps`."""
    if not isinstance(identity, Mapping):
        return {prefix: identity}
    found: dict[str, Any] = {}
    for key, value in identity.items():
        found |= settings_of(value, f"{prefix}.{key}" if prefix else key)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSpec:
    """The identity of what one encoder with one preprocessing gives; `feature_id` is its name.

    `identity` holds all that decides the numbers and is digested; `notes` (weights' file name,
    licence, `untrained`) is for people and is not.

    Raises:
        ConfigError: a slug that cannot be a name, a size below 1, data JSON cannot say.
    """

    slug: str
    modality: str
    dim: int
    identity: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        slug = self.slug.lower()
        if not _SLUG.fullmatch(slug):
            raise ConfigError(
                f"slug {self.slug!r} cannot name a feature; use up to 83 of a-z 0-9 . _ - "
                "and no dot in front"
            )
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,31}", self.modality):
            raise ConfigError(f"modality {self.modality!r} is not a word like 'visual' or 'audio'")
        if not 1 <= self.dim <= 1 << 18:
            raise ConfigError(f"dim={self.dim} is outside 1..{1 << 18}")
        object.__setattr__(self, "slug", slug)
        object.__setattr__(self, "identity", normalised(self.identity, "identity"))
        object.__setattr__(self, "notes", normalised(self.notes, "notes"))
        if (size := len(canonical_json([self.identity, self.notes]))) > MAX_SPEC_BYTES:
            raise ConfigError(f"identity and notes take {size} bytes; at most {MAX_SPEC_BYTES} fit")

    @property
    def digested(self) -> dict[str, Any]:
        """The data that the digest covers."""
        return {
            "slug": self.slug,
            "modality": self.modality,
            "dim": self.dim,
            "identity": self.identity,
            "store_dtype": STORE_DTYPE,
        }

    @property
    def feature_id(self) -> str:
        """The slug and the first 12 hex of the identity's sha256."""
        return f"{self.slug}-{sha256(canonical_json(self.digested)).hexdigest()[:12]}"
