"""Converts published TensorFlow checkpoints into files of weights that encoders load.

The names of the original are counted, not spelled: `base_model/conv2d_7/kernel` is the eighth
convolution in the order in which the program created them. `variables` replays that order and
gives each its own name; shapes are checked, and every variable of the network is used exactly once.

Source: google-research/simclr, tf1 `resnet.py` and `model_util.py`, for the order of creation.
"""

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from jaxtyping import Shaped

from extract.weights.tensorflow_checkpoint import Checkpoint
from store.errors import WeightsError
from store.plugins import check, parse_spec
from store.progress import in_steps

CONVERTER = 1  # raise when a converted file changes
ENCODER = "simclrv2"
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
HEAD_LAYERS, HEAD_OUT = 3, 128
BASE, HEAD, AVERAGED = "base_model/", "head_contrastive/", "ema_model/"
SLOT = "/Momentum"  # an optimiser's memory of a variable
NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
        "moving_variance": "running_var"}  # fmt: skip
LICENCE = "Apache-2.0 (google-research/simclr); trained on ImageNet"
_SHOWN = 3
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One variable of the original, the tensor it becomes, and its shape as the original has it."""

    name: str  # empty: the original has none, and the tensor is zero
    key: str
    shape: tuple[int, ...]


def convert(checkpoint: Path, encoder: str, output: Path, *, ema: bool = False) -> dict[str, Any]:
    """Write the weights of a TensorFlow checkpoint as safetensors; gives what was written.

    The projection head goes along where the checkpoint has one. `ema` takes the moving average of
    the weights that pretraining kept.

    Raises:
        MissingFile: a file of the checkpoint is not there.
        WeightsError: it is damaged, or its variables are not exactly those of the network.
    """
    spec = parse_spec(encoder, "extract.encoders")
    if spec.name != ENCODER:
        raise WeightsError(
            f"cannot convert for {spec.name}: only {ENCODER} is published as TensorFlow "
            f"checkpoints that are read; see `extract weights list` for files {spec.name} loads"
        )
    if output.suffix != ".safetensors":
        raise WeightsError(f"output {output} must end in .safetensors")
    variant = check("extract.encoders", spec).variant
    source = Checkpoint(checkpoint)
    entries = _matched(source, _architecture(variant), AVERAGED if ema else "", variant)
    metadata = {
        "encoder": f"{ENCODER}:variant={variant}",
        "source": source.prefix.name,
        "source_sha256": json.dumps({file.name: _sha256(file) for file in source.files}),
        "global_step": _step(source),
        "ema": "yes" if ema else "no",
        "converter": str(CONVERTER),
        "licence": LICENCE,
    }
    _write(output, source, AVERAGED if ema else "", entries, metadata)
    return {"output": str(output), "tensors": len(entries), "sha256": _sha256(output)} | metadata


def variables(depth: int, width: int, sk: bool) -> list[Entry]:
    """Every variable of the base network in the order of creation; kernels are HWIO."""
    return list(_base(depth, width, sk))


def head_variables(depth: int, width: int, layer: int) -> list[Entry]:
    """The variables of one layer of the projection head."""
    inputs = 2048 * width
    last = layer == HEAD_LAYERS - 1
    outputs = HEAD_OUT if last else inputs
    scope, module = f"{HEAD}nl_{layer}/", f"head.nl_{layer}."
    entries = [
        Entry(name=f"{scope}dense/kernel", key=f"{module}dense.weight", shape=(inputs, outputs))
    ]
    for name, ending in NORM.items():
        absent = last and name == "beta"  # the last norm has no offset
        original = "" if absent else f"{scope}batch_normalization/{name}"
        entries.append(Entry(name=original, key=f"{module}bn.{ending}", shape=(outputs,)))
    return entries


def _base(depth: int, width: int, sk: bool) -> Iterator[Entry]:
    convs, norms = count(), count()

    def conv(module: str, kernel: int, channels: int, out: int) -> Iterator[Entry]:
        scope = _numbered("conv2d", next(convs))
        shape = (kernel, kernel, channels, out)
        yield Entry(name=f"{scope}/kernel", key=f"{module}.weight", shape=shape)

    def conv_norm(module: str, kernel: int, channels: int, out: int) -> Iterator[Entry]:
        yield from conv(f"{module}.conv", kernel, channels, out)
        scope = _numbered("batch_normalization", next(norms))
        for name, ending in NORM.items():
            yield Entry(name=f"{scope}/{name}", key=f"{module}.bn.{ending}", shape=(out,))

    first = 64 * width
    if sk:
        yield from conv_norm("stem.0", 3, 3, first // 2)
        yield from conv_norm("stem.1", 3, first // 2, first // 2)
        yield from conv_norm("stem.2", 3, first // 2, first)
    else:
        yield from conv_norm("stem.0", 7, 3, first)
    channels = first
    for group, blocks in enumerate(BLOCKS[depth]):
        filters = first * 2**group
        for block in range(blocks):
            module = f"block_group{group + 1}.{block}"
            if block == 0:
                yield from conv_norm(f"{module}.shortcut", 1, channels, 4 * filters)
            yield from conv_norm(f"{module}.reduce", 1, channels, filters)
            if sk:
                middle = max(filters // 16, 32)
                yield from conv_norm(f"{module}.spatial.streams", 3, filters, 2 * filters)
                yield from conv_norm(f"{module}.spatial.squeeze", 1, filters, middle)
                yield from conv(f"{module}.spatial.mix", 1, middle, 2 * filters)
            else:
                yield from conv_norm(f"{module}.spatial", 3, filters, filters)
            yield from conv_norm(f"{module}.expand", 1, filters, 4 * filters)
            channels = 4 * filters


def _numbered(layer: str, number: int) -> str:
    return f"{BASE}{layer}_{number}" if number else f"{BASE}{layer}"


def _architecture(variant: str) -> tuple[int, int, bool]:
    """Depth, width and selective kernels of `r50_1x_sk1`."""
    depth, width, sk = variant.split("_")
    return int(depth[1:]), int(width[:-1]), sk == "sk1"


def _matched(
    source: Checkpoint, architecture: tuple[int, int, bool], prefix: str, variant: str
) -> list[Entry]:
    """The entries to convert, after proof that they are all there is under the prefix."""
    depth, width, sk = architecture
    present = {
        name.removeprefix(prefix)
        for name in source
        if name.startswith((prefix + BASE, prefix + HEAD)) and not name.endswith(SLOT)
    }
    if not any(name.startswith(BASE) for name in present):
        raise WeightsError(
            f"{source.prefix} has no variables under {prefix + BASE}; {_hint(source, prefix)}"
        )
    wanted = variables(depth, width, sk)
    for layer in range(HEAD_LAYERS):
        if any(name.startswith(f"{HEAD}nl_{layer}/") for name in present):
            wanted += head_variables(depth, width, layer)
    named = {entry.name: entry.shape for entry in wanted if entry.name}
    _refuse(source, variant, "lacks", [prefix + n for n in named if n not in present])
    _refuse(source, variant, "has surplus", sorted(prefix + n for n in present - set(named)))
    odd = [
        f"{prefix + name} {list(tensor.shape)} {tensor.dtype} instead of {list(shape)} float32"
        for name, shape in named.items()
        if (tensor := source[prefix + name]).shape != shape or tensor.dtype != "float32"
    ]
    _refuse(source, variant, "has of another shape or type:", odd)
    return wanted


def _hint(source: Mapping[str, Any], prefix: str) -> str:
    if prefix and any(name.startswith(BASE) for name in source):
        return "it keeps no moving average; convert without `ema`"
    if any("OBJECT_GRAPH" in name for name in source):
        return "it is a TF2 object checkpoint; fetch the TF1 one (model.ckpt-STEP)"
    return "give a SimCLRv2 checkpoint of google-research/simclr"


def _refuse(source: Checkpoint, variant: str, fault: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise WeightsError(
            f"{source.prefix} is not {variant}: it {fault} {', '.join(names[:_SHOWN])}{more}; "
            f"check variant= against the checkpoint's folder"
        )


def _step(source: Checkpoint) -> str:
    stored = source.get("global_step")
    if stored is None or stored.dtype not in ("int32", "int64") or stored.shape:
        return "unknown"
    return str(source.read("global_step").item())


def _write(
    output: Path, source: Checkpoint, prefix: str, entries: list[Entry], metadata: Mapping[str, str]
) -> None:
    """The file appears under its name whole or not at all.

    Written here and not by safetensors' own writer, which wants all tensors in memory and puts the
    metadata in an order of chance: the file's digest names the weights, so it has to be stable.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for entry in entries:
        start, end = end, end + 4 * math.prod(entry.shape)
        shape = _turned(np.empty(entry.shape)).shape
        header[entry.key] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    temporary = output.with_name(f".{output.name}.{token_hex(4)}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for entry in in_steps("variables", entries, len(entries)):
                values = source.read(prefix + entry.name) if entry.name else np.zeros(entry.shape)
                file.write(_turned(values).astype("<f4").tobytes())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError as error:
        raise WeightsError(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _turned(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Kernels the way torch has them: HWIO to OIHW, and [in, out] to [out, in]."""
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(values.ndim)
    return values.transpose(order) if order else values


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
