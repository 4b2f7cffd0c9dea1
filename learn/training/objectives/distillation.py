"""Listen to Look: a student that sees little and hears all imitates a teacher that sees all.

The student's vector is drawn to the teacher's (L1, summed over numbers), and what its classifier
makes of it to what the teacher's makes of the teacher's: cross-entropy with the teacher's shares as
soft targets, weighted by lambda, which the source prints as a KL divergence (they differ by the
teacher's entropy, and not in the gradient). Neither sends a gradient into the teacher or its
classifier.

These learn from the labels (`teacher_weight`), in a stage before the student's with `imitate=0`.
Its classifier is a state that the student's stage claims and leaves as it is (`teacher_weight=0`).

`student` and `teacher` name outputs: those of the network `preview` are `av` (first frame and
sound) and `visual` (all frames).

Shapes: B = clips of a batch, E = embedding size, C = classes.

Source: Gao et al., 2020, "Listen to Look"; sums over clips are means here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, EpochStart, Objective, ObjectiveContext, Traits
from store.errors import ConfigError, choices
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    student: str = "audio"
    teacher: str = "visual"
    lambda_kl: float = setting(1.0, at_least=0)
    teacher_weight: float = setting(1.0, at_least=0)
    imitate: float = setting(1.0, at_least=0)  # weight of both of the student's costs
    l1: str = setting("sum", among=("sum", "mean"))  # over the numbers of a clip's vector
    shared: bool = False  # teacher and student have one classifier

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.student == self.teacher:
            raise ConfigError("distillation: student and teacher are one output; name two")
        if not self.teacher_weight + self.imitate:
            raise ConfigError("distillation: teacher_weight and imitate are not both 0")


class Kept(nn.Module):
    """A linear classifier that does not learn."""

    weight: Tensor
    bias: Tensor

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, dim))
        self.register_buffer("bias", torch.zeros(classes))

    def take(self, other: "Kept | nn.Linear") -> None:
        """Become another classifier."""
        self.weight.copy_(other.weight)
        self.bias.copy_(other.bias)

    def forward(self, x: Float[Tensor, "B E"]) -> Float[Tensor, "B C"]:
        """Logits of the classes."""
        return F.linear(x, self.weight, self.bias)


class Distillation(Objective):
    """A student output that imitates a teacher output."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        sizes = context.dim, len(context.classes)
        self.classifier = nn.Linear(*sizes)
        self.teacher: Kept | nn.Linear | None = None
        if not config.shared:
            self.teacher = nn.Linear(*sizes) if config.teacher_weight else Kept(*sizes)
        # The training's, not a part of this module.
        self._kept = [context.state("teacher", lambda: Kept(*sizes))]

    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Take the teacher's classifier from the stage in which it learnt."""
        if isinstance(self.teacher, Kept):
            self.teacher.take(self._kept[0])
        return {}

    def after_step(self, batch: Batch) -> None:
        """Keep the teacher's classifier for a later stage."""
        if isinstance(self.teacher, nn.Linear):
            with torch.no_grad():
                self._kept[0].take(self.teacher)

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes, from the teacher's and the student's output."""
        by_name = {
            self.config.teacher: self.teacher or self.classifier,
            self.config.student: self.classifier,
        }
        return {
            name: classifier(embeddings[name])
            for name, classifier in by_name.items()
            if name in embeddings
        }

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L1 and soft cross-entropy of student against teacher, and the teacher's own
        cross-entropy."""
        teacher, student = (batch.embeddings[n] for n in (self.config.teacher, self.config.student))
        teacher_logits = (self.teacher or self.classifier)(teacher)
        terms, weight = {}, self.config.imitate
        if weight:
            far = (student - teacher.detach()).abs()
            far = far.sum(1) if self.config.l1 == "sum" else far.mean(1)
            terms["l1"] = weight * far.mean()
        if weight and self.config.lambda_kl:
            soft = teacher_logits.detach().softmax(1)
            cost = F.cross_entropy(self.classifier(student), soft)
            terms["soft"] = weight * self.config.lambda_kl * cost
        if self.config.teacher_weight:
            terms["teacher"] = self.config.teacher_weight * F.cross_entropy(
                teacher_logits, batch.labels
            )
        return terms


def build(config: Config, context: ObjectiveContext) -> Distillation:
    """The objective with these settings."""
    for name in (config.student, config.teacher):
        if name not in context.outputs:
            known = choices(name, list(context.outputs))
            raise ConfigError(f"distillation: no output {name!r}; there are {known}")
    return Distillation(config, context)
