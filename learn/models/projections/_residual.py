"""What a residual projection starts from: the stored rows themselves, turned or cut to its size.

    start(x) + learnt(x), where `learnt` is zero before the first step

In a space of the rows' own size the start is the identity. In a common space of several modalities
each has a block of dimensions of its own, so that before training what is seen is like what is
seen exactly as far as the stored rows are, and unlike everything heard. A block smaller than the
rows holds their principal components over the training clips.

Shapes: B = clips, D = stored size, E = embedding size, K = size of a block.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Start(nn.Module):
    """A fixed linear map with orthonormal rows, or the identity; it never learns."""

    map: Tensor | None

    def __init__(self, dim_in: int, dim_out: int, *, identity: bool) -> None:
        super().__init__()
        # Until `place` has seen rows: the first dimensions, as many as there is room for.
        self.register_buffer("map", None if identity else torch.eye(dim_out, dim_in))

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """The vectors where they are before anything is learnt."""
        return x if self.map is None else x @ self.map.T

    def place(self, basis: Float[Tensor, "K D"], first: int) -> None:
        """Take the dimensions from `first` on for the coordinates in this basis."""
        assert self.map is not None, "an identity has no basis"
        self.map.zero_()
        self.map[first : first + len(basis)] = basis.to(self.map)


def principal_components(
    covariance: Float[Tensor, "D D"], count: int
) -> Float[Tensor, "{count} D"]:
    """The directions of most variance, each with its largest entry positive; all dimensions as
    they are if there is room for them."""
    if count >= len(covariance):
        return torch.eye(count, len(covariance), dtype=covariance.dtype, device=covariance.device)
    _, vectors = torch.linalg.eigh(covariance)
    basis = vectors.flip(1)[:, :count].T
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    return basis * largest.sign()


def blocks(dims: list[int], total: int) -> list[int]:
    """Sizes of the modalities' blocks in a space of `total` dimensions: equal shares, and what one
    has no use for goes to the others."""
    sizes, left = [0] * len(dims), total
    for rank, i in enumerate(sorted(range(len(dims)), key=dims.__getitem__)):
        sizes[i] = min(dims[i], left // (len(dims) - rank))
        left -= sizes[i]
    return sizes
