"""Encoders that learn: the same at rest, gradients everywhere, and files that encoders take."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import extract
from extract.trainable.network import load
from store.errors import ConfigError, WeightsError
from store.membership import Membership

SMALL = "simclrv2:variant=r50_1x_sk1,narrow=8,side=32,untrained"
ENCODERS = {
    SMALL: "visual", "efficientnet_lite:side=32,untrained": "visual",
    "panns:variant=cnn6,untrained": "audio",
}  # fmt: skip
WRITTEN = {
    "recipe": "supervised", "recipe_sha256": "ab" * 32, "clips_sha256": "cd" * 32,
    "media": Membership.of([bytes(range(32))]),
}  # fmt: skip


def items(learner, count=4):
    seed = torch.Generator().manual_seed(0)
    if learner.modality == "visual":
        return (255 * torch.rand(count, 40, 48, 3, generator=seed)).byte()
    return 0.1 * torch.randn(count, learner.window_samples, generator=seed)


@pytest.fixture(params=ENCODERS)
def spec(request):
    return request.param


def test_at_rest_it_gives_the_rows_of_the_frozen_encoder(spec):
    learner = load(spec, ENCODERS[spec])
    learner.module.train()
    for _ in range(3):  # statistics unlike those of an untrained network
        learner.forward(learner.prepare(items(learner)))
    learner.module.eval()
    tensors = learner.tensors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "extract.weights.loading.initialise", lambda network, **_: fill(network, tensors)
        )
        frozen = extract.load_encoder(spec)
    assert torch.nn.BatchNorm2d not in {type(m) for m in frozen._network.module.modules()}
    x = items(learner)
    ours, theirs = learner.at_rest(x), frozen(x)
    assert (ours - theirs).norm() / theirs.norm() < 1e-4


def fill(network, tensors):
    network.to_empty(device="cpu")
    known = network.state_dict()
    network.load_state_dict({k: tensors.get(k, torch.zeros_like(v)) for k, v in known.items()})


def test_gradients_reach_every_parameter_and_statistics_move(spec):
    learner = load(spec, ENCODERS[spec])
    learner.module.train()
    before = {k: v.clone() for k, v in learner.module.named_buffers()}
    rows = learner.forward(learner.prepare(items(learner)))
    (rows * torch.arange(rows.numel()).reshape(rows.shape)).sum().backward()
    # Blocks of SimCLRv2 begin as their shortcut: what lies behind a scale of 0 has a gradient of 0.
    assert all(p.grad is not None for p in learner.module.parameters())
    moved = [k for k, v in learner.module.named_buffers() if not torch.equal(v, before[k])]
    assert len(moved) == len(before)


def test_its_file_is_what_the_encoder_takes_and_says_where_it_is_from(tmp_path):
    learner = load(SMALL, "visual", seed=3)
    assert learner.spec.endswith("seed=3")
    with torch.no_grad():
        for parameter in learner.module.parameters():
            parameter.add_(0.01)
    taken = learner.write(tmp_path / "visual.safetensors", **WRITTEN)
    encoder = extract.load_encoder(taken)
    x = items(learner)
    torch.testing.assert_close(encoder(x), learner.at_rest(x), rtol=1e-4, atol=1e-4)
    (entry,) = encoder.identity["weights"]["lineage"]
    assert entry == {
        "recipe": "supervised", "recipe_sha256": "ab" * 32, "clips": 1,
        "clips_sha256": "cd" * 32, "parent": {"untrained": True, "seed": 3},
    }  # fmt: skip
    assert "untrained" not in encoder.slug
    assert encoder.notes["trained_on"] == [WRITTEN["media"].to_dict()]

    again = load(taken, "visual")  # a training of what was trained: the line goes on
    taken = again.write(tmp_path / "again.safetensors", **WRITTEN | {"recipe": "end_to_end"})
    lineage = extract.load_encoder(taken).identity["weights"]["lineage"]
    assert [entry["recipe"] for entry in lineage] == ["end_to_end", "supervised"]
    assert set(lineage[0]["parent"]) == {"sha256"}


def test_a_head_goes_into_files_that_may_hold_one(tmp_path):
    learner = load(SMALL, "visual")
    width = learner.dim
    layers = {"nl_0": width, "nl_1": width, "nl_2": 128}
    head = {f"head.{n}.dense.weight": torch.randn(out, width) for n, out in layers.items()}
    for name, out in layers.items():
        head |= {
            f"head.{name}.bn.{k}": torch.ones(out)
            for k in ("weight", "bias", "running_mean", "running_var")
        }
    taken = learner.write(tmp_path / "v.safetensors", head=head, **WRITTEN)
    assert extract.load_encoder(taken).dim == width
    assert extract.load_encoder(f"{taken},output=h1").dim == width  # fine-tuning from the middle
    assert extract.load_encoder(f"{taken},output=h3").dim == 128
    other = load("efficientnet_lite:side=32,untrained", "visual")
    other.write(tmp_path / "e.safetensors", head=head, **WRITTEN)
    assert not any(k.startswith("head.") for k in load_file(tmp_path / "e.safetensors"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"lineage": 3}',
        json.dumps({"lineage": [1], "trained_on": [], "licence": ""}),
        json.dumps({"lineage": [], "trained_on": [{}], "licence": ""}),
        "9" * 100_000,
    ],
)
def test_a_lineage_that_cannot_be_is_refused(text, tmp_path):
    learner = load(SMALL, "visual")
    path = tmp_path / "bad.safetensors"
    save_file(learner.tensors(), path, metadata={"microshot": text})
    with pytest.raises(WeightsError, match="where they come from"):
        extract.load_encoder(f"{SMALL.removesuffix(',untrained')},weights={path}")


def test_what_cannot_learn_here_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nothing to learn"):
        load("logmel", "audio")
    with pytest.raises(ConfigError, match="encoder for --visual"):
        load(SMALL, "audio")
    learner = load(SMALL, "visual")
    taken = learner.write(tmp_path / "v.safetensors", **WRITTEN)
    with pytest.raises(WeightsError, match="does not fit"):
        load(taken.replace("narrow=8", "narrow=4"), "visual")


STACKS = "r2plus1d:mc3_18,narrow=8,side=32,frames=4"


def test_a_network_over_stacks_learns_and_its_file_gives_its_rows(tmp_path):
    learner = load(f"{STACKS},untrained", "visual")
    assert learner.stack == 4
    assert load(SMALL, "visual").stack == 0
    pixels = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    x = learner.scaled(pixels)
    assert x.shape == (2, 3, 4, 32, 32)
    torch.testing.assert_close(x[1, :, 2], learner.encoder.scaled(pixels)[6])
    learner.module.train()
    learner.forward(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in learner.module.parameters())
    with torch.no_grad():
        for parameter in learner.module.parameters():
            parameter -= 0.1 * parameter.grad
    learner.module.eval()
    frames = (torch.rand(6, 40, 48, 3, generator=torch.Generator().manual_seed(1)) * 255).byte()
    rows = learner.at_rest(frames)  # the frames 0 to 3, and the last four
    taken = learner.write(tmp_path / "v.safetensors", **WRITTEN)
    encoder = extract.load_encoder(taken)
    wanted = encoder(torch.stack([frames[:4], frames[2:]]))
    torch.testing.assert_close(rows, wanted, rtol=1e-4, atol=1e-5)
    held = frames[[0, 1, 1, 1]]
    torch.testing.assert_close(learner.at_rest(frames[:2]), learner.at_rest(held))
