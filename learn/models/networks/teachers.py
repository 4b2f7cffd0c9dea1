"""A student that sees all frames, and two teachers: one hears the sound, one sees a single frame.

`visual` is the student's vector, of the mean over all frames, `audio` the sound's teacher's, and
`visual.image` the other teacher's, of a frame that is drawn while any of them learns and is the
middle one else. Each has a hidden layer of its own; a stage trains one or the other: `train =
["network.audio", "network.image", "objective"]`, then `["network.student", "objective"]`.

Source: Chen et al., 2021, "Distilling Audio-Visual Knowledge by Compositional Contrastive
Learning" (there teachers are networks trained on other data).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.models.networks._perceptron import perceptron
from learn.models.projections import mean_of_rows
from store.errors import ConfigError
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the network."""

    dim_out: int = setting(128, at_least=1)
    hidden: int = setting(512, at_least=1)
    dropout: float = setting(0.1, at_least=0, below=1)


class Teachers(nn.Module):
    """A student of all frames, a teacher of sound, a teacher of one frame."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = {"visual": config.dim_out, "audio": config.dim_out}
        self.hidden: Mapping[str, int] = {"visual.image": config.dim_out}
        sizes = {"student": dims["visual"], "audio": dims["audio"], "image": dims["visual"]}
        for name, size in sizes.items():
            self.add_module(
                name, perceptron(size, config.hidden, config.dim_out, dropout=config.dropout)
            )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """The student's vector (`visual`) and those of both teachers, of what is there."""
        outputs = {}
        if "visual" in inputs:
            frames, mask, _ = inputs["visual"]
            outputs["visual"] = self.get_submodule("student")(mean_of_rows(frames, mask))
            outputs["visual.image"] = self.get_submodule("image")(self._one(frames, mask))
        if "audio" in inputs:
            sound, mask, _ = inputs["audio"]
            outputs["audio"] = self.get_submodule("audio")(mean_of_rows(sound, mask))
        return outputs

    def _one(
        self, frames: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"]
    ) -> Float[Tensor, "B D"]:
        """One frame of each clip; zero for a clip without any."""
        count = mask.sum(1)
        learning = any(part.training for part in self.children())
        wanted = count // 2
        if learning:
            wanted = (torch.rand(len(frames), device=frames.device) * count).long()
        chosen = mask & (mask.cumsum(1) - 1 == wanted[:, None])
        return mean_of_rows(frames, chosen)


def build(config: Config, dims: Mapping[str, int]) -> Teachers:
    """The network with these settings."""
    if set(dims) != {"visual", "audio"}:
        raise ConfigError(f"teachers needs visual and audio features, not {', '.join(dims)}")
    return Teachers(config, dims)
