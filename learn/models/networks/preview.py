"""A teacher that sees all frames, and a student that sees the first one and hears the sound.

`visual` is the teacher's vector, of the mean over all frames; `av` the student's, of the first
frame beside the mean over the sound. Both have hidden layers of their own.

Source: Gao et al., 2020, "Listen to Look" (image-audio pairs as previews of clips).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.projections import mean_of_rows
from store.errors import ConfigError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(128, at_least=1)
    hidden: int = setting(512, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)


class Preview(nn.Module):
    """A teacher of all frames, and a student of one frame and the sound."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = {"visual": config.dim_out, "av": config.dim_out}
        self.hidden: Mapping[str, int] = {}
        self.teacher = _layers(config, dims["visual"])
        self.student = _layers(config, dims["visual"] + dims["audio"])

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """The teacher's vector (`visual`) of all frames, the student's (`av`) of one and sound."""
        if "visual" not in inputs:
            return {}
        frames, mask, _ = inputs["visual"]
        outputs = {"visual": self.teacher(mean_of_rows(frames, mask))}
        if "audio" in inputs:
            sound, audio_mask, _ = inputs["audio"]
            first = mean_of_rows(frames[:, :1], mask[:, :1])
            outputs["av"] = self.student(torch.cat([first, mean_of_rows(sound, audio_mask)], dim=1))
        return outputs


def _layers(config: Config, dim_in: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(dim_in, config.hidden),
        nn.ReLU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.dim_out),
    )


def build(config: Config, dims: Mapping[str, int]) -> Preview:
    """The network with these settings."""
    if set(dims) != {"visual", "audio"}:
        raise ConfigError(f"preview needs visual and audio features, not {', '.join(dims)}")
    return Preview(config, dims)
