"""Listen to Look: a student that sees little and hears all imitates a teacher that sees all.

The student's vector is drawn to the teacher's (L1, mean over numbers), and what one classifier
makes of it to what it makes of the teacher's: cross-entropy with the teacher's shares as soft
targets, which the source prints as a KL divergence (they differ by the teacher's entropy, and not
in the gradient). Neither sends a gradient into the teacher; it and the classifier learn from the
labels, weighted by `teacher_weight`, unless the recipe froze them after a stage of their own.

`student` and `teacher` name outputs: those of the network `preview` are `av` (first frame and
sound) and `visual` (all frames).

Source: Gao et al., 2020, "Listen to Look"; sums over numbers are means here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
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

    def check(self) -> None:
        """Refuse settings that do not go together."""
        if self.student == self.teacher:
            raise ConfigError("distillation: student and teacher are one output; name two")


class Distillation(Objective):
    """A student output that imitates a teacher output."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Linear(context.dim, len(context.classes))

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes, from the teacher's and the student's output."""
        both = (self.config.teacher, self.config.student)
        return {name: self.classifier(embeddings[name]) for name in both if name in embeddings}

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """L1 and soft cross-entropy of student against teacher, and the teacher's own
        cross-entropy."""
        teacher, student = (batch.embeddings[n] for n in (self.config.teacher, self.config.student))
        teacher_logits = self.classifier(teacher)
        terms = {"l1": (student - teacher.detach()).abs().mean()}
        if self.config.lambda_kl:
            soft = teacher_logits.detach().softmax(1)
            terms["soft"] = self.config.lambda_kl * F.cross_entropy(self.classifier(student), soft)
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
    if len(context.classes) < 2:
        raise ConfigError(f"distillation needs two classes, not {len(context.classes)}")
    return Distillation(config, context)
