"""Heads: classifiers fitted on the support of an episode, many episodes at once.

Shapes: E = episodes, N = ways, K = shots, S = N * K support clips (class by class), M = query
clips, D = size of a clip's vector, V and W = clips of a table.

Each plug-in offers `Config` and `build(config) -> Head`. A head keeps no state between episodes:
`predict = head.fit(support, context)` holds all that was learnt.

A head that needs no more of the vectors than their inner products, after a map of each vector by
itself, may also be a `ProductHead`: it then looks its numbers up in one table for all episodes.
Both ways must give the same answers.

Scores come in whatever precision tells them apart: features may be tiny, and a score's part that
all classes share must not round away what differs. A head whose answers depend on how long vectors
are, as of a penalty or a temperature in fixed units, is not `scale_free`, and its docstring says so
in a line that begins "Not scale-free".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from store.errors import ConfigError

Predict = Callable[[Float[Tensor, "E M D"]], Float[Tensor, "E M N"]]
PredictFromProducts = Callable[
    [Float[Tensor, "E M S"], Float[Tensor, "E M"]], Float[Tensor, "E M N"]
]

EXTRA_SHOTS = {
    "other": "shots of the other modality",
    "names": "vectors of class names",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Facts that a head may use besides the support; none of them comes from query labels.

    The two sides may be of different modalities, so each has a base mean of its own, of vectors
    after the head's power (`learn/fewshot/heads/_transform.py`) where it has one. `origin` is
    any point near the data: heads that do not change under translation subtract it to lose fewer
    bits to rounding, so it decides no answer.
    """

    modality_dims: tuple[int, ...]  # of the modalities joined in a vector; they sum to D
    support_mean: Float[Tensor, "D"] | None = None  # of the base split, seen in the support's mode
    query_mean: Float[Tensor, "D"] | None = None  # of the base split, seen in the query's mode
    origin: Float[Tensor, "D"] | None = None
    mask: Bool[Tensor, "E N K"] | None = None  # of the shots, for a `RaggedHead`; None: no padding
    skewed: bool | None = None  # are the vectors' numbers skewed to the right? None: ask the shots
    balanced: bool = True  # has every class as many queries as the others? known from the sampling
    # More shots of the classes, in the support's space, by what they are (`EXTRA_SHOTS`), for heads
    # that ask for them.
    extra_shots: Mapping[str, Float[Tensor, "E N _ D"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for vector in (self.support_mean, self.query_mean, self.origin):
            if vector is not None and len(vector) != sum(self.modality_dims):
                raise ValueError(f"modality_dims {self.modality_dims} do not sum to {len(vector)}")

    def base_means(self) -> tuple[Float[Tensor, "D"], Float[Tensor, "D"]]:
        """The means of the base split for the support's and the query's side.

        Raises:
            ConfigError: there is no base split.
        """
        if self.support_mean is None or self.query_mean is None:
            raise ConfigError(
                "centre=base needs the mean of a base split, and there is none: give the manifest "
                "a 'train' split apart from the clips evaluated, or use centre=support"
            )
        return self.support_mean, self.query_mean


@runtime_checkable
class Head(Protocol):
    """A classifier that learns from the support and scores queries: the highest is predicted."""

    transductive: bool  # do the queries of an episode see each other?
    centred_by: str  # whose mean is subtracted: none, support, base or episode (queries too)
    scale_free: bool  # do vectors times any number give the same answers, under these settings?

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Learn from the support; returns a function that scores each class for each query."""


@runtime_checkable
class ExtraShotsHead(Head, Protocol):
    """A head that learns from extra shots too, as far as there are any."""

    extra_shots: tuple[str, ...]  # the keys of `EXTRA_SHOTS` that it uses


@runtime_checkable
class RaggedHead(Head, Protocol):
    """A head that can learn from more shots of one class than of another: `Context.mask`."""

    ragged: bool  # do these settings allow it?


@runtime_checkable
class ProductHead(Head, Protocol):
    """A head that is a function of inner products of embedded vectors."""

    by_products: bool  # do these settings allow it?

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Support and query, each vector mapped by itself; by one map if their means are one."""
        ...

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Learn from support · support; returns a function of (query · support, query · query)."""
        ...


@runtime_checkable
class GramHead(Head, Protocol):
    """A transductive head that is a function of inner products of embedded vectors.

    It differs from a `ProductHead` in that it needs the queries' products with each other.
    T = S + M points: the shots class by class, then the queries.
    """

    by_gram: bool  # do these settings allow it?

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """Support and query, each vector mapped by itself; by one map if their means are one."""
        ...

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """Scores from the products of all points of an episode."""
        ...


def fit_by_products(
    head: ProductHead, support: Float[Tensor, "E N K D"], context: Context
) -> Predict:
    """`Head.fit` for a product head: embed, multiply, and let `fit_products` do the rest."""
    _, ways, _, dim = support.shape
    nothing = support.new_zeros(0, dim)
    embedded, _ = head.embed(support.reshape(-1, dim), nothing, context)
    embedded = embedded.view(len(support), -1, dim)
    predict = head.fit_products(embedded @ embedded.mT, ways)

    def of_queries(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
        _, flat = head.embed(nothing, query.reshape(-1, dim), context)
        q = flat.view(query.shape)
        return predict(q @ embedded.mT, q.square().sum(-1))

    return of_queries
