"""A teacher that sees all frames, and a student that sees the first one and hears the sound.

`visual` is the teacher's vector, of the mean over all frames; `av` the student's, of the first
frame beside the mean over the sound. Both have hidden layers of their own. With `previews` above 1
a clip is cut into as many even stretches, the student sees the first frame and the sound of each,
and `av` is the mean of what it makes of them.

Source: Gao et al., 2020, "Listen to Look" (image-audio pairs as previews of clips).
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
    previews: int = setting(1, at_least=1)  # of a clip


class Preview(nn.Module):
    """A teacher of all frames, and a student of one frame and the sound."""

    def __init__(self, config: Config, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.outputs = {"visual": config.dim_out, "av": config.dim_out}
        self.hidden: Mapping[str, int] = {}
        self.previews = config.previews
        sizes = {"teacher": dims["visual"], "student": dims["visual"] + dims["audio"]}
        self.teacher, self.student = (
            perceptron(size, config.hidden, config.dim_out, dropout=config.dropout)
            for size in sizes.values()
        )

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """The teacher's vector (`visual`) of all frames, the student's (`av`) of one and sound."""
        if "visual" not in inputs:
            return {}
        frames, mask, _ = inputs["visual"]
        outputs = {"visual": self.teacher(mean_of_rows(frames, mask))}
        if "audio" in inputs:
            sound, audio_mask, _ = inputs["audio"]
            seen = [
                torch.cat([mean_of_rows(frames, one), mean_of_rows(sound, stretch)], dim=1)
                for one, stretch in zip(
                    _pieces(mask, self.previews, first=True),
                    _pieces(audio_mask, self.previews, first=False),
                    strict=True,
                )
            ]
            outputs["av"] = torch.stack([self.student(x) for x in seen]).mean(0)
        return outputs


def _pieces(mask: Bool[Tensor, "B T"], count: int, *, first: bool) -> list[Bool[Tensor, "B T"]]:
    """Masks of the rows of each of `count` even stretches of a clip, or of the `first` row of each.
    A stretch shorter than a row has the row that it is in."""
    place, rows = mask.cumsum(1) - 1, mask.sum(1, keepdim=True)
    pieces = []
    for i in range(count):
        begin = i * rows // count
        end = begin + 1 if first else torch.maximum((i + 1) * rows // count, begin + 1)
        pieces.append(mask & (place >= begin) & (place < end))
    return pieces


def build(config: Config, dims: Mapping[str, int]) -> Preview:
    """The network with these settings."""
    if set(dims) != {"visual", "audio"}:
        raise ConfigError(f"preview needs visual and audio features, not {', '.join(dims)}")
    return Preview(config, dims)
