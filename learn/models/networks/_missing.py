"""Learned tokens for missing modalities, and the modality dropout that trains them.

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
        self, vectors: Mapping[str, Float[Tensor, "B H"]], present: Mapping[str, Bool[Tensor, "B"]]
    ) -> dict[str, Float[Tensor, "B H"]]:
        """Both modalities of every clip: its vectors, or tokens where they are missing."""
        clips = len(next(iter(present.values())))
        device = next(iter(present.values())).device
        if self.training and self.dropout:
            present = self._thinned(present, clips, device)
        filled = {}
        for m in MODALITIES:
            token = self.tokens[m].expand(clips, -1)
            filled[m] = (
                torch.where(present[m][:, None], vectors[m], token) if m in vectors else token
            )
        return filled

    def _thinned(
        self, present: Mapping[str, Bool[Tensor, "B"]], clips: int, device: torch.device
    ) -> dict[str, Bool[Tensor, "B"]]:
        """Drop one modality of some clips, if they have both."""
        dropped = torch.rand(clips, device=device) < self.dropout
        drop_visual = torch.rand(clips, device=device) < 0.5
        visual, audio = present["visual"], present["audio"]
        drop_one = visual & audio & dropped
        return {
            "visual": visual & ~(drop_one & drop_visual),
            "audio": audio & ~(drop_one & ~drop_visual),
        }
