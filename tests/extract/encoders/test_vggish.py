"""VGGish: torchvggish's file loads as it is, and front end, network and PCA are those of numpy."""

import math
import pickle

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view

import extract
from extract.encoders._pca import read_pca
from store.errors import MissingFile, WeightsError

RATE = 16_000
CONVS = {0: (1, 64), 3: (64, 128), 6: (128, 256), 8: (256, 256), 11: (256, 512), 13: (512, 512)}
POOLED = (0, 3, 8, 13)  # a pool follows these
DENSE = {0: (12288, 4096), 2: (4096, 4096), 4: (4096, 128)}


@pytest.fixture(scope="module")
def state():
    """Names and shapes of the published file."""
    generator = torch.Generator().manual_seed(0)

    def layer(name, *shape):
        std = (2 / math.prod(shape[1:])) ** 0.5
        return {
            f"{name}.weight": std * torch.randn(shape, generator=generator),
            f"{name}.bias": 0.1 * torch.randn(shape[0], generator=generator),
        }

    tensors = {}
    for i, (channels, out) in CONVS.items():
        tensors |= layer(f"features.{i}", out, channels, 3, 3)
    for i, (width, out) in DENSE.items():
        tensors |= layer(f"embeddings.{i}", out, width)
    return tensors


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vggish") / "vggish-10086976.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def encoder(file):
    return extract.load_encoder(f"vggish:weights={file}")


def log_mel(sound):
    """TensorFlow's `mel_features`: frames from sample 0, magnitudes, triangles straight in mel."""
    n = np.arange(400)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    turns = hann[:, None] * np.exp(-2j * np.pi * np.outer(n, np.arange(257)) / 512)
    frames = np.stack([sound[i : i + 400] for i in range(0, len(sound) - 399, 160)])

    def mel(hz):
        return 1127 * np.log(1 + hz / 700)

    edges = np.linspace(mel(125), mel(7500), 66)
    at = mel(np.arange(257) * RATE / 512)
    bands = np.stack([np.interp(at, edges[m : m + 3], [0, 1, 0]) for m in range(64)], 1)
    return np.log(np.abs(frames @ turns) @ bands + 0.01)


def reference(state, patch, *, order=(0, 1, 2), last_relu=False):
    """[96, 64] to 128 numbers; maps are [time, mel, channels], as in TensorFlow."""
    p = {k: v.double().numpy() for k, v in state.items()}
    x = patch[..., None]
    for i in CONVS:
        patches = sliding_window_view(np.pad(x, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
        x = np.einsum("tmcij,ocij->tmo", patches, p[f"features.{i}.weight"], optimize=True)
        x = np.maximum(x + p[f"features.{i}.bias"], 0)
        if i in POOLED:
            x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max((1, 3))
    x = x.transpose(order).ravel()
    for i in DENSE:
        x = p[f"embeddings.{i}.weight"] @ x + p[f"embeddings.{i}.bias"]
        x = np.maximum(x, 0) if i < 4 or last_relu else x
    return x


def sound(samples, count=1):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(count, samples, generator=generator)


def relative(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_the_published_file_gives_the_original_s_embedding(encoder, state):
    x = sound(15_600)
    patch = log_mel(x[0].double().numpy())
    assert patch.shape == (96, 64)
    np.testing.assert_allclose(encoder.preprocess(x)[0, 0].numpy(), patch, atol=1e-4)
    row = encoder(x)[0].numpy()
    assert relative(row, reference(state, patch)) < 1e-4
    assert (row < 0).any()
    # Errors of ports: channels first, and a ReLU after the last layer.
    assert relative(row, reference(state, patch, order=(2, 0, 1))) > 0.1
    assert relative(row, reference(state, patch, last_relu=True)) > 0.1
    assert encoder.slug == "vggish"


def test_a_longer_window_is_the_mean_of_its_patches(encoder, file):
    x = sound(15_600 + 15_360)
    patches = [encoder(x[:, start : start + 15_600]) for start in (0, 15_360)]
    whole = extract.load_encoder(f"vggish:weights={file},window_seconds=1.92,hop_seconds=1.92")
    torch.testing.assert_close(whole(x), sum(patches) / 2, rtol=1e-4, atol=1e-5)
    assert len(encoder.window_starts_seconds(x.shape[1])) == 2
    torch.testing.assert_close(encoder(x), torch.cat(patches), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def components():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.standard_normal((128, 128)))[0]
    return {"pca_eigen_vectors": vectors, "pca_means": rng.standard_normal(128)}


def saved(components, path):
    if path.suffix == ".npz":
        np.savez(path, **components)
    else:
        torch.save(components, path, _use_new_zipfile_serialization="zip" in path.name)
    return path


@pytest.mark.parametrize("name", ["p.npz", "legacy.pth", "zip.pth"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_components_make_audioset_s_numbers(encoder, file, components, tmp_path, name, dtype):
    """The fraction is cut off, not rounded; a .pth holds numpy arrays, as torchvggish's does."""
    given = {k: v.astype(dtype) for k, v in components.items()}
    given["pca_eigen_vectors"] = np.asfortranarray(given["pca_eigen_vectors"])
    path = saved(given, tmp_path / name)
    pca = read_pca(path)
    row = encoder(sound(15_600))
    parts = components["pca_eigen_vectors"] @ (row[0].double().numpy() - components["pca_means"])
    exact = (np.clip(parts, -2, 2) + 2) * 255 / 4
    away = np.abs(exact - np.rint(exact)) > 1e-3  # from where a last bit decides
    assert away.sum() > 50
    quantised = pca(row)[0].numpy()
    np.testing.assert_array_equal(quantised[away], exact.astype(np.uint8)[away])
    assert (quantised[away] != np.rint(exact)[away]).any()
    assert len(pca.sha256) == 64


def test_an_encoder_with_components(encoder, file, components, tmp_path):
    path = saved(components, tmp_path / "p.npz")
    with_pca = extract.load_encoder(f"vggish:weights={file},pca={path}")
    x = sound(15_600, 2)
    assert torch.equal(with_pca(x), read_pca(path)(encoder(x)))
    assert with_pca.slug == "vggish-pca"
    assert with_pca.identity["pca"]["sha256"]
    assert with_pca.identity != encoder.identity


def run_me(marker):
    marker.touch()


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return run_me, (self.marker,)


def test_components_that_are_not_to_be_trusted(components, tmp_path):
    marker = tmp_path / "marker"
    odd = {**components, "pca_means": np.array([Payload(marker)] * 128, object)}
    with pytest.raises(WeightsError, match="does not hold"):
        read_pca(saved(odd, tmp_path / "odd.npz"))
    with pytest.raises(WeightsError, match="hold more than tensors"):
        read_pca(saved(odd, tmp_path / "odd.pth"))
    for hostile in (Payload(marker), {**components, "more": Payload(marker)}):
        (tmp_path / "payload.pth").write_bytes(pickle.dumps(hostile))
        with pytest.raises(WeightsError, match="hold more than tensors"):
            read_pca(tmp_path / "payload.pth")
    assert not marker.exists()
    whole = saved(components, tmp_path / "whole.pth").read_bytes()
    for cut in (0, 10, 5000, len(whole) // 2):
        (tmp_path / "cut.pth").write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match=r"damaged|not a readable pickle"):
            read_pca(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (np.empty(200_000_000, "V0"), "not as large as it says|does not hold"),
        (np.zeros(30_000_000, "S0"), "not as large as it says|does not hold"),
        (np.zeros((40_000, 1000)), "swells|does not hold"),
        (np.zeros((129, 128)), "does not hold"),
        (np.array(["a"] * 128), "does not hold"),
    ],
    ids=["of no bytes", "text of no bytes", "swelling", "too many", "text"],
)
def test_components_that_swell_are_refused_before_they_are_made(
    components, tmp_path, hostile, reason, monkeypatch
):
    np.savez_compressed(tmp_path / "p.npz", **{**components, "pca_eigen_vectors": hostile})
    monkeypatch.setattr(np.lib.format, "read_array", None)
    with pytest.raises(WeightsError, match=reason):
        read_pca(tmp_path / "p.npz")


def test_components_in_a_file_cut_short(components, tmp_path):
    whole = saved(components, tmp_path / "whole.npz").read_bytes()
    for cut in (0, 10, 5000, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match="cannot be read"):
            read_pca(tmp_path / "cut.npz")


def test_components_of_another_shape_or_format(components, tmp_path):
    small = {**components, "pca_means": np.zeros(3)}
    with pytest.raises(WeightsError, match=r"instead of \[128, 128\] and \[128\]"):
        read_pca(saved(small, tmp_path / "small.npz"))
    for name in ("less.npz", "less.pth"):
        with pytest.raises(WeightsError, match="does not hold the arrays"):
            read_pca(saved({"pca_means": np.zeros(128)}, tmp_path / name))
    (tmp_path / "p.csv").write_text("1")
    with pytest.raises(WeightsError, match=r"\.npz and \.pth"):
        read_pca(tmp_path / "p.csv")
    with pytest.raises(MissingFile, match="check the path"):
        read_pca(tmp_path / "nothing.npz")
