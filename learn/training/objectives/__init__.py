"""Objectives: the losses of a batch of embeddings.

Shapes: B = clips of a batch, V = clips of the training split, E = embedding size, D = stored size,
C = classes, W = size of a class text.

Each plug-in offers `Config`, `build(config, context)` and `TRAITS`.

The cost is a function of the batch and of the objective's state, and computing it changes nothing;
whatever is drawn is drawn from `Batch.generator()`. State changes in two places only: `prepare`,
before an epoch, and `after_step`, after the optimiser's step. Parameters and buffers of the module
are the stage's own. What outlives a stage (a memory bank, centroids) is claimed by name from
`ObjectiveContext.states`; the trainer moves it to the device, checkpoints it and writes it into the
run.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from learn.data.rows import Padded
from learn.fewshot.heads import Head
from store.errors import ConfigError

S = TypeVar("S", bound=nn.Module)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """Facts of an objective that a training needs before it builds one."""

    supervised: bool  # must every clip have a label?
    missing_modality: bool = False  # can it do with clips that lack one (`Batch.present`)?
    several_labels: bool = False  # is it for clips with any number of labels (`Batch.targets`)?
    of_class: bool = False  # does it compare a clip with others of its class?
    several_features: bool = False  # can a modality have several, each with a vector of its own?
    of_rows: bool = False  # does it look at the stored rows themselves (`Batch.inputs`)?


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectiveContext:
    """Facts that an objective may use before the first batch, and the states it may claim."""

    outputs: Mapping[str, int]  # sizes of the embeddings: visual, audio, av (both in one)
    inputs: Mapping[str, int]  # sizes of the stored rows: visual, audio
    classes: tuple[str, ...]  # names, in the order of their ids
    clips: int  # of the training split
    texts: Float[Tensor, "C W"] | None = None  # vectors of the classes' names, where given
    hidden: Mapping[str, int] = field(default_factory=dict)  # sizes of a network's further vectors
    views: int = 1
    states: dict[str, nn.Module] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """The one size of all embeddings.

        Raises:
            ConfigError: they differ.
        """
        if len(sizes := set(self.outputs.values())) != 1:
            listed = ", ".join(f"{name} {size}" for name, size in self.outputs.items())
            raise ConfigError(f"this objective needs embeddings of one size, not {listed}")
        return sizes.pop()

    def known_texts(self, name: str) -> Float[Tensor, "C W"]:
        """The vectors of the classes' names, for an objective that needs them.

        Raises:
            ConfigError: none were given.
        """
        if self.texts is None:
            raise ConfigError(
                f"objective {name} compares clips with class names; give their vectors as "
                "`labels` (see `learn labels`)"
            )
        return self.texts

    def state(self, name: str, make: Callable[[], S]) -> S:
        """The state of that name, from an earlier stage or made now; buffers only."""
        if name not in self.states:
            self.states[name] = make()
        return cast("S", self.states[name])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """The clips of one step; row i of everything belongs to one clip."""

    embeddings: Mapping[str, Float[Tensor, "B _"]]  # as the network gave them: visual, audio, av
    labels: Int[Tensor, "B"]  # class ids; -1: unknown
    clips: Int[Tensor, "B"]  # positions in the training split; -1: of another split
    inputs: Mapping[str, Padded] = field(default_factory=dict)  # the stored rows, unstandardised
    present: Mapping[str, Bool[Tensor, "B"]] = field(default_factory=dict)  # {}: all are present
    copies: tuple[Mapping[str, Float[Tensor, "B _"]], ...] = ()  # embeddings of each view
    hidden: Mapping[str, Float[Tensor, "B _"]] = field(
        default_factory=dict
    )  # a network's further vectors
    targets: Float[Tensor, "B C"] | None = None  # 1 for each of a clip's several labels
    seed: int = 0  # of this step

    def __post_init__(self) -> None:
        sizes = {len(self.labels), len(self.clips), *(len(x) for x in self.embeddings.values())}
        if len(sizes) != 1:
            raise ValueError(f"a batch of one size has parts of {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.labels)

    def generator(self) -> torch.Generator:
        """A random generator of this step alone; on the processor, whatever the device."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingEmbeddings:
    """Embeddings of all training clips, in eval mode."""

    embeddings: Mapping[str, Float[Tensor, "V _"]]
    means: Mapping[str, Float[Tensor, "V _"]]  # of each clip's stored rows, standardised
    labels: Int[Tensor, "V"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpochStart:
    """The training's position before an epoch."""

    round: int
    epoch: int  # of the round
    seed: int
    # It costs a pass over all clips: call it only when needed.
    survey: Callable[[], TrainingEmbeddings]


@runtime_checkable
class Texts(Protocol):
    """An objective that can map class names into the space of clips."""

    def embed_texts(self, texts: Float[Tensor, "C W"]) -> Float[Tensor, "C E"]: ...


class Objective(nn.Module, ABC):
    """The mean cost of a batch; correct pairings cost less than wrong ones."""

    @abstractmethod
    def terms(self, batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The weighted parts of the cost, by name; metrics tell them apart."""

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The sum of the terms."""
        return torch.stack(list(self.terms(batch).values())).sum()

    def classify(
        self, embeddings: Mapping[str, Float[Tensor, "B _"]]
    ) -> dict[str, Float[Tensor, "B C"]]:
        """Logits of the training's classes from each output that has a classifier."""
        return {}

    def name_scores(
        self,
        embeddings: Mapping[str, Float[Tensor, "V _"]],
        means: Mapping[str, Float[Tensor, "V _"]],
        texts: Float[Tensor, "C W"],
    ) -> dict[str, Float[Tensor, "V C"]]:
        """Scores of class texts for each clip by the objective's own test rule, by mode (v, a, av);
        empty for an objective without one. `means` are of clips' stored rows, unstandardised."""
        return {}

    def head(self) -> Head | None:
        """A head for episodes of clips that its run embedded, or None."""
        return None

    def prepare(self, start: EpochStart) -> dict[str, float]:
        """Change state before an epoch; returns numbers for the epoch's metrics."""
        return {}

    @torch.no_grad()
    def after_step(self, batch: Batch) -> None:
        """Change state after the optimiser's step, from the embeddings that gave the gradient."""
        return
