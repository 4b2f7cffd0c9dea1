"""The common space: stored rows of every modality in, vectors that can be compared out.

Either a tower for each modality, which standardises its rows and projects them, or one network that
sees all of them.

Shapes: V = clips, B = clips of a batch, T = rows (padded), D = stored size, E = embedding size.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learn.data.devices import sent
from learn.data.rows import CLIPS_AT_ONCE, Padded
from learn.data.streaming import Stored
from learn.models.means import Means, Standardised
from learn.models.networks import Network
from learn.models.projections import Projection, Residual, mean_of_rows
from learn.models.projections._residual import blocks, principal_components
from learn.models.projections.whiten import Whiten
from store import plugins
from store.errors import ConfigError


class Standardiser(nn.Module):
    """Mean and deviation of the training rows, so that features of any scale train alike. A
    dimension that never varied passes unscaled. With `together` all dimensions have one deviation,
    so that clips stay as alike as their rows are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim_in: int, *, together: bool = False) -> None:
        super().__init__()
        self.together = together
        self.register_buffer("mean", torch.zeros(dim_in))
        self.register_buffer("deviation", torch.ones(dim_in))

    def standardised(self, rows: Float[Tensor, "*any D"]) -> Float[Tensor, "*any D"]:
        """Rows less the mean, in units of the deviation."""
        return rows.sub(self.mean).div_(self.deviation)  # one new array, not two

    def ready(self, rows: Padded) -> Padded:
        """The rows standardised, unless they are."""
        if isinstance(rows, Standardised):
            return rows
        return Standardised(self.standardised(rows.rows), rows.mask, rows.seconds)

    @torch.no_grad()
    def means(self, rows: Stored) -> Means:
        """The mean of every clip's standardised rows, where the rows are."""
        means = torch.zeros(len(rows), rows.dim, device=rows.device)
        for indices, padded in rows.pieces():
            ready = self.ready(padded)
            means.index_copy_(0, sent(indices, rows.device), mean_of_rows(ready.rows, ready.mask))
        return Means(values=means, present=sent(rows.counts > 0, rows.device))

    def measure(self, rows: Stored) -> None:
        """Take mean and deviation from these rows, in double precision and two passes."""
        count = int(rows.counts.sum())
        nothing = torch.zeros(rows.dim, dtype=torch.float64, device=rows.device)
        mean = sum((part.double().sum(0) for part in rows.chunks()), nothing) / count
        square = sum(((part.double() - mean).square().sum(0) for part in rows.chunks()), nothing)
        variance = square / count
        deviation = (variance.mean().expand_as(variance) if self.together else variance).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation)))


class Tower(Standardiser):
    """A projection behind the mean and deviation of its training rows."""

    def __init__(self, projection: plugins.Spec, dim_in: int) -> None:
        built: Projection = plugins.build("learn.models.projections", projection, dim_in)
        super().__init__(dim_in, together=isinstance(built, Residual) and built.start is not None)
        self.projection = built
        self.raw = isinstance(built, Whiten)  # which has a centre of its own, behind a power

    def measure(self, rows: Stored) -> None:
        """Take mean and deviation from these rows, unless the projection wants them as they are."""
        if not self.raw:
            super().measure(rows)

    def forward(self, rows: Padded) -> Float[Tensor, "B E"]:
        """Standardise the rows, then project them."""
        return self.projection(*self.ready(rows))


class Embedder(nn.Module):
    """The map from stored rows to the common space, which a recipe trains beside its objective.
    `outputs` are the sizes of its vectors, `hidden` those of a network's further vectors."""

    outputs: Mapping[str, int]
    hidden: Mapping[str, int]
    of_means: bool  # it looks at nothing but the mean of each modality's rows

    def __init__(
        self,
        projections: Mapping[str, plugins.Spec],  # by modality, for all its senses
        network: plugins.Spec | None,  # instead of projections
        dims: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.modalities = tuple(dims)
        self.hidden = {}
        self.joint = network is not None
        if network is None:
            for sense, dim in dims.items():
                spec = _of_one_size(projections[sense.partition(" ")[0]], dims)
                self.add_module(sense, Tower(spec, dim))
            self.outputs = {m: self._tower(m).projection.dim_out for m in dims}
            used = {projections[m.partition(" ")[0]].name for m in dims}
            self.of_means = all(_is_of_means("learn.models.projections", name) for name in used)
        else:
            self.standard = nn.ModuleDict({m: Standardiser(dim) for m, dim in dims.items()})
            self.network: Network = plugins.build("learn.models.networks", network, dims)
            self.outputs = dict(self.network.outputs)
            self.hidden = dict(self.network.hidden)
            self.of_means = _is_of_means("learn.models.networks", network.name)

    def forward(self, inputs: Mapping[str, Padded]) -> dict[str, Float[Tensor, "B _"]]:
        """The vectors of every output, from padded rows by modality."""
        if not self.joint:
            return {m: self._tower(m)(inputs[m]) for m in self.modalities if m in inputs}
        known = {m: x for m, x in inputs.items() if m in self.modalities}
        return self.network({m: self.of(m).ready(x) for m, x in known.items()})

    def of(self, modality: str) -> Standardiser:
        """The standardiser of a modality's rows."""
        part = self.standard[modality] if self.joint else self._tower(modality)
        assert isinstance(part, Standardiser)
        return part

    def measure(self, rows: Mapping[str, Stored]) -> None:
        """Take all that comes from the training rows: means, deviations, and where residual
        projections start."""
        for modality, stored in rows.items():
            self.of(modality).measure(stored)
        if self.joint:
            return
        for modality, (first, size) in self._blocks().items():
            tower = self._tower(modality)
            start = tower.projection.start if isinstance(tower.projection, Residual) else None
            if start is not None and start.map is not None:
                start.place(principal_components(_covariance(tower, rows[modality]), size), first)

    def firsts(self) -> dict[str, int]:
        """The first dimension of every modality's own block of the common space."""
        return {modality: first for modality, (first, _) in self._blocks().items()}

    def _blocks(self) -> dict[str, tuple[int, int]]:
        """The first dimension and the size of every modality's own block of the common space."""
        dims = [len(self.of(m).mean) for m in self.modalities]
        sizes = blocks(dims, min(self.outputs.values()))
        return {m: (sum(sizes[:i]), sizes[i]) for i, m in enumerate(self.modalities)}

    def penalties(self) -> dict[str, Float[Tensor, ""]]:
        """The prices of what projections have added to where they started, by modality."""
        towers = {} if self.joint else {m: self._tower(m).projection for m in self.modalities}
        return {
            f"{m}_penalty": p.penalty * p.distance()
            for m, p in towers.items()
            if isinstance(p, Residual) and p.penalty
        }

    def means(self, rows: Mapping[str, Stored]) -> dict[str, Means]:
        """The mean of every clip's standardised rows, where the rows are."""
        return {modality: self.of(modality).means(stored) for modality, stored in rows.items()}

    @torch.inference_mode()
    def embed(self, rows: Mapping[str, Stored | Means]) -> dict[str, Float[Tensor, "V _"]]:
        """The vectors of every clip, in eval mode, on the device of the rows; they are computed on
        that of the weights.
        """
        self.eval()
        if not rows:
            return {}
        (clips,) = {len(stored) for stored in rows.values()}
        home = next(iter(rows.values())).device
        parts = [
            self({m: self._here(stored.padded(indices)) for m, stored in rows.items()})
            for indices in torch.split(torch.arange(clips), CLIPS_AT_ONCE)
        ]
        names = [name for name in parts[0] if name in self.outputs]
        return {name: torch.cat([part[name] for part in parts]).to(home) for name in names}

    def _here(self, rows: Padded) -> Padded:
        """The rows on the device of the weights."""
        held = next(self.parameters(), next(self.buffers(), None))
        return rows if held is None else type(rows)(*(sent(x, held.device) for x in rows))

    def part(self, name: str) -> nn.Module:
        """A part that a stage may train by name.

        Raises:
            ConfigError: says which there are.
        """
        known = self.modalities
        if self.joint:
            parts = self.get_submodule("network").named_children()
            known = ("network", *(f"network.{part}" for part, _ in parts))
        if name not in known:
            raise ConfigError(f"no part {name!r} to train; there are {', '.join(known)}, objective")
        return self.get_submodule(name)

    def _tower(self, modality: str) -> Tower:
        tower = self.get_submodule(modality)
        assert isinstance(tower, Tower)
        return tower


def _is_of_means(family: str, name: str) -> bool:
    traits = getattr(plugins.module(family, name), "TRAITS", None)
    return traits is not None and bool(traits.of_means)


def _of_one_size(projection: plugins.Spec, dims: Mapping[str, int]) -> plugins.Spec:
    """The projection, into a space with room for every modality's rows if it has their size."""
    settings = plugins.configure("learn.models.projections", projection)
    if getattr(settings, "dim_out", None) != 0 or len(dims) == 1:
        return projection
    return replace(projection, settings={**projection.settings, "dim_out": sum(dims.values())})


def _covariance(standardiser: Standardiser, rows: Stored) -> Float[Tensor, "D D"]:
    """The covariance of the clips' means, standardised and in double precision."""
    means = standardiser.standardised(rows.means()[rows.counts > 0]).double()
    means -= means.mean(0)
    return means.T @ means / max(1, len(means) - 1)
