"""What is done to vectors before a head sees them, in one way for all heads.

    power    sign(x) |x|^power of every number: 1 changes nothing, 0.5 is the signed root, and 0 is
             the root of features that are skewed to the right, as means after a ReLU are, and
             nothing of others: there the root costs what tells classes apart
    centre   less a mean of the vectors after the power: of the episode's shots (support), or of the
             base split (base)
    length   of each modality's part 1 (parts), or 1 / sqrt(B) of B parts, so that the vector's is 1
             (unit); or 1 of the vector whatever its parts (whole)

They come in this order. `transformed(core, transform)` is the head that sees vectors after them;
where nothing is to be done it is the core itself, to the last bit. Cores that need inner products
only keep their tables: what depends on the episode is then done to the products.

Shapes: as in the package; T = S + M points.

Source: Hu et al., 2021, and Yang et al., 2021 (power); Wang et al., 2019 (centring, length 1).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import (
    Context,
    ExtraShotsHead,
    GramHead,
    Head,
    Predict,
    PredictFromProducts,
    ProductHead,
)
from store.settings import Settings, setting

CENTRES = ("none", "support", "base")
SKEWNESS = 0.5  # of a feature's numbers, on average, at least: means after a ReLU have 1 to 3
MOST_SKEWED = 3.0  # what a single number counts at most
CLIPS_AT_ONCE = 4096
ROUNDING = 32  # units in the last place: a vector no longer than that stands on its centre

# Products of queries with shots, and with themselves, before and after a transform.
PlaceProducts = Callable[
    [Float[Tensor, "E M S"], Float[Tensor, "E M"]],
    tuple[Float[Tensor, "E M S"], Float[Tensor, "E M"]],
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transforms(Settings):
    """Settings of every head that takes vectors."""

    # Of every number, keeping its sign; 0.5 is the root, 0 the root of skewed features only.
    power: float = setting(1.0, at_least=0)
    centre: str = setting("none", among=CENTRES)  # whose mean is subtracted after the power


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """The steps before a head."""

    power: float = 1.0
    floor: float = 0.0  # added to every magnitude before the power
    centre: str = "none"
    length: str = ""  # or parts, unit, whole

    @property
    def changes_nothing(self) -> bool:
        """Whether vectors stay as they are."""
        return self == Transform()

    @property
    def by_episode(self) -> bool:
        """Whether what becomes of a vector depends on its episode."""
        return self.centre == "support"

    def settled(self, context: Context, support: Float[Tensor, "*shape"]) -> "Transform":
        """The same with its power chosen, by what is known of the vectors or else by the shots."""
        if self.power:
            return self
        skewed = is_skewed(support) if context.skewed is None else context.skewed
        return replace(self, power=0.5 if skewed else 1.0)

    def raised(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The power of every number, with its sign."""
        if self.power == 1 and not self.floor:
            return x
        size = x.abs() + self.floor
        size = size.sqrt() if self.power == 0.5 else size**self.power
        return torch.where(x < 0, -size, size)

    def scaled(
        self, x: Float[Tensor, "... D"], modality_dims: tuple[int, ...]
    ) -> Float[Tensor, "... D"]:
        """Vectors at their length; zeros stay zero."""
        if self.length == "":
            return x
        if self.length == "whole" or len(modality_dims) == 1:
            return F.normalize(x, dim=-1)
        parts = torch.split(x, list(modality_dims), dim=-1)
        joined = torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1)
        return joined if self.length == "parts" else joined / len(parts) ** 0.5

    def fitted(
        self, support: Float[Tensor, "E N K D"], context: Context
    ) -> tuple[
        Float[Tensor, "E N K D"], Callable[[Float[Tensor, "E M D"]], Float[Tensor, "E M D"]]
    ]:
        """Transformed shots, and the function that transforms queries."""
        settled = self.settled(context, support)
        raised = settled.raised(support)
        of_support, of_query = self.centres(raised, context)

        def place(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M D"]:
            return self.placed(settled.raised(query), of_query, context)

        return self.placed(raised, of_support, context), place

    def of_products(
        self, products: Float[Tensor, "E S S"]
    ) -> tuple[Float[Tensor, "E S S"], PlaceProducts]:
        """What of the transform depends on the episode, done to products of shots; and the function
        that does it to products of queries with shots and with themselves."""
        if not self.by_episode:
            return products, lambda query, square: (query, square)
        row = products.mean(-1)
        total = row.mean(-1)[:, None]
        own = products.diagonal(dim1=1, dim2=2)
        centred = products - row[..., None] - row[:, None] + total[..., None]
        scale = self._scale(centred.diagonal(dim1=1, dim2=2), own)
        if scale is not None:
            centred = scale[..., None] * centred * scale[:, None]

        def place(
            query: Float[Tensor, "E M S"], square: Float[Tensor, "E M"]
        ) -> tuple[Float[Tensor, "E M S"], Float[Tensor, "E M"]]:
            along = query.mean(-1)
            moved = query - along[..., None] - (row - total)[:, None]
            left = square - 2 * along + total
            of_query = self._scale(left, square)
            if scale is None or of_query is None:
                return moved, left
            return moved * of_query[..., None] * scale[:, None], left * of_query.square()

        return centred, place

    def of_gram(self, gram: Float[Tensor, "E T T"], clips: int) -> Float[Tensor, "E T T"]:
        """The same for the products of all points, of which the first so many are shots."""
        if not self.by_episode:
            return gram
        along = gram[..., :clips].mean(-1)
        total = along[:, :clips].mean(-1)[:, None, None]
        own = gram.diagonal(dim1=1, dim2=2)
        gram = gram - along[..., None] - along[:, None] + total
        scale = self._scale(gram.diagonal(dim1=1, dim2=2), own)
        return gram if scale is None else scale[..., None] * gram * scale[:, None]

    def centres(
        self, raised: Float[Tensor, "E N K D"], context: Context
    ) -> tuple[Float[Tensor, "..."] | None, Float[Tensor, "..."] | None]:
        """What shots and queries lose, each with the axes of its vectors."""
        if self.centre == "base":
            return context.base_means()
        if self.centre == "none":
            return None, None
        share = raised.new_ones(*raised.shape[:3], 1)
        if context.mask is not None:
            share = context.mask.to(raised)[..., None]
        mean = (raised * share).sum((1, 2)) / share.sum((1, 2))
        return mean[:, None, None], mean[:, None]

    def placed(
        self,
        raised: Float[Tensor, "*V D"],
        centre: Float[Tensor, "..."] | None,
        context: Context,
    ) -> Float[Tensor, "*V D"]:
        """Vectors less their centre, at their length."""
        if centre is None:
            return self.scaled(raised, context.modality_dims)
        moved = raised - centre
        if self.length:  # else rounding would be made a vector of full length
            rounding = ROUNDING * torch.finfo(moved.dtype).eps
            least = rounding * torch.maximum(raised.abs(), centre.abs())
            moved = torch.where(moved.abs() > least, moved, 0)
        return self.scaled(moved, context.modality_dims)

    def _scale(
        self, square: Float[Tensor, "*E P"], before: Float[Tensor, "*E P"]
    ) -> Float[Tensor, "*E P"] | None:
        """1 / length of centred points, 0 where only rounding is left; None for no length."""
        if not self.length:
            return None
        least = ROUNDING * torch.finfo(square.dtype).eps * before
        tiny = torch.finfo(square.dtype).tiny
        return torch.where(square > least, square.clamp_min(tiny).rsqrt(), 0)

    def after(self, context: Context) -> Context:
        """The context as the core sees it, all centring done."""
        origin = context.origin
        if origin is not None:
            stays = self.centre == "none" and not self.length
            origin = self.raised(origin) if stays else None
        extra = {
            source: self.scaled(self.raised(x), context.modality_dims)
            for source, x in context.extra_shots.items()
        }
        return replace(
            context, support_mean=None, query_mean=None, origin=origin, extra_shots=extra
        )


class Transformed:
    """A head that sees vectors after a transform, and is otherwise what its core is."""

    def __init__(self, core: Head, transform: Transform) -> None:
        self.core = core
        self.transform = transform
        self.transductive = core.transductive
        self.centred_by = core.centred_by if transform.centre == "none" else transform.centre
        self.scale_free = (core.scale_free or transform.length != "") and not transform.floor
        self.ragged = bool(getattr(core, "ragged", False))
        self.by_products = isinstance(core, ProductHead) and core.by_products
        self.by_gram = isinstance(core, GramHead) and core.by_gram
        self.by_means = bool(getattr(core, "by_means", False)) and not transform.by_episode

    def fit(self, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
        """Fit the core on transformed shots; returns its scores of transformed queries."""
        shots, place = self.transform.fitted(support, context)
        predict = self.core.fit(shots, self.transform.settled(context, support).after(context))
        return lambda query: predict(place(query))

    def embed(
        self, support: Float[Tensor, "V D"], query: Float[Tensor, "W D"], context: Context
    ) -> tuple[Float[Tensor, "V D"], Float[Tensor, "W D"]]:
        """The steps that need no episode, then the core's own."""
        assert isinstance(self.core, ProductHead | GramHead)
        transform = self.transform.settled(context, support)
        support, query = transform.raised(support), transform.raised(query)
        if transform.by_episode:
            if context.origin is not None:  # no answer changes, and products lose fewer bits
                origin = transform.raised(context.origin)
                support, query = support - origin, query - origin
        else:
            of_support, of_query = transform.centres(support[None, None], context)
            support = transform.placed(support, of_support, context)
            query = transform.placed(query, of_query, context)
        return self.core.embed(support, query, transform.after(context))

    def fit_products(self, products: Float[Tensor, "E S S"], ways: int) -> PredictFromProducts:
        """Fit the core on the products that transformed shots have."""
        assert isinstance(self.core, ProductHead)
        products, place = self.transform.of_products(products)
        predict = self.core.fit_products(products, ways)
        return lambda query, square: predict(*place(query, square))

    def from_gram(
        self, gram: Float[Tensor, "E T T"], ways: int, shots: int
    ) -> Float[Tensor, "E M N"]:
        """The core's scores from the products that transformed points have."""
        assert isinstance(self.core, GramHead)
        return self.core.from_gram(self.transform.of_gram(gram, ways * shots), ways, shots)


class TransformedExtra(Transformed):
    """The same for a head that learns from extra shots."""

    def __init__(self, core: ExtraShotsHead, transform: Transform) -> None:
        super().__init__(core, transform)
        self.extra_shots = core.extra_shots


def is_skewed(x: Float[Tensor, "*V D"]) -> bool:
    """Whether the numbers of vectors are skewed to the right: their mean skewness over clips,
    corrected for few of these (G1 of Joanes and Gill, 1998)."""
    flat = x.flatten(0, -2)
    clips = len(flat)
    if clips < 3:
        return False
    square, cube = (flat.new_zeros(flat.shape[1], dtype=torch.float64) for _ in range(2))
    mean = flat.mean(0)
    for part in torch.split(flat, CLIPS_AT_ONCE):
        off = part - mean
        square += off.square().sum(0)
        cube += off.pow(3).sum(0)
    varies = square > clips * torch.finfo(flat.dtype).eps ** 2 * mean.square()
    if not bool(varies.any()):
        return False
    of_number = (cube / clips)[varies] / (square / clips)[varies].pow(1.5)
    corrected = of_number * (clips * (clips - 1)) ** 0.5 / (clips - 2)
    return bool(corrected.clamp(-MOST_SKEWED, MOST_SKEWED).mean() > SKEWNESS)


def known_of(vectors: Float[Tensor, "V D"], modality_dims: tuple[int, ...]) -> Context:
    """What a head may know of these clips beside the shots, where there is no base split."""
    return Context(modality_dims=modality_dims, origin=vectors.mean(0), skewed=is_skewed(vectors))


def transformed(core: Head, transform: Transform) -> Head:
    """The head that sees vectors after the transform; the core itself where that is none."""
    if transform.changes_nothing:
        return core
    if isinstance(core, ExtraShotsHead):
        return TransformedExtra(core, transform)
    return Transformed(core, transform)


def taken_apart(head: Head) -> tuple[Head, Transform]:
    """The core of a head and the transform before it."""
    if isinstance(head, Transformed):
        return head.core, head.transform
    return head, Transform()
