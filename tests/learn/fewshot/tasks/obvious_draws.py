"""The obvious draws of `_sampler.py`: a number for every place of every class of every episode."""

from collections import Counter

import numpy as np

from learn.fewshot.tasks._sampler import DEALS, EVEN


def uniform(self, rng, wanted, drawn, left, shots):
    """Draw the episodes `left` once; returns those that have too few queries."""
    if not len(left):
        return left
    classes, of_support, of_query = (part[left] for part in wanted)
    clips, mask = self.table[classes], self.mask[classes] & (classes >= 0)[..., None]
    may_support = mask & self.can_support[clips]
    support = chosen_(rng, clips, may_support, of_support, shots)
    taken = np.zeros((len(left), self.count + 1), bool)
    of_shots = np.where(support >= 0, self.groups[support], self.count).reshape(len(left), -1)
    np.put_along_axis(taken, of_shots, True, axis=1)
    rows = np.arange(len(left))[:, None, None]
    may_query = mask & self.can_query[clips] & ~taken[rows, self.groups[clips]]
    short = (may_support.sum(2) < of_support) | (may_query.sum(2) < of_query)
    done = ~short.any(1)
    drawn[left[done], :, :shots] = support[done]
    most = drawn.shape[2] - shots
    drawn[left[done], :, shots:] = chosen_(rng, clips[done], may_query[done], of_query[done], most)
    return left[~done]


def deal(self, rng, wanted, drawn, left, shots):
    """Deal groups to the two sides, again and again; returns the episodes never filled."""
    again = np.ones((len(left), self.count), bool)
    side = np.zeros_like(again)
    for deal in range(DEALS if len(left) else 0):
        classes, of_support, of_query = (part[left] for part in wanted)
        share = of_support.sum(1) / (of_support.sum(1) + of_query.sum(1))
        if deal >= EVEN:
            share = rng.random(len(left))
        side = np.where(again, rng.random(side.shape) < share[:, None], side)
        clips, mask = self.table[classes], self.mask[classes] & (classes >= 0)[..., None]
        theirs = side[np.arange(len(left))[:, None, None], self.groups[clips]]
        may_support, may_query = (
            mask & theirs & self.can_support[clips],
            mask & ~theirs & self.can_query[clips],
        )
        short = (may_support.sum(2) < of_support) | (may_query.sum(2) < of_query)
        done = ~short.any(1)
        for allowed, count, first, last in (
            (may_support, of_support, 0, shots),
            (may_query, of_query, shots, drawn.shape[2]),
        ):
            chosen = chosen_(rng, clips[done], allowed[done], count[done], last - first)
            drawn[left[done], :, first:last] = chosen
        if done.all():
            return left[:0]
        self.lacking = Counter(classes[short].tolist())
        bad = (short[..., None] & mask)[~done]
        left, side = left[~done], side[~done]
        again = np.zeros_like(side)
        again[np.nonzero(bad)[0], self.groups[clips[~done][bad]]] = True
    return left


def chosen_(rng, clips, allowed, counts, most):
    """`counts` of the allowed clips, each equally likely, then -1."""
    key = np.where(allowed, rng.random(allowed.shape), 2.0)
    order = np.argsort(key, axis=2)[:, :, :most]  # only clips not allowed tie
    chosen = np.full((*counts.shape, most), -1, np.int32)
    chosen[:, :, : order.shape[2]] = np.take_along_axis(clips, order, axis=2)
    return np.where(np.arange(most) < counts[..., None], chosen, np.int32(-1))
