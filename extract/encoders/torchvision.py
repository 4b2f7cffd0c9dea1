"""Any classifier of torchvision by its name, with its weights' own preprocessing; one row a frame.

A row is what the last linear layer is given. Weights are found as torchvision finds them: torch
hub's cache, or the network if that is allowed.
"""

from dataclasses import dataclass
from typing import Any

from jaxtyping import UInt8
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._library import (
    LibraryFrames,
    Named,
    at_rest,
    check_model,
    notes_of,
    refused,
    seeded,
    slug_of,
    weights_of,
)
from extract.encoders._network import Way
from store.errors import ConfigError, choices
from store.optional import library
from store.settings import Settings, setting

NAME = "torchvision"
REVISION = 1  # raise when our numbers change
DESCRIPTION = Description(
    modality="visual", dims={}, licence="each model's own (torchvision's pages)", weights="library",
    precisions=("fp32",),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `torchvision`."""

    model: str = setting("", main=True)  # as `torchvision.models.list_models()` has it
    version: str = "DEFAULT"  # of the weights, such as IMAGENET1K_V1
    untrained: bool = False
    seed: int = 0  # of untrained weights


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> LibraryFrames:
    """The model without its last linear layer, with its weights or random ones."""
    models = library("torchvision", NAME).models
    check_model(NAME, config.model)
    known = models.list_models(module=models)
    if config.model not in known:
        raise ConfigError(f"{NAME} has no model {config.model!r}; {_near(config.model, known)}")
    versions = models.get_model_weights(config.model)
    if config.version not in versions.__members__:
        there = choices(config.version, versions.__members__)
        raise ConfigError(
            f"{NAME}: {config.model} has no version {config.version!r}; it has {there}"
        )
    weights = versions[config.version]
    seed = config.seed if config.untrained else None
    try:
        with seeded(config.seed):
            network = models.get_model(config.model, weights=None if config.untrained else weights)
    except Exception as error:
        raise refused(NAME, config.model, error) from error
    dim = _without_last_layer(network, config.model)
    transform = weights.transforms()
    where = at_rest(network, device, precision, NAME)
    identity = {
        "network": NAME,
        "model": config.model,
        "revision": REVISION,
        "output": "input_of_last_linear",
        "weights": weights_of(network, seed),
        "precision": precision,
        "preprocessing": _described(transform),
    }
    named = Named(
        name=NAME, slug=slug_of(NAME, config.model, seed), dim=dim, identity=identity,
        notes=notes_of(
            DESCRIPTION.licence, seed, torchvision=library("torchvision", NAME).__version__,
            version=weights.name,
        ),
    )  # fmt: skip

    way = Way(where)

    def prepare(frames: UInt8[Tensor, "B H W 3"]) -> Tensor:
        return transform(way(frames).permute(0, 3, 1, 2))

    side = int(transform.resize_size[0])
    return LibraryFrames(named, prepare, network, where, short_side=side)


def _without_last_layer(network: nn.Module, model: str) -> int:
    """Take the last linear layer away; the size of what it was given."""
    linear = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise ConfigError(f"{NAME}: {model} does not end in a linear layer")
    parent, _, own = linear[-1].rpartition(".")
    last = network.get_submodule(linear[-1])
    setattr(network.get_submodule(parent), own, nn.Identity())
    assert isinstance(last, nn.Linear)
    return last.in_features


def _described(transform: Any) -> dict[str, Any]:
    """The transform's settings, as JSON."""
    return {
        "crop": list(transform.crop_size),
        "resize": list(transform.resize_size),
        "interpolation": str(getattr(transform.interpolation, "value", transform.interpolation)),
        "antialias": transform.antialias,
        "mean": list(transform.mean),
        "std": list(transform.std),
    }


def _near(asked: str, known: list[str]) -> str:
    from difflib import get_close_matches

    near = get_close_matches(asked, known, n=5)
    return f"there are {', '.join(near)} and {len(known) - len(near)} more" if near else (
        "`torchvision.models.list_models()` has those there are"
    )  # fmt: skip
