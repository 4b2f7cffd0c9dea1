"""A network in an ONNX file, run by onnxruntime; one row a frame, or a window of sound.

What the input is, is read from the file: [N, 3, H, W] or [N, H, W, 3] takes frames, scaled to
H x W after a crop to the middle; [N, samples] takes sound. What a file does not say is said in the
SPEC: `side`, `mean` and `std` of the channels (with + between), `sample_rate`. A row is the first
output, or the one that `output` names; of a map or a sequence, its mean over places.
"""

from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from extract.encoders import Description
from extract.encoders._library import LibraryEncoder, LibraryFrames, LibrarySound, Named, slug_of
from extract.encoders._network import present
from extract.encoders._spectrogram import Windows
from store.errors import ConfigError, MissingFile, WeightsError
from store.optional import library
from store.settings import Settings, setting

NAME = "onnx"
REVISION = 1  # raise when our numbers change
DESCRIPTION = Description(
    modality="", dims={}, licence="the file's own", weights="none", precisions=("fp32",)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(Settings):
    """Settings of the encoder `onnx`."""

    file: str = setting("", main=True)
    output: str = ""  # its name; none: the first
    side: int = setting(224, at_least=1)  # of frames, where the file leaves it open
    mean: str = "0.485+0.456+0.406"  # of the channels, which lie in 0..1
    std: str = "0.229+0.224+0.225"
    sample_rate: int = setting(16_000, at_least=1)
    window_seconds: float = setting(0.0, at_least=0)  # 0: one window over the whole sound
    hop_seconds: float = setting(1.0, above=0)


def build(config: Config, device: str = "cpu", precision: str = "fp32") -> LibraryEncoder:
    """The network of the file."""
    runtime = library("onnxruntime", NAME)
    if precision != "fp32":
        raise ConfigError(f"{NAME} keeps its rows in fp32 only, not {precision!r}; use auto")
    if not config.file:
        raise ConfigError(f'{NAME}: name a file, as {NAME}:"FILE"')
    path = Path(config.file)
    if not path.is_file():
        raise MissingFile(f"{path} is not there; check the path")
    where = present(device)
    wanted = ["CPUExecutionProvider"]
    if where.type == "cuda":
        if "CUDAExecutionProvider" not in runtime.get_available_providers():
            raise ConfigError("this onnxruntime has no CUDA; install onnxruntime-gpu or use cpu")
        wanted.insert(0, "CUDAExecutionProvider")
    try:
        session = runtime.InferenceSession(str(path), providers=wanted)
    except Exception as error:
        why = " ".join(str(error).split())
        raise WeightsError(f"onnxruntime cannot read {path}: {why[:300]}") from error
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    if len(session.get_inputs()) != 1:
        raise WeightsError(f"{path} takes {len(session.get_inputs())} inputs; one is what is read")
    return _encoder(config, session, path, digest)


def _encoder(config: Config, session: Any, path: Path, digest: str) -> LibraryEncoder:
    (taken,) = session.get_inputs()
    names = [out.name for out in session.get_outputs()]
    if config.output and config.output not in names:
        raise ConfigError(f"{path} has no output {config.output!r}; it has {', '.join(names)}")
    output, shape = config.output or names[0], list(taken.shape)

    def rows(x: Tensor) -> Float[Tensor, "B D"]:
        found = torch.from_numpy(session.run([output], {taken.name: x.cpu().numpy()})[0]).float()
        if found.ndim == 3:
            return found.mean(1)
        return found.mean((2, 3)) if found.ndim == 4 else found

    identity = {
        "network": NAME,
        "revision": REVISION,
        "output": output,
        "weights": {"sha256": digest},
        "precision": "fp32",
    }
    slug, notes = (
        slug_of(NAME, path.stem, None),
        {"licence": DESCRIPTION.licence, "file": path.name},
    )
    cpu = torch.device("cpu")
    if len(shape) == 4 and 3 in (shape[1], shape[3]):
        prepare, facts = _frames(config, shape)
        identity["preprocessing"] = facts
        dim = rows(prepare(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))).shape[1]
        named = Named(name=NAME, slug=slug, dim=dim, identity=identity, notes=notes)
        return LibraryFrames(named, prepare, rows, cpu, short_side=max(facts["size"]))
    if len(shape) == 2:
        fixed = shape[1] if isinstance(shape[1], int) else 0
        length = fixed or round(config.window_seconds * config.sample_rate)
        hop = round(config.hop_seconds * config.sample_rate)
        windows = Windows(
            sample_rate=config.sample_rate, length=length, hop=min(hop, length) if length else hop
        )
        identity["preprocessing"] = {"sample_rate": config.sample_rate, "window": length,
                                     "hop": windows.hop if length else 0}  # fmt: skip
        dim = rows(torch.zeros(1, length or config.sample_rate)).shape[1]
        named = Named(name=NAME, slug=slug, dim=dim, identity=identity, notes=notes)
        return LibrarySound(named, lambda x: x, rows, cpu, windows=windows)
    raise WeightsError(
        f"{path} takes {taken.name} of shape {shape}; frames are [N, 3, H, W] or [N, H, W, 3], "
        "sound is [N, samples]"
    )


def _frames(config: Config, shape: list[Any]) -> tuple[Any, dict[str, Any]]:
    """What prepares frames for an input of this shape, and its description."""
    last = shape[1] != 3
    high, wide = (
        s if isinstance(s, int) else config.side for s in (shape[1:3] if last else shape[2:])
    )
    mean, std = (
        _numbers(text, name) for text, name in ((config.mean, "mean"), (config.std, "std"))
    )

    def prepare(frames: UInt8[Tensor, "B H W 3"]) -> Tensor:
        x = frames.permute(0, 3, 1, 2).float() / 255
        height, width = x.shape[2:]
        scale = max(high / height, wide / width)
        size = max(high, round(height * scale)), max(wide, round(width * scale))
        if size != (height, width):
            x = F.interpolate(x, size, mode="bilinear", antialias=True, align_corners=False)
        top, left = (size[0] - high) // 2, (size[1] - wide) // 2
        x = (x[:, :, top : top + high, left : left + wide] - mean) / std
        return (x.permute(0, 2, 3, 1) if last else x).contiguous()

    return prepare, {
        "size": [high, wide], "crop": "middle", "resize": "bilinear_antialias",
        "mean": config.mean, "std": config.std, "order": "nhwc" if last else "nchw",
    }  # fmt: skip


def _numbers(text: str, name: str) -> Float[Tensor, "3 1 1"]:
    """Three numbers with + between.

    Raises:
        ConfigError: something else.
    """
    try:
        found = [float(part) for part in text.split("+")]
    except ValueError:
        found = []
    if len(found) != 3 or not np.isfinite(found).all():
        raise ConfigError(f"{NAME}: {name}={text!r} is not three numbers, as 0.5+0.5+0.5")
    return torch.tensor(found)[:, None, None]
