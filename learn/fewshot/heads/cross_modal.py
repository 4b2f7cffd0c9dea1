"""Cross-modal linear probe: what else is known of a class is one more source of shots.

One classifier without intercept, logits scale * w . x of vectors of length 1. It learns from the
shots, from the same clips in the other modality, and from the vectors of the classes' names, as far
as the common space has them. Every source weighs the same, whatever its number of shots. Weights
start at the names, else at the mean of all shots, at length 1; `wise` draws them back towards the
start.

Defaults: the published code's scale, AdamW and rate; it takes 12,800 batches of 8 and keeps the
best by a validation set, which an episode does not have: here 100 steps over all shots.

Source: Lin et al., CVPR 2023 (cross-modal adaptation); Wortsman et al., 2022 (WiSE-FT).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, Head, Predict
from learn.fewshot.heads._descent import adam, cross_entropy_gradient, descend
from learn.fewshot.heads._transform import Transform, transformed
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the head `cross_modal`."""

    # beside the shots: other (modality), names, or all there are
    sources: str = setting("all", among=("all", "other", "names"), main=True)
    scale: float = setting(100.0, at_least=0)
    steps: int = setting(100, at_least=0)
    lr: float = setting(1e-3, at_least=0)
    weight_decay: float = setting(0.01, at_least=0)
    # share of the weights learnt; the rest is where they started
    wise: float = setting(1.0, at_least=0, at_most=1)


class CrossModal:
    """A linear probe on the shots and on the extra shots of their classes."""

    transductive = False
    centred_by = "none"
    scale_free = True  # every vector is made one of length 1 first

    def __init__(self, config: Config) -> None:
        self.config = config
        self.extra_shots = ("other", "names") if config.sources == "all" else (config.sources,)

    @torch.no_grad()
    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Descend the cross-entropy of all sources from the start weights; mix both by `wise`."""
        c = self.config
        known = {name: x for name, x in context.extra_shots.items() if name in self.extra_shots}
        sources = [support, *known.values()]
        ways = support.shape[1]
        points = torch.cat([x.flatten(1, 2) for x in sources], 1)
        eye = torch.eye(ways, dtype=points.dtype, device=points.device)
        target = torch.cat([eye.repeat_interleave(x.shape[2], dim=1) for x in sources], 1)
        per_source = [
            points.new_full((ways * x.shape[2],), 1 / (ways * x.shape[2])) for x in sources
        ]
        share = torch.cat(per_source) / len(sources)
        start = context.extra_shots["names"] if "names" in known else torch.cat(sources, 2)
        start = F.normalize(start.mean(2), dim=-1)

        def gradient(weights: Float[Tensor, "E N D"]) -> Float[Tensor, "E N D"]:
            return (
                c.scale
                * cross_entropy_gradient(c.scale * weights @ points.mT, target, share)
                @ points
            )

        step = adam(c.lr, decay=c.weight_decay, decoupled=True)
        weights = start.lerp(descend(start, gradient, step, c.steps), c.wise)

        def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
            return c.scale * query @ weights.mT

        return predict


def build(config: Config) -> Head:
    """The head that these settings describe."""
    return transformed(CrossModal(config), Transform(length="unit"))
