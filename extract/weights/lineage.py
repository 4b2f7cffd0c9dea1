"""Where weights that were trained here come from, as their file says it.

One entry of a safetensors file's metadata, `microshot`, holds JSON:

    lineage      trainings, the last one first: recipe, its digest, clips and their digest, and the
                 weights that it began from
    trained_on   the media of each training, as `store/membership.py` keeps them
    licence      of the weights that the first one began from

The lineage becomes part of the identity of features, and the media part of their notes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from store.errors import MicroshotError, WeightsError
from store.membership import Membership

KEY = "microshot"
MOST = 3  # trainings of which the media are kept: more do not fit a feature's notes
MAX_TEXT = 65_536  # bytes; it goes into notes, which are bounded too


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestry:
    """What is known of the weights that a training begins from."""

    weights: Mapping[str, Any]  # as an encoder's identity names them
    licence: str = ""
    trained_on: Sequence[Mapping[str, Any]] = field(default=())


def metadata(
    ancestry: Ancestry, *, recipe: str, recipe_sha256: str, clips_sha256: str, media: Membership
) -> dict[str, str]:
    """The metadata of a file of weights that a training gave."""
    before = {key: value for key, value in ancestry.weights.items() if key != "lineage"}
    entry = {
        "recipe": recipe, "recipe_sha256": recipe_sha256, "clips": media.files,
        "clips_sha256": clips_sha256, "parent": before,
    }  # fmt: skip
    facts = {
        "lineage": [entry, *ancestry.weights.get("lineage", ())],
        "trained_on": [media.to_dict(), *ancestry.trained_on][:MOST],
        "licence": ancestry.licence,
    }
    return {KEY: json.dumps(facts, sort_keys=True)}


def of(metadata: Mapping[str, str], file: str) -> dict[str, Any] | None:
    """What a file says of its trainings; None where it says nothing.

    Raises:
        WeightsError: it says what cannot be.
    """
    text = metadata.get(KEY)
    if text is None:
        return None
    try:
        return _checked(text)
    except (ValueError, KeyError, TypeError, RecursionError, MicroshotError) as fault:
        raise WeightsError(
            f"weights {file} do not say where they come from as they should ({fault}); make them "
            "again: learn finetune"
        ) from None


def _checked(text: str) -> dict[str, Any]:
    """What the text says, if it is a lineage."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text)} characters")
    facts = json.loads(text)
    lineage, trained_on = list(facts["lineage"]), list(facts["trained_on"])
    if not all(isinstance(entry, dict) for entry in lineage):
        raise ValueError("an entry is no table")
    for media in trained_on:
        Membership.from_dict(media)
    return {"lineage": lineage, "trained_on": trained_on, "licence": str(facts["licence"])}
