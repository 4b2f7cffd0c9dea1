"""CCL: sight is taught by what sound adds to it, with classes deciding who is alike.

Sound and sight are composed, x_av = x_a + W [norm x_a; norm x_v]; a classifier each names the class
of sight and of the composition. Three pairs of vectors are drawn together by class: (v, av), (v, a)
and (av, a), each in both directions, by the multi-class NCE

    -1/|P_i| sum_P log p_ij - 1/|N_i| sum_N log (1 - p_ij),   p_ij = softmax_j cos(x_i, y_j) / tau

with P_i the clips of i's class and N_i all others. The source document prints the first two pairs
only; the published code has the third (`compose_nce`) and a symmetric KL divergence between what
the two classifiers say (`divergence`), which it calls JSD.

Shapes: B = clips of a batch, E = embedding size, C = classes.

Source: Chen et al., 2021, "Distilling Audio-Visual Knowledge by Compositional Contrastive
Learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._pairs import same_class
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)
TINY = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    temperature: float = setting(0.5, above=0)
    contrast: float = setting(1.0, at_least=0)
    compose_nce: bool = True
    divergence: float = setting(1.0, at_least=0)


class CCL(Objective):
    """Visual embeddings that learn what sound adds to them."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.residual = nn.Linear(2 * context.dim, context.dim)
        self.of_visual = nn.Linear(context.dim, len(context.classes))
        self.of_both = nn.Linear(context.dim, len(context.classes))

    def compose(
        self, visual: Float[Tensor, "B E"], audio: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B E"]:
        """Sound plus what the residual layer makes of both: x_av."""
        unit = [F.normalize(x, dim=-1) for x in (audio, visual)]
        return audio + self.residual(torch.cat(unit, dim=1))

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits from sight, and from the composition of both; sound alone has no classifier."""
        scores = {}
        if "visual" in embeddings:
            scores["visual"] = self.of_visual(embeddings["visual"])
        if {"visual", "audio"} <= set(embeddings):
            scores["av"] = self.of_both(self.compose(embeddings["visual"], embeddings["audio"]))
        return scores

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Cross-entropy of both classifiers, NCE of three pairs, the classifiers' divergence."""
        visual, audio = batch.embeddings["visual"], batch.embeddings["audio"]
        both = self.compose(visual, audio)
        visual_logits, both_logits = self.of_visual(visual), self.of_both(both)
        terms = {
            "class_visual": F.cross_entropy(visual_logits, batch.labels),
            "class_both": F.cross_entropy(both_logits, batch.labels),
        }
        if self.config.contrast:
            same, t, weight = (
                same_class(batch.labels),
                self.config.temperature,
                self.config.contrast,
            )
            terms["nce_visual_both"] = weight * symmetric_nce(visual, both, same, t)
            terms["nce_visual_audio"] = weight * symmetric_nce(visual, audio, same, t)
            if self.config.compose_nce:
                terms["nce_both_audio"] = weight * symmetric_nce(both, audio, same, t)
        if self.config.divergence:
            p, q = visual_logits.log_softmax(1), both_logits.log_softmax(1)
            gap = ((p.exp() - q.exp()) * (p - q)).sum(1).mean()  # KL(p, q) + KL(q, p)
            terms["divergence"] = self.config.divergence * gap / 2
        return terms


def symmetric_nce(
    left: Float[Tensor, "B E"],
    right: Float[Tensor, "B E"],
    same: Bool[Tensor, "B B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Multi-class NCE from left to right plus from right to left, each the mean over clips; a clip
    of which there are no others, because all are of its class, has no second part."""
    logits = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T / temperature
    cost = logits.new_zeros(())
    for direction in (logits, logits.T):
        share = direction.softmax(1)
        near = -((share + TINY).log() * same).sum(1) / same.sum(1)
        far = -((1 - share + TINY).log() * ~same).sum(1) / (~same).sum(1).clamp_min(1)
        cost = cost + (near + far).mean()
    return cost


def build(config: Config, context: ObjectiveContext) -> CCL:
    """The objective with these settings."""
    if set(context.outputs) != {"visual", "audio"}:
        raise ConfigError(f"ccl needs visual and audio, not {', '.join(context.outputs)}")
    if len(context.classes) < 2:
        raise ConfigError(f"ccl needs two classes to tell apart, not {len(context.classes)}")
    return CCL(config, context)
