"""Conversion of SimCLRv2 checkpoints, from made-up ones that look like the published."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from extract.encoders import simclrv2
from extract.weights import convert
from store.errors import MissingFile, WeightsError
from tests.extract import tensor_bundle as bundle

ARCHITECTURES = [
    (depth, width, sk) for depth in (50, 101, 152) for width in (1, 2) for sk in (False, True)
] + [(152, 3, True)]
SPEC = "simclrv2:variant=r50_1x_sk{}"


def created(depth, width, sk):
    """Names and shapes as the original program creates them, counted here once more.

    One list of (kernel, in, out, has a norm), in the order of creation.
    """
    w = 64 * width
    convs = [(3, 3, w // 2, 1), (3, w // 2, w // 2, 1), (3, w // 2, w, 1)] if sk else [(7, 3, w, 1)]
    inputs = w
    for filters, blocks in zip(
        (w, 2 * w, 4 * w, 8 * w), {50: "3463", 101: "34N3", 152: "38Z3"}[depth], strict=True
    ):
        for block in range({"N": 23, "Z": 36}.get(blocks) or int(blocks)):
            convs += [(1, inputs, 4 * filters, 1)] if block == 0 else []
            convs += [(1, inputs, filters, 1)]
            middle = max(int(filters * 0.0625), 32)
            selective = [
                (3, filters, 2 * filters, 1), (1, filters, middle, 1), (1, middle, 2 * filters, 0)
            ]  # fmt: skip
            convs += selective if sk else [(3, filters, filters, 1)]
            convs += [(1, filters, 4 * filters, 1)]
            inputs = 4 * filters
    shapes, norms = {}, 0
    for i, (kernel, channels, out, normed) in enumerate(convs):
        suffix = f"_{i}" if i else ""
        shapes[f"base_model/conv2d{suffix}/kernel"] = (kernel, kernel, channels, out)
        if normed:
            suffix = f"_{norms}" if norms else ""
            for part in ("gamma", "beta", "moving_mean", "moving_variance"):
                shapes[f"base_model/batch_normalization{suffix}/{part}"] = (out,)
            norms += 1
    return shapes


def head_shapes(width):
    d = 2048 * width
    shapes = {}
    for layer, out in enumerate((d, d, 128)):
        scope = f"head_contrastive/nl_{layer}"
        shapes[f"{scope}/dense/kernel"] = (d, out)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            if (layer, part) != (2, "beta"):
                shapes[f"{scope}/batch_normalization/{part}"] = (out,)
    return shapes


def values(shapes, seed):
    """Such that a network of them gives numbers of ordinary size, and no two are alike."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape, "float32")
        fan_in = int(np.prod(shape[:-1]))
        made[name] = (
            x * np.float32((2 / fan_in) ** 0.5) if name.endswith("kernel")
            else np.float32(1) + np.float32(0.1) * np.abs(x) if name.endswith(("gamma", "variance"))
            else np.float32(0.1) * x
        )  # fmt: skip
    return made


@pytest.fixture(scope="module", params=[0, 1], ids=["sk0", "sk1"])
def published(request, tmp_path_factory):
    """A checkpoint like the pretrained ones: two networks, two heads, slots and strangers."""
    shapes = created(50, 1, bool(request.param)) | head_shapes(1)
    tensors = values(shapes, 1)
    averaged = {f"ema_model/{k}": v for k, v in values(shapes, 2).items()}
    small = [name for name in tensors if "gamma" in name or "beta" in name]
    distractors = {
        "global_step": np.int64(250_228),
        **{f"{name}/Momentum": tensors[name] for name in small},
        "base_model/conv2d/kernel/Momentum": tensors["base_model/conv2d/kernel"],
        "head_supervised/linear_layer/dense/kernel": np.zeros((2048, 10), "float32"),
        "head_supervised/linear_layer/dense/bias": np.zeros(10, "float32"),
        "memory/base_model/conv2d/kernel": np.full((3,), 9, "float32"),
        "memory/queue": np.zeros(3, "float32"),
    }
    prefix = tmp_path_factory.mktemp("checkpoint") / "model.ckpt-250228"
    bundle.write(prefix, tensors | averaged | distractors, shards=2, per_block=100)
    return request.param, prefix, tensors, averaged


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_names_and_shapes_are_those_of_the_original_and_of_ours(architecture):
    depth, width, sk = architecture
    entries = convert.variables(depth, width, sk)
    assert {e.name: e.shape for e in entries} == created(depth, width, sk)
    for layer in range(3):
        entries += convert.head_variables(depth, width, layer)
    with torch.device("meta"):
        network = simclrv2.ResNet(depth, width, sk=sk, output="h3")
    ours = {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert [e.key for e in entries if not e.name] == ["head.nl_2.bn.bias"]
    turned = {e.key: turn(e.shape) for e in entries}
    assert turned == ours
    assert len(entries) == len(turned)


def turn(shape):
    """HWIO as OIHW, [in, out] as [out, in]."""
    return (*shape[:-3:-1], *shape[:-2]) if len(shape) == 4 else shape[::-1]


@pytest.mark.parametrize(
    ("architecture", "number", "key"),
    [
        ((50, 1, False), 0, "stem.0"),
        ((50, 1, False), 1, "block_group1.0.shortcut"),
        ((50, 1, False), 4, "block_group1.0.expand"),
        ((50, 1, False), 11, "block_group2.0.shortcut"),
        ((50, 1, False), 52, "block_group4.2.expand"),
        ((50, 1, True), 3, "block_group1.0.shortcut"),
        ((50, 1, True), 6, "block_group1.0.spatial.squeeze"),
        ((50, 1, True), 8, "block_group1.0.expand"),
        ((50, 1, True), 86, "block_group4.2.expand"),
    ],
)
def test_spot_checks_of_the_numbering(architecture, number, key):
    """Counted by hand from the published graph."""
    suffix = f"_{number}" if number else ""
    key_of = {e.name: e.key for e in convert.variables(*architecture)}
    assert key_of[f"base_model/conv2d{suffix}/kernel"] == f"{key}.conv.weight"


def test_the_norms_fall_behind_the_convolutions_with_selective_kernels():
    key_of = {e.name: e.key for e in convert.variables(50, 1, True)}
    assert key_of["base_model/batch_normalization_7/gamma"] == "block_group1.0.expand.bn.weight"
    assert key_of["base_model/batch_normalization_70/gamma"] == "block_group4.2.expand.bn.weight"
    assert len(key_of) == 87 + 4 * 71


@pytest.mark.parametrize(
    ("published", "ema"),
    [
        (0, False), (1, True), pytest.param(0, True, marks=pytest.mark.soak),
        pytest.param(1, False, marks=pytest.mark.soak),
    ],
    indirect=["published"],
)  # fmt: skip
def test_a_converted_file_is_the_network_itself(published, tmp_path, ema):
    sk, prefix, tensors, averaged = published
    output = tmp_path / "out" / "w.safetensors"
    done = convert.convert(prefix, SPEC.format(sk), output, ema=ema)
    assert [path.name for path in output.parent.iterdir()] == ["w.safetensors"]
    given = {k.removeprefix("ema_model/"): v for k, v in averaged.items()} if ema else tensors
    direct = {
        key: np.ascontiguousarray(
            given[name].transpose(3, 2, 0, 1) if given[name].ndim == 4 else given[name].T
        )
        for name, key in ordered_keys(sk)
    }
    assert done["tensors"] == len(direct) + 1  # the last norm's offset, which is zero
    with safe_open(output, "np") as file:
        assert set(file.keys()) == {*direct, "head.nl_2.bn.bias"}
        assert all((file.get_tensor(key) == direct[key]).all() for key in direct)
        assert not file.get_tensor("head.nl_2.bn.bias").any()
        metadata = file.metadata()
    assert metadata["ema"] == ("yes" if ema else "no")
    assert metadata["global_step"] == "250228"
    assert metadata["source"] == "model.ckpt-250228"
    assert metadata["encoder"] == SPEC.format(sk)
    digests = json.loads(metadata["source_sha256"])
    assert [re.sub(r".*\.", "", name) for name in digests] == [
        "index", "data-00000-of-00002", "data-00001-of-00002"
    ]  # fmt: skip
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in digests.values())
    save_file(direct | {"head.nl_2.bn.bias": np.zeros(128, "f4")}, tmp_path / "d.safetensors")
    frames = torch.randint(0, 256, (1, 64, 80, 3), dtype=torch.uint8)
    for feature in ("h3",) if ema else ("final_avg_pool", "h3"):
        rows = [
            simclrv2.build(
                simclrv2.Config(variant=f"r50_1x_sk{sk}", weights=str(path), output=feature)
            )(frames)
            for path in (output, tmp_path / "d.safetensors")
        ]
        assert torch.isfinite(rows[0]).all()
        assert rows[0].abs().max() > 1e-3
        assert torch.equal(*rows)


def ordered_keys(sk):
    """Original names beside the network's own keys, both in order, the converter not asked."""
    with torch.device("meta"):
        network = simclrv2.ResNet(50, 1, sk=bool(sk), output="h3")
    keys = [k for k in network.state_dict() if not k.endswith("num_batches_tracked")]
    names = [*created(50, 1, bool(sk)), *head_shapes(1)]
    keys.remove("head.nl_2.bn.bias")
    return list(zip(names, keys, strict=True))


@pytest.mark.parametrize("published", [1, pytest.param(0, marks=pytest.mark.soak)], indirect=True)
def test_a_checkpoint_converts_to_the_same_bytes_every_time(published, tmp_path):
    sk, prefix, *_ = published
    first, second = (
        convert.convert(prefix, SPEC.format(sk), tmp_path / name)["sha256"]
        for name in ("a.safetensors", "b.safetensors")
    )
    assert first == second


@pytest.fixture
def small(tmp_path):
    """Writes a checkpoint of r50_1x_sk0 without head after `change`; kernels are zeros."""

    def write(change):
        tensors = {k: np.zeros(v, "float32") for k, v in created(50, 1, False).items()}
        change(tensors)
        bundle.write(tmp_path / "model.ckpt-1", tensors)
        return tmp_path / "model.ckpt-1"

    return write


def refused(prefix, says, tmp_path, spec=SPEC.format(0), **options):
    output = tmp_path / "out.safetensors"
    with pytest.raises(WeightsError, match=says):
        convert.convert(prefix, spec, output, **options)
    assert not output.exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda t: t.pop("base_model/conv2d_7/kernel"),
            r"is not r50_1x_sk0: it lacks base_model/conv2d_7/kernel; ",
        ),
        (
            lambda t: t.pop("base_model/batch_normalization/moving_mean"),
            "lacks base_model/batch_normalization/moving_mean; ",
        ),
        (
            lambda t: t.update({"base_model/conv2d_53/kernel": np.zeros(1, "float32")}),
            "has surplus base_model/conv2d_53/kernel; ",
        ),
        (
            lambda t: t.update({"base_model/dense/bias": np.zeros(1, "float32")}),
            "has surplus base_model/dense/bias; ",
        ),
        (
            lambda t: t.update({"base_model/conv2d/kernel": np.zeros((3, 7, 7, 64), "float32")}),
            r"base_model/conv2d/kernel \[3, 7, 7, 64\] float32 instead of \[7, 7, 3, 64\]",
        ),
        (
            lambda t: t.update({"base_model/conv2d/kernel": np.zeros((7, 7, 3, 64), "float64")}),
            r"float64 instead of \[7, 7, 3, 64\] float32",
        ),
        (
            lambda t: t.update({"head_contrastive/nl_0/dense/kernel": np.zeros(1, "float32")}),
            "lacks head_contrastive/nl_0/batch_normalization/gamma, .* and 1 more",
        ),
        (
            lambda t: t.update({"head_contrastive/nl_3/dense/kernel": np.zeros(1, "float32")}),
            "surplus head_contrastive/nl_3/dense/kernel",
        ),
    ],
)
def test_variables_that_do_not_fit_are_named(small, tmp_path, change, says):
    refused(small(change), says, tmp_path)


def test_a_network_without_head_converts_without_one(small, tmp_path):
    done = convert.convert(small(lambda t: None), SPEC.format(0), tmp_path / "w.safetensors")
    assert done["tensors"] == 53 + 4 * 53
    assert done["global_step"] == "unknown"


def test_what_is_no_simclrv2_checkpoint_is_refused_with_advice(small, tmp_path):
    plain = small(lambda t: None)
    refused(plain, "under ema_model/base_model/; it keeps no moving average", tmp_path, ema=True)
    refused(plain, "is not r50_1x_sk1: it lacks .* and 103 more", tmp_path, spec=SPEC.format(1))
    bundle.write(tmp_path / "m", {"_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(1, "uint8")})
    refused(tmp_path / "m", "TF2 object checkpoint", tmp_path)
    bundle.write(tmp_path / "m", {"x/base_model/conv2d/kernel": np.zeros(1, "float32")})
    refused(tmp_path / "m", "no variables under base_model/", tmp_path)
    refused(plain, "only simclrv2 is published", tmp_path, spec="vggish")
    (tmp_path / "vggish_model.ckpt").write_bytes(bytes(100))
    refused(tmp_path / "vggish_model.ckpt", "V1", tmp_path)
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        convert.convert(plain, SPEC.format(0), tmp_path / "w.pth")
    with pytest.raises(MissingFile):
        convert.convert(tmp_path / "none", SPEC.format(0), tmp_path / "w.safetensors")


def test_damage_is_found_before_anything_is_written(small, tmp_path):
    prefix = small(lambda t: None)
    shard = tmp_path / "model.ckpt-1.data-00000-of-00001"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    refused(prefix, "does not match its checksum", tmp_path)


def test_a_disk_that_refuses_leaves_nothing(small, tmp_path):
    prefix = small(lambda t: None)
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot write"):
        convert.convert(prefix, SPEC.format(0), tmp_path / "file" / "w.safetensors")
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(WeightsError, match="cannot write"):
        convert.convert(prefix, SPEC.format(0), tmp_path / "w.safetensors")
    assert not list(tmp_path.glob("*.tmp")) + list(tmp_path.glob(".*.tmp"))
