"""What answers a question of `learn predict`: a head, what joins the senses, and the guard."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from learn.fewshot import default_head
from learn.fewshot.fusions import DEFAULT, FAMILY, Fusion, Prior, equal
from learn.fewshot.fusions._shipped import shipped
from learn.fewshot.fusions.weighted import Weighted
from learn.fewshot.guard import STAND_BACK, Guarded, GuardPrior, refusal
from learn.fewshot.heads import ExtraShotsHead, Head
from learn.fewshot.modes import mode_of
from learn.inference.fitted_head import Judge
from learn.inference.selection import encoders_of
from learn.training.runs import Run
from store import plugins
from store.errors import ConfigError

if TYPE_CHECKING:
    from store import Feature


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judges:
    """A head under a fusion, for whatever senses a clip has."""

    spec: str  # the head's, in full
    head: Head
    fusion: str  # a SPEC, for clips that have several senses
    guard: bool  # do stored vectors stand beside a projection's?
    features: Mapping[str, "Feature"]
    names: Run | None = None  # that knows names of classes, which are one more sense

    def knows(self, classes: Sequence[str]) -> bool:
        """Whether the names of all these classes are a sense."""
        return self.names is not None and not self.lacking(classes)

    def lacking(self, classes: Sequence[str]) -> tuple[str, ...]:
        """The classes whose names have no vector, where names are asked for."""
        if self.names is None:
            return ()
        return tuple(name for name in classes if not self.names.has_name(name))

    def of(self, parts: tuple[str, ...], names: float | None = None) -> Judge:
        """What judges clips that have exactly these vectors; `names` is how many labelled clips a
        class has, where names of classes are a sense."""
        kind = self._kind(parts) if len(parts) > 1 else None
        if not self.guard:
            return Judge(head=self.head, fusion=kind, prior=self._prior(kind, parts))
        joint = parts[0] not in self.features  # a network's one vector of all
        beside: Fusion | None = plugins.build(FAMILY, DEFAULT) if joint else kind
        stored = self._prior(beside, tuple(self.features) if joint else parts)
        mode = parts[0] if joint else mode_of(parts)
        worth = None if self.names is None else self.names.worth_of_names(mode)
        return Judge(
            head=self.head,
            fusion=Guarded(mode, beside, kind, names=names is not None),
            prior=GuardPrior.of(
                stored, self._prior(kind, parts), STAND_BACK,
                worth.beside(names) if worth and names is not None else None, str(worth or ""),
            ),
        )  # fmt: skip

    def _kind(self, parts: tuple[str, ...]) -> Fusion:
        built: Fusion = plugins.build(FAMILY, self.fusion)
        if need := built.lacks(dict.fromkeys(parts)):
            raise ConfigError(f"fusion {self.fusion} needs {need}; use weighted, early or late")
        return built

    def _prior(self, kind: Fusion | None, parts: tuple[str, ...]) -> Prior | None:
        """Where weights begin: no other classes are looked at."""
        if not isinstance(kind, Weighted):
            return None
        if kind.prior == "equal":
            return equal(len(parts))
        return shipped(encoders_of(self.features, parts))


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
        spec=spec, head=built, fusion=name, guard=guarded, features=features,
        names=run if guarded and names == "on" and run is not None and run.knows_names else None,
    )  # fmt: skip
