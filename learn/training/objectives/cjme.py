"""CJME: sight and sound near the text of their class, the surer modality counting more.

    alpha = sigmoid(w . norm([mean sound; mean frame]))            how much sight counts
    (1 - alpha) t(text, a, a-) + alpha t(text, v, v-)              triplets, |.| as distance
    + mse(a, v) + mse(alpha, alpha*)

alpha* is 0 where sound is surer of the class by `tie` nats of entropy, 1 where sight is, else 1/2.
A negative is a clip of another class of the batch.

Source: Parida et al., WACV 2020, "Coordinated joint multimodal embeddings for generalized
audio-visual zero-shot classification and retrieval of videos".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.models.projections import mean_of_rows
from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._texts import (
    by_distance,
    mean_where,
    of_another_class,
    triplets,
    two_layers,
)
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True, of_rows=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    hidden: int = setting(300, at_least=1)
    dropout: float = setting(0.2, at_least=0, below=1)
    relu_out: bool = True  # behind the texts' tower, as `projection.relu_out` behind the others
    margin: float = setting(1.0, at_least=0)
    tie: float = setting(0.1, at_least=0)  # nats
    agree: float = setting(1.0, at_least=0)  # weight of mse(a, v)
    attend: float = setting(1.0, at_least=0)  # weight of mse(alpha, alpha*)


class CJME(Objective):
    """Both modalities near their class's text, the surer one counting more."""

    texts: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texts", context.known_texts("cjme"), persistent=False)
        width = self.texts.shape[1]
        self.text = two_layers(width, config.hidden, context.dim, dropout=config.dropout)
        if config.relu_out:
            self.text.append(nn.ReLU())
        size = context.inputs["audio"] + context.inputs["visual"]
        self.attention = nn.Sequential(nn.BatchNorm1d(size), nn.Linear(size, 1))

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]:
        """Class texts in the space of the clips."""
        return self.text(texts)

    def name_scores(
        self,
        embeddings: Mapping[str, Float[Tensor, "V _"]],
        means: Mapping[str, Float[Tensor, "V _"]],
        texts: Float[Tensor, "C W"],
    ) -> dict[str, Float[Tensor, "V C"]]:
        """Minus distances; of both, that of the modality which the attention chooses."""
        scores = by_distance(embeddings, self.embed_texts(texts))
        if {"v", "a"} <= set(scores):
            chosen = self._share(means)[:, None] >= 0.5
            scores["av"] = torch.where(chosen, scores["v"], scores["a"])
        return scores

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Triplets with the class texts, the modalities' agreement, the attention's error."""
        config = self.config
        audio, visual = batch.embeddings["audio"], batch.embeddings["visual"]
        names = self.embed_texts(self.texts)
        text = names[batch.labels]
        negative, has_negative = of_another_class(batch)
        share = self.share(batch)
        costs = (1 - share) * triplets(text, audio, audio[negative], margin=config.margin)
        costs = costs + share * triplets(text, visual, visual[negative], margin=config.margin)
        wanted = _surer(audio, visual, names, config.tie)
        return {
            "triplet": mean_where(costs, has_negative),
            "agree": config.agree * F.mse_loss(audio, visual),
            "attend": config.attend * F.mse_loss(share, wanted),
        }

    def share(self, batch: Batch) -> Float[Tensor, "B"]:
        """The weight of sight in each clip, by the attention."""
        return self._share({m: mean_of_rows(*x[:2]) for m, x in batch.inputs.items()})

    def _share(self, means: Mapping[str, Float[Tensor, "B _"]]) -> Float[Tensor, "B"]:
        return self.attention(torch.cat([means["audio"], means["visual"]], dim=1))[:, 0].sigmoid()


@torch.no_grad()
def _surer(
    audio: Float[Tensor, "B E"],
    visual: Float[Tensor, "B E"],
    names: Float[Tensor, "C E"],
    tie: float,
) -> Float[Tensor, "B"]:
    """The attention's target: 0 if sound is surer of the class, 1 if sight is, else 1/2."""
    doubts = [_entropy(x @ names.T) for x in (audio, visual)]
    gap = doubts[0] - doubts[1]
    return torch.where(gap < -tie, 0.0, torch.where(gap > tie, 1.0, 0.5))


def _entropy(logits: Float[Tensor, "B C"]) -> Float[Tensor, "B"]:
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def build(config: Config, context: ObjectiveContext) -> CJME:
    """The objective with these settings."""
    if set(context.outputs) != {"visual", "audio"}:
        raise ConfigError("cjme needs visual and audio embeddings, and no others")
    return CJME(config, context)
