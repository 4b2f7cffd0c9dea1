"""Encoders: frozen networks that turn frames or sound into embeddings.

Shapes: B = frames or sounds, H, W = pixels, S = the network's input side, N = sound samples,
W = windows of one sound, D = embedding size.

An encoder is a pure function of one item: neither its neighbours in the batch nor the order of
calls may change a row. The loader is `extract.load_encoder`. Each plug-in offers

    Config, build(config, device, precision)    as every plug-in does
    DESCRIPTION                                 what it gives, known without building a network
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from torch import Tensor

from extract.weights.packaged import Packaged

# What clips are encoded with where nobody names an encoder: all that an install brings.
DEFAULTS = {"visual": "efficientnet_lite", "audio": "logmel"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Facts of an encoder plug-in, for listings and choices."""

    modality: str  # "visual" or "audio"; "": as its model, which is named in the SPEC
    dims: Mapping[str, int]  # by `variant=`; under "" where there is no such setting; {}: by model
    licence: str  # of the published weights
    # A "file" that is named; a "package", installed with us; another "library"'s; or "none".
    weights: str = "file"
    packaged: Mapping[str, Packaged] = field(default_factory=dict)  # by `variant=`
    precisions: tuple[str, ...] = ("fp32", "bf16")  # in which rows point where those of fp32 do
    frames_per_second: float = 1.0  # that are looked at where nobody says how many


@runtime_checkable
class Encoder(Protocol):
    """The interface of every network to the pipeline. `encoder(x)` is `forward(preprocess(x))`."""

    name: str  # the plug-in's name
    slug: str  # name and variant, the readable half of the feature's id
    dim: int
    modality: str  # "visual" or "audio"
    identity: Mapping[str, Any]  # all that decides the numbers, as JSON; goes into the digest
    notes: Mapping[str, Any]  # for people: weights' file name and licence; not in the digest

    def preprocess(self, x: Tensor) -> Tensor:
        """Frames or sound as the network takes them."""

    def forward(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of a preprocessed batch."""

    def __call__(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of frames or sounds as they were decoded."""


@runtime_checkable
class VisualEncoder(Encoder, Protocol):
    """Frames `UInt8[B, H, W, 3]` RGB of any one size in; one row a frame out."""

    short_side: int  # pixels: larger frames may be scaled down to this, keeping their aspect


@runtime_checkable
class StackEncoder(VisualEncoder, Protocol):
    """Stacks of successive frames `UInt8[B, T, H, W, 3]` RGB of any one size in; one row a stack
    out, which has the time of its first frame."""

    stack_frames: int  # T
    stack_hop: int  # frames from one stack of a clip to the next
    frames_per_second: float  # that it was made for


@runtime_checkable
class AudioEncoder(Encoder, Protocol):
    """Mono sound `Float[B, N]` in -1..1 at `sample_rate` in; W rows a sound out, B-major."""

    sample_rate: int  # Hz
    window_seconds: float  # 0: one window over the whole clip
    hop_seconds: float

    def window_starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        """The second at which each window of a sound begins."""
