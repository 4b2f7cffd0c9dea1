"""PANNs: published files load as they are, and front end and network are those of numpy."""

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file
from torch import nn

import extract
from store.errors import ConfigError, WeightsError

RATE = 32_000


PLAIN = {  # kernel, channels of the blocks
    "cnn6": (5, [64, 128, 256, 512]),
    "cnn10": (3, [64, 128, 256, 512]),
    "cnn14": (3, [64, 128, 256, 512, 1024, 2048]),
}
MOBILE = [  # channels and stride of every block of MobileNetV1
    (32, 2), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *[(512, 1)] * 5, (1024, 2), (1024, 1),
]  # fmt: skip


def published(variant, classes=527):
    """A state dict with the names and shapes of the published files, random but trained-looking."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size):
        return torch.randn(size, generator=generator) * (2 / math.prod(size[1:])) ** 0.5

    def norm(name, size):
        return {
            f"{name}.weight": 0.5 + torch.rand(size, generator=generator),
            f"{name}.bias": 0.1 * torch.randn(size, generator=generator),
            f"{name}.running_mean": 0.1 * torch.randn(size, generator=generator),
            f"{name}.running_var": 0.2 + torch.rand(size, generator=generator),
            f"{name}.num_batches_tracked": torch.tensor(7),
        }

    state = {
        "spectrogram_extractor.stft.conv_real.weight": torch.zeros(513, 1, 1024),
        "spectrogram_extractor.stft.conv_imag.weight": torch.zeros(513, 1, 1024),
        "logmel_extractor.melW": torch.from_numpy(slaney()).float(),
        **norm("bn0", 64),
    }
    state["bn0.running_mean"] -= 30
    state["bn0.running_var"] *= 300
    channels = 1
    if variant in PLAIN:
        kernel, blocks = PLAIN[variant]
        for i, out in enumerate(blocks, 1):
            for j in (1, 2) if kernel == 3 else (1,):
                state[f"conv_block{i}.conv{j}.weight"] = normal(out, channels, kernel, kernel)
                state |= norm(f"conv_block{i}.bn{j}", out)
                channels = out
    else:
        for i, (out, _) in enumerate(MOBILE):
            deep = channels if i else out
            state[f"features.{i}.0.weight"] = normal(deep, 1, 3, 3)
            state |= norm(f"features.{i}.2", deep)
            if i:
                state[f"features.{i}.4.weight"] = normal(out, channels, 1, 1)
                state |= norm(f"features.{i}.5", out)
            channels = out
    for name, out in (("fc1", channels), ("fc_audioset", classes)):
        state[f"{name}.weight"] = normal(out, channels)
        state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


def slaney(rate=RATE, fft=1024, high_hz=14_000):
    """Triangles of equal area between 66 edges from 50 Hz."""
    mels = np.linspace(0.75, 15 + 27 * math.log(high_hz / 1000, 6.4), 66)
    edges = [m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in mels]
    hz = np.arange(fft // 2 + 1) * rate / fft
    return np.stack(
        [np.interp(hz, edges[m : m + 3], [0, 2 / (edges[m + 2] - edges[m]), 0]) for m in range(64)],
        1,
    )


def log_mel(sound, mel, fft=1024, hop=320):
    """As torchlibrosa does it: the transform is a product with windowed cosines and sines."""
    n = np.arange(fft)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / fft)
    turns = hann[:, None] * np.exp(-2j * np.pi * np.outer(n, np.arange(fft // 2 + 1)) / fft)
    sound = np.pad(sound, fft // 2, "reflect")
    frames = np.stack([sound[i : i + fft] for i in range(0, len(sound) - fft + 1, hop)])
    spectrum = frames @ turns
    power = spectrum.real**2 + spectrum.imag**2
    return 10 * np.log10(np.maximum(power @ mel, 1e-10))


def convolve(x, kernel):
    """[time, mel, channels] under OIHW at stride 1; one input channel in the kernel: depthwise."""
    out, deep, size, _ = kernel.shape
    padded = np.pad(x, ((size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    patches = sliding_window_view(padded, (size, size), (0, 1))
    if deep == 1 and x.shape[2] == out:
        return np.einsum("tmcij,cij->tmc", patches, kernel[:, 0], optimize=True)
    return np.einsum("tmcij,ocij->tmo", patches, kernel, optimize=True)


def halved(x):
    time, mel = x.shape[0] // 2, x.shape[1] // 2
    return x[: 2 * time, : 2 * mel].reshape(time, 2, mel, 2, -1).mean((1, 3))


def reference(state, sound, variant):
    """The network from the paper's tables; maps are [time, mel, channels]."""
    p = {k: v.double().numpy() for k, v in state.items()}

    def norm(x, name):
        scale = p[f"{name}.weight"] / np.sqrt(p[f"{name}.running_var"] + 1e-5)
        return (x - p[f"{name}.running_mean"]) * scale + p[f"{name}.bias"]

    x = norm(log_mel(sound, p["logmel_extractor.melW"]), "bn0")[..., None]
    if variant in PLAIN:
        kernel, blocks = PLAIN[variant]
        for i in range(1, len(blocks) + 1):
            for j in (1, 2) if kernel == 3 else (1,):
                x = convolve(x, p[f"conv_block{i}.conv{j}.weight"])
                x = np.maximum(norm(x, f"conv_block{i}.bn{j}"), 0)
            x = halved(x) if i < 6 else x
    else:
        for i, (_, stride) in enumerate(MOBILE):
            x = convolve(x, p[f"features.{i}.0.weight"])
            x = norm(halved(x) if stride == 2 else x, f"features.{i}.2")
            x = np.maximum(x, 0)
            if i:
                x = convolve(x, p[f"features.{i}.4.weight"])
                x = np.maximum(norm(x, f"features.{i}.5"), 0)
    x = x.mean(1)
    return np.maximum((x.max(0) + x.mean(0)) @ p["fc1.weight"].T + p["fc1.bias"], 0)


def sound(seconds, count=1):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(count, round(seconds * RATE), generator=generator)


@pytest.fixture(scope="module")
def cnn10():
    return published("cnn10")


@pytest.fixture(scope="module")
def file(cnn10, tmp_path_factory):
    """As on Zenodo: the state dict under `model`, in the format from before zip."""
    path = tmp_path_factory.mktemp("panns") / "Cnn10_mAP=0.380.pth"
    torch.save({"model": cnn10}, path, _use_new_zipfile_serialization=False)
    return path


def test_a_published_cnn10_gives_the_paper_s_embedding(cnn10, file):
    encoder = extract.load_encoder(f"panns:variant=cnn10,weights={file},window_seconds=0")
    x = sound(0.5)
    expected = reference(cnn10, x[0].double().numpy(), "cnn10")
    row = encoder(x)[0].numpy()
    assert np.linalg.norm(row - expected) < 1e-4 * np.linalg.norm(expected)
    assert encoder.slug == "panns-cnn10"
    assert encoder.notes["weights"] == "Cnn10_mAP=0.380.pth"
    assert "CC BY 4.0" in encoder.notes["licence"]


@pytest.mark.parametrize(
    ("variant", "dim"), [("cnn6", 512), ("cnn14", 2048), ("mobilenetv1", 1024)]
)
def test_the_other_published_networks_are_the_paper_s(variant, dim, tmp_path):
    state = published(variant)
    torch.save({"model": state}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    encoder = extract.load_encoder(
        f"panns:variant={variant},weights={tmp_path / 'file.pth'},window_seconds=0"
    )
    x = sound(0.65)  # 66 frames: odd maps on the way
    expected = reference(state, x[0].double().numpy(), variant)
    row = encoder(x)[0].numpy()
    assert row.shape == (dim,)
    assert np.linalg.norm(row - expected) < 1e-4 * np.linalg.norm(expected)


def test_the_published_mobilenetv1_has_146_tensors():
    """As a manifest of the file counts them; counters of training steps apart."""
    assert sum("num_batches" not in key for key in published("mobilenetv1")) == 146


def test_the_front_end_of_16_khz(tmp_path):
    encoder = extract.load_encoder("panns:variant=cnn14_16k,untrained")
    assert (encoder.sample_rate, encoder.dim) == (16_000, 2048)
    x = sound(1)  # two seconds of it, at this rate
    ours = (encoder.preprocess(x)[0, 0] * (400 + 1e-5) ** 0.5 - 40).numpy()
    theirs = log_mel(x[0].double().numpy(), slaney(16_000, 512, 8000), 512, 160)
    assert ours.shape == theirs.shape == (201, 64)
    assert np.abs(ours - theirs).max() < 3e-3


def test_the_front_end_agrees_in_decibels(file):
    """Within what the published front end itself differs by: .003 dB above -60 dB."""
    encoder = extract.load_encoder("panns:variant=cnn10,untrained")
    t = torch.arange(2 * RATE) / RATE
    x = (0.5 * torch.sin(2 * math.pi * 440 * t) + 0.001 * sound(2)[0])[None]
    ours = (encoder.preprocess(x)[0, 0] * (400 + 1e-5) ** 0.5 - 40).numpy()
    theirs = log_mel(x[0].double().numpy(), slaney())
    assert ours.shape == (201, 64)
    assert np.abs(ours - theirs)[theirs > -60].max() < 3e-3
    assert np.abs(ours - theirs).max() < 0.2


def test_the_file_s_own_mel_matrix_is_used(cnn10, file, tmp_path):
    changed = {k: v for k, v in cnn10.items() if "num_batches" not in k}
    changed["logmel_extractor.melW"] = cnn10["logmel_extractor.melW"].flip(1).contiguous()
    save_file(changed, tmp_path / "flipped.safetensors")
    del changed["logmel_extractor.melW"]
    save_file(changed, tmp_path / "without.safetensors")
    x = sound(2)
    theirs, flipped, without = (
        extract.load_encoder(f"panns:variant=cnn10,weights={path}")(x)
        for path in (file, tmp_path / "flipped.safetensors", tmp_path / "without.safetensors")
    )
    assert (flipped - theirs).norm() > 1e-3 * theirs.norm()
    assert (without - theirs).norm() < 1e-5 * theirs.norm()


def test_a_file_of_another_variant_is_refused(file):
    with pytest.raises(WeightsError, match="without conv_block5"):
        extract.load_encoder(f"panns:variant=cnn14,weights={file}")
    with pytest.raises(ConfigError, match="cnn10, cnn14, cnn14_16k, cnn6, mobilenetv1"):
        extract.load_encoder("panns:variant=cnn99,untrained")


def test_a_training_checkpoint_that_needs_more_than_tensors_is_refused(tmp_path):
    torch.save({"model": {}, "sampler": nn.Linear(1, 1)}, tmp_path / "iteration.pth")
    with pytest.raises(WeightsError, match="more than tensors"):
        extract.load_encoder(f"panns:weights={tmp_path / 'iteration.pth'}")


@pytest.mark.parametrize("variant", ["cnn6", "cnn10", "mobilenetv1"])
def test_a_narrow_network_is_the_same_one_with_fewer_channels(variant):
    wide, narrow = (extract.load_encoder(f"panns:{variant},narrow={n},untrained") for n in (1, 4))
    assert narrow.dim == wide.dim // 4
    assert narrow.identity == wide.identity | {"narrow": 4}
    assert narrow.slug == f"panns-{variant}-narrow4-untrained"
    shapes = [
        {k: v.shape for k, v in x._network.module.state_dict().items()} for x in (wide, narrow)
    ]
    assert shapes[0].keys() == shapes[1].keys()
    assert {wide[0] / of[0] for wide, of in zip(*(s.values() for s in shapes), strict=True)} == {4}
    assert narrow(torch.randn(2, 64_000)).shape == (2, narrow.dim)
