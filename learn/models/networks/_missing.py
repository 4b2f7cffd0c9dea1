"""What a network puts in the place of a modality that is not there, and how it learns to.

Shapes: B = clips, H = size of a modality's vector inside a network.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

MODALITIES = ("visual", "audio")


class Missing(nn.Module):
    """A learned token for each modality. While training, a modality of a clip is left out with
    probability `dropout`, never both.
    """

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.tokens = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(size) / size**0.5) for m in MODALITIES}
        )

    def forward(
        self, vectors: Mapping[str, Float[Tensor, "B H"]], there: Mapping[str, Bool[Tensor, "B"]]
    ) -> dict[str, Float[Tensor, "B H"]]:
        """Both modalities of every clip: its vectors, or tokens."""
        clips = len(next(iter(there.values())))
        device = next(iter(there.values())).device
        if self.training and self.dropout:
            there = self._thinned(there, clips, device)
        found = {}
        for m in MODALITIES:
            token = self.tokens[m].expand(clips, -1)
            found[m] = torch.where(there[m][:, None], vectors[m], token) if m in vectors else token
        return found

    def _thinned(
        self, there: Mapping[str, Bool[Tensor, "B"]], clips: int, device: torch.device
    ) -> dict[str, Bool[Tensor, "B"]]:
        drop = torch.rand(clips, device=device) < self.dropout
        which = torch.rand(clips, device=device) < 0.5
        sight, sound = there["visual"], there["audio"]
        both = sight & sound & drop
        return {"visual": sight & ~(both & which), "audio": sound & ~(both & ~which)}
