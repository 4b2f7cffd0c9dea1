"""Encoders in training: clips in, one vector a clip out, with gradients through what memory holds.

A clip's vector is the mean of its rows. Where not all clips of a step go through an encoder
together, vectors are made without gradients first, the loss says what it wants of them, and each
part is run again to carry that into the encoder. Batch statistics then are those of a part; for
everything else it is the gradient of the whole step.

Shapes: B = clips, R = frames or windows of them, T = those of a clip, D = size of a row.

Source: Gao et al., 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup".
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learn.finetuning import pictures, waves
from learn.finetuning.optimisers import Norm, freeze
from learn.finetuning.protocols import Learner, Seen
from learn.finetuning.recipe import Recipe
from store.errors import ConfigError

Inputs = Mapping[str, tuple[Tensor, ...]]  # by modality: each copy's rows, clip after clip
Vectors = dict[str, tuple[Float[Tensor, "B D"], ...]]  # by modality, of each copy


class Head(nn.Module):
    """The projection head of SimCLRv2: every layer with a batch norm, ReLU but after the last.

    The names are those of its published files, below `head.`.
    """

    def __init__(self, width: int, layers: int, hidden: int, out: int) -> None:
        super().__init__()
        sizes = [width, *[hidden or width] * (layers - 1), *[out] * (layers > 0)]
        self.dim = sizes[-1]
        for number, (a, b) in enumerate(pairwise(sizes)):
            layer = nn.Module()
            layer.dense, layer.bn = nn.Linear(a, b, bias=False), nn.BatchNorm1d(b)
            nn.init.normal_(layer.dense.weight, 0, (1 / a) ** 0.5)
            self.add_module(f"nl_{number}", layer)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B _"]:
        layers: list[Any] = list(self.children())
        for number, layer in enumerate(layers):
            x = layer.bn(layer.dense(x))
            x = x if number == len(layers) - 1 else x.relu()
        return x


@dataclass(slots=True, kw_only=True, eq=False)
class Towers:
    """The encoders that learn, by modality, and their heads."""

    learners: Mapping[str, Learner]
    recipe: Recipe
    device: torch.device
    at_once: int = 0  # clips; 0: all
    heads: nn.ModuleDict = field(init=False)
    _still: list[nn.Module] = field(default_factory=list, init=False)  # norms that keep statistics

    def __post_init__(self) -> None:
        head, frames = self.recipe.head, self.recipe.data.frames
        for learner in self.learners.values():
            if learner.stack not in (0, frames):
                raise ConfigError(
                    f"{learner.name} sees stacks of {learner.stack} frames, and a step shows "
                    f"{frames} of a clip; set data.frames={learner.stack} and data.looks to 0 or "
                    "as many at least"
                )
        self.heads = nn.ModuleDict(
            {
                m: Head(x.dim, head.layers, head.hidden, head.dim_out)
                for m, x in self.learners.items()
            }
        ).to(self.device)
        settings = self.recipe.optimiser
        for learner in self.learners.values():
            self._still += freeze(learner.module, settings)
            if settings.recompute:
                recompute(learner.module)
        self.at_once = settings.at_once

    @property
    def dims(self) -> dict[str, int]:
        """The sizes of rows, by modality."""
        return {m: learner.dim for m, learner in self.learners.items()}

    @property
    def outputs(self) -> dict[str, int]:
        """The sizes of what objectives see, by modality."""
        return {m: int(head.dim) for m, head in self.heads.items()}  # type: ignore[arg-type]

    def head_tensors(self, modality: str) -> dict[str, Tensor]:
        """A head as SimCLRv2's files hold it."""
        known = self.heads[modality].state_dict()
        return {f"head.{k}": v for k, v in known.items() if not k.endswith("batches_tracked")}

    def train(self) -> None:
        """Batch norms learn from batches, but for those that are to keep what they know."""
        for module in (*self._networks(), self.heads):
            module.train()
        for norm in self._still:
            norm.eval()

    def eval(self) -> None:
        """Everything as it will be used."""
        for module in (*self._networks(), self.heads):
            module.eval()

    def _networks(self) -> Iterator[nn.Module]:
        return (learner.module for learner in self.learners.values())

    # ── what goes in ─────────────────────────────────────────────────────────────────────────────

    def inputs(self, clips: Sequence[Seen], generator: torch.Generator) -> Inputs:
        """The copies of a step's clips, as the networks take them."""
        data, found = self.recipe.data, {}
        for modality, learner in self.learners.items():
            copies = []
            for copy in range(data.copies):
                if modality == "visual":
                    frames = [_share(clip.frames, copy, data.frames) for clip in clips]
                    x = pictures.views(
                        frames, learner.side, self.recipe.frames, generator, self.device,
                        max(1, learner.stack),
                    )  # fmt: skip
                    copies.append(learner.scaled(x))
                else:
                    sounds = [clip.sound for clip in clips if clip.sound is not None]
                    length = learner.window_samples
                    x = waves.windows(sounds, data.frames, length, self.recipe.sound, generator)
                    spectra = learner.prepare(x.to(self.device))
                    copies.append(waves.masked(spectra, self.recipe.sound, generator))
            found[modality] = tuple(copies)
        return found

    # ── vectors and gradients ────────────────────────────────────────────────────────────────────

    def vectors(self, inputs: Inputs) -> Vectors:
        """A vector for every clip and copy, with gradients."""
        return {
            modality: tuple(self._means(self.learners[modality], x) for x in copies)
            for modality, copies in inputs.items()
        }

    def _means(self, learner: Learner, x: Tensor) -> Float[Tensor, "B D"]:
        with self._precision():
            rows = learner.forward(x)
        return rows.float().reshape(-1, self.rows(learner), learner.dim).mean(1)

    def rows(self, learner: Learner) -> int:
        """The rows that a learner makes of a clip in a step."""
        return 1 if learner.stack else self.recipe.data.frames

    def _precision(self) -> AbstractContextManager[Any]:
        wanted = self.recipe.optimiser.precision
        if wanted == "fp32" or (wanted == "auto" and self.device.type != "cuda"):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def backward(self, inputs: Inputs, loss: "Loss") -> dict[str, Tensor]:
        """Leave the gradients of the loss in every parameter; gives its terms.

        What memory cannot hold is run in halves, for good.

        Raises:
            ConfigError: not even one clip fits.
        """
        backward = self._backward if loss.of_vectors else self._backward_of_inputs
        while True:
            clips = self._clips(inputs)
            size = min(self.at_once or clips, clips)
            try:
                return backward(inputs, loss, size)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise ConfigError(
                        f"not even one clip fits the memory of {self.device}; lower data.frames, "
                        "set optimiser.recompute, or take a smaller network"
                    ) from error
                self.at_once = size // 2
            for parameter in loss.parameters():
                parameter.grad = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _backward(self, inputs: Inputs, loss: "Loss", size: int) -> dict[str, Tensor]:
        clips = self._clips(inputs)
        if size >= clips:
            terms = loss(self.vectors(inputs))
            torch.autograd.backward(torch.stack(list(terms.values())).sum())
            return {name: term.detach() for name, term in terms.items()}
        parts = [self._part(inputs, start, size) for start in range(0, clips, size)]
        states, found = [], []
        with torch.no_grad(), unmoved(self._networks()):
            for part in parts:
                states.append(torch.get_rng_state())
                found.append(self.vectors(part))
        joined = {
            m: tuple(
                torch.cat([v[m][copy] for v in found]).requires_grad_()
                for copy in range(len(found[0][m]))
            )
            for m in self.learners
        }
        terms = loss(joined)
        torch.autograd.backward(torch.stack(list(terms.values())).sum())
        after = torch.get_rng_state()
        for number, part in enumerate(parts):
            torch.set_rng_state(states[number])
            pairs = [
                (vector, whole.grad[number * size : number * size + len(vector)])
                for m, vectors in self.vectors(part).items()
                for vector, whole in zip(vectors, joined[m], strict=True)
                if whole.grad is not None and vector.requires_grad
            ]
            torch.autograd.backward([v for v, _ in pairs], [g for _, g in pairs])
        torch.set_rng_state(after)
        return {name: term.detach() for name, term in terms.items()}

    def _backward_of_inputs(self, inputs: Inputs, loss: "Loss", size: int) -> dict[str, Tensor]:
        """The gradient of a mean over clips: that of each part, by its share of them."""
        clips, sums = self._clips(inputs), dict[str, Tensor]()
        for start in range(0, clips, size):
            part = self._part(inputs, start, size)
            with self._precision():
                terms = loss.of_inputs(part, start * self.recipe.data.frames)
            share = self._clips(part) / clips
            torch.autograd.backward(share * torch.stack(list(terms.values())).sum())
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + share * term.detach()
        return sums

    def _clips(self, inputs: Inputs) -> int:
        modality, copies = next(iter(inputs.items()))
        return len(copies[0]) // self.rows(self.learners[modality])

    def _part(self, inputs: Inputs, start: int, size: int) -> Inputs:
        found = {}
        for modality, copies in inputs.items():
            t = self.rows(self.learners[modality])
            found[modality] = tuple(x[start * t : (start + size) * t] for x in copies)
        return found


class Loss:
    """A function of vectors, or a mean over inputs, and all that may learn from it."""

    of_vectors = True

    def of_inputs(self, inputs: Inputs, start: int) -> dict[str, Tensor]:
        """The weighted terms of some frames of a step, from the frame `start` on."""
        raise NotImplementedError

    def __call__(self, vectors: Vectors) -> dict[str, Tensor]:
        """The weighted terms, by name."""
        raise NotImplementedError

    def parameters(self) -> Iterable[nn.Parameter]:
        """Everything that a gradient may reach."""
        raise NotImplementedError


def _share(frames: Any, copy: int, count: int) -> Any:
    """The frames of one copy: its own moments where the copies have different ones."""
    assert frames is not None
    return frames[copy * count : (copy + 1) * count] if len(frames) > count else frames


@contextmanager
def unmoved(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Batch norms use the statistics of batches inside, and remember none of them."""
    norms = [m for network in networks for m in network.modules() if isinstance(m, Norm)]
    moments = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    kept = [None if count is None else count.clone() for count in counts]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count, before in zip(norms, moments, counts, kept, strict=True):
            norm.momentum = momentum
            if count is not None and before is not None:
                count.copy_(before)


def recompute(network: nn.Module) -> None:
    """Have every layer of a list or a sequence forget what it made until gradients come back."""
    for child in network.children():
        for layer in child if isinstance(child, nn.ModuleList | nn.Sequential) else ():
            layer.forward = partial(_again, layer, layer.forward)


def _again(layer: nn.Module, forward: Any, *args: Any) -> Any:
    """The layer's output, of which only the input is kept."""
    if not torch.is_grad_enabled():
        return forward(*args)

    # Batch norms see the batch twice and are to count it once.
    return checkpoint(
        forward, *args, use_reentrant=False,
        context_fn=lambda: (nullcontext(), unmoved([layer])),
    )  # fmt: skip
