"""MobileNetV2 against the published weights' stored embeddings, and against numpy."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import extract
from extract.encoders import mobilenetv2

FILE = "mobilenet_v2_int8_dequantised.safetensors"


@pytest.fixture(scope="module")
def weights():
    folder = os.environ.get("MICROSHOT_WEIGHTS")
    if not folder:
        pytest.skip("MICROSHOT_WEIGHTS is not set: no trained weights to check")
    return Path(folder)


@pytest.fixture(scope="module")
def trained(weights):
    return extract.load_encoder(f"mobilenetv2:weights={weights / FILE}")


def cosines(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def pixels(path):
    import av

    with av.open(path) as file:
        return torch.from_numpy(next(file.decode(video=0)).to_ndarray(format="rgb24"))


def test_trained_weights_give_the_stored_embeddings(trained, weights):
    """The images of google-coral/test_data, flat in one folder."""
    folder = os.environ.get("MICROSHOT_CORAL_IMAGES")
    if not folder:
        pytest.skip("MICROSHOT_CORAL_IMAGES is not set: the stored embeddings' images are not here")
    stored = np.load(weights / "mobilenet_v2_int8_dequantised_ref.npz")
    rows = [trained(pixels(Path(folder) / name)[None]).numpy()[0] for name in stored["names"]]
    similarity = cosines(np.stack(rows), stored["embedding_float"])
    assert similarity.min() > 0.999, dict(zip(stored["names"], similarity, strict=True))
    # The stored int8 network differs from its own float twin by as much as from us.
    assert cosines(np.stack(rows), stored["embedding_int8"]).mean() > 0.997


def test_bf16_would_move_the_rows_of_real_frames(trained, weights):
    """Why the description offers fp32 only; random weights are kinder (.9996)."""
    folder = os.environ.get("MICROSHOT_MEDIA")
    if not folder:
        pytest.skip("MICROSHOT_MEDIA is not set: no real frames")
    frames = [pixels(path) for path in sorted(Path(folder).glob("av_composed/videos/*/*_000.mp4"))]
    x = torch.cat([trained.preprocess(frame[None]) for frame in frames])
    coarse = mobilenetv2.build(
        mobilenetv2.Config(weights=str(weights / FILE)), precision="bf16"
    ).forward(x)
    assert 0.99 < cosines(coarse.numpy(), trained.forward(x).numpy()).min() < 0.999
    assert mobilenetv2.DESCRIPTION.precisions == ("fp32",)


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


@pytest.mark.parametrize("side", [224, 75])
def test_the_network_is_the_plan_in_the_file(trained, weights, side):
    """The file's own list of ops, interpreted in numpy: our table of stages must agree with it."""
    with safe_open(weights / FILE, "np") as file:
        plan = json.loads(file.metadata()["plan"])
        tensors = {key: file.get_tensor(key).astype(float) for key in file.keys()}  # noqa: SIM118
    image = np.random.default_rng(0).uniform(-1, 1, (side, side, 3))
    x, bottlenecks = image, []
    for op in plan:
        if op[0] == "AVERAGE_POOL_2D":
            break
        if op[0] == "ADD":
            x = bottlenecks[-1] = x + bottlenecks[-2]
            continue
        name, stride, relu6, depthwise = op
        x = convolve(x, tensors[f"{name}.weight"], stride, depthwise) + tensors[f"{name}.bias"]
        x = x.clip(0, 6) if relu6 else x
        bottlenecks += [] if relu6 else [x]
    row = trained.forward(torch.from_numpy(image).float().permute(2, 0, 1)[None])[0].numpy()
    assert np.linalg.norm(row - x.mean((0, 1))) < 1e-4 * np.linalg.norm(row)


def test_the_whole_frame_is_squashed():
    """Both edges of a wide frame reach the network, at -1..1."""
    encoder = extract.load_encoder("mobilenetv2:untrained")
    frame = torch.zeros(1, 100, 900, 3, dtype=torch.uint8)
    frame[:, :, :50, 0] = 255
    frame[:, :, -50:, 1] = 255
    x = encoder.preprocess(frame)[0]
    assert x.shape == (3, 224, 224)
    assert (x[0, :, 0] == 127 / 128).all()
    assert (x[1, :, -1] == 127 / 128).all()
    assert (x[2] == -1).all()


def test_trained_weights_say_where_they_are_from(trained):
    assert trained.slug == "mobilenetv2"
    assert trained.notes["weights"] == FILE
    assert "Apache-2.0" in trained.notes["licence"]
