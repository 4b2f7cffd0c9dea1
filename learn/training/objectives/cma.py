"""CMA: clips that agree in sight and in sound become partners within each modality.

After a stage of `memory_bank`, whose bank it takes over. Every `every` epochs each clip's
`positives` nearest clips are looked up in the bank, itself never among them. Nearness is the
lesser of the visual and the audio cosine (`agreement=consensus`), the greater (`union`), or one of
the two. The cost is the mean, weighted by `instance` and `partners`, of instance discrimination
across modalities, as before, and that of the partners within each modality. Negatives are drawn
from all clips but the clip itself and its partners.

All pairs of the bank are compared, in blocks: the lesser of two cosines is no inner product, and an
index for one would miss clips. 100,000 clips of 128 numbers take minutes, 10,000 a second.

Shapes: B = clips of a batch, V = clips of the training split, E = embedding size, P = positives,
K = negatives, R = clips of a block.

Source: Morgado et al., 2021, "Audio-Visual Instance Discrimination with Cross-Modal Agreement".
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from learn.training.objectives import Batch, EpochStart, Objective, ObjectiveContext, Traits
from learn.training.objectives._bank import Bank, binary_nce, claim, similarities
from learn.training.objectives._pairs import others
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=False)
AGREEMENTS = ("consensus", "union", "visual", "audio")
BLOCK = 1024  # clips compared with all others at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    agreement: str = setting("consensus", among=AGREEMENTS)
    positives: int = setting(32, at_least=1)
    every: int = setting(5, at_least=1)  # epochs
    instance: float = setting(1.0, at_least=0)
    partners: float = setting(1.0, at_least=0)
    negatives: int = setting(1024, at_least=1)  # of the instance terms
    within_negatives: int = setting(64, at_least=1)  # of the partner terms
    temperature: float = setting(0.07, above=0)
    momentum: float = setting(0.5, at_least=0, below=1)

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if not self.instance + self.partners:
            raise ConfigError("cma: instance and partners are 0 or more, and not both 0")


class CMA(Objective):
    """Instance discrimination, and partners that agree in both modalities."""

    partners: Tensor  # [V, P] clips of the training split; itself until they are mined

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self._bank = [claim(context)]  # the training's, not a part of this module
        count = max(1, min(config.positives, context.clips - 1))
        self.register_buffer("partners", torch.arange(context.clips)[:, None].repeat(1, count))

    @property
    def bank(self) -> Bank:
        """The training's memory bank."""
        return self._bank[0]

    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Mine partners every `every` epochs; returns how many stay and how many share a class."""
        if start.epoch % self.config.every or len(self.partners) < 2:
            return {}
        visual, audio = self.bank.of("visual"), self.bank.of("audio")
        partners = mine(visual, audio, self.partners.shape[1], self.config.agreement)
        kept = (partners[:, :, None] == self.partners[:, None, :]).any(2).float().mean()
        self.partners.copy_(partners)
        labels = start.survey().labels
        known = (labels[:, None] >= 0) & (labels[partners] >= 0)
        correct = ((labels[:, None] == labels[partners]) & known).sum() / known.sum().clamp_min(1)
        return {"partners_kept": float(kept), "partners_of_the_class": float(correct)}

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Instance discrimination across modalities, binary NCE against partners within each."""
        far = self._far(batch)
        near = far[:, : self.config.within_negatives]
        z = self._z(batch, far)
        whole = self.config.instance + self.config.partners
        known = batch.clips >= 0
        partners = self.partners[batch.clips.clamp_min(0)]
        terms = {}
        for anchor, target in (("visual", "audio"), ("audio", "visual")):
            unit = F.normalize(batch.embeddings[anchor], dim=-1)
            if self.config.instance:
                positive = (unit * self.bank.positives(batch, target)).sum(1, keepdim=True)
                negative = similarities(batch.embeddings[anchor], self.bank.of(target), far)
                cost = self._nce(positive, negative, z).mean()
                terms[f"instance_{anchor}"] = self.config.instance / whole / 2 * cost
            if self.config.partners:
                positive = similarities(batch.embeddings[anchor], self.bank.of(anchor), partners)
                itself = (unit * self.bank.positives(batch, anchor)).sum(1, keepdim=True)
                positive = torch.where(known[:, None], positive, itself)
                negative = similarities(batch.embeddings[anchor], self.bank.of(anchor), near)
                cost = self._nce(positive, negative, z).mean()
                terms[f"partners_{anchor}"] = self.config.partners / whole / 2 * cost
        return terms

    def after_step(self, batch: Batch) -> None:
        """Fix the NCE constant at the first step, and move the bank's vectors of these clips."""
        if self.bank.z.isnan():
            with torch.no_grad():
                self.bank.z.copy_(self._z(batch, self._far(batch)))
        self.bank.move(batch, self.config.momentum)

    def _far(self, batch: Batch) -> Int[Tensor, "B K"]:
        """Negatives: neither the clip nor a partner, unless all others are partners."""
        clips = len(self.partners)
        spared = self.partners[batch.clips.clamp_min(0), : max(0, clips - 2)]
        return others(batch, self.config.negatives, clips, spared)

    def _nce(self, positive: Tensor, negative: Tensor, z: Tensor) -> Float[Tensor, "B"]:
        t = self.config.temperature
        return binary_nce(positive / t, negative / t, z)

    def _z(self, batch: Batch, far: Int[Tensor, "B K"]) -> Float[Tensor, ""]:
        if not self.bank.z.isnan():
            return self.bank.z
        s = similarities(batch.embeddings["visual"].detach(), self.bank.of("audio"), far)
        return (s / self.config.temperature).exp().mean()


@torch.no_grad()
def mine(
    visual: Float[Tensor, "V E"], audio: Float[Tensor, "V E"], count: int, agreement: str
) -> Int[Tensor, "V P"]:
    """The clips that agree most with each clip, itself left out; rows are unit vectors."""
    partners = []
    for rows in torch.split(torch.arange(len(visual), device=visual.device), BLOCK):
        visual_similarity, audio_similarity = visual[rows] @ visual.T, audio[rows] @ audio.T
        together = _together(visual_similarity, audio_similarity, agreement)
        together[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
        partners.append(together.topk(count).indices)
    return torch.cat(partners)


def _together(
    visual_similarity: Float[Tensor, "R V"], audio_similarity: Float[Tensor, "R V"], agreement: str
) -> Float[Tensor, "R V"]:
    if agreement == "consensus":
        return torch.minimum(visual_similarity, audio_similarity)
    if agreement == "union":
        return torch.maximum(visual_similarity, audio_similarity)
    return (visual_similarity if agreement == "visual" else audio_similarity).clone()


def build(config: Config, context: ObjectiveContext) -> CMA:
    """The objective with these settings."""
    if set(context.outputs) != {"visual", "audio"}:
        raise ConfigError(f"cma needs visual and audio, not {', '.join(context.outputs)}")
    return CMA(config, context)
