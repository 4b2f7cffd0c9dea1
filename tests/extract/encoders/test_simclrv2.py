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
from extract.encoders._network import Frozen
from extract.encoders.simclrv2 import SelectiveKernel, SmoothShortcut, same_max_pool
from store.errors import ConfigError, WeightsError

TOLERANCE = 1e-5  # measured: 3e-7; 4e-6 is what fp32 may cost at full size
SIZES = [(64, 64), (65, 65), (56, 47)]  # even throughout, odd throughout, mixed
LAYERS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


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
    share = (1 + np.tanh((a - b) / 2)) / 2  # a softmax over two, without overflow
    return first * share + second * (1 - share)


def shortcut(x, stride, sk, variables):
    if sk:
        return variables.norm(variables.conv(average(x, stride, variables.rules.average)))
    return variables.norm(variables.conv(x, stride))


def reference(tensors, x, sk, rules, depth=50):
    """The means over the map of each group of blocks; the last is the embedding."""
    variables = Variables(tensors, rules)
    x = x.double().numpy().transpose(0, 2, 3, 1)
    for i in range(3 if sk else 1):
        x = relu(variables.norm(variables.conv(x, 1 if i else 2)))
    x = max_pool(x, rules.pool)
    means = []
    for group, blocks in enumerate(LAYERS[depth]):
        for block in range(blocks):
            stride = 2 if group and not block else 1
            around = x if block else shortcut(x, stride, sk, variables)
            inner = relu(variables.norm(variables.conv(x)))
            if sk:
                inner = selective_kernel(inner, stride, variables)
            else:
                inner = relu(variables.norm(variables.conv(inner, stride)))
            x = relu(variables.norm(variables.conv(inner)) + around)
        means.append(x.mean((1, 2)))
    assert variables.used_up()
    return means


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
            if "expand" in key:  # or maps would grow a thousandfold in the 23 blocks of a group
                scale.mul_(0.4)
        elif key.endswith("bn.weight"):
            pass
        elif value.is_floating_point():
            value.normal_(0, 0.03, generator=generator)
    return network.eval()


def tensors_of(network):
    return {k: v for k, v in network.state_dict().items() if "num_batches" not in k}


def relative(ours, theirs):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.fixture(scope="module", params=["r50_1x_sk0", "r50_1x_sk1"])
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
    ours, theirs = network(frames(size)).numpy(), reference(tensors, frames(size), sk, Rules())[-1]
    assert relative(ours, theirs) < TOLERANCE
    assert relative(theirs[0], theirs[1]) > 1000 * TOLERANCE  # two frames do not look the same


@pytest.mark.parametrize(
    ("variant", "size"),
    [("r101_1x_sk0", (33, 33)), ("r50_2x_sk1", (32, 32))],
)
def test_depth_and_width_are_the_reference_s(variant, size):
    """Each of the two, with and without selective kernels; every combination in the soak below."""
    network = scramble(simclrv2.network_of(variant))
    depth, sk = int(variant[1:].split("_")[0]), variant.endswith("sk1")
    x = frames(size)[:1]
    theirs = reference(tensors_of(network), x, sk, Rules(), depth)[-1]
    ours = Frozen(network, device="cpu", precision="fp32")(x).numpy()
    assert ours.shape == (1, 4096 if "2x" in variant else 2048)
    assert relative(ours, theirs) < TOLERANCE


@pytest.mark.soak
@pytest.mark.parametrize("size", [(224, 224), (161, 161)], ids=str)
@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("sk", [0, 1])
@pytest.mark.parametrize("depth", [50, 101])
def test_every_size_is_the_reference_s(depth, width, sk, size):
    network = scramble(simclrv2.network_of(f"r{depth}_{width}x_sk{sk}"))
    x = frames(size)[:1]
    theirs = reference(tensors_of(network), x, sk, Rules(), depth)[-1]
    ours = Frozen(network, device="cpu", precision="fp32")(x).numpy()
    assert relative(ours, theirs) < TOLERANCE


def test_every_group_of_blocks_can_be_had(pair):
    network, tensors, sk = pair
    variant = f"r50_1x_sk{int(sk)}"
    means = reference(tensors, frames((32, 32)), sk, Rules())
    for i, theirs in enumerate(means):
        shallow = simclrv2.network_of(variant, f"block_group{i + 1}")
        given = {k: v for k, v in tensors.items() if k in shallow.state_dict()}
        assert len(given) < len(tensors) or i == 3  # what is not needed is not built
        shallow.to_empty(device="cpu").load_state_dict(given, strict=False)
        ours = Frozen(shallow, device="cpu", precision="fp32")(frames((32, 32))).numpy()
        assert relative(ours, theirs) < TOLERANCE
    assert np.array_equal(ours, network(frames((32, 32))).numpy())


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
    theirs = reference(tensors, frames((64, 64)), sk, replace(Rules(), **error))[-1]
    assert relative(network(frames((64, 64))).numpy(), theirs) > 100 * TOLERANCE


def imagenet(x):
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / deviation[:, None, None]


@pytest.mark.parametrize("error", [imagenet, lambda x: x.flip(1)], ids=["imagenet", "bgr"])
def test_other_colours_would_be_noticed(pair, error):
    network, tensors, sk = pair
    theirs = reference(tensors, error(frames((64, 64))), sk, Rules())[-1]
    assert relative(network(frames((64, 64))).numpy(), theirs) > 1000 * TOLERANCE


def test_bf16_would_be_noticed(pair):
    """For scale: the tolerance is finer than what rounding to 8 bits does."""
    _, tensors, sk = pair
    coarse = simclrv2.network_of(f"r50_1x_sk{int(sk)}").to_empty(device="cpu")
    coarse.load_state_dict(tensors, strict=False)
    rows = Frozen(coarse, device="cpu", precision="bf16")(frames((64, 64))).numpy()
    theirs = reference(tensors, frames((64, 64)), sk, Rules())[-1]
    assert 50 * TOLERANCE < relative(rows, theirs) < 0.1


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
        network = scramble(simclrv2.network_of("r50_1x_sk0", f"h{last + 1}"))
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


PUBLISHED = {  # in millions, as the authors print them, statistics of batch norms included
    "r50_1x_sk0": 23.56, "r50_1x_sk1": 35.28, "r50_2x_sk0": 94.01, "r50_2x_sk1": 140.43,
    "r101_1x_sk0": 42.61, "r101_1x_sk1": 64.79, "r101_2x_sk0": 169.98, "r101_2x_sk1": 257.38,
    "r152_1x_sk0": 58.30, "r152_1x_sk1": 89.12, "r152_2x_sk0": 232.56, "r152_2x_sk1": 353.75,
    "r152_3x_sk1": 795.24,
}  # fmt: skip


def test_all_published_variants_are_there():
    assert set(simclrv2.VARIANTS) == set(PUBLISHED)


@pytest.mark.parametrize(("variant", "millions"), PUBLISHED.items())
def test_the_count_of_weights_is_the_published_one(variant, millions):
    tensors = tensors_of(simclrv2.network_of(variant))
    assert sum(t.numel() for t in tensors.values()) / 1e6 == pytest.approx(millions, abs=0.005)


def bicubic_matrix(source, target, rule):
    """Four taps of Keys' kernel: between areas, renormalised at the border; or between points,
    with the border repeated. Positions are rounded to 1024ths, as TensorFlow's table has them."""
    matrix = np.zeros((target, source))
    scale, a = np.float32(source / target), {"tf1": -0.75, "tf2": -0.5}[rule]
    half = np.float32(0.5 if rule == "tf2" else 0)
    for i in range(target):
        centre = (np.float32(i) + half) * scale - half
        near = int(np.floor(centre))
        past = np.rint((centre - np.float32(near)) * 1024) / 1024
        for j in range(near - 1, near + 3):
            d = abs(near + past - j)
            weight = (a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a) * (d < 2)
            weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else weight
            if rule == "tf1" or 0 <= j < source:
                matrix[i, min(max(j, 0), source - 1)] += weight
    return matrix / matrix.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(40, 50), (300, 290), (256, 341), (4, 3)], ids=str)
@pytest.mark.parametrize("rule", ["tf1", "tf2"])
def test_preprocessing(size, rule):
    encoder = extract.load_encoder(f"simclrv2:untrained,resize={rule}")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    side = int(np.rint(0.875 * min(size)))
    top, left = ((n - side + 1) // 2 for n in size)
    crop = pixels[0, top : top + side, left : left + side] / 255.0
    matrix = bicubic_matrix(side, 224, rule)
    expected = np.einsum("yh,xw,hwc->cyx", matrix, matrix, crop, optimize=True).clip(0, 1)
    ours = encoder.preprocess(torch.from_numpy(pixels))[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_antialias_averages_where_four_pixels_would_be_picked():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 1100, 1100, 3), dtype=torch.uint8, generator=generator)
    sharp, smooth = (extract.load_encoder(f"simclrv2:untrained{s}") for s in ("", ",antialias"))
    assert smooth.preprocess(noise).std() < 0.5 * sharp.preprocess(noise).std()
    small = noise[:, :100, :100]
    difference = smooth.preprocess(small) - sharp.preprocess(small)
    assert difference.abs().max() < 2e-3  # no more than TensorFlow's table costs
    with pytest.raises(ConfigError, match="tf1 has no antialias"):
        extract.load_encoder("simclrv2:untrained,antialias,resize=tf1")


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
    shallow = extract.load_encoder(
        f"simclrv2:variant=r50_1x_sk0,output=block_group2,weights={path}"
    )
    assert (shallow.dim, encoder.dim) == (512, 2048)
    x = frames((32, 32))
    with torch.inference_mode():
        expected = network(x)
    assert relative(encoder.forward(x).numpy(), expected.numpy()) < TOLERANCE
    with pytest.raises(WeightsError, match="without stem"):
        extract.load_encoder(f"simclrv2:variant=r50_1x_sk1,weights={path}")


def test_unknown_variants_and_outputs_say_what_exists():
    with pytest.raises(ConfigError, match=r"r50_1x_sk1.*did you mean"):
        extract.load_encoder("simclrv2:variant=r50_1x_sk2,untrained")
    with pytest.raises(ConfigError, match="tf1, tf2"):
        extract.load_encoder("simclrv2:resize=tf3,untrained")
    with pytest.raises(ConfigError, match="final_avg_pool"):
        extract.load_encoder("simclrv2:output=logits,untrained")


def test_the_spec_decides_the_identity():
    identities = {
        str(extract.load_encoder(f"simclrv2:untrained{more}").identity)
        for more in (
            "",
            ",variant=r50_1x_sk0",
            ",output=h1",
            ",output=block_group2",
            ",resize=tf1",
            ",antialias",
            ",seed=1",
        )
    }
    assert len(identities) == 7
