"""BD-CSPN by its equations, class by class and clip by clip, one episode."""

import math

import torch


def cosine(a, b) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def literal(support, query, *, top: int = 8, epsilon: float = 10.0):
    ways, shots, dim = support.shape
    support = torch.stack([x / x.norm() for x in support.flatten(0, 1)]).view(ways, shots, dim)
    query = torch.stack([x / x.norm() for x in query])
    query = query + support.flatten(0, 1).mean(0) - query.mean(0)
    basic = [support[n].mean(0) for n in range(ways)]
    chosen = {n: [] for n in range(ways)}
    for x in query:
        exps = [math.exp(cosine(x, p)) for p in basic]
        n = max(range(ways), key=exps.__getitem__)
        chosen[n].append((exps[n] / sum(exps), x))
    rectified = []
    for n in range(ways):
        surest = sorted(chosen[n], key=lambda pair: -pair[0])[: top or None]
        members = [*support[n], *(x for _, x in surest)]
        weights = [math.exp(epsilon * cosine(x, basic[n])) for x in members]
        rectified.append(sum(w * x for w, x in zip(weights, members, strict=True)) / sum(weights))
    return torch.tensor([[cosine(x, p) for p in rectified] for x in query], dtype=torch.float64)


def answers(support, query):
    return literal(support, query).argmax(-1)
