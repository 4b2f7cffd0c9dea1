"""Fine-tuning by PyTorch: a layer, autograd and an optimiser, one episode."""

import torch
import torch.nn.functional as F


class Cosine(torch.nn.Module):
    """Chen et al.'s Baseline++: directions compared, at a fixed scale."""

    def __init__(self, means, scale):
        super().__init__()
        self.weight, self.scale = torch.nn.Parameter(means.clone()), scale

    def forward(self, x):
        return self.scale * F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=-1).T


def literal(
    support, query, *, classifier: str = "linear", method: str = "sgd", steps: int = 100,
    lr: float = 1.0, momentum: float = 0.9, weight_decay: float = 1e-3, scale: float = 10.0,
):  # fmt: skip
    """Logits of the queries after the last step."""
    ways, shots, dim = support.shape
    support = support / support.norm(dim=-1, keepdim=True)
    query = query / query.norm(dim=-1, keepdim=True)
    if classifier == "cosine":
        model = Cosine(support.mean(1), scale)
    else:
        model = torch.nn.Linear(dim, ways, dtype=support.dtype)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
    learnt = list(model.parameters())
    optimiser = {
        "sgd": lambda: torch.optim.SGD(learnt, lr=lr, momentum=momentum, weight_decay=weight_decay),
        "adam": lambda: torch.optim.Adam(learnt, lr=lr, weight_decay=weight_decay),
        "adamw": lambda: torch.optim.AdamW(learnt, lr=lr, weight_decay=weight_decay),
    }[method]()
    labels = torch.arange(ways).repeat_interleave(shots)
    for _ in range(steps):
        optimiser.zero_grad()
        F.cross_entropy(model(support.flatten(0, 1)), labels).backward()
        optimiser.step()
    return model(query).detach()


def answers(support, query):
    return literal(support, query).argmax(-1)
