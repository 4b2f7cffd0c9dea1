"""TIM-GD by the paper: its loss, autograd and PyTorch's Adam, one episode."""

import torch


def literal(support, query, *, temperature=15.0, lmd=0.1, alpha=0.1, steps=150, lr=1e-4):
    """Probabilities of the queries after the last step."""
    ways, shots, _ = support.shape
    support = support / support.norm(dim=-1, keepdim=True)
    query = query / query.norm(dim=-1, keepdim=True)
    z_S, y_S = support.flatten(0, 1), torch.arange(ways).repeat_interleave(shots)
    w = support.mean(1).clone().requires_grad_()
    adam = torch.optim.Adam([w], lr=lr)

    def p(z):
        return torch.softmax(-temperature / 2 * ((z[:, None] - w[None]) ** 2).sum(-1), dim=-1)

    for _ in range(steps):
        p_S, p_Q = p(z_S), p(query)
        cross_entropy = -torch.stack([p_S[i, y].log() for i, y in enumerate(y_S)]).mean()
        conditional = -(p_Q * p_Q.log()).sum(-1).mean()
        marginal_N = p_Q.mean(0)
        marginal = -(marginal_N * marginal_N.log()).sum()
        adam.zero_grad()
        (lmd * cross_entropy - (marginal - alpha * conditional)).backward()
        adam.step()
    return p(query).detach()


def answers(support, query):
    return literal(support, query).argmax(-1)
