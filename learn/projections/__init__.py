"""Projections: the stored rows of one clip and one modality in, one vector out.

Shapes: B = clips, T = rows (padded), D = stored size, E = embedding size.

Each plug-in offers `Config` and `build(config, dim_in)`.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor


@runtime_checkable
class Projection(Protocol):
    """A trainable map (an `nn.Module`). Padding never changes the answer."""

    dim_out: int

    def __call__(
        self,
        rows: Float[Tensor, "B T D"],
        real: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]: ...
