"""A conditional generator: what else a class may look like, learnt from pairs of base clips.

A conditional variational autoencoder is trained on pairs of clips of one base class: given one, it
describes the other by few numbers and rebuilds it from these and the first. Of a shot it makes
`count` others of the same class, from numbers drawn at random.

The cost of a pair is the squared error over the vector plus `weight` times the divergence of the
description from a standard Gaussian; vectors are brought to mean 0 and deviation 1 by the base.

Source: Sohn et al., NeurIPS 2015, "Learning Structured Output Representation using Deep Conditional
Generative Models", equation 4; as a source of shots Schwartz et al., NeurIPS 2018, "Delta-encoder".
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from learn.fewshot.augmentations import Base, Make
from store.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the augmentation `generator`."""

    count: int = setting(16, at_least=1)  # features for each shot
    hidden: int = setting(256, at_least=1)
    latent: int = setting(16, at_least=1)
    weight: float = setting(1.0, at_least=0)  # of the divergence
    steps: int = setting(400, at_least=1)
    batch_size: int = setting(128, at_least=2)
    learning_rate: float = setting(1e-3, above=0)
    weight_decay: float = setting(1e-4, at_least=0)


class Network(nn.Module):
    """Encoder and decoder of pairs."""

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        self.describe = nn.Sequential(
            nn.Linear(2 * dim, config.hidden),
            nn.ReLU(),
            nn.Linear(config.hidden, 2 * config.latent),
        )
        self.rebuild = nn.Sequential(
            nn.Linear(dim + config.latent, config.hidden), nn.ReLU(), nn.Linear(config.hidden, dim)
        )

    def cost(
        self,
        other: Float[Tensor, "B D"],
        given: Float[Tensor, "B D"],
        noise: Float[Tensor, "B Z"],
        weight: float,
    ) -> Float[Tensor, ""]:
        """The bound of Sohn et al. (2015), equation 4, with its signs turned; a mean over pairs."""
        mean, log_variance = self.describe(torch.cat([other, given], 1)).chunk(2, 1)
        drawn = mean + (log_variance / 2).exp() * noise
        error = (self.rebuild(torch.cat([drawn, given], 1)) - other).square().sum(1)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return (error + weight * divergence).mean()


@dataclass(frozen=True, slots=True)
class Generator:
    """A conditional generator with these settings."""

    config: Config

    def learn(self, base: Base, seed: int) -> Make:
        """Train on pairs of the base classes."""
        c, x = self.config, base.vectors.float().cpu()
        mean, deviation = x.mean(0), x.std(0).clamp_min(1e-6)
        x = (x - mean) / deviation
        with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
            torch.manual_seed(seed)
            network = Network(x.shape[1], c)
            optimiser = torch.optim.AdamW(
                network.parameters(), lr=c.learning_rate, weight_decay=c.weight_decay
            )
            rng = np.random.default_rng(seed)
            for _ in range(c.steps):
                given, other = pairs(base.class_ids, c.batch_size, rng)
                noise = torch.randn(c.batch_size, c.latent)
                optimiser.zero_grad()
                torch.autograd.backward(network.cost(x[other], x[given], noise, c.weight))
                optimiser.step()
            drawn = torch.randn(c.count, c.latent)
        network.eval().requires_grad_(False)

        def make(support: Float[Tensor, "E N K D"]) -> Float[Tensor, "E N G D"]:
            network.to(support.device)
            centre, scale, z = (v.to(support) for v in (mean, deviation, drawn))
            shots = (support - centre) / scale
            made = [
                network.rebuild(torch.cat([one.expand(*shots.shape[:-1], -1), shots], -1))
                for one in z
            ]
            return torch.cat(made, 2) * scale + centre

        return make


def pairs(class_ids: np.ndarray, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Positions of clips and of others of the same class, classes drawn alike."""
    order = np.argsort(class_ids, kind="stable")
    sizes = np.bincount(class_ids)
    starts = np.cumsum(sizes) - sizes
    chosen = rng.choice(np.flatnonzero(sizes > 1), count)
    first = (rng.random(count) * sizes[chosen]).astype(np.int64)
    step = 1 + (rng.random(count) * (sizes[chosen] - 1)).astype(np.int64)
    second = (first + step) % sizes[chosen]
    found = (torch.from_numpy(order[starts[chosen] + at]) for at in (first, second))
    given, other = found
    return given, other


def build(config: Config) -> Generator:
    """The augmentation with these settings."""
    return Generator(config)
