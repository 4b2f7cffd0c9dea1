"""How much senses count by the encoders that made them, measured where labels were known.

A pair of networks has a row: the weights, and where they come from. Weights of senses that are no
such pair are equal. A new row is measured by `python -m benchmarks fusion`, which prints the
weights that classes of a collection want; round it, for other collections want somewhat else.
"""

from collections.abc import Mapping, Sequence

from learn.fewshot.fusions import Prior, equal

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


def shipped(networks: Sequence[str]) -> Prior:
    """The prior of these networks' features, in whatever order; equal where none is known, and
    said. A projection of such features starts from it, too."""
    pair = next((pair for pair in PAIRS if sorted(pair) == sorted(networks)), None)
    if pair is None:
        names = ", ".join(networks)
        return Prior(
            value=equal(len(networks)).value,
            origin=f"equal: none is known of {names}",
            spread=equal(len(networks)).spread,
        )
    weights, origin = PAIRS[pair]
    weight_of = dict(zip(pair, weights, strict=True))
    return Prior(value=tuple(weight_of[name] for name in networks), origin=f"shipped: {origin}")
