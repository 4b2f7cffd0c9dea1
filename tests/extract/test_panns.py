"""PANNs: published files load as they are, and front end and network are those of numpy."""

import math

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file
from torch import nn

import extract
from extract.encoders import panns
from store.errors import ConfigError, WeightsError

RATE = 32_000


def published(variant, classes=527):
    """A state dict with the names and shapes of the published files, random but trained-looking."""
    generator = torch.Generator().manual_seed(0)
    channels = {"cnn10": [64, 128, 256, 512], "cnn14": [64, 128, 256, 512, 1024, 2048]}[variant]

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
    for i, out in enumerate(channels):
        state[f"conv_block{i + 1}.conv1.weight"] = normal(out, channels[i - 1] if i else 1, 3, 3)
        state[f"conv_block{i + 1}.conv2.weight"] = normal(out, out, 3, 3)
        state |= norm(f"conv_block{i + 1}.bn1", out) | norm(f"conv_block{i + 1}.bn2", out)
    for name, out in (("fc1", channels[-1]), ("fc_audioset", classes)):
        state[f"{name}.weight"] = normal(out, channels[-1])
        state[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)
    return state


def slaney():
    """Triangles of equal area between 66 edges from 50 Hz to 14 kHz."""
    mels = np.linspace(0.75, 15 + 27 * math.log(14, 6.4), 66)
    edges = [m * 200 / 3 if m < 15 else 1000 * 6.4 ** ((m - 15) / 27) for m in mels]
    hz = np.arange(513) * RATE / 1024
    return np.stack(
        [np.interp(hz, edges[m : m + 3], [0, 2 / (edges[m + 2] - edges[m]), 0]) for m in range(64)],
        1,
    )


def log_mel(sound, mel):
    """As torchlibrosa does it: the transform is a product with windowed cosines and sines."""
    n = np.arange(1024)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / 1024)
    turns = hann[:, None] * np.exp(-2j * np.pi * np.outer(n, np.arange(513)) / 1024)
    sound = np.pad(sound, 512, "reflect")
    frames = np.stack([sound[i : i + 1024] for i in range(0, len(sound) - 1023, 320)])
    spectrum = frames @ turns
    power = spectrum.real**2 + spectrum.imag**2
    return 10 * np.log10(np.maximum(power @ mel, 1e-10))


def reference(state, sound, blocks):
    """The network from the paper's table; maps are [time, mel, channels]."""
    p = {k: v.double().numpy() for k, v in state.items()}

    def norm(x, name):
        scale = p[f"{name}.weight"] / np.sqrt(p[f"{name}.running_var"] + 1e-5)
        return (x - p[f"{name}.running_mean"]) * scale + p[f"{name}.bias"]

    x = norm(log_mel(sound, p["logmel_extractor.melW"]), "bn0")[..., None]
    for i in range(1, blocks + 1):
        for j in (1, 2):
            patches = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
            kernel = p[f"conv_block{i}.conv{j}.weight"]
            x = np.einsum("tmcij,ocij->tmo", patches, kernel, optimize=True)
            x = np.maximum(norm(x, f"conv_block{i}.bn{j}"), 0)
        if i < 6:
            time, mel = x.shape[0] // 2, x.shape[1] // 2
            x = x[: 2 * time, : 2 * mel].reshape(time, 2, mel, 2, -1).mean((1, 3))
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
    expected = reference(cnn10, x[0].double().numpy(), blocks=4)
    row = encoder(x)[0].numpy()
    assert np.linalg.norm(row - expected) < 1e-4 * np.linalg.norm(expected)
    assert encoder.slug == "panns-cnn10"
    assert encoder.notes["weights"] == "Cnn10_mAP=0.380.pth"
    assert "CC BY 4.0" in encoder.notes["licence"]


def test_cnn14_is_the_paper_s(tmp_path):
    state = published("cnn14")
    whole = panns.Config(variant="cnn14", untrained=True, window_seconds=0.0)
    with torch.device("meta"):
        front = panns.FrontEnd(panns.VARIANTS["cnn14"])
        cnn = panns.CNN(panns.VARIANTS["cnn14"].channels)
    given = panns.weight_files.Weights(file="x", sha256="0", tensors=state, metadata={})
    panns.fill(front, cnn, whole, given)
    x = sound(0.35)
    with torch.inference_mode():
        row = cnn.eval()(front.eval()(x))[0].numpy()
    expected = reference(state, x[0].double().numpy(), blocks=6)
    assert np.linalg.norm(row - expected) < 1e-4 * np.linalg.norm(expected)


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
    with pytest.raises(ConfigError, match="cnn10, cnn14"):
        extract.load_encoder("panns:variant=cnn99,untrained")


def test_a_training_checkpoint_that_needs_more_than_tensors_is_refused(tmp_path):
    torch.save({"model": {}, "sampler": nn.Linear(1, 1)}, tmp_path / "iteration.pth")
    with pytest.raises(WeightsError, match="more than tensors"):
        extract.load_encoder(f"panns:weights={tmp_path / 'iteration.pth'}")
