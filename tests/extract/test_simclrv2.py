"""SimCLRv2 against an independent network in numpy.

The reference knows nothing of our modules: it takes flat lists of kernels and batch norms in the
order in which the original program creates its variables, channels last, in float64. Each `Rule`
that ports have got wrong can be broken in it, to show that the comparison would notice.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file

import extract
from extract.encoders import simclrv2
from extract.encoders.simclrv2 import SelectiveKernel, SmoothShortcut, same_max_pool
from extract.network import Frozen
from store.errors import ConfigError, WeightsError

TOLERANCE = 1e-5  # measured: 3e-7; 4e-6 is what fp32 may cost at full size
SIZES = [(64, 64), (65, 65), (56, 47)]  # even throughout, odd throughout, mixed
LAYERS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Rules:
    """How the original does it; every other value is an error of some port."""

    pool: str = "same"
    average: str = "valid"
    epsilon: float = 1e-5
    halves: str = "chunks"
    padding: str = "fixed"


class Variables:
    """Hands out kernels and batch norms, each in order of creation."""

    def __init__(self, tensors, rules):
        arrays = {k: v.double().numpy() for k, v in tensors.items()}
        self.kernels = iter([v.transpose(2, 3, 1, 0) for v in arrays.values() if v.ndim == 4])
        stems = [k.removesuffix(".running_mean") for k in arrays if k.endswith(".running_mean")]
        parts = ("weight", "bias", "running_mean", "running_var")
        self.norms = iter([[arrays[f"{stem}.{part}"] for part in parts] for stem in stems])
        self.rules = rules

    def conv(self, x, stride=1):
        return convolve(x, next(self.kernels), stride, self.rules.padding)

    def norm(self, x):
        gamma, beta, mean, variance = next(self.norms)
        return gamma * (x - mean) / np.sqrt(variance + self.rules.epsilon) + beta

    def used_up(self):
        return next(self.kernels, None) is None and next(self.norms, None) is None


def convolve(x, kernel, stride, padding):
    size = len(kernel)
    ends = [((size - 1) // 2, size - 1 - (size - 1) // 2)] * 2
    if padding == "same":
        totals = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in x.shape[1:3]]
        ends = [(t // 2, t - t // 2) for t in totals]
    x = np.pad(x, ((0, 0), *ends, (0, 0)))
    patches = sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijco->nhwo", patches, kernel, optimize=True)


def relu(x):
    return np.maximum(x, 0)


def max_pool(x, rule):
    """By hand, output by output."""
    n, height, width, c = x.shape
    out = np.empty((n, -(-height // 2), -(-width // 2), c))
    before = [1, 1] if rule == "symmetric" else [(1 if s % 2 else 0) for s in (height, width)]
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            top, left = 2 * i - before[0], 2 * j - before[1]
            out[:, i, j] = x[:, max(top, 0) : top + 3, max(left, 0) : left + 3].max((1, 2))
    return out


def average(x, stride, rule):
    """2x2 averages; at stride 1 over what is there, at stride 2 with zeros below and right."""
    n, height, width, c = x.shape
    out = np.empty((n, -(-height // stride), -(-width // stride), c))
    for i in range(out.shape[1]):
        for j in range(out.shape[2]):
            cell = x[:, stride * i : stride * i + 2, stride * j : stride * j + 2]
            counted = 4 if stride == 2 or rule == "all" else cell.shape[1] * cell.shape[2]
            out[:, i, j] = cell.sum((1, 2)) / counted
    return out


def selective_kernel(x, stride, variables):
    streams = relu(variables.norm(variables.conv(x, stride)))
    pick = (
        (lambda a: (a[..., ::2], a[..., 1::2]))
        if variables.rules.halves == "interleaved"
        else (lambda a: np.split(a, 2, -1))
    )
    first, second = pick(streams)
    everywhere = (first + second).mean((1, 2), keepdims=True)
    a, b = pick(variables.conv(relu(variables.norm(variables.conv(everywhere)))))
    share = 1 / (1 + np.exp(b - a))
    return first * share + second * (1 - share)


def shortcut(x, stride, sk, variables):
    if sk:
        return variables.norm(variables.conv(average(x, stride, variables.rules.average)))
    return variables.norm(variables.conv(x, stride))


def reference(tensors, x, sk, rules):
    variables = Variables(tensors, rules)
    x = x.double().numpy().transpose(0, 2, 3, 1)
    for i in range(3 if sk else 1):
        x = relu(variables.norm(variables.conv(x, 1 if i else 2)))
    x = max_pool(x, rules.pool)
    for group, blocks in enumerate(LAYERS):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            around = x if block else shortcut(x, stride, sk, variables)
            inner = relu(variables.norm(variables.conv(x)))
            if sk:
                inner = selective_kernel(inner, stride, variables)
            else:
                inner = relu(variables.norm(variables.conv(inner, stride)))
            x = relu(variables.norm(variables.conv(inner)) + around)
    assert variables.used_up()
    return x.mean((1, 2))


def scramble(network):
    """Weights under which every layer matters, with variances as small as the published ones.

    Scales follow variances, as after training, or 50 layers would run out of digits.
    """
    generator = torch.Generator().manual_seed(0)
    network.to_empty(device="cpu")
    tensors = network.state_dict()
    for key, value in tensors.items():
        if value.ndim > 1:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith("running_var"):
            value.uniform_(-5, 0, generator=generator).exp_()
            scale = tensors[key.replace("running_var", "weight")]
            scale.uniform_(0.6, 1.2, generator=generator).mul_(value.sqrt())
        elif key.endswith("bn.weight"):
            pass
        elif value.is_floating_point():
            value.normal_(0, 0.03, generator=generator)
    return network.eval()


def tensors_of(network):
    return {k: v for k, v in network.state_dict().items() if "num_batches" not in k}


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module", params=simclrv2.VARIANTS[:2])
def pair(request):
    """The frozen, folded network, and the tensors it was made from."""
    network = scramble(simclrv2.network_of(request.param))
    tensors = {k: v.clone() for k, v in tensors_of(network).items()}
    return Frozen(network, device="cpu", precision="fp32"), tensors, request.param.endswith("sk1")


def frames(size):
    """Two frames with large coloured areas and some noise: networks average noise away."""
    generator = torch.Generator().manual_seed(1)
    areas = F.interpolate(torch.rand(2, 3, 3, 3, generator=generator) ** 2, size)
    return 0.8 * areas + 0.2 * torch.rand(2, 3, *size, generator=generator)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_embedding_is_the_reference_s(pair, size):
    network, tensors, sk = pair
    ours, theirs = network(frames(size)).numpy(), reference(tensors, frames(size), sk, Rules())
    assert relative(ours, theirs) < TOLERANCE
    assert relative(theirs[0], theirs[1]) > 1000 * TOLERANCE  # two frames do not look the same


EVERYWHERE = [{"pool": "symmetric"}, {"epsilon": 1e-3}, {"padding": "same"}]
WITH_SK = [*EVERYWHERE, {"average": "all"}, {"halves": "interleaved"}]


@pytest.mark.parametrize(
    ("pair", "error"),
    [("r50_1x_sk0", e) for e in EVERYWHERE] + [("r50_1x_sk1", e) for e in WITH_SK],
    indirect=["pair"],
    ids=str,
)
def test_a_known_error_of_ports_would_be_noticed(pair, error):
    network, tensors, sk = pair
    theirs = reference(tensors, frames((64, 64)), sk, replace(Rules(), **error))
    assert relative(network(frames((64, 64))).numpy(), theirs) > 100 * TOLERANCE


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 7), (9, 8)], ids=str)
def test_max_pool(size):
    x = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))  # negative ones too
    expected = max_pool(x.numpy().transpose(0, 2, 3, 1), "same").transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(same_max_pool(x).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("size", [(6, 6), (5, 7), (1, 2)], ids=str)
@pytest.mark.parametrize("piece", [SmoothShortcut, SelectiveKernel], ids=lambda p: p.__name__)
@pytest.mark.parametrize("stride", [1, 2])
def test_pieces(piece, size, stride):
    module = scramble(piece(8, 16, stride))
    x = torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(0))
    variables = Variables(tensors_of(module), Rules())
    channels_last = x.double().numpy().transpose(0, 2, 3, 1)
    if piece is SmoothShortcut:
        expected = shortcut(channels_last, stride, sk=True, variables=variables)
    else:
        expected = selective_kernel(channels_last, stride, variables)
    assert variables.used_up()
    with torch.inference_mode():
        assert relative(module(x).numpy().transpose(0, 2, 3, 1), expected) < 1e-5


def test_the_head_follows_the_embedding():
    """Dense without bias and batch norm, three times; ReLU between, none at the end."""
    base = scramble(simclrv2.network_of("r50_1x_sk0"))
    x = frames((32, 32))
    with torch.inference_mode():
        rows = base(x).double().numpy()
    for last in range(3):
        network = scramble(simclrv2.network_of("r50_1x_sk0", f"nl_{last}"))
        tensors = {k: v.double().numpy() for k, v in tensors_of(network).items()}
        network.load_state_dict(base.state_dict(), strict=False)
        expected = rows
        for i in range(last + 1):
            gamma, beta, mean, variance = (
                tensors[f"head.nl_{i}.bn.{part}"]
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            expected = expected @ tensors[f"head.nl_{i}.dense.weight"].T
            expected = gamma * (expected - mean) / np.sqrt(variance + 1e-5) + beta
            expected = expected if i == 2 else relu(expected)
        ours = Frozen(network, device="cpu", precision="fp32")(x).numpy()
        assert ours.shape == (2, network.dim)
        assert relative(ours, expected) < TOLERANCE


@pytest.mark.parametrize(("variant", "millions"), [("r50_1x_sk0", 23.56), ("r50_1x_sk1", 35.28)])
def test_the_count_of_weights_is_the_published_one(variant, millions):
    tensors = tensors_of(simclrv2.network_of(variant))
    assert sum(t.numel() for t in tensors.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def bicubic_matrix(source, target):
    """Four taps of Keys' kernel, half-pixel centres, renormalised at the border."""
    matrix = np.zeros((target, source))
    for i in range(target):
        centre = (i + 0.5) * source / target - 0.5
        for j in range(max(int(centre) - 2, 0), min(int(centre) + 4, source)):
            d = abs(centre - j)
            near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
            matrix[i, j] = near if d <= 1 else far if d < 2 else 0
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(40, 50), (300, 290), (256, 341), (4, 3)], ids=str)
def test_preprocessing(size):
    encoder = extract.load_encoder("simclrv2:untrained")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    side = int(np.rint(0.875 * min(size)))
    top, left = ((n - side + 1) // 2 for n in size)
    crop = pixels[0, top : top + side, left : left + side] / 255.0
    matrix = bicubic_matrix(side, 224)
    expected = np.einsum("yh,xw,hwc->cyx", matrix, matrix, crop, optimize=True).clip(0, 1)
    ours = encoder.preprocess(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_weights_come_from_a_file_under_the_documented_names(tmp_path):
    network = scramble(simclrv2.network_of("r50_1x_sk0"))
    path = tmp_path / "r50.safetensors"
    tensors = {k: v.clone().contiguous() for k, v in tensors_of(network).items()}
    for key in ("stem.0.conv.weight", "block_group1.0.shortcut.bn.running_var"):
        assert key in tensors
    assert "block_group4.2.spatial.conv.weight" in tensors
    save_file({**tensors, "head.nl_0.dense.weight": torch.zeros(2, 2)}, path)
    encoder = extract.load_encoder(f"simclrv2:variant=r50_1x_sk0,weights={path}")
    assert encoder.slug == "simclrv2-r50_1x_sk0"
    assert "untrained" not in encoder.notes
    assert len(encoder.identity["weights"]["sha256"]) == 64
    x = frames((32, 32))
    with torch.inference_mode():
        expected = network(x)
    assert relative(encoder.forward(x).numpy(), expected.numpy()) < TOLERANCE
    with pytest.raises(WeightsError, match="without stem"):
        extract.load_encoder(f"simclrv2:variant=r50_1x_sk1,weights={path}")


def test_unknown_variants_and_outputs_say_what_exists():
    with pytest.raises(ConfigError, match=r"r50_1x_sk1.*did you mean"):
        extract.load_encoder("simclrv2:variant=r50_1x_sk2,untrained")
    with pytest.raises(ConfigError, match="final_avg_pool"):
        extract.load_encoder("simclrv2:output=logits,untrained")


def test_the_spec_decides_the_identity():
    identities = {
        str(extract.load_encoder(f"simclrv2:untrained{more}").identity)
        for more in ("", ",variant=r50_1x_sk0", ",output=nl_0", ",antialias", ",seed=1")
    }
    assert len(identities) == 5
