"""The mean of each clip's standardised rows, taken once: all that many networks look at.

A network that looks at nothing else (`TRAITS.of_means`) need not see every row at every step. A
batch of means is a batch of clips of one row each: the numbers that come of it are the same to the
last bit.

Shapes: V = clips, B = clips of a batch, D = stored size.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int
from torch import Tensor

from learn.data.devices import sent
from learn.data.rows import Padded


class Standardised(Padded):
    """Rows that are standardised already."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Means:
    """The means of all clips of one modality; zero for a clip without rows."""

    values: Float32[Tensor, "V D"]
    present: Bool[Tensor, "V"]  # the clips that have rows

    def __len__(self) -> int:
        return len(self.values)

    @property
    def device(self) -> torch.device:
        """The device that holds them."""
        return self.values.device

    def padded(self, indices: Int[Tensor, "B"]) -> Standardised:
        """These clips as clips of one row. Give `indices` on the CPU: others have to be waited
        for."""
        wanted = sent(indices, self.device)
        return Standardised(
            rows=self.values.index_select(0, wanted)[:, None],
            mask=self.present.index_select(0, wanted)[:, None],
            seconds=torch.zeros(len(indices), 1, device=self.device),
        )


def bytes_of(clips: int, dim: int) -> int:
    """The memory that the means of this many clips take."""
    return clips * (4 * dim + 1)
