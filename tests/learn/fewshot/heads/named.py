"""Made-up episodes whose classes have names."""

import torch

from learn.fewshot.heads import Context
from store import plugins


def task(shots, *, ways=4, count=2, dim=12):
    """Support, query, the same clips in another modality, and names."""
    rng = torch.Generator().manual_seed(shots)

    def vectors(*shape):
        return torch.randn(count, *shape, dim, generator=rng, dtype=torch.float64)

    return vectors(ways, shots), vectors(13), vectors(ways, shots), vectors(ways)


def informed(shots, *, ways=5, count=100, queries=5, dim=24, spread=2.0, off=0.7):
    """Support, query and names around centres of classes, names nearer to them than clips are."""
    rng = torch.Generator().manual_seed(shots)
    centre = torch.randn(count, ways, 1, dim, generator=rng)
    clips = centre + spread * torch.randn(count, ways, shots + queries, dim, generator=rng)
    names = centre[:, :, 0] + off * torch.randn(count, ways, dim, generator=rng)
    return clips[:, :, :shots].contiguous(), clips[:, :, shots:].flatten(1, 2), names


def accuracy(spec, episodes):
    """The share of right answers, without the names and with them."""
    support, query, names = episodes
    ways, dim = support.shape[1], support.shape[-1]
    answer = torch.arange(ways).repeat_interleave(query.shape[1] // ways)
    head = plugins.build("learn.fewshot.heads", spec)
    for extra in ({}, {"names": names[:, :, None]}):
        scores = head.fit(support, Context(modality_dims=(dim,), extra_shots=extra))(query)
        yield float((scores.argmax(-1) == answer).float().mean())
