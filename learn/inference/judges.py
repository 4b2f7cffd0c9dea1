"""What answers a question of `learn predict`: a head, what joins the senses, and the guard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learn.data.evaluation_set import EvaluationSet
from learn.data.features import TEXT
from learn.fewshot import default_head
from learn.fewshot.fusions import DEFAULT, FAMILY, Fusion, Prior
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.guard import Guarded, refusal
from learn.fewshot.heads import ExtraShotsHead, Head
from learn.fewshot.modes import modality_of, mode_of
from learn.fewshot.sense_prior import Like, guard_prior
from learn.inference.fitted_head import Judge
from learn.inference.seen_classes import apart_of, prior_by, worth_of
from learn.training.runs import Run
from store import plugins
from store.errors import ConfigError

if TYPE_CHECKING:
    from store import Feature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judges:
    """A head under a fusion, for whatever senses a clip has.

    `others` gives the labelled clips, with rows in these features, of classes that are not asked
    about.
    """

    spec: str  # the head's, in full
    head: Head
    fusion: str  # a SPEC, for clips that have several senses
    run: Run | None  # what projected the vectors
    guard: bool  # do stored vectors stand beside a projection's?
    features: Mapping[str, "Feature"]
    named: bool = False  # are names of classes, which the run knows, one more sense?
    others: "Callable[[Mapping[str, Feature]], EvaluationSet | None]" = lambda _: None

    @property
    def learns_from_others(self) -> bool:
        """Whether classes that are not asked about tell anything of how to judge."""
        kind: Fusion = plugins.build(FAMILY, self.fusion)
        return self.guard or (isinstance(kind, Weighted) and kind.prior == "auto")

    def knows(self, classes: Sequence[str]) -> bool:
        """Whether the names of all these classes are a sense."""
        return self.named and not self.lacking(classes)

    def lacking(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The classes whose names have no vector, where names are asked for."""
        if not self.named or self.run is None:
            return ()
        return tuple(name for name in classes if not self.run.has_name(name))

    def of(self, parts: tuple[str, ...], question: Like, *, named: bool = False) -> Judge:
        """What judges clips that have exactly these vectors; `named` if names of classes are a
        sense."""
        kind = self._kind(parts) if len(parts) > 1 else None
        others = self._others_like(parts) if kind is not None or self.guard else None
        if not self.guard or self.run is None:
            prior = self._prior(kind, parts, self.run, others, question)
            return Judge(head=self.head, fusion=kind, prior=prior)
        joint = parts[0] not in self.features  # a network's one vector of all
        beside: Fusion | None = plugins.build(FAMILY, DEFAULT) if joint else kind
        mode = parts[0] if joint else mode_of(parts)
        guarded = Guarded(mode, beside, kind, names=named)
        senses = tuple(self.features) if joint else parts
        prior = guard_prior(
            self.head,
            self._prior(beside, senses, None, others, question),
            self._prior(kind, parts, self.run, others, question),
            apart_of(guarded, self.run, others),
            question,
            names=worth_of(self.run, mode, others) if named else None,
        )
        return Judge(head=self.head, fusion=guarded, prior=prior)

    def _kind(self, parts: tuple[str, ...]) -> Fusion:
        built: Fusion = plugins.build(FAMILY, self.fusion)
        if need := built.lacks(dict.fromkeys(parts)):
            raise ConfigError(f"fusion {self.fusion} needs {need}; use weighted, early or late")
        return built

    def _others_like(self, parts: tuple[str, ...]) -> EvaluationSet | None:
        """Clips that tell of these senses. Text is not asked of them where `parts` have none: few
        may have any, and the others tell of sight and sound as well."""
        text = any(modality_of(part) == TEXT for part in parts)
        joint = parts[0] not in self.features
        wanted = {s: f for s, f in self.features.items() if text or joint or modality_of(s) != TEXT}
        return self.others(wanted)

    def _prior(
        self,
        kind: Fusion | None,
        parts: tuple[str, ...],
        run: Run | None,
        others: EvaluationSet | None,
        question: Like,
    ) -> Prior | None:
        """Where the weights of these senses begin; None where nothing is weighed."""
        if kind is None:
            return None
        return prior_by(kind, self.head, self.features, parts, run, others, question)


def judges_of(
    head: str | None,
    fusion: str | None,
    guard: str,
    run: Run | None,
    features: Mapping[str, "Feature"],
    names: str = "off",
) -> Judges:
    """The head and fusion asked for, or the defaults.

    Raises:
        ConfigError: an unknown head or fusion, or a head that a single clip can't be asked of.
    """
    spec = default_head.resolved(head or default_head.NAME)
    built: Head = plugins.build("learn.fewshot.heads", spec)
    if built.transductive:
        raise ConfigError(
            f"{spec} judges all clips of an episode at once, and here each is judged by itself; "
            "use a head such as default or prototypes"
        )
    if isinstance(built, ExtraShotsHead):
        raise ConfigError(
            f"{spec} learns from more than labelled clips; use a head such as default or prototypes"
        )
    name = fusion or DEFAULT
    kind: Fusion = plugins.build(FAMILY, name)
    guarded = run is not None and guard == "on" and not refusal(built, kind)
    return Judges(
        spec=spec, head=built, fusion=name, run=run, guard=guarded, features=features,
        named=guarded and names == "on" and run is not None and run.knows_names,
    )  # fmt: skip
