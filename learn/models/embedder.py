"""The common space: stored rows of every modality in, vectors that can be compared out.

Either a tower for each modality, or one network that sees all of them.

Shapes: V = clips, B = clips of a batch, D = stored size, E = embedding size.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learn.data.clips import CLIPS_AT_ONCE, Padded
from learn.data.streaming import Stored
from learn.models.networks import Network
from learn.models.tower import Standardiser, Tower
from learn.training.recipe import Recipe
from store import plugins
from store.errors import ConfigError


class Embedder(nn.Module):
    """What a recipe trains beside its objective. `outputs` are the sizes of its vectors, `hidden`
    those of what a network gives beside them.
    """

    outputs: Mapping[str, int]
    hidden: Mapping[str, int]

    def __init__(self, recipe: Recipe, dims: Mapping[str, int]) -> None:
        super().__init__()
        self.modalities = tuple(dims)
        self.hidden = {}
        self.joint = recipe.network is not None
        if recipe.network is None:
            for modality, dim in dims.items():
                self.add_module(modality, Tower(recipe.projection[modality], dim))
            self.outputs = {m: self._tower(m).projection.dim_out for m in dims}
        else:
            self.standard = nn.ModuleDict({m: Standardiser(dim) for m, dim in dims.items()})
            self.network: Network = plugins.build("learn.models.networks", recipe.network, dims)
            self.outputs = dict(self.network.outputs)
            self.hidden = dict(self.network.hidden)

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        if not self.joint:
            return {m: self._tower(m)(*inputs[m]) for m in self.modalities if m in inputs}
        known = {m: x for m, x in inputs.items() if m in self.modalities}
        return self.network(
            {m: x._replace(rows=self.of(m).standardised(x.rows)) for m, x in known.items()}
        )

    def of(self, modality: str) -> Standardiser:
        """Mean and deviation of a modality's rows."""
        part = self.standard[modality] if self.joint else self._tower(modality)
        assert isinstance(part, Standardiser)
        return part

    @torch.inference_mode()
    def embed(self, rows: Mapping[str, Stored]) -> dict[str, Float[Tensor, "V _"]]:
        """The vectors of every clip, in eval mode."""
        self.eval()
        if not rows:
            return {}
        (clips,) = {len(some) for some in rows.values()}
        device = next(iter(rows.values())).device
        found = [
            self({m: one.padded(places) for m, one in rows.items()})
            for places in torch.split(torch.arange(clips, device=device), CLIPS_AT_ONCE)
        ]
        names = [name for name in found[0] if name in self.outputs]
        return {name: torch.cat([some[name] for some in found]) for name in names}

    def part(self, name: str) -> nn.Module:
        """A part that a stage may train by name.

        Raises:
            ConfigError: says which there are.
        """
        known = ("network",) if self.joint else self.modalities
        if name not in known:
            raise ConfigError(f"no part {name!r} to train; there are {', '.join(known)}, objective")
        return self.get_submodule(name)

    def _tower(self, modality: str) -> Tower:
        tower = self.get_submodule(modality)
        assert isinstance(tower, Tower)
        return tower
