"""Helpers of frozen networks: TensorFlow's padding, folding of batch norm, inference.

Shapes: B = items of a batch, C = channels, H, W = height and width, D = embedding size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import fusion

from store.errors import ConfigError, choices

NORMS, CONVOLUTIONS = (nn.BatchNorm2d, nn.BatchNorm3d), (nn.Conv2d, nn.Conv3d)
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
_fast = ContextVar("fast", default=True)
_learns = ContextVar("learns", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Networks frozen inside keep their batch norms and torch's layout.

    They are the obvious twin that the fast path is compared with, in tests and benchmarks.
    """
    token = _fast.set(False)
    try:
        yield
    finally:
        _fast.reset(token)


@contextmanager
def learning() -> Iterator[None]:
    """Networks made inside learn: batch norms stay live, and calls keep what gradients need.

    At rest they give the rows of a frozen network, up to rounding.
    """
    token = _learns.set(True)
    try:
        with plain():
            yield
    finally:
        _learns.reset(token)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Elements before and after, so that a window gives ceil(size / stride) outputs.

    Source: TensorFlow's padding='SAME'. An odd total puts the larger part *after*, which is why
    PyTorch's symmetric padding is not the same network at even sizes and stride 2.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's 'SAME' padding; kernels are square."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _ _ _"]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        (top, bottom), (left, right) = (same_padding(n, kernel, stride) for n in x.shape[2:])
        if top == bottom and left == right:  # spares a copy: all convolutions of stride 1
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), 1, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def fold_batch_norm(network: nn.Module) -> None:
    """Merge each batch norm into the layer registered before it, which may be the last one of a
    sequence; the function stays equal.

    An unpadded average pool may lie between: averaging commutes with a scale and an offset.
    """
    for parent in list(network.modules()):
        place, layer_name, layer = parent, "", None
        for name, child in list(parent.named_children()):
            if isinstance(child, NORMS) and isinstance(layer, CONVOLUTIONS):
                setattr(place, layer_name, fusion.fuse_conv_bn_eval(layer, child))
                setattr(parent, name, nn.Identity())
            elif isinstance(child, nn.BatchNorm1d) and isinstance(layer, nn.Linear):
                setattr(place, layer_name, fusion.fuse_linear_bn_eval(layer, child))
                setattr(parent, name, nn.Identity())
            unpadded_average = isinstance(child, nn.AvgPool2d) and child.padding == 0
            if not isinstance(child, nn.Identity) and not unpadded_average:
                place, layer_name, layer = parent, name, child
                while isinstance(layer, nn.Sequential) and len(layer):
                    place, (layer_name, layer) = layer, list(layer.named_children())[-1]


def channels_last(network: nn.Module) -> None:
    """Hold the channels of kernels last, of pictures or of stacks of them."""
    stacks = any(isinstance(module, nn.Conv3d) for module in network.modules())
    layout = torch.channels_last_3d if stacks else torch.channels_last
    network.to(memory_format=layout)  # type: ignore[call-overload]


class Way:
    """The way onto a device: to a GPU on a stream of its own, while it computes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """`x` on the device, or on its way there."""
        if self.device.type != "cuda" or x.device == self.device:
            return x.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        if self._stream is None:
            self._stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            # `pin_memory` of a view would pin all of what it is a view of.
            pinned = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x)
            moved = pinned.to(self.device, non_blocking=True)
        computing.wait_stream(self._stream)
        moved.record_stream(computing)
        return moved


class Frozen:
    """A network at rest: evaluation mode, batch norm folded, one device and precision.

    Made inside `learning`, it is the same network before it is put to rest.

    Raises:
        ConfigError: an unknown precision, or a device this machine does not have.
    """

    def __init__(
        self, network: nn.Module, *, device: str, precision: str, last: bool = True
    ) -> None:
        if precision not in PRECISIONS:
            raise ConfigError(
                f"no precision {precision!r}; there are {choices(precision, PRECISIONS)}"
            )
        self.device = present(device)
        self.dtype = PRECISIONS[precision]
        self.learns = _learns.get()
        self._network = network.eval().requires_grad_(self.learns)
        if _fast.get():
            fold_batch_norm(network)
        if _fast.get() and last:
            channels_last(network)
        network.to(self.device, self.dtype)
        self._way = Way(self.device)
        if self.device.type == "cuda":
            whole_fp32()

    @property
    def module(self) -> nn.Module:
        """The network itself."""
        return self._network

    def take(self, x: Tensor) -> Tensor:
        """`x` on the network's device, or on its way there.

        Cut from `x` first what is not needed: it is all copied.
        """
        return self._way(x)

    def __call__(self, x: Float[Tensor, "B ..."]) -> Float[Tensor, "B D"]:
        if self.learns and x.is_inference():
            x = x.clone()  # gradients may need it, and what inference made is not to be kept
        with torch.inference_mode(not self.learns or torch.is_inference_mode_enabled()):
            return self._network(x.to(self.device, self.dtype)).float()


def present(device: str) -> torch.device:
    """`device` as torch's own, if this machine has it.

    Raises:
        ConfigError: it has not.
    """
    try:
        torch_device = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"no device {device!r}; write cpu, cuda or cuda:N") from None
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"no device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; "
            f"use device=cpu"
        )
    if torch_device.type == "cuda" and torch_device.index is None:
        torch_device = torch.device("cuda", torch.cuda.current_device())
    return torch_device


def whole_fp32() -> None:
    """Let fp32 mean fp32 on GPUs: cuDNN would round inputs of convolutions to 10 bits (TF32).

    The switches are of the process: set around each call, one thread's would undo another's. So
    they are set once, before the first network on a GPU, and stay.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False  # the kernel, and so the last bits, chosen by the clock
