"""One vector of all senses, of which each counts as much as the shots and what is known say.

Every sense goes through the head's own transform and is brought to length 1; then it is scaled by
the root of its weight, so that inner products mix as the weights say, and the head sees all of them
joined. Weights are of the episode (`_evidence.py`): at one shot a class they are the prior.

    prior=auto      classes of the collection that are not asked about, as far as there are any and
                    as many as they are; else as shipped
    prior=shipped   measured on other collections with these encoders, where there is a number; else
                    as equal
    prior=equal     each sense the same
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from learn.fewshot.fusions import PredictFused, Prior, View, needs_both
from learn.fewshot.fusions._evidence import (
    grid,
    left_out,
    log_likelihood,
    mixture,
    of_queries,
    weights_of,
)
from learn.fewshot.fusions._views import one_each
from learn.fewshot.heads import Context, Head
from learn.fewshot.heads._transform import Transform, taken_apart
from store.settings import Settings, setting

PRIORS = ("auto", "shipped", "equal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the fusion `weighted`."""

    prior: str = setting("auto", among=PRIORS, main=True)


class Weighted:
    """Senses mixed by weights of the episode."""

    weighs = True

    def __init__(self, config: Config) -> None:
        self.prior = config.prior

    def views(self, vectors: Mapping[str, Float[Tensor, "V _"]]) -> tuple[View, ...]:
        """The vectors of each sense."""
        return one_each(vectors)

    def lacks(self, known: Mapping[str, object]) -> str | None:
        """Several senses."""
        return needs_both(known)

    def weigh(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        prior: Prior,
    ) -> Float[Tensor, "E B"]:
        """The weights of each episode, from its shots and the prior."""
        products = products_of_shots(head, shots, contexts)
        masks = [context.mask for context in contexts]
        return weigh_products(products, shots[0].shape[1], prior, masks)

    def weigh_products(
        self,
        products: Sequence[Float[Tensor, "E S S"]],
        ways: int,
        prior: Prior,
        masks: Sequence[Bool[Tensor, "E N K"] | None] = (),
    ) -> Float[Tensor, "E B"]:
        """The same from the products of placed shots."""
        return weigh_products(products, ways, prior, masks)

    def fit(
        self,
        head: Head,
        shots: Sequence[Float[Tensor, "E N K _"]],
        contexts: Sequence[Context],
        weights: Float[Tensor, "E B"] | None = None,
    ) -> PredictFused:
        """Fit the head's core on the joined senses; without weights each counts the same."""
        return fit_joined(head, shots, contexts, weights)


def products_of_shots(
    head: Head, shots: Sequence[Float[Tensor, "E N K _"]], contexts: Sequence[Context]
) -> list[Float[Tensor, "E S S"]]:
    """The products of the shots in each sense, placed by the head's transform."""
    transform, products = of_blocks(head), []
    for x, context in zip(shots, contexts, strict=True):
        placed = transform.fitted(x, context)[0].flatten(1, 2)
        products.append(placed @ placed.mT)
    return products


def fit_joined(
    head: Head,
    shots: Sequence[Float[Tensor, "E N K _"]],
    contexts: Sequence[Context],
    weights: Float[Tensor, "E B"] | None,
) -> PredictFused:
    """The head's core on the joined senses; without weights each counts the same."""
    core, transform = taken_apart(head)[0], of_blocks(head)
    if weights is None:
        weights = shots[0].new_full((len(shots[0]), len(shots)), 1 / len(shots))
    roots = weights.to(shots[0]).sqrt()
    fitted = [transform.fitted(x, c) for x, c in zip(shots, contexts, strict=True)]
    settled = [transform.settled(c, x) for x, c in zip(shots, contexts, strict=True)]
    inner = _joined_context([t.after(c) for t, c in zip(settled, contexts, strict=True)], roots)
    blocks = [placed for placed, _ in fitted]
    masks = [context.mask for context in contexts]
    if any(mask is not masks[0] for mask in masks):  # what a shot lacks is where all shots' mean is
        blocks = [
            x if mask is None else x * mask[..., None]
            for x, mask in zip(blocks, masks, strict=True)
        ]
        inner = replace(inner, mask=any_of(masks))
    predict = core.fit(_mixed(blocks, roots), inner)

    def scores(
        queries: Sequence[Float[Tensor, "E M _"]], shares: Float[Tensor, "E M B"] | None = None
    ) -> Float[Tensor, "E M N"]:
        placed = [place(x) for (_, place), x in zip(fitted, queries, strict=True)]
        if shares is not None:
            placed = [x * shares[..., b, None] for b, x in enumerate(placed)]
        return predict(_mixed(placed, roots))

    return scores


def likelihood_of_queries(
    head: Head,
    shots: Sequence[Float[Tensor, "E N K _"]],
    queries: Sequence[Float[Tensor, "E M _"]],
    contexts: Sequence[Context],
    truth: Int[Tensor, "M"],
    sides: Sequence[Sequence[float]] | None = None,
) -> Float[Tensor, "E G T"]:
    """How likely every weight makes the known classes of queries: of classes that nobody asks
    about.

    With `sides` it is the weights of sides that are told, each of which is a mixture of senses: a
    weight for each sense.
    """
    scored, transform = [], of_blocks(head)
    for x, q, context in zip(shots, queries, contexts, strict=True):
        placed, place = transform.fitted(x, context)
        flat = placed.flatten(1, 2)
        scored.append(of_queries(flat @ flat.mT, place(q) @ flat.mT, truth, x.shape[1]))
    if sides is not None:
        scored = [mixture(scored, weights) for weights in sides]
    known = torch.ones(1, len(truth), dtype=torch.bool, device=truth.device)
    return log_likelihood(scored, truth, known, grid(len(scored)).to(shots[0]))


def of_blocks(head: Head) -> Transform:
    """The head's transform, for one sense alone: at its end each has length 1."""
    return replace(taken_apart(head)[1], length="unit")


def weigh_products(
    products: Sequence[Float[Tensor, "E S S"]],
    ways: int,
    prior: Prior,
    masks: Sequence[Bool[Tensor, "E N K"] | None] = (),
) -> Float[Tensor, "E B"]:
    """The weights of each episode, from the products of its placed shots in each sense.

    `masks` are of the shots that are no padding, in each sense: only a shot that has all of them
    says which is the better.
    """
    episodes, clips = products[0].shape[:2]
    shots = products[0].new_tensor(clips / ways)
    masks = masks or [None] * len(products)
    union = any_of(masks)
    if union is not None:
        shots = union.sum(2).to(products[0]).mean(1)
    if clips <= ways * prior.alone_until:
        return products[0].new_tensor(prior.value).expand(episodes, -1)
    average = shots.expand(episodes)
    scored = [left_out(x, ways, mask, average) for x, mask in zip(products, masks, strict=True)]
    known = scored[0][1]
    if any(mask is not masks[0] for mask in masks):
        known = torch.stack([of.expand(episodes, -1) for _, of in scored]).all(0)
    truth = torch.arange(ways, device=products[0].device).repeat_interleave(clips // ways)
    weights = grid(len(products)).to(products[0])
    likelihood = log_likelihood([s for s, _ in scored], truth, known, weights)
    return weights_of(likelihood, prior, shots)


def any_of(masks: Sequence[Bool[Tensor, "E N K"] | None]) -> Bool[Tensor, "E N K"] | None:
    """The shots that have any of the senses; None where none is padding."""
    known = [mask for mask in masks if mask is not None]
    return torch.stack(known).any(0) if len(known) == len(masks) else None


def _mixed(
    blocks: Sequence[Float[Tensor, "E *P _"]], roots: Float[Tensor, "E B"]
) -> Float[Tensor, "E *P _"]:
    """Blocks end to end, each times its root in its episode."""
    lead = (-1, *(1,) * (blocks[0].ndim - 1))
    return torch.cat([x * roots[:, b].view(lead) for b, x in enumerate(blocks)], dim=-1)


def _joined_context(contexts: Sequence[Context], roots: Float[Tensor, "E B"]) -> Context:
    """The context of the joined senses."""
    extra = {
        source: _mixed([context.extra_shots[source] for context in contexts], roots)
        for source in contexts[0].extra_shots
    }
    dims = tuple(dim for context in contexts for dim in context.modality_dims)
    return replace(contexts[0], modality_dims=dims, origin=None, extra_shots=extra)


def build(config: Config) -> Weighted:
    """The fusion that these settings describe."""
    return Weighted(config)
