"""TCaF: an embedding names its class among the texts, lies on its text, and leads back to it.

    ce     cross-entropy of x . theta_w over all classes' texts
    reg    mse(x, theta_w)
    rec    mse(w, D(x)) + mse(w, D(theta_w))

summed over the outputs there are, `av` alone in the published system.

Source: Mercea et al., ECCV 2022, "Temporal and cross-modal attention for audio-visual zero-shot
learning".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._texts import text_and_back
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    hidden: int = setting(512, at_least=1)
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
        self.text, self.decoder = text_and_back(
            self.texts.shape[1], config.hidden, context.dim, dropout=config.dropout
        )

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]:
        """Class texts in the space of the clips."""
        return self.text(texts)

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The losses `ce`, `reg` and `rec`, summed over the outputs (Mercea et al., ECCV 2022)."""
        names = self.embed_texts(self.texts)
        text, words = names[batch.labels], self.texts[batch.labels]
        ce, reg, rec = [], [], [F.mse_loss(self.decoder(text), words)]
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
