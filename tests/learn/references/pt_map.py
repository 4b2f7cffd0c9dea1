"""PT-MAP by the paper, in vectors, one episode."""

import torch


def power_transform(x, beta: float):
    x = torch.where(x < 0, -((x.abs() + 1e-6) ** beta), (x.abs() + 1e-6) ** beta)
    return x / x.norm(dim=-1, keepdim=True)


def centred(x):
    x = x - x.mean(0)
    return x / x.norm(dim=-1, keepdim=True)


def sinkhorn(cost, lmd: float, per_class: float):
    P = torch.exp(-lmd * cost)
    P = P / P.sum()
    before = torch.zeros(len(P), dtype=P.dtype)
    for _ in range(1000):
        if (before - P.sum(1)).abs().max() <= 1e-6:
            break
        before = P.sum(1)
        P = P / before[:, None]
        P = P * (per_class / P.sum(0))
    return P


def literal(support, query, *, beta=0.5, lmd=10.0, alpha=0.2, steps=20):
    ways, shots, _ = support.shape
    z_S = centred(power_transform(support.flatten(0, 1), beta))
    z_Q = centred(power_transform(query, beta))
    y_SN = torch.eye(ways, dtype=z_S.dtype).repeat_interleave(shots, dim=0)
    means = torch.stack([z_S[y_SN[:, n] == 1].mean(0) for n in range(ways)])

    def plan():
        cost = torch.stack([((z_Q - mean) ** 2).sum(-1) for mean in means], -1)
        return sinkhorn(cost, lmd, len(z_Q) / ways)

    for _ in range(steps):
        P = plan()
        estimates = [
            (y_SN[:, n] @ z_S + P[:, n] @ z_Q) / (y_SN[:, n].sum() + P[:, n].sum())
            for n in range(ways)
        ]
        means = means + alpha * (torch.stack(estimates) - means)
    return plan()


def answers(support, query):
    return literal(support, query).argmax(-1)
