"""Networks over stacks of frames: torchvision's layouts, tensor by tensor."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import extract
from extract.encoders import r2plus1d
from extract.encoders._network import learning
from store.errors import ConfigError, WeightsError

PARITY = 0.9999
SMALL = "narrow=8,frames=8,side=32"


def stacks(count=1, frames=8, height=36, width=48):
    generator = torch.Generator().manual_seed(0)
    areas = torch.rand(count * frames, 3, 4, 4, generator=generator)
    pixels = (F.interpolate(areas, (height, width)) * 255).byte().permute(0, 2, 3, 1)
    return pixels.unflatten(0, (count, frames))


def shaped(variant, narrow=1):
    with torch.device("meta"):
        return r2plus1d.VideoResNet(variant, narrow)


# Numbers of torchvision's documentation (`num_params`), less the classifier of 400 classes.
@pytest.mark.parametrize(
    ("variant", "published"),
    [("r2plus1d_18", 31_505_325), ("mc3_18", 11_695_440), ("r3d_18", 33_371_472)],
)
def test_as_many_weights_as_published(variant, published):
    learnt = sum(p.numel() for p in shaped(variant).parameters())
    assert learnt == published - (512 * 400 + 400)


@pytest.mark.parametrize("variant", sorted(r2plus1d.KINDS))
def test_torchvision_s_files_load_key_by_key_and_give_its_rows(variant, tmp_path):
    models = pytest.importorskip("torchvision").models.video
    torch.manual_seed(3)
    theirs = getattr(models, variant)(weights=None)
    for norm in theirs.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            torch.nn.init.normal_(norm.running_mean, 0, 0.1)
            torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    path = tmp_path / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    encoder = extract.load_encoder(f"r2plus1d:{variant},weights={path},frames=8,side=48")
    x = encoder.preprocess(stacks(2))
    theirs.fc = torch.nn.Identity()
    with torch.inference_mode():
        rows = theirs.eval()(x)
    found = encoder.forward(x)
    assert torch.cosine_similarity(found, rows).min() > PARITY
    torch.testing.assert_close(found, rows, rtol=1e-3, atol=1e-3)


def test_its_pixels_are_torchvision_s_on_frames_of_four_to_three():
    presets = pytest.importorskip("torchvision.transforms._presets")
    theirs = presets.VideoClassification(
        crop_size=(112, 112), resize_size=(128, 171), mean=r2plus1d.MEAN, std=r2plus1d.DEVIATION
    )
    x = stacks(1, 4, 128, 171)
    encoder = extract.load_encoder("r2plus1d:untrained,narrow=8,frames=4")
    ours = encoder.preprocess(x)
    assert ours.shape == (1, 3, 4, 112, 112)
    torch.testing.assert_close(ours, theirs(x.permute(0, 1, 4, 2, 3)), rtol=0, atol=1e-5)


def test_the_middle_of_a_larger_and_of_a_smaller_frame():
    encoder = extract.load_encoder(f"r2plus1d:untrained,{SMALL}")
    assert (encoder.side, encoder.short_side) == (32, 36)
    x = stacks(1)  # 36 x 48: nothing is scaled
    mean, deviation = torch.tensor(r2plus1d.MEAN), torch.tensor(r2plus1d.DEVIATION)
    wanted = (x[:, :, 2:34, 8:40].float() / 255 - mean) / deviation
    torch.testing.assert_close(encoder.preprocess(x), wanted.permute(0, 4, 1, 2, 3))
    small = stacks(1, 8, 18, 24)
    doubled = F.interpolate(
        small[0].permute(0, 3, 1, 2).float() / 255, (36, 48), mode="bilinear"
    )[:, :, 2:34, 8:40]  # fmt: skip
    wanted = (doubled.permute(0, 2, 3, 1) - mean) / deviation
    torch.testing.assert_close(encoder.preprocess(small)[0], wanted.permute(3, 0, 1, 2))


def literal(x, weights, kinds):
    """The paper's network, written out: every batch norm at rest, every padding by hand."""

    def norm(x, name):
        return F.batch_norm(
            x, weights[f"{name}.running_mean"], weights[f"{name}.running_var"],
            weights[f"{name}.weight"], weights[f"{name}.bias"],
        )  # fmt: skip

    def conv(x, name, stride):
        kernel = weights[f"{name}.weight"]
        t, h, w = (size // 2 for size in kernel.shape[2:])
        return F.conv3d(F.pad(x, (w, w, h, h, t, t)), kernel, stride=stride)

    def spread(x, name, kind, stride):
        if kind == "whole":
            return conv(x, name, stride)
        if kind == "space":
            return conv(x, name, (1, stride, stride))
        x = conv(x, f"{name}.0", (1, stride, stride))
        return conv(norm(x, f"{name}.1").relu(), f"{name}.3", (stride, 1, 1))

    x = norm(conv(x, "stem.0", (1, 2, 2)), "stem.1").relu()
    if kinds[0] == "apart":
        x = norm(conv(x, "stem.3", 1), "stem.4").relu()
    for group, kind in enumerate(kinds):
        for block in range(2):
            at, stride = f"layer{group + 1}.{block}", 2 if group and not block else 1
            around = x
            if group and not block:
                strides = (1 if kind == "space" else 2, 2, 2)
                around = norm(conv(x, f"{at}.downsample.0", strides), f"{at}.downsample.1")
            y = norm(spread(x, f"{at}.conv1.0", kind, stride), f"{at}.conv1.1").relu()
            y = norm(spread(y, f"{at}.conv2.0", kind, 1), f"{at}.conv2.1")
            x = (y + around).relu()
    return x.mean((2, 3, 4))


@pytest.mark.parametrize("variant", sorted(r2plus1d.KINDS))
def test_it_is_the_papers_network(variant):
    with learning():
        encoder = extract.load_encoder(f"r2plus1d:{variant},untrained,{SMALL}")
    network, generator = encoder._network.module, torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            tensor.normal_(0, 0.1, generator=generator)
        elif "running_var" in name:
            tensor.uniform_(0.5, 1.5, generator=generator)
    x = encoder.preprocess(stacks(2))
    with torch.inference_mode():
        wanted = literal(x, network.state_dict(), r2plus1d.KINDS[variant])
        torch.testing.assert_close(encoder.forward(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", ["frames=16,side=112", "frames=32,side=224"])
def test_the_sizes_of_the_literature_go_through(size, monkeypatch):
    monkeypatch.setattr("extract.weights.loading.initialise", lambda network, **_: None)
    encoder = extract.load_encoder(f"r2plus1d:untrained,{size}", "meta")
    frames = encoder.stack_frames
    x = torch.zeros(1, frames, 128, 171, 3, dtype=torch.uint8, device="meta")
    assert encoder.preprocess(x).shape == (1, 3, frames, encoder.side, encoder.side)
    assert encoder(x).shape == (1, 512)


def test_files_of_other_networks_are_refused(tmp_path):
    encoder = extract.load_encoder(f"r2plus1d:mc3_18,untrained,{SMALL}")
    path = tmp_path / "mc3.safetensors"
    tensors = {k: v.contiguous() for k, v in encoder._network.module.state_dict().items()}
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="does not fit the network"):
        extract.load_encoder(f"r2plus1d:weights={path},{SMALL}")


@pytest.mark.parametrize("bad", ["frames=1", "hop=-1", "side=16", "narrow=3"])
def test_settings_out_of_bounds_are_refused(bad):
    with pytest.raises(ConfigError, match=bad.partition("=")[0]):
        extract.load_encoder(f"r2plus1d:untrained,{bad}")
