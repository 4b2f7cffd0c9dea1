"""What changes the weights of encoders: rates by layer, frozen layers, LARS."""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn

from learn.finetuning.recipe import OptimiserSettings

TRUST = 0.001  # LARS's eta
Norm = nn.modules.batchnorm._NormBase


def layers_of(network: nn.Module) -> list[list[str]]:
    """Names of parameters, layer by layer from the input on: what a network registers as a list or
    a sequence are layers of their own."""
    layers: dict[str, list[str]] = {}
    several = {
        name
        for name, child in network.named_children()
        if isinstance(child, nn.ModuleList | nn.Sequential | nn.ModuleDict)
    }
    for name, _ in network.named_parameters():
        parts = name.split(".")
        own = "" if len(parts) == 1 else ".".join(parts[: 1 + (parts[0] in several)])
        layers.setdefault(own, []).append(name)
    return list(layers.values())


def freeze(network: nn.Module, settings: OptimiserSettings) -> list[nn.Module]:
    """Keep the first layers from learning; gives the batch norms whose statistics stay."""
    layers = layers_of(network)
    still = {name for layer in layers[: int(settings.frozen * len(layers))] for name in layer}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in still)
    norms = {n: m for n, m in network.named_modules() if isinstance(m, Norm)}
    if settings.statistics == "frozen":
        return list(norms.values())
    return [norm for name, norm in norms.items() if f"{name}.weight" in still]


def groups(
    networks: Iterable[nn.Module], others: Iterable[nn.Module], settings: OptimiserSettings
) -> list[dict[str, Any]]:
    """Parameter groups with their `scale` of the learning rate: networks by layer, others at 1.

    Biases and norms are neither decayed nor, by LARS, scaled.
    """
    found: list[dict[str, Any]] = []
    for network in networks:
        layers = layers_of(network)
        parameters = dict(network.named_parameters())
        for number, layer in enumerate(layers):
            scale = settings.layer_decay ** (len(layers) - number)
            found += _split([parameters[name] for name in layer], scale, settings)
    for module in others:
        found += _split(list(module.parameters()), 1.0, settings)
    return found


def _split(
    parameters: list[nn.Parameter], scale: float, settings: OptimiserSettings
) -> list[dict[str, Any]]:
    learning = [p for p in parameters if p.requires_grad]
    weights, rest = [p for p in learning if p.ndim > 1], [p for p in learning if p.ndim < 2]
    return [
        {"params": params, "scale": scale, "weight_decay": decay, "adapted": adapted}
        for params, decay, adapted in (
            (weights, settings.weight_decay, True), (rest, 0.0, False),
        )
        if params
    ]  # fmt: skip


def make_optimiser(
    parameter_groups: list[dict[str, Any]], settings: OptimiserSettings
) -> torch.optim.Optimizer:
    """The optimiser of the settings' method."""
    if settings.method == "lars":
        return LARS(parameter_groups, lr=settings.learning_rate, momentum=settings.momentum)
    if settings.method == "sgd":
        return torch.optim.SGD(
            parameter_groups, lr=settings.learning_rate, momentum=settings.momentum,
            nesterov=settings.momentum > 0,
        )  # fmt: skip
    return torch.optim.AdamW(parameter_groups, lr=settings.learning_rate)


class LARS(torch.optim.Optimizer):
    """Steps of each weight in proportion to its size: for large batches.

    Source: You et al., 2017, "Large Batch Training of Convolutional Networks", as SimCLRv2's code
    has it: decay is part of the gradient, and the momentum holds whole steps.
    """

    def __init__(self, params: Any, lr: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Change every parameter that has a gradient."""
        loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad + group["weight_decay"] * parameter
                rate = torch.tensor(float(group["lr"]), device=parameter.device)
                if group["adapted"]:
                    weight, slope = parameter.norm(), gradient.norm()
                    both = (weight > 0) & (slope > 0)
                    rate = rate * torch.where(both, TRUST * weight / slope, 1.0)
                state = self.state[parameter]
                if not state:
                    state["velocity"] = torch.zeros_like(parameter)
                state["velocity"].mul_(group["momentum"]).add_(rate * gradient)
                parameter.sub_(state["velocity"])
        return loss
