"""A GPU that is not there: tensors say they are on it, and what would cross to it is recorded.

Torch's fake tensors know shape, kind and device and hold no numbers. So code for a GPU runs on any
machine, and every copy and every wait that it would make is seen. Numbers are for tests
marked `gpu`.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from threading import Lock
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

CARD = torch.device("cuda", 0)
_FREE = Lock()
aten = torch.ops.aten
# What needs a number of the device's before the program can go on.
ASKING = (aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero)

ANSWERS = {aten._local_scalar_dense: 1, aten.equal: True, aten.is_nonzero: True}
STAGED_BYTES = 1 << 16  # CUDA takes so many at once out of memory that is not pinned


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy between memory and card."""

    to: str
    bytes: int
    waits: bool  # for everything that the card was given before


@dataclass(slots=True)
class Card:
    """What the program did with the card."""

    copies: list[Copy] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)  # operations that wait for a number
    events: list["Event"] = field(default_factory=list)
    empty_caches: int = 0

    @property
    def waits(self):
        return [copy for copy in self.copies if copy.waits]

    def bytes(self, to):
        return sum(copy.bytes for copy in self.copies if copy.to == to)


class Event:
    """An event of a stream: done once somebody waits for it."""

    def __init__(self, card, enable_timing=False):
        self.card, self.timing, self.recorded, self.waited = card, enable_timing, False, False
        card.events.append(self)

    def record(self, stream=None):
        self.recorded = True

    def query(self):
        return self.waited

    def synchronize(self):
        assert self.recorded
        self.waited = True

    def elapsed_time(self, other):
        assert self.timing
        assert other.timing
        return 2.0  # milliseconds


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other):
        pass


class _Recorder(TorchDispatchMode):
    def __init__(self, card):
        super().__init__()
        self.card = card
        self.pinned = set()
        self.held = []  # so that no number of a tensor is given twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        packet = func.overloadpacket
        if "generator" in kwargs:
            kwargs["generator"] = None  # it is of the processor
        if packet in ASKING and any(_on_card(a) for a in args):
            self.card.questions.append(str(packet))
        if packet in ANSWERS:
            return ANSWERS[packet]
        pinned = kwargs.get("pin_memory")
        if packet in (aten.copy_, aten._to_copy, aten.to):  # in inference mode `to` comes whole
            self._copy(packet, args, kwargs)
        result = func(*args, **kwargs)
        if pinned:
            self.pinned.add(_storage(result))
            self.held.append(result)
        return result

    def _copy(self, packet, args, kwargs):
        if packet is aten.copy_:
            target, source = args[:2]
            asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            to, pinned = target.device, _storage(target) in self.pinned
        else:
            source, *rest = args
            named = next((a for a in rest if isinstance(a, torch.device)), source.device)
            flags = [a for a in rest if isinstance(a, bool)]
            to = torch.device(kwargs.get("device") or named)
            asynchronous = kwargs.get("non_blocking", flags[0] if flags else False)
            pinned = kwargs.get("pin_memory", False)
        if to.type == source.device.type:
            return
        there = _storage(source) in self.pinned if to.type == "cuda" else pinned
        size = source.numel() * source.element_size()
        staged = to.type == "cuda" and size <= STAGED_BYTES
        self.card.copies.append(Copy(to.type, size, not (asynchronous and (there or staged))))


def _storage(x):
    """Two tensors that share their numbers have the same one."""
    return x.untyped_storage()._cdata


def _really(make, fakes):
    """Matrices are made of numbers, on the processor."""

    def made(*args, **kwargs):
        with unset_fake_temporarily() as outer:
            result = make(*args, **kwargs)
        if outer is None:  # one matrix is made of another
            return result
        return fakes.from_tensor(result) if isinstance(result, torch.Tensor) else result

    return made


def _on_card(x):
    return isinstance(x, torch.Tensor) and x.device.type == "cuda"


def _record_stream(self, stream):
    """Nothing waits for a stream here."""


def _apply(module, change, recurse=True):
    """What `Module.to` does; torch's own swaps tensors, which fakes do not let it."""
    for child in module.children():
        child._apply(change)
    for held in (module._parameters, module._buffers):
        for name, x in held.items():
            if x is not None:
                changed = change(x)
                parameter = isinstance(x, torch.nn.Parameter)
                held[name] = (
                    torch.nn.Parameter(changed, requires_grad=x.requires_grad)
                    if parameter
                    else changed
                )
    return module


def _forget():
    """Empty what is kept between calls: numbers here, and fakes there."""
    from extract.encoders import _resize
    from learn.fewshot.fusions import _evidence

    for kept in (_resize.kept, _evidence.grid, _evidence._bell):
        kept.cache_clear()


@contextmanager
def fake_card():
    """Within it there is one card, and all tensors are fakes.

    One at a time: what two threads put in torch's place, each could put back in the wrong order.
    """
    assert _FREE.acquire(blocking=False), "a fake card is in use"
    from extract.encoders import _resize, mae, simclrv2

    card, generator = Card(), torch.Generator
    matrices = {
        (module, name): getattr(module, name)
        for module in (_resize, mae, simclrv2)
        for name in ("smooth_matrix", "tensorflow_bicubic_matrix", "seen")
        if hasattr(module, name)
    }

    # What is first imported or listed within would keep what stands in for CUDA's classes.
    import_module("torch._dynamo.device_interface")
    torch.overrides.get_overridable_functions()

    class CardEvent(Event):
        def __init__(self, enable_timing=False):
            super().__init__(card, enable_timing)

    def emptied():
        card.empty_caches += 1

    def processor_generator(device=None):
        return generator()

    patches = {
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "current_stream": lambda device=None: Stream(),
        "Stream": Stream,
        "stream": lambda stream: mock.MagicMock(),
        "Event": CardEvent,
        "synchronize": lambda device=None: None,
        "empty_cache": emptied,
    }
    _forget()
    try:
        with (
            mock.patch.multiple(torch.cuda, **patches),
            mock.patch.object(torch.Tensor, "record_stream", _record_stream),
            mock.patch.object(torch, "Generator", processor_generator),
            mock.patch.object(torch.nn.Module, "_apply", _apply),
            FakeTensorMode(allow_non_fake_inputs=True) as fakes,
            _Recorder(card),
            ExitStack() as stack,
        ):
            for (module, name), make in matrices.items():
                stack.enter_context(mock.patch.object(module, name, _really(make, fakes)))
            yield card
    finally:
        _forget()
        _FREE.release()
