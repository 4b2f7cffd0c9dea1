"""TCaF: an embedding names its class among the texts, lies on its text, and leads back to it.

    ce     cross-entropy of x . theta_w over all classes' texts
    reg    mse(x, theta_w)
    rec    mse(w, D(x)) + mse(w, D(theta_w))

summed over the outputs there are, `av` alone in the published system. The texts have a decoder of
their own there, and a tower of one layer; all end in batch norm, ReLU and dropout. With
`decoders=1` texts and clips share one, the tower has a hidden layer, and both end in a linear one.

Source: Mercea et al., ECCV 2022, "Temporal and cross-modal attention for audio-visual zero-shot
learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._texts import block, by_distance, plain_layers, two_layers
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    hidden: int = setting(512, at_least=1)
    decoders: int = setting(2, among=(1, 2))
    dropout: float = setting(0.1, at_least=0, below=1)
    reg: float = setting(1.0, at_least=0)  # weights
    rec: float = setting(1.0, at_least=0)


class TCaF(Objective):
    """Clips that name their class among texts, and lead back to its text."""

    texts: Tensor

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("texts", context.known_texts("tcaf"), persistent=False)
        width, dim = self.texts.shape[1], context.dim
        self.text_decoder: nn.Module | None = None
        if config.decoders == 1:
            self.text = two_layers(width, config.hidden, dim, dropout=config.dropout)
            self.decoder = plain_layers(dim, config.hidden, width)
            return
        self.text = block(width, dim, dropout=config.dropout)
        self.decoder = nn.Sequential(
            block(dim, config.hidden, dropout=config.dropout),
            block(config.hidden, width, dropout=config.dropout),
        )
        self.text_decoder = block(dim, width, dropout=config.dropout)

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]:
        """Class texts in the space of the clips."""
        return self.text(texts)

    def name_scores(
        self,
        embeddings: Mapping[str, Float[Tensor, "V _"]],
        means: Mapping[str, Float[Tensor, "V _"]],
        texts: Float[Tensor, "C W"],
    ) -> dict[str, Float[Tensor, "V C"]]:
        """Minus distances."""
        return by_distance(embeddings, self.embed_texts(texts))

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The losses `ce`, `reg` and `rec`, summed over the outputs (Mercea et al., ECCV 2022)."""
        names = self.embed_texts(self.texts)
        text, words = names[batch.labels], self.texts[batch.labels]
        rebuilt = (self.text_decoder or self.decoder)(text)
        ce, reg, rec = [], [], [F.mse_loss(rebuilt, words)]
        for x in batch.embeddings.values():
            ce.append(F.cross_entropy(x @ names.T, batch.labels))
            reg.append(F.mse_loss(x, text))
            rec.append(F.mse_loss(self.decoder(x), words))
        return {
            "ce": torch.stack(ce).sum(),
            "reg": self.config.reg * torch.stack(reg).sum(),
            "rec": self.config.rec * torch.stack(rec).sum(),
        }


def build(config: Config, context: ObjectiveContext) -> TCaF:
    """The objective with these settings."""
    _ = context.dim  # one text is near all of them
    return TCaF(config, context)
