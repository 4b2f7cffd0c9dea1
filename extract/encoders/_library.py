"""Encoders whose network and preprocessing are those of another library.

The library's own functions prepare frames and sound and make the network, so that rows are what it
gives for the same input; nothing is folded or cast, and fp32 is the only precision.

Shapes: B = frames or sounds, H, W = pixels, N = samples, R = windows of all sounds, D = embedding
size.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from extract.encoders._network import PRECISIONS, Way, present, whole_fp32
from extract.encoders._spectrogram import Windows
from store.errors import ConfigError, WeightsError, choices

Prepare = Callable[[Tensor], Tensor]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What an encoder is called by, and all that decides its numbers."""

    name: str  # the plug-in's
    slug: str
    dim: int
    identity: Mapping[str, Any]
    notes: Mapping[str, Any]


class LibraryEncoder:
    """A network of a library, at rest, behind the library's own preprocessing."""

    modality = "visual"

    def __init__(
        self, named: Named, prepare: Prepare, network: Network, device: torch.device
    ) -> None:
        self.name, self.slug, self.dim = named.name, named.slug, named.dim
        self.identity, self.notes = named.identity, named.notes
        self.device, self._way = device, Way(device)
        self._prepare, self._network = prepare, network

    def forward(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        """Rows of a preprocessed batch."""
        with torch.inference_mode():
            return self._network(x.to(self.device)).float()

    def preprocess(self, x: Tensor) -> Tensor:
        """Frames or sound as the network takes them."""
        with torch.inference_mode():
            return self._way(self._prepare(x))

    def __call__(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of frames or sounds as they were decoded."""
        return self.forward(self.preprocess(x))


class LibraryFrames(LibraryEncoder):
    """An encoder of frames."""

    def __init__(
        self, named: Named, prepare: Prepare, network: Network, device: torch.device, *,
        short_side: int,
    ) -> None:  # fmt: skip
        super().__init__(named, prepare, network, device)
        self.short_side = short_side


class LibrarySound(LibraryEncoder):
    """An encoder of windows of sound."""

    modality = "audio"

    def __init__(
        self, named: Named, prepare: Prepare, network: Network, device: torch.device, *,
        windows: Windows,
    ) -> None:  # fmt: skip
        super().__init__(named, prepare, network, device)
        self.sample_rate = windows.sample_rate
        self.window_seconds = windows.length / windows.sample_rate
        self.hop_seconds = windows.hop / windows.sample_rate
        self._windows = windows

    def window_starts_seconds(self, samples: int) -> Float[np.ndarray, "W"]:
        """The second at which each window of a sound starts."""
        return self._windows.starts_seconds(samples)

    def preprocess(self, x: Float[Tensor, "B N"]) -> Tensor:
        """Every window of every sound as the network takes it."""
        return super().preprocess(self._windows.cut(x.cpu()).flatten(0, 1))


def by_picture(transform: Callable[[Any], Tensor]) -> Prepare:
    """A transform of one picture (PIL's, as the libraries have it) for frames."""
    from PIL.Image import fromarray

    def prepare(frames: UInt8[Tensor, "B H W 3"]) -> Tensor:
        return torch.stack([transform(fromarray(frame)) for frame in frames.cpu().numpy()])

    return prepare


def at_rest(network: nn.Module, device: str, precision: str, name: str) -> torch.device:
    """Put a network to rest on a device.

    Raises:
        ConfigError: a precision or device that is not there.
    """
    if precision != "fp32":
        known = PRECISIONS if precision not in PRECISIONS else ("fp32",)
        raise ConfigError(
            f"{name} keeps its rows in fp32 only, not in {precision!r} (there are "
            f"{choices(precision, known)}); use precision=auto"
        )
    where = present(device)
    network.eval().requires_grad_(False).to(where)
    if where.type == "cuda":
        whole_fp32()
    return where


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random weights by this seed; nobody else's numbers move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def weights_of(network: nn.Module, seed: int | None) -> dict[str, Any]:
    """The identity of weights: the seed of random ones, or else the digest of all numbers."""
    if seed is not None:
        return {"untrained": True, "seed": seed}
    digest = sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return {"sha256": digest.hexdigest()}


def notes_of(licence: str, seed: int | None, **more: Any) -> dict[str, Any]:
    """What people want to know: the licence, the library, and that weights are random."""
    said = {"licence": licence, **more}
    return said if seed is None else {**said, "untrained": True}


def slug_of(library: str, model: str, seed: int | None) -> str:
    """The readable half of the feature's name: letters, digits, dots, hyphens and underscores."""
    words = "".join(
        c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in model.lower()
    )
    return f"{library}-{words.strip('-.')[-60:]}" + ("" if seed is None else "-untrained")


def check_model(name: str, model: str) -> None:
    """Refuse a SPEC that names no model.

    Raises:
        ConfigError: says what to write.
    """
    if not model:
        raise ConfigError(f"{name}: name a model, as {name}:MODEL")


def refused(name: str, model: str, error: Exception) -> WeightsError:
    """One line of what a library said against a model."""
    why = " ".join(str(error).split()) or type(error).__name__
    return WeightsError(
        f"{name} has no {model} here: {why[:300]}; {name}:{model},untrained has random weights "
        "(results are then stamped untrained)"
    )
