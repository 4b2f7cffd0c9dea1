"""Networks that see all modalities of a clip at once, where a projection for each is not enough.

Shapes: B = clips, E = embedding size.

Each plug-in offers `Config` and `build(config, dims)`, `dims` being the size of each modality's
stored rows, and `TRAITS` where it has any. Rows arrive standardised.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from learn.data.rows import Padded


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Facts of a network that a training needs; most have none to tell."""

    of_means: bool = False  # does it look at nothing but the mean of each modality's rows?


@runtime_checkable
class Network(Protocol):
    """A trainable map (an `nn.Module`) whose answer never depends on what padding holds."""

    outputs: Mapping[str, int]  # sizes of its vectors: visual, audio, av (both in one)
    hidden: Mapping[str, int]  # sizes of the vectors for objectives only: names with a dot

    def __call__(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """A vector per clip and output; of fewer outputs where `inputs` lacks a modality."""
        ...
