"""CCL: sight is taught by what sound and a single frame add to it, classes deciding who is alike.

A teacher's embedding t and the student's v are composed, x_tv = t + W [norm t; norm v]; a
classifier each names the class of v and of every x_tv. Pairs of vectors are drawn together by
class, each in both directions, by the multi-class NCE

    -1/|P_i| sum_P log p_ij - 1/|N_i| sum_N log (1 - p_ij),   p_ij = softmax_j cos(x_i, y_j) / tau

with P_i the clips of i's class and N_i all others. As the published code routes its gradients, the
student's cost is

    ce(v) + s sum_t [contrast (2 lambda nce(v, t) + 2 (1 - lambda) nce(v, tv))
                     + divergence jsd(v, tv)]

with s = 1 of one teacher and 1/2 of two, and that of a composition, for which v is given,

    ce(tv) + contrast (nce(v, tv) + nce(tv, t)) + divergence jsd(v, tv)

Teachers get no gradient of either; they learn from the labels (`teacher_weight`), in a stage of
their own before they are frozen. lambda = 1/2 is the code's plain sum; the source document prints
lambda and 1 - lambda alone (`contrast=0.5`), without nce(tv, t) (`compose_nce`) and the symmetric
KL divergence between two classifiers (`divergence`), which the code calls JSD.

`teachers` are `audio`, an output, and `image`, which the network `teachers` shows as
`visual.image`.

Shapes: B = clips of a batch, E = embedding size, C = classes.

Source: Chen et al., 2021, "Distilling Audio-Visual Knowledge by Compositional Contrastive
Learning".
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from learn.training.objectives import Batch, Objective, ObjectiveContext, Traits
from learn.training.objectives._pairs import same_class
from store.errors import ConfigError
from store.settings import Settings, setting

TRAITS = Traits(supervised=True)
TINY = 1e-10
SHOWN = {"audio": "audio", "image": "visual.image"}  # a teacher's embedding, by its name


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the objective."""

    teachers: str = setting("audio", among=("audio", "image", "both"))
    student: float = setting(1.0, at_least=0)  # weight of all but the teachers' own cost
    teacher_weight: float = setting(1.0, at_least=0)  # of the teachers' own cost
    temperature: float = setting(0.5, above=0)  # with sound
    image_temperature: float = setting(0.1, above=0)
    # share of nce(v, t) beside nce(v, tv): lambda
    direct: float = setting(0.5, at_least=0, at_most=1)
    contrast: float = setting(1.0, at_least=0)
    compose_nce: bool = True
    divergence: float = setting(1.0, at_least=0)

    @property
    def names(self) -> tuple[str, ...]:
        """The teachers."""
        return ("audio", "image") if self.teachers == "both" else (self.teachers,)

    def check(self) -> None:
        """Refuse settings by which nothing is learnt."""
        if not self.student + self.teacher_weight:
            raise ConfigError("ccl: student and teacher_weight are not both 0")


class CCL(Objective):
    """Visual embeddings that learn what teachers add to them."""

    def __init__(self, config: Config, context: ObjectiveContext) -> None:
        super().__init__()
        self.config = config
        dim, classes = context.dim, len(context.classes)
        self.of_visual = nn.Linear(dim, classes)
        if "audio" in config.names:
            self.residual, self.of_both = nn.Linear(2 * dim, dim), nn.Linear(dim, classes)
        if "image" in config.names:
            self.image_residual = nn.Linear(2 * dim, dim)
            self.of_image = nn.Linear(dim, classes)
        self.of_teachers = nn.ModuleDict(
            {name: nn.Linear(dim, classes) for name in config.names if config.teacher_weight}
        )

    def compose(
        self, visual: Float[Tensor, "B E"], teacher: Float[Tensor, "B E"], *, name: str = "audio"
    ) -> Float[Tensor, "B E"]:
        """The teacher's embedding plus what its residual layer makes of both: x_tv."""
        unit = [F.normalize(x, dim=-1) for x in (teacher, visual)]
        residual = self.residual if name == "audio" else self.image_residual
        return teacher + residual(torch.cat(unit, dim=1))

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits from sight, and from the composition with sound; sound alone has no classifier."""
        scores = {}
        if "visual" in embeddings:
            scores["visual"] = self.of_visual(embeddings["visual"])
        if {"visual", "audio"} <= set(embeddings) and "audio" in self.config.names:
            scores["av"] = self.of_both(self.compose(embeddings["visual"], embeddings["audio"]))
        return scores

    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The student's cost, that of each composition, and the teachers' own."""
        shown = {**batch.embeddings, **batch.hidden}
        teachers = {name: shown[SHOWN[name]] for name in self.config.names}
        weight, terms = self.config.student, {}
        if weight:
            visual = batch.embeddings["visual"]
            logits = self.of_visual(visual)
            terms["class_visual"] = weight * F.cross_entropy(logits, batch.labels)
            share = 1 / len(teachers)
            for name, teacher in teachers.items():
                fixed = teacher.detach()
                taught = self._taught(batch, name, fixed, visual, logits)
                terms |= {key: weight * share * x for key, x in taught.items()}
                composed = self._composed(batch, name, fixed, visual.detach(), logits.detach())
                terms |= {key: weight * x for key, x in composed.items()}
        for name, classifier in self.of_teachers.items():
            cost = F.cross_entropy(classifier(teachers[name]), batch.labels)
            terms[f"class_{name}"] = self.config.teacher_weight * cost
        return terms

    def _taught(
        self, batch: Batch, name: str, teacher: Tensor, visual: Tensor, logits: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        """What one teacher adds to the student's cost, before it is shared among teachers."""
        config, same = self.config, same_class(batch.labels)
        both = self.compose(visual, teacher, name=name)
        t, weight = self._temperature(name), 2 * config.contrast
        terms = {}
        if config.contrast:
            direct, composed = config.direct, 1 - config.direct
            terms[f"nce_visual_{name}"] = weight * direct * symmetric_nce(visual, teacher, same, t)
            terms[f"nce_visual_both_{name}"] = (
                weight * composed * symmetric_nce(visual, both, same, t)
            )
        if config.divergence:
            gap = _divergence(logits, self._classifier(name)(both))
            terms[f"divergence_{name}"] = config.divergence * gap
        return terms

    def _composed(
        self, batch: Batch, name: str, teacher: Tensor, visual: Tensor, logits: Tensor
    ) -> dict[str, Float[Tensor, ""]]:
        """The cost of one composition."""
        config, same = self.config, same_class(batch.labels)
        both = self.compose(visual, teacher, name=name)
        own = self._classifier(name)(both)
        terms = {f"class_both_{name}": F.cross_entropy(own, batch.labels)}
        if config.contrast:
            t = self._temperature(name)
            cost = symmetric_nce(visual, both, same, t)
            if config.compose_nce:
                cost = cost + symmetric_nce(both, teacher, same, t)
            terms[f"nce_both_{name}"] = config.contrast * cost
        if config.divergence:
            terms[f"divergence_both_{name}"] = config.divergence * _divergence(logits, own)
        return terms

    def _temperature(self, name: str) -> float:
        return self.config.temperature if name == "audio" else self.config.image_temperature

    def _classifier(self, name: str) -> nn.Linear:
        return self.of_both if name == "audio" else self.of_image


def symmetric_nce(
    left: Float[Tensor, "B E"],
    right: Float[Tensor, "B E"],
    same: Bool[Tensor, "B B"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Multi-class NCE from left to right plus from right to left, each the mean over clips; a clip
    of which there are no others, because all are of its class, has no second part."""
    logits = F.normalize(left, dim=-1) @ F.normalize(right, dim=-1).T / temperature
    cost = logits.new_zeros(())
    for direction in (logits, logits.T):
        share = direction.softmax(1)
        near = -((share + TINY).log() * same).sum(1) / same.sum(1)
        far = -((1 - share + TINY).log() * ~same).sum(1) / (~same).sum(1).clamp_min(1)
        cost = cost + (near + far).mean()
    return cost


def _divergence(left: Float[Tensor, "B C"], right: Float[Tensor, "B C"]) -> Float[Tensor, ""]:
    """Half of KL(p, q) + KL(q, p), of the shares that the logits stand for."""
    p, q = left.log_softmax(1), right.log_softmax(1)
    return ((p.exp() - q.exp()) * (p - q)).sum(1).mean() / 2


def build(config: Config, context: ObjectiveContext) -> CCL:
    """The objective with these settings."""
    shown = {*context.outputs, *context.hidden}
    if lacking := {"visual", *(SHOWN[name] for name in config.names)} - shown:
        raise ConfigError(
            f"ccl with teachers={config.teachers} needs visual and its teachers' embeddings; there "
            f"is no {', '.join(sorted(lacking))} (the network `teachers` has them)"
        )
    return CCL(config, context)
