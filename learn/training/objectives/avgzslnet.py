"""AVGZSLNet: triplets between text and both modalities both ways, and a decoder back to the text.

    t(text, x, x-) + t(x, text, text-)           x: sound, sight
    + sum |dec(y) - w|                           y: sound, sight, text; w the class's own vector
    + t(dec(text), dec(x), dec(x-))

The decoder's outputs and w are unit vectors. A negative is a clip of another class of the batch.
Sizes and dropouts are those of the code of Mercea et al., 2022, which has this system beside its
own.

Source: Mazumder et al., WACV 2021, "AVGZSLNet: Audio-visual generalized zero-shot learning by
reconstructing label features from multi-modal embeddings".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._texts import (
    by_distance,
    distances,
    mean_where,
    of_another_class,
    plain_layers,
    triplets,
    two_layers,
)
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)
CLIPS = ("audio", "visual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    hidden: int = setting(300, at_least=1)  # of the texts' tower
    dropout: float = setting(0.8, at_least=0, below=1)
    decoder_hidden: int = setting(64, at_least=1)
    decoder_norm: bool = True  # batch norm and dropout behind its hidden layer
    decoder_dropout: float = setting(0.5, at_least=0, below=1)
    margin: float = setting(1.0, at_least=0)
    rebuild: float = setting(1.0, at_least=0)  # weight of the decoder's distances
    decoded: float = setting(1.0, at_least=0)  # weight of the triplets behind the decoder


class AVGZSLNet(Objective):
    """Triplets between texts and both modalities, and a decoder back to the text."""

    texts: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texts", context.known_texts("avgzslnet"), persistent=False)
        width, dim = self.texts.shape[1], context.dim
        self.text = two_layers(width, config.hidden, dim, dropout=config.dropout)
        self.decoder = (
            two_layers(dim, config.decoder_hidden, width, dropout=config.decoder_dropout)
            if config.decoder_norm
            else plain_layers(dim, config.decoder_hidden, width)
        )

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]:
        """Class texts in the space of the clips."""
        return self.text(texts)

    def name_scores(
        self,
        embeddings: Mapping[str, Float[Tensor, "V _"]],
        means: Mapping[str, Float[Tensor, "V _"]],
        texts: Float[Tensor, "C W"],
    ) -> dict[str, Float[Tensor, "V C"]]:
        """Minus distances; of both, their sum."""
        scores = by_distance(embeddings, self.embed_texts(texts))
        if {"v", "a"} <= set(scores):
            scores["av"] = scores["v"] + scores["a"]
        return scores

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Triplets in the common space, decoded texts' distances, triplets behind the decoder."""
        config, margin = self.config, self.config.margin
        negative, has_negative = of_another_class(batch)
        named = {m: batch.embeddings[m] for m in CLIPS}
        named["text"] = self.embed_texts(self.texts)[batch.labels]
        decoded = {name: F.normalize(self.decoder(x), dim=1) for name, x in named.items()}
        wanted = F.normalize(self.texts[batch.labels], dim=1)
        text, again = named["text"], decoded["text"]
        triplet = [
            triplets(text, named[m], named[m][negative], margin=margin)
            + triplets(named[m], text, text[negative], margin=margin)
            for m in CLIPS
        ]
        behind = [triplets(again, decoded[m], decoded[m][negative], margin=margin) for m in CLIPS]
        far = [distances(x, wanted).mean() for x in decoded.values()]
        return {
            "triplet": mean_where(sum(triplet, torch.zeros_like(triplet[0])), has_negative),
            "rebuild": config.rebuild * torch.stack(far).sum(),
            "decoded": config.decoded
            * mean_where(sum(behind, torch.zeros_like(behind[0])), has_negative),
        }


def build(config: Config, context: ObjectiveContext) -> AVGZSLNet:
    """The objective with these settings."""
    if set(context.outputs) != set(CLIPS):
        raise ConfigError("avgzslnet needs visual and audio embeddings, and no others")
    return AVGZSLNet(config, context)
