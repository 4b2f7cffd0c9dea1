"""Encoders and clips of a few numbers, which keep the protocols of `learn finetune`."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from learn.finetuning.protocols import Learner, Stream
from store import Manifest, Status, read_manifest

SIDE = 8
RATE = 100  # samples a second


class Net(nn.Module):
    """Two layers with a batch norm, of frames or of sound."""

    def __init__(self, channels: int, dim: int = 6) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(channels, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU()),
             nn.Sequential(nn.Conv2d(5, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.ReLU())]
        )  # fmt: skip

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x.mean((2, 3))


class PatchNet(nn.Module):
    """Four patches of 4 x 4 pixels, each a token, and a class token that sees their mean."""

    patch, grid = 4, 2

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 5, dim))
        self.embed = nn.Conv2d(3, dim, 4, 4)
        self.mix = nn.Linear(dim, dim)

    def visible(self, x, kept):
        patches = self.embed(x).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]
        patches = patches.gather(1, kept[..., None].expand(-1, -1, patches.shape[2]))
        first = self.pos_embed[:, :1] + patches.mean(1, keepdim=True)
        return self.mix(torch.cat([first, patches], 1)).relu()

    def positions(self, dim):
        return torch.linspace(-1, 1, 5 * dim).reshape(1, 5, dim)

    def forward(self, x):
        return self.visible(x, torch.arange(4).expand(len(x), -1))[:, 0]


class StackNet(nn.Module):
    """A row from all frames of a stack."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv3d(3, dim, 3, padding=1), nn.BatchNorm3d(dim), nn.ReLU())

    def forward(self, x):
        return self.blocks(x).mean((2, 3, 4))


@dataclass(eq=False)
class TinyLearner:
    """An encoder of 8 x 8 pixels, or of a second of sound as 10 x 10 numbers."""

    modality: str = "visual"
    seed: int = 0
    name: str = "tiny"
    dim: int = 6
    takes_head: bool = False
    patches: bool = False
    stack: int = 0
    module: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.spec = f"tiny:seed={self.seed}"
        self.identity = {"network": "tiny", "weights": {"untrained": True, "seed": self.seed}}
        visual = self.modality == "visual"
        self.side, self.sample_rate = (SIDE, 0) if visual else (0, RATE)
        self.window_samples = 0 if visual else RATE
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = PatchNet() if self.patches else Net(3 if visual else 1)
            if self.stack:
                self.module = StackNet()

    def prepare(self, x):
        if self.modality == "visual":
            return self.scaled(x.permute(0, 3, 1, 2)[:, :, :SIDE, :SIDE].float() / 255)
        return x.reshape(-1, 1, 10, 10)

    def scaled(self, x):
        x = 2 * x - 1
        return x.reshape(-1, self.stack, *x.shape[1:]).transpose(1, 2) if self.stack else x

    def forward(self, x):
        return self.module(x)

    def at_rest(self, x):
        with torch.inference_mode():
            if self.modality == "audio":
                x = x[:, : RATE * (x.shape[1] // RATE)].reshape(-1, RATE)
            return self.module(self.prepare(x))

    def write(self, path: Path, *, head=None, **about) -> str:
        save_file(self.module.state_dict(), path)
        return f"tiny:weights={path}"


@dataclass(frozen=True, eq=False)
class TinyClip:
    row: int
    status: dict
    detail: dict
    sha256: bytes
    frames: np.ndarray | None
    sound: np.ndarray | None


@dataclass(eq=False)
class TinyStream:
    """Frames whose colour is their class's, and sound whose pitch is; no file anywhere."""

    manifest: Manifest
    looks: tuple = (0.25, 0.75)
    broken: frozenset = frozenset()

    def survey(self, rows, progress=None):
        return iter(list(self.read(lambda: iter([(row, self.looks or (0.5,)) for row in rows]))))

    def read(self, wanted):
        for row, shares in wanted():
            yield self._clip(row, shares)

    def _clip(self, row, shares):
        status = Status.DECODE_ERROR if row in self.broken else Status.OK
        both = ("visual", "audio")
        name = self.manifest.column("label")[row] if "label" in self.manifest.columns else ""
        label = int(name.removeprefix("c") or 0)
        rng = np.random.default_rng(row)
        colour = np.array([label % 2, label // 2 % 2, label // 4 % 2]) * 120 + 60
        frames = colour + rng.integers(0, 60, (len(shares), 12, 10, 3))
        at = np.arange(3 * RATE) / RATE
        sound = np.sin(2 * np.pi * (3 + 4 * label) * at) + 0.3 * rng.standard_normal(len(at))
        return TinyClip(
            row=row, status=dict.fromkeys(both, status), detail=dict.fromkeys(both, "as told"),
            sha256=row.to_bytes(32, "big"),
            frames=None if status.failed else frames.astype(np.uint8),
            sound=None if status.failed else (0.5 * sound).astype(np.float32),
        )  # fmt: skip


def manifest_of(folder: Path, classes=8, clips=6, val=3) -> Manifest:
    """Clips of classes c0, c1, …, the last of which are for validation."""
    lines = ["path,label,split"]
    for label in range(classes):
        split = "val" if label >= classes - val else "train"
        lines += [f"c{label}_{i}.mp4,c{label},{split}" for i in range(clips)]
    path = folder / "clips.csv"
    path.write_text("\n".join(lines))
    return read_manifest(path)


@pytest.fixture
def manifest(tmp_path):
    return manifest_of(tmp_path)


def test_the_stand_ins_keep_the_protocols(manifest):
    assert isinstance(TinyLearner(), Learner)
    assert isinstance(TinyStream(manifest), Stream)
