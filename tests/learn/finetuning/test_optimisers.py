"""Layers, their rates and what stays as it is; LARS against a literal loop."""

import pytest
import torch
from torch import nn

from learn.finetuning import optimisers
from learn.finetuning.recipe import OptimiserSettings
from tests.learn.finetuning.conftest import Net


def test_layers_follow_the_network_from_its_input_on():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3))
            self.stem = nn.Conv2d(1, 1, 1)
            self.blocks = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))

    assert optimisers.layers_of(Network()) == [
        ["token"],
        ["stem.weight", "stem.bias"],
        ["blocks.0.weight", "blocks.0.bias"],
        ["blocks.2.weight", "blocks.2.bias"],
    ]


def test_each_layer_learns_slower_than_the_one_behind_it():
    network, head = Net(3), nn.Linear(6, 2)
    settings = OptimiserSettings(layer_decay=0.5, weight_decay=0.1)
    groups = optimisers.groups([network], [head], settings)
    scale = {id(p): (g["scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    first, second = network.blocks
    assert scale[id(first[0].weight)] == (0.25, 0.1)
    assert scale[id(first[0].bias)] == scale[id(first[1].weight)] == (0.25, 0.0)
    assert scale[id(second[0].weight)] == (0.5, 0.1)
    assert scale[id(head.weight)] == (1.0, 0.1)
    assert len(scale) == len(list(network.parameters())) + 2


def test_frozen_layers_keep_weights_and_statistics():
    network = Net(3)
    still = optimisers.freeze(network, OptimiserSettings(frozen=0.5))
    assert still == [network.blocks[0][1]]
    learning = {name for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {n for n, _ in network.named_parameters() if n.startswith("blocks.1")}
    still = optimisers.freeze(network, OptimiserSettings(statistics="frozen"))
    assert len(still) == 2
    assert all(p.requires_grad for p in network.parameters())


def test_lars_is_the_published_loop():
    torch.manual_seed(0)
    weight, bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))
    still = nn.Parameter(torch.randn(2, 2))
    settings = OptimiserSettings(method="lars", weight_decay=0.1, momentum=0.9, learning_rate=0.5)
    module = nn.Module()
    module.weight, module.bias, module.still = weight, bias, still
    optimiser = optimisers.make_optimiser(optimisers.groups([], [module], settings), settings)
    w, b = weight.detach().clone(), bias.detach().clone()
    before, v_w, v_b = still.detach().clone(), torch.zeros(4, 3), torch.zeros(4)
    for step in range(5):
        g_w, g_b = torch.randn(4, 3), torch.randn(4)
        weight.grad, bias.grad = g_w.clone(), g_b.clone()
        optimiser.step()
        g_w = g_w + 0.1 * w
        trust = 0.001 * w.square().sum().sqrt() / g_w.square().sum().sqrt()
        v_w = 0.9 * v_w + 0.5 * trust * g_w
        v_b = 0.9 * v_b + 0.5 * g_b
        w, b = w - v_w, b - v_b
        torch.testing.assert_close(weight.detach(), w, msg=f"step {step}")
        torch.testing.assert_close(bias.detach(), b)
    assert torch.equal(still.detach(), before)


def test_lars_moves_what_is_zero():
    """Its size says nothing then, and the step is the plain one."""
    zero = nn.Parameter(torch.zeros(2, 2))
    module = nn.Module()
    module.zero = zero
    settings = OptimiserSettings(method="lars", learning_rate=0.5)
    optimiser = optimisers.make_optimiser(optimisers.groups([], [module], settings), settings)
    zero.grad = torch.ones(2, 2)
    optimiser.step()
    assert zero.detach().tolist() == [[-0.5] * 2] * 2


@pytest.mark.parametrize(("method", "kind"), [("adamw", "AdamW"), ("sgd", "SGD"), ("lars", "LARS")])
def test_methods(method, kind):
    settings = OptimiserSettings(method=method)
    made = optimisers.make_optimiser(optimisers.groups([Net(1)], [], settings), settings)
    assert type(made).__name__ == kind
