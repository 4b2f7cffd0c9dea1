"""YAMNet against the published weights' stored embeddings, and against numpy."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import extract
from extract.encoders import yamnet
from store.errors import WeightsError

FILE = "yamnet_int8_dequantised.safetensors"


@pytest.fixture(scope="module")
def weights():
    folder = os.environ.get("MICROSHOT_WEIGHTS")
    if not folder:
        pytest.skip("MICROSHOT_WEIGHTS is not set: no trained weights to check")
    return Path(folder)


@pytest.fixture(scope="module")
def trained(weights):
    return extract.load_encoder(f"yamnet:weights={weights / FILE}")


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_trained_weights_give_the_stored_embeddings(trained, weights):
    stored = np.load(weights / "yamnet_reference.npz")
    rows = trained.forward(torch.from_numpy(stored["patches"])[:, None]).numpy()
    np.testing.assert_allclose(rows, stored["embedding_float"], rtol=0, atol=2e-5)
    # The stored int8 network rounds its activations to 8 bits; it differs from its own float twin
    # by as much (.9985 at worst), so no float network comes closer.
    assert cosines(rows, stored["embedding_int8"]).mean() > 0.999
    twin = cosines(stored["embedding_float"], stored["embedding_int8"])
    np.testing.assert_allclose(cosines(rows, stored["embedding_int8"]), twin, atol=1e-5)


def test_bf16_points_where_fp32_does_with_trained_weights(trained, weights):
    """The contract suite sees random weights only, which are kinder."""
    patches = torch.from_numpy(np.load(weights / "yamnet_reference.npz")["patches"])[:, None]
    coarse = extract.load_encoder(f"yamnet:weights={weights / FILE}", precision="bf16")
    similarity = cosines(coarse.forward(patches).numpy(), trained.forward(patches).numpy())
    assert 0.999 <= similarity.min() < 1 - 1e-5


def test_stored_patches_are_one_sound_cut_every_half_patch(weights):
    """The stored patches overlap by half: the hop that the front end has to use."""
    patches = np.load(weights / "yamnet_reference.npz")["patches"]
    np.testing.assert_array_equal(patches[:-1, 48:], patches[1:, :48])


def test_trained_weights_say_where_they_are_from(trained):
    assert trained.slug == "yamnet"
    assert trained.notes["weights"] == FILE
    assert "Apache-2.0" in trained.notes["licence"]
    assert len(trained.identity["weights"]["sha256"]) == 64


def test_weights_of_another_network_are_refused(weights):
    with pytest.raises(WeightsError, match=r"without layer1\.conv\.weight"):
        extract.load_encoder(
            f"yamnet:weights={weights / 'mobilenet_v2_int8_dequantised.safetensors'}"
        )


def htk(hz):
    return 1127 * math.log(1 + hz / 700)


def log_mel(sound):
    """Frame by frame from the definition; the mel matrix by its own formula."""
    n = np.arange(400)
    turns = np.exp(-2j * np.pi * np.outer(n, np.arange(257)) / 512)
    windowed = np.stack([sound[i : i + 400] for i in range(0, len(sound) - 399, 160)])
    spectrum = np.abs((windowed * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400))) @ turns)
    width = (htk(7500) - htk(125)) / 65
    positions = [(htk(31.25 * f) - htk(125)) / width if f else -9 for f in range(257)]
    bands = np.array([[max(0, 1 - abs(p - m)) for m in range(1, 65)] for p in positions])
    return np.log(spectrum @ bands + 0.001)


@pytest.fixture(scope="module")
def encoder():
    return extract.load_encoder("yamnet:untrained")


def sound(seconds):
    return 0.1 * torch.randn(1, round(seconds * 16_000), generator=torch.Generator().manual_seed(0))


def test_the_front_end_is_the_definition_s(encoder):
    x = sound(2)
    patches = encoder.preprocess(x)
    assert patches.shape == (3, 1, 96, 64)  # 32000 samples: at 0, 7680, and 15360 (half unheard)
    padded = np.pad(x[0].double().numpy(), (0, 40_000))
    for i in range(3):
        expected = log_mel(padded[i * 7680 : i * 7680 + 15_600])
        np.testing.assert_allclose(patches[i, 0].numpy(), expected, rtol=0, atol=1e-3)


def test_longer_windows_are_the_mean_of_their_patches(encoder):
    x = sound(3)
    patches = encoder(x)
    longer = extract.load_encoder("yamnet:untrained,window_seconds=1.92,hop_seconds=0.96")
    assert longer.preprocess(x).shape[1:] == (3, 96, 64)
    rows = longer(x)
    assert longer.window_starts_seconds(48_000).tolist() == [0, 0.96]
    torch.testing.assert_close(rows[0], patches[0:3].mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rows[1], patches[2:5].mean(0), rtol=1e-5, atol=1e-6)


def test_the_whole_sound_is_the_mean_of_all_patches(encoder):
    x = sound(3.3)
    whole = extract.load_encoder("yamnet:untrained,window_seconds=0")
    torch.testing.assert_close(whole(x), encoder(x).mean(0)[None], rtol=1e-5, atol=1e-6)


def convolve(x, kernel, stride, depthwise):
    """TensorFlow's SAME convolution, tap by tap; `x` is [H, W, C], `kernel` OIHW."""
    size, (height, width) = kernel.shape[-1], (-(-n // stride) for n in x.shape[:2])
    ends = [
        max((out - 1) * stride + size - n, 0)
        for out, n in zip((height, width), x.shape[:2], strict=True)
    ]
    x = np.pad(x, (*((t // 2, t - t // 2) for t in ends), (0, 0)))
    total = 0
    for i in range(size):
        for j in range(size):
            tap = x[i::stride, j::stride][:height, :width]
            weights = kernel[:, :, i, j]
            total = total + (tap * weights[:, 0] if depthwise else tap @ weights.T)
    return total


def test_the_network_is_the_paper_s(encoder):
    """Thirteen separable blocks, ReLU6, SAME padding, mean: written out in numpy."""
    with torch.device("meta"):
        network = yamnet.YAMNet()
    network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for value in network.parameters():
        std = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.1
        value.data.normal_(0, std, generator=generator)
    p = {k: v.double().numpy() for k, v in network.state_dict().items()}
    patch = np.random.default_rng(0).standard_normal((96, 64))

    def layer(x, name, stride=1):
        depthwise = name.endswith("depthwise")
        x = convolve(x, p[f"{name}.weight"], stride, depthwise) + p[f"{name}.bias"]
        return x.clip(0, 6)

    x = layer(patch[..., None], "layer1.conv", 2)
    for i in range(2, 15):
        x = layer(x, f"layer{i}.depthwise", 2 if i in (3, 5, 7, 13) else 1)
        x = layer(x, f"layer{i}.pointwise")
    assert x.shape == (3, 2, 1024)
    with torch.inference_mode():
        row = network(torch.from_numpy(patch).float()[None, None])[0].numpy()
    assert np.linalg.norm(row - x.mean((0, 1))) < 1e-5 * np.linalg.norm(row)
