"""Projections: the stored rows of one clip and one modality in, one vector out.

Shapes: B = clips, T = rows (padded), D = stored size, E = embedding size.

Each plug-in offers `Config` and `build(config, dim_in)`, and `TRAITS` where it has any. Rows arrive
standardised, see `learn/models/embedder.py`.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from learn.models.projections._residual import Start


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Facts of a projection that a training needs before it builds one; most have none to tell."""

    closed_form: bool = False  # is it solved, without an objective?
    texts: bool = False  # into the space of class names' vectors?
    of_means: bool = False  # does it look at nothing but the mean of a clip's rows?


@runtime_checkable
class Projection(Protocol):
    """A trainable map (an `nn.Module`) whose answer never depends on what padding holds."""

    dim_out: int

    def __call__(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """One vector per clip from its rows."""


@runtime_checkable
class Residual(Projection, Protocol):
    """A projection that may add what it learns to the stored rows, or to a fixed map of them."""

    start: Start | None  # None: these settings add to nothing
    penalty: float  # of the distance, in the cost of every batch

    def distance(self) -> Float[Tensor, ""]:
        """How far it has gone from where it started."""
        ...


def mean_of_rows(rows: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B D"]:
    """The mean over a clip's rows, padding left out; zero for a clip without any."""
    if rows.is_cuda or not bool(mask.all()):  # asking costs a processor nothing, a GPU a wait
        rows = rows.masked_fill(~mask[..., None], 0)  # not a product: 0 * inf is no zero
    return rows.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
