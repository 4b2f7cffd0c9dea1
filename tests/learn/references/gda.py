"""Gaussian discriminant analysis with its D by D covariance, one episode at a time."""

import torch


def scores(support, query):
    """w_k . x + b_k of one episode, the inverse covariance made as published."""
    ways, shots, dim = support.shape
    mean = support.mean(1)
    off = (support - mean[:, None]).flatten(0, 1)
    clips = ways * shots
    if shots == 1:
        inverse = torch.eye(dim, dtype=support.dtype)
    else:
        covariance = off.T @ off / (clips - 1)
        level = covariance.trace() * torch.eye(dim, dtype=support.dtype)
        inverse = dim * torch.linalg.pinv((clips - 1) * covariance + level)
    found = torch.empty(len(query), ways, dtype=support.dtype)
    for m, q in enumerate(query):
        for k in range(ways):
            w = inverse @ mean[k]
            found[m, k] = w @ q - w @ mean[k] / 2
    return found


def answers(support, query):
    return scores(support, query).argmax(-1)
