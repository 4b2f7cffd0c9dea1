"""What a training asks of encoders and of clips: `extract/trainable/` has both.

Shapes: B = frames or windows of sound, L = samples of a window, S = the network's input side, D =
size of a row, T = frames of a clip, H, W = pixels, N = samples of sound.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from store.membership import Membership

Look = tuple[int, tuple[float, ...]]  # a clip's row, and shares of its length that rise
Progress = Callable[..., None]


@runtime_checkable
class Learner(Protocol):
    """An encoder whose network learns."""

    spec: str
    name: str
    modality: str  # visual or audio
    dim: int
    module: nn.Module
    side: int  # pixels of the input; 0 of sound
    sample_rate: int  # Hz; 0 of frames
    window_samples: int
    stack: int  # frames that a row is made of; 0: a row a frame, or of sound
    identity: Mapping[str, Any]  # all that decided the rows before the training

    @property
    def takes_head(self) -> bool:
        """Whether its files may hold a projection head."""
        ...

    def prepare(self, x: Tensor) -> Tensor:
        """Frames `UInt8[B, H, W, 3]`, or sound `Float[B, N]`, as the network takes them."""

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Tensor:
        """Pixels of 0..1, at the network's size, as it takes them; of stacks, the frames of each in
        a row."""

    def forward(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of a prepared batch, with gradients."""

    def at_rest(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of frames or sound as `extract run` would make them."""

    def write(
        self,
        path: Path,
        *,
        recipe: str,
        recipe_sha256: str,
        clips_sha256: str,
        media: Membership,
        head: Mapping[str, Tensor] | None = None,
    ) -> str:
        """Write the weights; the SPEC by which `extract run` takes them."""


@runtime_checkable
class Patched(Protocol):
    """A network that sees a picture patch by patch, and can do with some of them."""

    patch: int  # pixels
    grid: int  # patches in a row
    pos_embed: nn.Parameter

    def visible(self, x: Float[Tensor, "B 3 S S"], kept: Tensor) -> Tensor:
        """The class token and those of the patches `kept`, `[B, 1 + K, D]`."""

    def positions(self, dim: int) -> Tensor:
        """Fixed positions of another size for the same tokens, `[1, 1 + P, dim]`."""


@runtime_checkable
class Seen(Protocol):
    """A decoded clip."""

    @property
    def row(self) -> int: ...

    @property
    def status(self) -> Mapping[str, Any]:
        """A `store.Status` for each modality that was asked for."""

    @property
    def detail(self) -> Mapping[str, str]: ...

    @property
    def sha256(self) -> bytes:
        """The digest of its file."""

    @property
    def frames(self) -> UInt8[np.ndarray, "T H W 3"] | None: ...

    @property
    def sound(self) -> Float32[np.ndarray, "N"] | None: ...


@runtime_checkable
class Stream(Protocol):
    """Clips that are decoded whenever they are looked at."""

    looks: tuple[float, ...]

    def survey(self, rows: Sequence[int], progress: Progress | None = None) -> Iterator[Seen]:
        """Every clip once; only these may be read after it."""

    def read(self, wanted: Callable[[], Iterator[Look]]) -> Generator[Seen, None, None]:
        """The clips in order; `wanted` must give the same each time it is called."""


@runtime_checkable
class Source(Protocol):
    """What opens a stream, once a recipe says what is wanted of it."""

    def __call__(self, *, looks: tuple[float, ...], memory_bytes: int) -> Stream: ...
