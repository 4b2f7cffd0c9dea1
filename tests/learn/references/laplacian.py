"""LaplacianShot by its algorithm, query by query, one episode."""

import math

import torch


def softmax(values):
    exps = [math.exp(v - max(values)) for v in values]
    return [e / sum(exps) for e in exps]


def rectified(support, query, means):
    """Each class's mean over its shots and predicted queries x of p(class | x) x."""
    ways = len(means)

    def p(x):
        return softmax([10 * float(x @ m / (x.norm() * m.norm())) for m in means])

    members = [list(support[n]) for n in range(ways)]
    for x in query:
        members[max(range(ways), key=p(x).__getitem__)].append(x)
    return [sum(p(x)[n] * x for x in members[n]) / len(members[n]) for n in range(ways)]


def literal(
    support, query, *, k: int = 3, lmd: float = 0.5, steps: int = 20, rectify: bool = False
):
    ways, shots, dim = support.shape
    support = torch.stack([x / x.norm() for x in support.flatten(0, 1)]).view(ways, shots, dim)
    query = torch.stack([x / x.norm() for x in query])
    means = [support[n].mean(0) for n in range(ways)]
    if rectify:
        query = query + (support.flatten(0, 1).mean(0) - query.mean(0))
        means = rectified(support, query, means)
    unary = [[float((x - m) @ (x - m)) for m in means] for x in query]
    near = []
    for i, x in enumerate(query):
        others = sorted(
            (j for j in range(len(query)) if j != i), key=lambda j: float((x - query[j]).norm())
        )
        near.append(others[:k])
    Y = [softmax([-a for a in row]) for row in unary]
    for _ in range(steps):
        Y = [
            softmax([-unary[i][n] + lmd * sum(Y[j][n] for j in near[i]) for n in range(ways)])
            for i in range(len(query))
        ]
    return torch.tensor(Y, dtype=torch.float64)


def answers(support, query):
    return literal(support, query).argmax(-1)
