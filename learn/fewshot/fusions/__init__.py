"""Fusions: how one head judges a clip by several senses.

Shapes: as in `learn.fewshot.heads`; B = senses, each a block of vectors of its own size, V = clips,
G = weights of a grid over the simplex, T = sharpnesses.

Each plug-in offers `Config` and `build(config) -> Fusion`. A fusion first says what a head is to
see of every clip (`views`: one view or one for each sense), then fits the head on the shots of each
view and returns a function that scores queries seen likewise. It knows nothing of episodes, files
or splits: a support and its blocks are enough.

A fusion that `weighs` decides for every episode how much each sense counts. Where it starts from
is a `Prior`, which names its origin; labels of clips that are asked about never enter either.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from learn.fewshot.heads import Context, Head
from learn.fewshot.modes import MODES
from store.errors import ConfigError

FAMILY = "learn.fewshot.fusions"
DEFAULT = "weighted"
SPREAD = 0.1  # of a prior that is known

# Scores from the queries of each view and, where senses may be lacking, how much each of them
# counts for each query: [E, M, B].
PredictFused = Callable[
    [Sequence[Float[Tensor, "E M _"]], Float[Tensor, "E M B"] | None], Float[Tensor, "E M N"]
]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """What a head sees of every clip at once."""

    vectors: Float[Tensor, "V D"]
    modality_dims: tuple[int, ...]
    shots: Float[Tensor, "V D"] | None = None  # as shots, where these are something else

    @property
    def as_shots(self) -> Float[Tensor, "V D"]:
        """The clips as shots."""
        return self.vectors if self.shots is None else self.shots


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """How much each sense is taken to count before an episode's shots are looked at."""

    value: tuple[float, ...]  # of each sense; they sum to 1
    origin: str  # where it comes from, in words
    spread: float = (
        SPREAD  # by how much an episode's weights differ from it, as a standard deviation
    )
    alone_until: int = 1  # up to so many shots a class they say too little: it stands as it is
    doubt: float = 1.0  # of the share that shots may overrule, how much is left to them

    def __post_init__(self) -> None:
        if min(self.value, default=-1) < 0 or abs(sum(self.value) - 1) > 1e-6:
            raise ConfigError(f"a prior of weights is not below 0 and sums to 1, not {self.value}")


def equal(senses: int) -> Prior:
    """Every sense counts the same: the prior where nothing is known."""
    return Prior(value=(1 / senses,) * senses, origin="equal", spread=0.3)


@runtime_checkable
class Fusion(Protocol):
    """A way to let one head judge by several senses."""

    weighs: bool  # does it weigh senses anew in every episode?

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """What the head sees of every clip, from its vectors by sense."""

    def lacks(self, known: Mapping[str, object]) -> str | None:
        """What this fusion needs and these senses do not have; None if they have all."""

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """Fit the head on the shots of every view; returns its scores of queries."""


@runtime_checkable
class WeighingFusion(Fusion, Protocol):
    """A fusion whose weights depend on the shots."""

    def weigh(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        prior: Prior,
    ) -> Float[Tensor, "E B"]:
        """How much each sense counts in each episode."""
        ...


@runtime_checkable
class ProductFusion(WeighingFusion, Protocol):
    """A weighing fusion to which inner products are enough; S = shots of an episode."""

    def weigh_products(
        self,
        products: Sequence[Float[Tensor, "E S S"]],
        ways: int,
        prior: Prior,
        masks: Sequence[Bool[Tensor, "E N K"] | None] = (),
    ) -> Float[Tensor, "E B"]:
        """How much each sense counts, from the products of its placed shots."""
        ...


def senses_of(vectors: Mapping[str, object]) -> list[str]:
    """The single senses among vectors by name: a network's one vector of all is none of them."""
    return [name for name in vectors if name not in MODES or len(MODES[name]) == 1]


def needs_both(known: Mapping[str, object]) -> str | None:
    """The reason why senses cannot be fused; None if there are several."""
    return None if len(senses_of(known)) > 1 else "vectors of several senses"
