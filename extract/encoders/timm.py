"""Any image model of timm by its name, with its own preprocessing; one row a frame.

Weights are found as timm finds them: its cache, or the network if that is allowed. `pool` says
which vector of a picture: timm's own (before the classifier), the class token, or the mean of the
other tokens or places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from extract.encoders import Description
from extract.encoders._library import (
    LibraryFrames,
    Named,
    at_rest,
    by_picture,
    check_model,
    notes_of,
    refused,
    seeded,
    slug_of,
    weights_of,
)
from store.errors import ConfigError
from store.optional import library
from store.settings import Settings, setting

NAME = "timm"
REVISION = 1  # raise when our numbers change
POOLS = ("model", "cls", "mean")
DESCRIPTION = Description(
    modality="visual", dims={}, licence="each model's own (its card)", weights="library",
    precisions=("fp32",),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `timm`."""

    model: str = setting("", main=True)  # as `timm.list_models()` has it
    file: str = ""  # weights of that model; none: its own, as timm finds them
    untrained: bool = False
    seed: int = 0  # of untrained weights
    pool: str = setting("model", among=POOLS)


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> LibraryFrames:
    """The model, with timm's weights, those of a file, or random ones that were asked for."""
    timm = library("timm", NAME)
    check_model(NAME, config.model)
    if config.file and config.untrained:
        raise ConfigError(f"{NAME}: file={config.file} and untrained exclude each other; drop one")
    seed = config.seed if config.untrained else None
    own = {"pretrained_cfg_overlay": {"file": config.file}} if config.file else {}
    try:
        with seeded(config.seed):
            network = timm.create_model(
                config.model, pretrained=not config.untrained, num_classes=0, **own
            )
    except Exception as error:
        raise refused(NAME, config.model, error) from error
    facts = timm.data.resolve_model_data_config(network)
    where = at_rest(network, device, precision, NAME)
    rows = _pooled(network, config.pool)
    side = facts["input_size"][-1]
    with torch.inference_mode():
        dim = rows(torch.zeros(1, *facts["input_size"], device=where)).shape[1]
    identity = {
        "network": NAME,
        "model": config.model,
        "revision": REVISION,
        "output": config.pool,
        "weights": weights_of(network, seed),
        "precision": precision,
        "preprocessing": {key: _plain(value) for key, value in sorted(facts.items())},
    }
    licence = (getattr(network, "pretrained_cfg", None) or {}).get("license") or DESCRIPTION.licence
    named = Named(
        name=NAME, slug=slug_of(NAME, config.model, seed), dim=dim, identity=identity,
        notes=notes_of(licence, seed, timm=timm.__version__),
    )  # fmt: skip
    prepare = by_picture(timm.data.create_transform(**facts, is_training=False))
    short_side = round(side / facts["crop_pct"])
    return LibraryFrames(named, prepare, rows, where, short_side=short_side)


def _pooled(network: nn.Module, pool: str) -> Callable[[Tensor], Float[Tensor, "B D"]]:
    """The function from a batch to rows."""
    if pool == "model":
        return network

    def rows(x: Tensor) -> Float[Tensor, "B D"]:
        of_places: Any = network.forward_features(x)  # type: ignore[operator]
        prefix = getattr(network, "num_prefix_tokens", 0)
        if of_places.ndim == 3:
            if pool == "cls" and not prefix:
                raise ConfigError(f"{NAME}: this model has no class token; use pool=mean or model")
            return of_places[:, 0] if pool == "cls" else of_places[:, prefix:].mean(1)
        if pool == "cls":
            raise ConfigError(f"{NAME}: this model has no class token; use pool=mean or model")
        last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        return of_places.mean((1, 2) if last else (2, 3))

    return rows


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
