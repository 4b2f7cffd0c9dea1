"""Label propagation by the paper's iteration, written densely for one episode."""

import math

import torch


def literal(support, query, *, k: int = 10, alpha: float = 0.8, sigma: float = 0.5):
    """F <- alpha S F + (1 - alpha) Y until it rests, on a graph built edge by edge."""
    ways, shots, _ = support.shape
    points = [x / x.norm() for x in (*support.flatten(0, 1), *query)]
    count = len(points)
    d2 = [[float((a - b) @ (a - b)) for b in points] for a in points]
    edges = set()
    for i in range(count):
        others = sorted((j for j in range(count) if j != i), key=lambda j: d2[i][j])
        for j in others[:k]:
            edges |= {(i, j), (j, i)}
    width = 2 * sigma**2 * sum(d2[i][j] for i, j in edges) / len(edges)
    W = torch.zeros(count, count, dtype=torch.float64)
    for i, j in edges:
        W[i, j] = math.exp(-d2[i][j] / width)
    root = torch.diag(W.sum(1) ** -0.5)
    S = root @ W @ root
    Y = torch.zeros(count, ways, dtype=torch.float64)
    for i in range(ways * shots):
        Y[i, i // shots] = 1
    F = Y
    for _ in range(3000):
        F = alpha * S @ F + (1 - alpha) * Y
    return F[ways * shots :] / (1 - alpha)


def answers(support, query):
    return literal(support, query).argmax(-1)
