"""Shared parts of transductive heads: the points of an episode and their inner products.

Shapes: as in the package; T = S + M points, the shots class by class, then the queries. Class
means are kept as weights of the points (E N T), so that no vector is needed, only products.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from learn.fewshot.heads import Context, GramHead, Predict

CACHE_BYTES = 6 * 2**20  # vectors worked through at once on a CPU


def at_once(support: Float[Tensor, "E N K D"], query: Float[Tensor, "E M D"]) -> int:
    """The number of episodes whose vectors fit into a CPU's cache; all of them on other devices."""
    if support.device.type != "cpu":
        return max(1, len(support))
    of_one = (support[:1].numel() + query[:1].numel()) * support.element_size()
    return max(1, CACHE_BYTES // max(1, of_one))


def fit_by_gram(head: GramHead, support: Float[Tensor, "E N K D"], context: Context) -> Predict:
    """`Head.fit` for a Gram head: embed, multiply, and let `from_gram` do the rest."""
    ways, shots, dim = support.shape[1:]
    nothing = support.new_zeros(0, dim)
    head.embed(nothing, nothing, context)  # if it refuses the context, it does so now

    def predict(query: Float[Tensor, "E M D"]) -> Float[Tensor, "E M N"]:
        points = ways * shots + query.shape[1]
        gram = support.new_empty(len(support), points, points)
        size = at_once(support, query)
        for first in range(0, len(support), size):
            s, q = support[first : first + size].flatten(1, 2), query[first : first + size]
            left, right = head.embed(s.reshape(-1, dim), q.reshape(-1, dim), context)
            x = torch.cat([left.view(s.shape), right.view(q.shape)], 1)
            gram[first : first + size] = x @ x.mT
        return head.from_gram(gram, ways, shots)

    return predict


def shot_labels(gram: Float[Tensor, "E T T"], ways: int, shots: int) -> Float[Tensor, "N T"]:
    """1 where a point is a shot of a class, else 0."""
    labels = gram.new_zeros(ways, gram.shape[-1])
    of_shots = torch.eye(ways, dtype=gram.dtype, device=gram.device)
    labels[:, : ways * shots] = of_shots.repeat_interleave(shots, dim=1)
    return labels


def squared_distances(gram: Float[Tensor, "E T T"]) -> Float[Tensor, "E T T"]:
    """Squared distances between all points, never below zero."""
    square = gram.diagonal(dim1=1, dim2=2)
    return (square[:, None] + square[..., None] - 2 * gram).clamp_min_(0)


def with_means(
    weights: Float[Tensor, "*E N T"], gram: Float[Tensor, "E T T"]
) -> tuple[Float[Tensor, "E N T"], Float[Tensor, "E N"]]:
    """Products of class means with the points, and the means' squared lengths."""
    products = weights @ gram
    return products, (products * weights).sum(-1).clamp_min(0)


def cosines_to_means(
    weights: Float[Tensor, "*E N T"], gram: Float[Tensor, "E T T"]
) -> Float[Tensor, "E N T"]:
    """Cosines of class means with the points; 0 for what has no length."""
    products, square = with_means(weights, gram)
    of_points = gram.diagonal(dim1=1, dim2=2)[:, None]
    return products * inverse_root(square)[..., None] * inverse_root(of_points)


def inverse_root(square: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """1 / sqrt, and 0 where nothing but rounding is left."""
    floor = torch.finfo(square.dtype).tiny
    return torch.where(square > floor, square.clamp_min(floor).rsqrt(), 0)


def centred_sides(gram: Float[Tensor, "E T T"], clips: int) -> Float[Tensor, "E T T"]:
    """The products after support and query have each lost their own mean."""
    for _ in "rows", "columns":
        halves = gram[:, :clips], gram[:, clips:]
        gram = torch.cat([half - half.mean(1, keepdim=True) for half in halves], 1).mT
    return gram


def shifted(gram: Float[Tensor, "E T T"], clips: int) -> Float[Tensor, "E T T"]:
    """The products after the queries are moved so that both sides have one mean."""
    is_query = torch.arange(gram.shape[-1], device=gram.device) >= clips
    share = torch.where(is_query, -1 / (gram.shape[-1] - clips), 1 / clips).to(gram.dtype)
    move = gram @ share  # E T: products of the shift with each point
    moved = gram + is_query * move[..., None] + is_query[:, None] * move[:, None]
    return moved + (is_query & is_query[:, None]) * (move @ share)[:, None, None]


def neighbours(distance: Float[Tensor, "E T T"], k: int) -> Float[Tensor, "E T T"]:
    """1 in row i where j is one of the k nearest others of i, else 0.

    A point is not its own neighbour, and k others are k, not k - 1. Ties with the last count.
    """
    points = distance.shape[-1]
    others = distance.clone()
    others.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    k = min(k, points - 1)
    if k < 1:
        return others.new_zeros(others.shape)
    furthest = others.topk(k, largest=False).values[..., -1:]
    return (others <= furthest).to(distance.dtype)
