"""AVCA: triplets with the class's text in the common space and behind a decoder, all regularised.

With theta the embeddings of sound a, sight v and text w, rho = D(theta) back in the space of texts,
phi what the network had of a modality before its cross-attention, and x in {a, v}:

    rec       mse(w, rho_v) + mse(w, rho_a) + mse(w, rho_w)
    cross     t(rho_w, rho_x, rho_x-)
    text      t(theta_w, theta_x, theta_x-) + t(theta_x, theta_w, theta_w-)
    extra     t(theta_x, theta_w, theta_x-) + t(theta_w, theta_x, theta_w-)
    reg       mse(R_x(theta_x), phi_x) + mse(theta_x, theta_w)

A network that shows no phi (`visual.before`, `audio.before`) goes without its two terms of `reg`. A
negative is a clip of another class of the batch.

Source: Mercea et al., CVPR 2022, "Audio-visual generalised zero-shot learning with cross-modal
attention and language"; `extra` and `reg` as in its published code.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._texts import (
    block,
    by_distance,
    mean_where,
    of_another_class,
    triplets,
)
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)
CLIPS = ("audio", "visual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    dropout: float = setting(0.5, at_least=0, below=1)
    momentum: float = setting(0.1, above=0, at_most=1)  # of batch norms
    # The decoder's end: relu as published, which cannot reach a text's negative numbers, or a
    # linear layer behind it.
    decoder: str = setting("relu", among=("relu", "linear"))
    margin: float = setting(1.0, at_least=0)
    extra: float = setting(1.0, at_least=0)  # weights
    reg: float = setting(1.0, at_least=0)


class AVCA(Objective):
    """Triplets between clips and class texts, before and behind a decoder."""

    texts: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texts", context.known_texts("avca"), persistent=False)
        width = self.texts.shape[1]

        def layer(size_in: int, size_out: int) -> nn.Sequential:
            return block(size_in, size_out, dropout=config.dropout, momentum=config.momentum)

        self.text = layer(width, context.dim)
        self.decoder = layer(context.dim, width)
        if config.decoder == "linear":
            self.decoder = nn.Sequential(self.decoder, nn.Linear(width, width))
        shown = [m for m in CLIPS if f"{m}.before" in context.hidden]
        self.back = nn.ModuleDict(
            {m: layer(context.dim, context.hidden[f"{m}.before"]) for m in shown}
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
        """Minus distances; of both, that of sight, which has attended to sound."""
        scores = by_distance(embeddings, self.embed_texts(texts))
        if {"v", "a"} <= set(scores):
            scores["av"] = scores["v"]
        return scores

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The losses `rec`, `cross`, `text`, `extra` and `reg` (Mercea et al., CVPR 2022)."""
        config, margin = self.config, self.config.margin
        negative, has_negative = of_another_class(batch)
        words = self.texts[batch.labels]
        text = self.embed_texts(self.texts)[batch.labels]
        behind = self.decoder(text)
        rec = [F.mse_loss(behind, words)]
        cross, near, extra, reg = [], [], [], []
        for m in CLIPS:
            x = batch.embeddings[m]
            decoded = self.decoder(x)
            rec.append(F.mse_loss(decoded, words))
            cross.append(triplets(behind, decoded, decoded[negative], margin=margin))
            near.append(triplets(text, x, x[negative], margin=margin))
            near.append(triplets(x, text, text[negative], margin=margin))
            extra.append(triplets(x, text, x[negative], margin=margin))
            extra.append(triplets(text, x, text[negative], margin=margin))
            reg.append(F.mse_loss(x, text))
            if m in self.back:
                reg.append(F.mse_loss(self.back[m](x), batch.hidden[f"{m}.before"]))
        return {
            "rec": torch.stack(rec).sum(),
            "cross": mean_where(torch.stack(cross).sum(0), has_negative),
            "text": mean_where(torch.stack(near).sum(0), has_negative),
            "extra": config.extra * mean_where(torch.stack(extra).sum(0), has_negative),
            "reg": config.reg * torch.stack(reg).sum(),
        }


def build(config: Config, context: ObjectiveContext) -> AVCA:
    """The objective with these settings."""
    if set(context.outputs) != set(CLIPS):
        raise ConfigError("avca needs visual and audio embeddings, and no others")
    return AVCA(config, context)
