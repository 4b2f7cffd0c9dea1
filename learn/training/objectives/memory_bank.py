"""AVID: each clip must be told from clips remembered in a bank, across modalities and within them.

`cross` weighs what is seen against remembered sound and the reverse, `within` each modality against
its own memory: Cross-AVID is 1 and 0, Self-AVID 0 and 1, Joint-AVID 1 and 1. All directions share
their negatives, drawn uniformly from all other clips. The published equations print a softmax; the
published code trains binary NCE with a constant fixed at the first step. `nce` chooses. `anchors`
leaves out the directions that begin in the other modality.

With `learn_momentum` each modality's momentum is a parameter that starts at `momentum`: positives
are the remembered vectors as the step will leave them, lambda m + (1 - lambda) z, and the cost
reaches lambda through them, not z. Within a modality that asks for lambda = 0.

Source: Morgado et al., 2021, "Audio-Visual Instance Discrimination with Cross-Modal Agreement";
momenta "to be learned" as in the source document's equations 4.2 and 4.3.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from learn.training.objectives import Batch, EpochStart, Objective, ObjectiveContext, Traits
from learn.training.objectives._bank import (
    Bank,
    binary_nce,
    claim,
    similarities,
    softmax_nce,
)
from learn.training.objectives._pairs import others
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    nce: str = setting("binary", among=("binary", "softmax"))
    cross: float = setting(1.0, at_least=0)
    within: float = setting(0.0, at_least=0)
    negatives: int = setting(1024, at_least=1)
    temperature: float = setting(0.07, above=0)
    momentum: float = setting(0.5, at_least=0, below=1)
    learn_momentum: bool = False
    anchors: str = setting("both", among=("both", "visual", "audio"))

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.cross + self.within:
            raise ConfigError("memory_bank: cross and within are 0 or more, and not both 0")
        if self.learn_momentum and not self.momentum:
            raise ConfigError("memory_bank: a momentum that is learnt starts above 0")


class MemoryBank(Objective):
    """Contrast of each clip with remembered ones."""

    def __init__(self, config: Config, bank: Bank) -> None:
        super().__init__()
        self.config = config
        self._bank = [bank]  # the training's, not a part of this module
        names = [name for name, _ in bank.named_buffers() if name != "z"]
        start = torch.tensor(config.momentum).logit()
        self.momenta = nn.ParameterDict(
            {name: nn.Parameter(start.clone()) for name in names if config.learn_momentum}
        )

    @property
    def bank(self) -> Bank:
        """The training's memory bank."""
        return self._bank[0]

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The NCE of each anchor across modalities and within its own (Morgado et al., 2021)."""
        negatives = self._negatives(batch)
        names = list(batch.embeddings)
        anchors = [name for name in names if self.config.anchors in ("both", name)]
        whole = self.config.cross + self.config.within
        z = self._z(batch, negatives)
        terms = {}
        for weight, kind in ((self.config.cross, "cross"), (self.config.within, "within")):
            if not weight:
                continue
            for anchor in anchors:
                (target,) = [n for n in names if (n == anchor) == (kind == "within")]
                cost = self._cost(batch, anchor, target, negatives, z).mean()
                terms[f"{kind}_{anchor}"] = weight / whole / len(anchors) * cost
        return terms

    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Say what momenta were learnt."""
        return {f"momentum_{name}": x.sigmoid().item() for name, x in self.momenta.items()}

    def after_step(self, batch: Batch) -> None:
        """Fix the NCE constant at the first step, and move the bank's vectors of these clips."""
        if self.bank.z.isnan():
            with torch.no_grad():
                self.bank.z.copy_(self._z(batch, self._negatives(batch)))
        learnt = {name: x.detach().sigmoid() for name, x in self.momenta.items()}
        self.bank.move(batch, learnt or self.config.momentum)

    def _negatives(self, batch: Batch) -> Int[Tensor, "B K"]:
        clips = len(self.bank.of(next(iter(batch.embeddings))))
        return others(batch, self.config.negatives, clips)

    def _z(self, batch: Batch, negatives: Int[Tensor, "B K"]) -> Float[Tensor, ""]:
        """The NCE constant, or what this step would make it, from the first direction."""
        if not self.bank.z.isnan():
            return self.bank.z
        names = list(batch.embeddings)
        target = names[-1] if self.config.cross else names[0]
        s = similarities(batch.embeddings[names[0]].detach(), self.bank.of(target), negatives)
        return (s / self.config.temperature).exp().mean()

    def _cost(
        self, batch: Batch, anchor: str, target: str, negatives: Int[Tensor, "B K"], z: Tensor
    ) -> Float[Tensor, "B"]:
        unit = F.normalize(batch.embeddings[anchor], dim=-1)
        momentum = self.momenta[target].sigmoid() if self.momenta else None
        remembered = self.bank.positives(batch, target, momentum)
        positive = (unit * remembered).sum(1, keepdim=True)
        negative = similarities(batch.embeddings[anchor], self.bank.of(target), negatives)
        scaled = positive / self.config.temperature, negative / self.config.temperature
        return softmax_nce(*scaled) if self.config.nce == "softmax" else binary_nce(*scaled, z)


def build(config: Config, context: ObjectiveContext) -> MemoryBank:
    """The objective with these settings."""
    if len(context.outputs) != 2:
        raise ConfigError(
            f"memory_bank remembers two modalities, not {len(context.outputs)}: "
            f"{', '.join(context.outputs)}"
        )
    return MemoryBank(config, claim(context))
