"""The cross-modal probe by PyTorch: a layer, autograd and AdamW, one episode."""

import torch
import torch.nn.functional as F


def literal(
    support, query, beside=(), *, names=None, scale: float = 100.0, steps: int = 100,
    lr: float = 1e-3, weight_decay: float = 0.01, wise: float = 1.0,
):  # fmt: skip
    """Logits of the queries; `beside` are N K D each, `names` N D."""
    sources = [support, *beside] + ([] if names is None else [names[:, None]])
    sources = [x / x.norm(dim=-1, keepdim=True) for x in sources]
    start = torch.cat(sources, 1).mean(1) if names is None else names
    start = start / start.norm(dim=-1, keepdim=True)
    weight = start.clone().requires_grad_()
    adamw = torch.optim.AdamW([weight], lr=lr, weight_decay=weight_decay)
    for _ in range(steps):
        costs = []
        for x in sources:
            labels = torch.arange(len(x)).repeat_interleave(x.shape[1])
            costs.append(F.cross_entropy(scale * x.flatten(0, 1) @ weight.T, labels))
        adamw.zero_grad()
        (sum(costs) / len(costs)).backward()
        adamw.step()
    final = wise * weight.detach() + (1 - wise) * start
    return scale * query / query.norm(dim=-1, keepdim=True) @ final.T


def answers(support, query):
    return literal(support, query).argmax(-1)
