"""A step in parts, or with layers run twice, gives the gradients of the whole one."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learn.finetuning import recipe as recipes
from learn.finetuning.towers import Head, Loss, Towers
from store.errors import ConfigError
from tests.learn.finetuning.conftest import TinyLearner, TinyStream

CPU = torch.device("cpu")


class Contrast(Loss):
    """NT-Xent over two copies: every clip's gradient depends on all clips."""

    def __init__(self, towers):
        self.towers = towers

    def __call__(self, vectors):
        first, second = (F.normalize(self.towers.heads["visual"](x)) for x in vectors["visual"])
        return {"contrast": F.cross_entropy(first @ second.T / 0.5, torch.arange(len(first)))}

    def parameters(self):
        return [
            *self.towers.learners["visual"].module.parameters(),
            *self.towers.heads.parameters(),
        ]


def recipe(*changes):
    fixed = ("data.copies=2", "frames.jitter=0.5", "head.layers=2", "head.dim_out=4")
    return recipes.load("supervised", [*fixed, *changes])


def towers(*changes, learner=None):
    torch.manual_seed(0)
    learners = {"visual": learner or TinyLearner()}
    made = Towers(learners=learners, recipe=recipe(*changes), device=CPU)
    made.train()
    return made


def clips(manifest, count=6):
    wanted = [(row, (0.25, 0.75)) for row in range(0, 4 * count, 4)]
    return list(TinyStream(manifest).read(lambda: iter(wanted)))


def gradients(made, manifest):
    inputs = made.inputs(clips(manifest), torch.Generator().manual_seed(1))
    loss = Contrast(made)
    terms = made.backward(inputs, loss)
    return terms, [p.grad.clone() for p in loss.parameters()]


def without_batch_statistics(learner):
    """Batch norms in the middle of a batch see a part of it: with their statistics at rest."""
    torch.manual_seed(1)
    for norm in learner.module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return learner


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_parts_of_a_step_give_the_gradient_of_the_whole(at_once, manifest):
    settings = "optimiser.statistics=frozen"
    learner = without_batch_statistics(TinyLearner())
    whole = towers(settings, learner=copy.deepcopy(learner))
    parts = towers(settings, f"optimiser.at_once={at_once}", learner=learner)
    terms, wanted = gradients(whole, manifest)
    in_parts, found = gradients(parts, manifest)
    torch.testing.assert_close(in_parts, terms)
    size = torch.cat([g.flatten() for g in wanted]).norm()
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() < 1e-4 * size
    assert sum(b.norm() > 1e-3 * size for b in wanted) >= 6  # most of them are seen


def test_parts_count_into_running_statistics_once(manifest):
    parts = towers("optimiser.at_once=3")
    gradients(parts, manifest)
    norm = parts.learners["visual"].module.blocks[0][1]
    assert norm.num_batches_tracked == 4  # two parts of two copies
    assert norm.momentum == 0.1


def test_layers_that_are_run_again_change_nothing(manifest):
    plain, again = towers(), towers("optimiser.recompute=true")
    terms, wanted = gradients(plain, manifest)
    terms_again, found = gradients(again, manifest)
    assert torch.equal(terms["contrast"], terms_again["contrast"])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    states = [made.learners["visual"].module.state_dict() for made in (plain, again)]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, msg=key)


def test_what_memory_cannot_hold_is_halved_for_good(manifest, monkeypatch):
    made = towers()
    sizes = []
    forward = TinyLearner.forward

    def small(self, x):
        sizes.append(len(x))
        if len(x) > 4:  # two frames a clip
            raise torch.OutOfMemoryError("not today")
        return forward(self, x)

    monkeypatch.setattr(TinyLearner, "forward", small)
    gradients(made, manifest)
    assert made.at_once == 1
    assert sizes[:3] == [12, 6, 2]
    monkeypatch.setattr(TinyLearner, "forward", lambda self, x: small(self, torch.cat([x] * 9)))
    with pytest.raises(ConfigError, match="not even one clip"):
        gradients(made, manifest)


def test_bf16_is_near_fp32(manifest):
    _, wanted = gradients(towers("optimiser.precision=fp32"), manifest)
    _, found = gradients(towers("optimiser.precision=bf16"), manifest)
    assert all(g.dtype == torch.float32 for g in found)
    flat = [torch.cat([g.flatten() for g in of]) for of in (wanted, found)]
    assert F.cosine_similarity(*flat, dim=0) > 0.95
    assert not torch.equal(*flat)


def test_the_head_is_simclrv2s():
    """Dense without bias, batch norm, ReLU but after the last; a literal loop."""
    head = Head(5, 3, 7, 4)
    assert head.dim == 4
    assert [tuple(p.shape) for p in head.parameters() if p.ndim > 1] == [(7, 5), (7, 7), (4, 7)]
    x = torch.randn(6, 5)
    expected = x
    for number in range(3):
        layer = getattr(head, f"nl_{number}")
        expected = expected @ layer.dense.weight.T
        mean, var = expected.mean(0), expected.var(0, unbiased=False)
        expected = (expected - mean) / (var + 1e-5).sqrt()
        expected = expected if number == 2 else expected.clamp_min(0)
    torch.testing.assert_close(head(x), expected)
    assert Head(5, 0, 0, 4).dim == 5
    assert torch.equal(Head(5, 0, 0, 4)(x), x)


def test_gradients_reach_what_is_to_learn_and_nothing_else(manifest):
    made = towers("optimiser.frozen=0.5")
    inputs = made.inputs(clips(manifest), torch.Generator().manual_seed(1))
    made.backward(inputs, Contrast(made))
    network = made.learners["visual"].module
    has = {name for name, p in network.named_parameters() if p.grad is not None}
    assert has == {name for name, _ in network.named_parameters() if name.startswith("blocks.1")}
    assert all(p.grad is not None for p in made.heads.parameters())
    assert network.blocks[0][1].num_batches_tracked == 0


def test_two_modalities_make_inputs_of_each(manifest):
    torch.manual_seed(0)
    learners = {"visual": TinyLearner(), "audio": TinyLearner("audio")}
    made = Towers(learners=learners, recipe=recipe("sound.time_masks=1"), device=CPU)
    inputs = made.inputs(clips(manifest), torch.Generator().manual_seed(1))
    assert [tuple(x.shape) for x in inputs["visual"]] == [(12, 3, 8, 8)] * 2
    assert [tuple(x.shape) for x in inputs["audio"]] == [(12, 1, 10, 10)] * 2
    assert not torch.equal(*inputs["audio"])
    vectors = made.vectors(inputs)
    one = learners["visual"].forward(inputs["visual"][0])
    torch.testing.assert_close(vectors["visual"][0], one.reshape(6, 2, 6).mean(1))
