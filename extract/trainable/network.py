"""An encoder whose network learns, and the file of weights that comes of it.

Shapes: B = frames or windows of sound, L = samples of a window, S = the network's input side, D =
size of a row.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor, nn

from extract import load_encoder
from extract.encoders import AudioEncoder, Encoder, StackEncoder
from extract.encoders._network import Frozen, channels_last, learning
from extract.pipeline.stacks import all_stacks
from extract.weights import lineage
from extract.weights.by_name import Fetching
from extract.weights.choice import check_modality
from extract.weights.loading import UNUSED
from store import atomic, plugins
from store.errors import ConfigError
from store.membership import Membership

FAMILY = "extract.encoders"
SHORTEST_SECONDS = 1.0  # of a window of encoders that take whole sounds


@runtime_checkable
class WithFront(Protocol):
    """An encoder whose files hold tensors of what comes before the network too."""

    front: nn.Module


class Trainable:
    """An encoder, its network with live batch norms and gradients, and where it came from."""

    def __init__(self, spec: str, encoder: Encoder) -> None:
        network = getattr(encoder, "_network", None)
        if not isinstance(network, Frozen) or not list(network.module.parameters()):
            raise ConfigError(f"{encoder.name} has nothing to learn; name another encoder")
        self.spec, self.encoder, self.module = spec, encoder, network.module
        # Convolutions learn 1.3 to 1.5 times as fast with channels held last, on processors too.
        channels_last(self.module)
        self.name, self.modality, self.dim = encoder.name, encoder.modality, encoder.dim
        self.side: int = getattr(encoder, "side", 0)
        self.short_side: int = getattr(encoder, "short_side", 0)
        self.stack = encoder.stack_frames if isinstance(encoder, StackEncoder) else 0
        self.sample_rate, self.window_samples = 0, 0
        if isinstance(encoder, AudioEncoder):
            self.sample_rate = encoder.sample_rate
            seconds = encoder.window_seconds or SHORTEST_SECONDS
            self.window_samples = round(seconds * encoder.sample_rate)
        known = encoder.notes
        self.ancestry = lineage.Ancestry(
            weights=dict(encoder.identity["weights"]),
            licence=str(known.get("licence", "")),
            trained_on=tuple(known.get("trained_on", ())),
        )
        self.identity: Mapping[str, Any] = encoder.identity

    def prepare(self, x: Tensor) -> Tensor:
        """Frames or sound as the network takes them; nothing here learns."""
        with torch.no_grad():
            return self.encoder.preprocess(x).clone()

    def scaled(self, x: Float[Tensor, "B 3 S S"]) -> Tensor:
        """Pixels of 0..1, at the network's size, as it takes them; of stacks, the frames of each in
        a row."""
        scaled: Tensor = cast("Any", self.encoder).scaled(x)
        if not self.stack:
            return scaled
        stacks = scaled.reshape(-1, self.stack, *scaled.shape[1:])
        return stacks.transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)

    def forward(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of a prepared batch, with gradients where they are asked for."""
        return self.encoder.forward(x)

    def at_rest(self, x: Tensor) -> Float[Tensor, "B D"]:
        """Rows of frames or sound as `extract run` would make them; the network must be in eval
        mode."""
        with torch.inference_mode():
            if isinstance(self.encoder, StackEncoder):
                x = all_stacks(x, self.encoder.stack_frames, self.encoder.stack_hop)
            return self.encoder(x)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a file of these weights holds, by name."""
        parts = [self.module]
        if isinstance(self.encoder, WithFront):
            parts.append(self.encoder.front)
        return {
            name: value.detach().cpu().contiguous()
            for part in parts
            for name, value in part.state_dict().items()
            if not name.endswith(UNUSED)
        }

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
        """Write the weights; the SPEC by which `extract run` takes them.

        `head` is a projection head, under the names that SimCLRv2's files give it; it goes into
        files of encoders that can have one.
        """
        about = lineage.metadata(
            self.ancestry, recipe=recipe, recipe_sha256=recipe_sha256,
            clips_sha256=clips_sha256, media=media,
        )  # fmt: skip
        tensors = self.tensors()
        if self.takes_head:
            tensors |= {k: v.detach().cpu().contiguous() for k, v in (head or {}).items()}
        atomic.write_bytes(path, save(tensors, metadata=about), durable=True)
        kept = plugins.parse_spec(self.spec, FAMILY)
        settings = {k: v for k, v in kept.settings.items() if k not in UNTRAINED}
        return str(plugins.Spec(kept.name, {**settings, "weights": str(path)}))

    @property
    def takes_head(self) -> bool:
        """Whether files of this encoder may hold a projection head that the network has not."""
        return self.identity.get("output") == "final_avg_pool" and self.name == "simclrv2"


UNTRAINED = ("untrained", "seed", "weights")


def load(
    spec: str,
    modality: str,
    device: str = "cpu",
    *,
    seed: int | None = None,
    fetching: Fetching | None = None,
) -> Trainable:
    """The encoder that SPEC names, ready to learn; `seed` is that of random weights, where the SPEC
    asks for such and names no seed.

    Raises:
        ConfigError: of the other modality, or without anything to learn; see `load_encoder`.
    """
    parsed = plugins.parse_spec(spec, FAMILY)
    check_modality(
        parsed.name, plugins.glance(FAMILY, parsed.name, "DESCRIPTION").modality, modality
    )
    if seed is not None and parsed.settings.get("untrained") and "seed" not in parsed.settings:
        spec = str(plugins.Spec(parsed.name, {**parsed.settings, "seed": str(seed)}))
    with learning():
        encoder = load_encoder(spec, device=device, precision="fp32", fetching=fetching)
    return Trainable(spec, encoder)
