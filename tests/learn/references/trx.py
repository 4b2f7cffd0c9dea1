"""TRX by the paper: one query, one class, one tuple after another."""

from itertools import combinations

import torch
import torch.nn.functional as F


def literal(trx, query, support):
    """Scores of the queries M D, from shots N K D, by the weights of a `TRX`."""
    frames, dim = trx.config.frames, trx.dim

    def sequence(x):
        x = x / x.norm() * len(x) ** 0.5
        return x.view(frames, dim) + trx.waves

    scores = torch.zeros(len(query), len(support), dtype=query.dtype)
    for part, size in zip(trx.tuples, trx.config.sizes, strict=True):
        orders = list(combinations(range(frames), size))

        def tuples(x, orders=orders):
            clip = sequence(x)
            return [torch.cat([clip[t] for t in order]) for order in orders]

        def key(t, part=part):
            k = part.to_keys(t)
            return F.layer_norm(k, k.shape, part.norm.weight, part.norm.bias)

        for m, q in enumerate(query):
            for n, shots in enumerate(support):
                of_class = [t for shot in shots for t in tuples(shot)]
                keys = torch.stack([key(t) for t in of_class])
                values = torch.stack([part.to_values(t) for t in of_class])
                square = 0.0
                for t in tuples(q):
                    weight = (keys @ key(t) / len(keys[0]) ** 0.5).softmax(0)
                    square += ((part.to_values(t) - weight @ values) ** 2).sum()
                scores[m, n] -= square / len(orders) / len(trx.tuples)
    return scores
