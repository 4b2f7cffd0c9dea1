"""MAE's encoder: the published layout loads as it is, and network and picture are numpy's."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf

import extract
from extract.encoders.mae import wave_positions
from store.errors import ConfigError, WeightsError


@pytest.fixture(scope="module")
def state():
    """Names and shapes of `mae_pretrain_vit_base.pth`."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, std=0.02):
        return std * torch.randn(shape, generator=generator)

    def layer(name, out, *width):
        std = math.prod(width) ** -0.5
        return {f"{name}.weight": normal(out, *width, std=std), f"{name}.bias": normal(out)}

    def norm(name):
        return {f"{name}.weight": 1 + normal(768, std=0.2), f"{name}.bias": normal(768, std=0.2)}

    tensors = {"cls_token": normal(1, 1, 768), "pos_embed": normal(1, 197, 768, std=0.5)}
    tensors |= layer("patch_embed.proj", 768, 3, 16, 16)
    for i in range(12):
        tensors |= norm(f"blocks.{i}.norm1") | layer(f"blocks.{i}.attn.qkv", 2304, 768)
        tensors |= layer(f"blocks.{i}.attn.proj", 768, 768) | norm(f"blocks.{i}.norm2")
        tensors |= layer(f"blocks.{i}.mlp.fc1", 3072, 768) | layer(f"blocks.{i}.mlp.fc2", 768, 3072)
    return tensors | norm("norm")


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("mae") / "mae_pretrain_vit_base.pth"
    torch.save({"model": state}, path)
    return path


def reference(state, x):
    """[3, 224, 224] to the 197 normalised tokens, head by head."""
    p = {k: v.double().numpy() for k, v in state.items()}

    def dense(x, name):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    kernel = p["patch_embed.proj.weight"].reshape(768, -1)
    patches = [
        kernel @ x[:, i : i + 16, j : j + 16].ravel() + p["patch_embed.proj.bias"]
        for i in range(0, 224, 16)
        for j in range(0, 224, 16)
    ]
    tokens = np.stack([p["cls_token"][0, 0], *patches]) + p["pos_embed"][0]
    for i in range(12):
        query, key, value = np.split(
            dense(norm(tokens, f"blocks.{i}.norm1"), f"blocks.{i}.attn.qkv"), 3, 1
        )
        mixed = []
        for head in range(12):
            mine = slice(64 * head, 64 * head + 64)
            weight = np.exp(query[:, mine] @ key[:, mine].T / 8)
            mixed.append(weight / weight.sum(1, keepdims=True) @ value[:, mine])
        tokens = tokens + dense(np.concatenate(mixed, 1), f"blocks.{i}.attn.proj")
        inner = dense(norm(tokens, f"blocks.{i}.norm2"), f"blocks.{i}.mlp.fc1")
        inner = inner * (1 + erf(inner / math.sqrt(2))) / 2
        tokens = tokens + dense(inner, f"blocks.{i}.mlp.fc2")
    return norm(tokens, "norm")


def test_the_published_file_gives_the_paper_s_tokens(state, file):
    cls, mean = (extract.load_encoder(f"mae:weights={file},pool={p}") for p in ("cls", "mean"))
    x = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    tokens = reference(state, x[0].double().numpy())
    for encoder, expected in ((cls, tokens[0]), (mean, tokens[1:].mean(0))):
        row = encoder.forward(x)[0].numpy()
        assert np.linalg.norm(row - expected) < 1e-4 * np.linalg.norm(expected)
    assert cls.identity != mean.identity
    assert "CC BY-NC 4.0" in cls.notes["licence"]


@pytest.mark.parametrize("size", [(240, 320), (300, 256), (97, 80)], ids=str)
def test_preprocessing(size):
    """The rule of its evaluation: short side to 256, centre of 224, ImageNet's statistics."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=generator)
    short = min(size)
    scaled = F.interpolate(
        frames.permute(0, 3, 1, 2),
        [int(256 * n / short) for n in size],
        mode="bicubic",
        antialias=True,
    )
    top, left = (round((n - 224) / 2) for n in scaled.shape[2:])
    centre = scaled[0, :, top : top + 224, left : left + 224].float() / 255
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (centre - mean[:, None, None]) / deviation[:, None, None]
    ours = extract.load_encoder("mae:untrained").preprocess(frames)[0]
    # torch's fixed point breaks some ties the other way: one level a pass at a few pixels.
    assert (ours - expected).abs().max() < 2.01 / 255 / 0.224
    assert ((ours - expected).abs() > 1e-4).float().mean() < 0.03


def test_a_decoder_is_spare_and_a_missing_block_is_not(state, tmp_path):
    more = {**state, "mask_token": torch.zeros(1, 1, 512), "decoder_embed.bias": torch.zeros(512)}
    torch.save({"model": more}, tmp_path / "visualize.pth")
    extract.load_encoder(f"mae:weights={tmp_path / 'visualize.pth'}")
    less = {k: v for k, v in state.items() if not k.startswith("blocks.11")}
    torch.save({"model": less}, tmp_path / "less.pth")
    with pytest.raises(WeightsError, match=r"without blocks\.11"):
        extract.load_encoder(f"mae:weights={tmp_path / 'less.pth'}")


def test_pools_say_what_exists():
    with pytest.raises(ConfigError, match="cls, mean"):
        extract.load_encoder("mae:untrained,pool=max")


def test_positions_are_waves_of_column_and_row():
    table = wave_positions()[0].double().numpy()
    assert not table[0].any()
    for row, column in ((0, 0), (3, 5), (13, 2)):
        ours = table[1 + 14 * row + column]
        for i in (0, 7, 191):
            rate = 10_000 ** (-i / 192)
            expected = [f(n * rate) for n in (column, row) for f in (math.sin, math.cos)]
            np.testing.assert_allclose(ours[[i, 192 + i, 384 + i, 576 + i]], expected, atol=1e-6)


def test_small_ones_see_the_patches_that_are_left():
    """With all patches it is the whole network; one that is left out changes nothing of it."""
    encoder = extract.load_encoder("mae:width=128,depth=2,side=64,untrained")
    assert encoder.dim == 128
    assert encoder.slug == "mae-128x2-untrained"
    assert encoder.identity["preprocessing"]["side"] == 64
    frames = torch.randint(0, 256, (3, 70, 90, 3), dtype=torch.uint8)
    x = encoder.preprocess(frames)
    assert x.shape == (3, 3, 64, 64)
    network = encoder._network.module
    with torch.inference_mode():
        everything = torch.arange(16).expand(3, -1)
        assert torch.equal(network.visible(x, everything)[:, 0], network(x))
        kept = torch.tensor([[3, 7, 11]] * 3)
        other = x.clone()
        other[:, :, :16, :48] = 5  # patches 0 to 2
        assert torch.equal(network.visible(x, kept), network.visible(other, kept))


@pytest.mark.parametrize("settings", ["width=100", "side=70"])
def test_sizes_that_do_not_divide_are_refused(settings):
    with pytest.raises(ConfigError, match="no multiple of"):
        extract.load_encoder(f"mae:{settings},untrained")
