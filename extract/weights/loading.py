"""Reads trained weights and puts them into networks, strictly.

A file of weights comes from a stranger. Only formats that cannot run code are read: safetensors,
and PyTorch's own format under `weights_only=True`. A file that needs more is refused; there is no
second, trusting attempt.
"""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from extract.weights import choice, lineage
from store.errors import InputError, WeightsError
from store.exchange.formats._torch import inspect_torch

UNUSED = "num_batches_tracked"  # counts training steps; decides nothing at rest
SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The tensors of one file, with the digest that names them for ever."""

    file: str  # its name, without the folder
    sha256: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def choose(encoder: str, weights: str, untrained: bool) -> Weights | None:
    """The weights a user asked for; None where random ones were asked for in so many words.

    Raises:
        WeightsError: neither was asked for, or the file cannot be read.
        MissingFile: the file is not there.
        ConfigError: both were asked for.
    """
    choice.check_weights(encoder, weights, untrained)
    return read(Path(weights)) if weights else None


def read(path: Path) -> Weights:
    """Everything in a `.safetensors` or PyTorch file, without running any code from it.

    Raises:
        MissingFile: no such file.
        WeightsError: another format, a damaged file, or one that holds more than tensors.
    """
    choice.check_file(path)
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
    else:
        tensors, metadata = _read_torch(path), {}
    bad = sorted(k for k, t in tensors.items() if t.is_floating_point() and not t.isfinite().all())
    if bad:
        raise WeightsError(f"weights {path}: not finite in {_few(bad)}; fetch the file again")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Weights(file=path.name, sha256=digest, tensors=tensors, metadata=metadata)


def load(network: nn.Module, weights: Weights, *, ignore: tuple[str, ...] = ()) -> None:
    """Fill every tensor of `network` from the entry of its name; entries under `ignore` are spare.

    Raises:
        WeightsError: a tensor is missing, left over or of another shape; names the first few.
    """
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith(UNUSED)}
    given = {
        k: v
        for k, v in weights.tensors.items()
        if not k.endswith(UNUSED) and (k in wanted or not k.startswith(ignore))
    }
    reshaped = [
        f"{k} {list(given[k].shape)} instead of {list(v.shape)}"
        for k, v in wanted.items()
        if k in given and given[k].shape != v.shape
    ]
    problems = [
        f"{label} {_few(keys)}"
        for label, keys in (
            ("without", [k for k in wanted if k not in given]),
            ("unknown", [k for k in given if k not in wanted]),
            ("of another shape:", reshaped),
        )
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{weights.file} does not fit the network: {'; '.join(problems)}. "
            f"Check that the file belongs to this encoder and variant"
        )
    network.to_empty(device="cpu")
    network.load_state_dict(given, strict=False)  # strictness is above, with one line per file


def initialise(network: nn.Module, *, seed: int, gain: float) -> None:
    """Fill a network with random weights that `seed` alone decides.

    Kernels are normal of variance `gain / fan_in`, biases 0; norms are neutral.
    """
    generator = torch.Generator().manual_seed(seed)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            std = (gain / module.weight[0].numel()) ** 0.5
            nn.init.normal_(module.weight, 0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm):
            module.reset_parameters()


def identity(weights: Weights | None, seed: int) -> dict[str, Any]:
    """The weights as an encoder's identity names them: digest or seed, and where they come from if
    they were trained here."""
    if weights is None:
        return {"untrained": True, "seed": seed}
    about = lineage.of(weights.metadata, weights.file)
    return {"sha256": weights.sha256, **({"lineage": about["lineage"]} if about else {})}


def notes(weights: Weights | None, licence: str) -> dict[str, Any]:
    """File and licence of the weights, for an encoder's notes; and which media they were trained
    on, where that is known."""
    if weights is None:
        return {"untrained": True}
    found = {"weights": weights.file, "licence": weights.metadata.get("licence", licence)}
    if about := lineage.of(weights.metadata, weights.file):
        found |= {"licence": about["licence"], "trained_on": about["trained_on"]}
    return found


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # a damaged or hostile file may fail anywhere in the reader
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(f"weights {path} are not a whole safetensors file: {reason}") from None


def unpickle(path: Path, stand_ins: Sequence[tuple[Callable[..., Any], str]] = ()) -> Any:
    """The content of a PyTorch file: tensors, containers and numbers, made without running code.

    `stand_ins` take the place of the names beside them, and so must be harmless.

    Raises:
        WeightsError: a damaged file, or one that holds anything else.
    """
    try:
        inspect_torch(path)
    except InputError as error:
        raise WeightsError(f"weights {error}; fetch the file again") from None
    except OSError as error:
        raise WeightsError(f"weights {path} cannot be read: {error.strerror or error}") from None
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(stand_ins)):
            warnings.simplefilter(
                "ignore"
            )  # a foreign pickle warns before it fails; we say it once
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile file may fail anywhere in the reader
        raise WeightsError(
            f"weights {path} are damaged or hold more than tensors; only plain state dicts are read"
        ) from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    """The state dict of a PyTorch file: its top level, or the `model` of a training script."""
    state = unpickle(path)
    if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
        state = state["model"]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"weights {path} hold no state dict but a {type(state).__name__}")
    odd = [str(k) for k, v in state.items() if not isinstance(v, Tensor)]
    if odd:
        raise WeightsError(
            f"weights {path}: {_few(odd)} are no tensors; a state dict holds nothing else"
        )
    return {str(key): value for key, value in state.items()}


def _few(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
