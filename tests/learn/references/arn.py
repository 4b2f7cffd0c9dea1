"""ARN by the paper: one query, one class, one frame after another."""

import torch


def matrix(arn, x):
    """Of one clip."""
    frames, dim = arn.config.frames, arn.dim
    clip = (x / x.norm() * len(x) ** 0.5).view(frames, dim)
    total = torch.zeros(dim, dim, dtype=x.dtype)
    for frame in clip:
        weighted = frame * (1 + arn.attention(frame))
        total += torch.outer(weighted, weighted) / frames
    spread = torch.empty_like(total)
    for i in range(dim):
        for j in range(dim):
            scaled = arn.config.sharpness * total[i, j] / total.trace()
            spread[i, j] = 2 / (1 + torch.exp(-scaled)) - 1
    return spread


def literal(arn, query, support):
    """Scores of the queries M D, from shots N K D, by the weights of an `ARN`."""
    scores = torch.empty(len(query), len(support), dtype=query.dtype)
    for m, q in enumerate(query):
        for n, shots in enumerate(support):
            of_class = sum(matrix(arn, shot) for shot in shots) / len(shots)
            picture = torch.stack([of_class, matrix(arn, q)])[None]
            scores[m, n] = arn.relation(picture).squeeze()
    return scores
