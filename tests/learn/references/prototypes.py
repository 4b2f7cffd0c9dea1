"""Prototypes by the definition, one query and one class at a time."""

import torch


def literal(support, query, context=None, *, metric: str = "euclidean", centre: str = "none"):
    """Scores of one episode."""
    if centre == "base":
        support, query = support - context.support_mean, query - context.query_mean
    if centre == "support":
        mean = support.flatten(0, 1).mean(0)
        support, query = support - mean, query - mean
    if metric == "cl2n":
        support = torch.stack(
            [
                torch.stack([unit_blocks(x, context.modality_dims) for x in shots])
                for shots in support
            ]
        )
        query = torch.stack([unit_blocks(x, context.modality_dims) for x in query])
    scores = torch.empty(len(query), len(support), dtype=query.dtype)
    for m, q in enumerate(query):
        for n, shots in enumerate(support):
            mean = sum(shots) / len(shots)
            if metric == "cosine":
                scores[m, n] = q @ mean / q.norm() / mean.norm()
            else:
                scores[m, n] = -((q - mean) ** 2).sum()
    return scores


def unit_blocks(x, blocks):
    left, right = x.split(blocks)
    return torch.cat([left / left.norm(), right / right.norm()])


def answers(support, query):
    return literal(support, query).argmax(-1)
