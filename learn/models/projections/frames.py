"""The clip as a sequence: so many of its rows, each through one linear map, laid end to end.

The rows are those at the middle of equal parts of the clip, by count: a clip of fewer rows gives
some of them again. For objectives that compare sequences; others see one long vector.

Shapes: B = clips, T = rows (padded), F = frames kept, D = stored size, E = embedding size, F times
the size of a frame.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the projection."""

    frames: int = setting(8, at_least=1)
    width: int = setting(64, at_least=1)  # of a frame


class Frames(nn.Module):
    """A clip's rows as a fixed number of small frames."""

    def __init__(self, config: Config, dim_in: int) -> None:
        super().__init__()
        self.frames = config.frames
        self.dim_out = config.frames * config.width
        self.linear = nn.Linear(dim_in, config.width)

    def forward(
        self,
        rows: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"],
        seconds: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B E"]:
        """The middle rows of equal parts of each clip, mapped and concatenated."""
        indices = middles(mask, self.frames)
        kept = rows.gather(1, indices[..., None].expand(-1, -1, rows.shape[2]))
        kept = kept.masked_fill(~mask.any(1)[:, None, None], 0)
        return self.linear(kept).flatten(1)


def middles(mask: Bool[Tensor, "B T"], frames: int) -> Int[Tensor, "B F"]:
    """Indices of the rows in the middle of equal parts; 0 where a clip has none."""
    part = torch.arange(frames, device=mask.device)
    rank = (2 * part + 1) * mask.sum(1, keepdim=True) // (2 * frames)
    order = (~mask).to(torch.int8).argsort(dim=1, stable=True)  # real rows first, in their order
    return order.gather(1, rank)


def build(config: Config, dim_in: int) -> Frames:
    """The projection with these settings."""
    return Frames(config, dim_in)
