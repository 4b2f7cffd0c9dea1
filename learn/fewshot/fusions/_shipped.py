"""How much senses count by the encoders that made them, measured where labels were known.

A pair of networks has a row: the weights, and where they come from. Weights of senses that are no
such pair are equal. A new row is measured by `python -m benchmarks fusion`, which prints the
weights that classes of a collection want; round it, for other collections want somewhat else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from learn.data.features import TEXT
from learn.fewshot.fusions import SPREAD, Prior, equal
from learn.fewshot.mode_pairs import modality_of

if TYPE_CHECKING:
    from store import Feature

# By networks in the order of visual, audio: as in `identity.network` of their features.
PAIRS: Mapping[tuple[str, ...], tuple[tuple[float, ...], str]] = {
    ("efficientnet_lite", "logmel"): (
        (0.9, 0.1),
        "efficientnet_lite and logmel on two collections of everyday clips, 17 classes",
    ),
    ("mobilenetv2", "yamnet"): (
        (0.8, 0.2),
        "mobilenetv2 and yamnet on two collections of everyday clips, 17 classes",
    ),
}

# Text tells least where clips are few. On 160 real clips with made-up transcripts, of which 30, 60
# or 95 % named the class, this share cost .6 to 1.2 points at one shot, an even one 9 to 18; at
# five shots both cost .4 at most.
OF_TEXT = 0.1


class Encoder(NamedTuple):
    """What made a feature."""

    modality: str
    network: str


def encoders_of(features: Mapping[str, "Feature"], senses: Iterable[str]) -> list[Encoder]:
    """What made the features of these senses."""
    return [
        Encoder(modality_of(sense), str(spec.identity.get("network", spec.slug)))
        for sense in senses
        for spec in [features[sense].spec]
    ]


def _with_text(rest: Prior, encoders: Sequence[Encoder]) -> Prior:
    """The prior of encoders of text beside others, which have the rest as they have it without
    text; the shots are free to say otherwise."""
    texts, of_others = sum(e.modality == TEXT for e in encoders), iter(rest.value)
    value = [
        OF_TEXT / texts if e.modality == TEXT else (1 - OF_TEXT) * next(of_others) for e in encoders
    ]
    known = [rest.origin] if len(rest.value) > 1 else []
    origin = "; ".join([*known, f"shipped: text at {OF_TEXT:g}"])
    return replace(equal(len(encoders)), value=tuple(value), origin=origin)


def shipped(encoders: Sequence[Encoder]) -> Prior:
    """The prior of these encoders' features, in whatever order; equal where none is known, and
    said. A projection of such features starts from it, too.

    Several features of a modality share its weight evenly, which is the mean over all known pairs
    of encoders.
    """
    if (rest := [e for e in encoders if e.modality != TEXT]) and len(rest) < len(encoders):
        return _with_text(shipped(rest), encoders)
    of_modality = {m: [e for e in encoders if e.modality == m] for m, _ in encoders}
    known, origins = [], list[str]()
    for combined in product(*of_modality.values()):
        networks = [encoder.network for encoder in combined]
        pair = next((pair for pair in PAIRS if sorted(pair) == sorted(networks)), None)
        if pair is not None:
            weights, origin = PAIRS[pair]
            known.append([dict(zip(pair, weights, strict=True))[name] for name in networks])
            origins.append(origin)
    alone = len(of_modality) == len(encoders)
    if not known:
        names = ", ".join(encoder.network for encoder in encoders)
        shares = dict.fromkeys(of_modality, 1 / len(of_modality))
        origin = f"equal: none is known of {names}"
    else:
        shares = dict(zip(of_modality, np.mean(known, axis=0).tolist(), strict=True))
        origin = f"shipped: {'; '.join(origins)}"
    if not alone and len(of_modality) > 1:
        origin += ", shared evenly by the features of a modality"
    value = np.array([shares[m] / len(of_modality[m]) for m, _ in encoders])
    spread = SPREAD if known and alone else equal(len(encoders)).spread
    return Prior(value=tuple((value / value.sum()).tolist()), origin=origin, spread=spread)
