"""The perceptron of networks that need no more for a modality."""

from torch import nn


def perceptron(dim_in: int, hidden: int, dim_out: int, *, dropout: float) -> nn.Sequential:
    """A hidden layer with ReLU and dropout, and a linear one."""
    return nn.Sequential(
        nn.Linear(dim_in, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim_out)
    )
