"""SSCL: a student of one modality learns from the other one's memory, then they change places.

The curriculum is the recipe's: the teacher is trained on its own memory (a stage of `memory_bank`
with within=1, cross=0), then both with this objective; then the roles are swapped. The student is
the anchor; positive and negatives are the teacher's:

joint=bank      both from the memory, as printed. The memory takes no gradient, so the teacher
                learns nothing; the run's metrics list its parameters under `no_gradient`
joint=bank+uni  the same, and the teacher goes on with its own discrimination
joint=live      the positive is the teacher's embedding as it is now, with its gradient

Source: Zhang et al., 2021, "Enhancing Audio-Visual Association with Self-Supervised Curriculum
Learning" (softmax NCE over the memory).
"""

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._bank import Bank, claim, similarities, softmax_nce
from learn.training.objectives._pairs import others
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=False)
JOINTS = ("bank", "bank+uni", "live")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    student: str = setting("audio", among=("visual", "audio"))
    joint: str = setting("bank+uni", among=JOINTS)
    negatives: int = setting(1024, at_least=1)
    temperature: float = setting(0.07, above=0)
    momentum: float = setting(0.5, at_least=0, below=1)


class SSCL(Objective):
    """A student modality that learns from the other one's memory."""

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__()
        self.config = config
        self.teacher = "visual" if config.student == "audio" else "audio"
        self._bank = [bank]  # the training's, not a part of this module

    @property
    def bank(self) -> Bank:
        """The training's memory bank."""
        return self._bank[0]

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The student's NCE against the teacher's memory, and with `bank+uni` the teacher's own."""
        drawn = others(batch, self.config.negatives, len(self.bank.of(self.teacher)))
        remembered = self.bank.positives(batch, self.teacher)
        now = F.normalize(batch.embeddings[self.teacher], dim=-1)
        positive = now if self.config.joint == "live" else remembered
        terms = {"cross": self._cost(batch, self.config.student, positive, drawn)}
        if self.config.joint == "bank+uni":
            terms["uni"] = self._cost(batch, self.teacher, remembered, drawn)
        return terms

    def after_step(self, batch: Batch) -> None:
        """Move the bank's vectors of the batch's clips."""
        self.bank.move(batch, self.config.momentum)

    def _cost(
        self,
        batch: Batch,
        anchor: str,
        positive: Float[Tensor, "B E"],
        drawn: Int[Tensor, "B K"],
    ) -> Float[Tensor, ""]:
        x, t = batch.embeddings[anchor], self.config.temperature
        positive_similarity = (F.normalize(x, dim=-1) * positive).sum(1, keepdim=True)
        negative_similarity = similarities(x, self.bank.of(self.teacher), drawn)
        return softmax_nce(positive_similarity / t, negative_similarity / t).mean()


def build(config: Config, context: ObjectiveContext) -> SSCL:
    """The objective with these settings."""
    if set(context.outputs) != {"visual", "audio"}:
        raise ConfigError(f"sscl needs visual and audio, not {', '.join(context.outputs)}")
    return SSCL(config, claim(context))
