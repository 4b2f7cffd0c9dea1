"""A GPU is never waited for: what is copied, when, and what stays on it."""

import threading
from importlib import import_module

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import extract
from extract.encoders._library import LibraryFrames, Named, at_rest
from extract.encoders._network import Frozen
from extract.media.clip import Clip, Frames, Sound, Stream
from extract.pipeline.batching import Limit, Packer
from extract.pipeline.landing import BATCHES_AHEAD, MAX_FLOAT16, Landing, as_stored
from extract.pipeline.unit_encoder import UnitEncoder
from store import Status
from tests.fake_cuda import CARD, fake_card

SILENT = Stream(status=Status.ABSENT)
WIDE = (256, 455)  # 16:9 as it comes out of the decoder


def seen(count, size=WIDE, side=256):
    frames = Frames(pixels=np.zeros((count, *size, 3), np.uint8), seconds=np.arange(count) / 10)
    return Clip(visual=Stream(status=Status.OK, data={side: frames}), audio=SILENT)


def heard(seconds, rate):
    sound = Sound(samples=np.zeros(int(seconds * rate), np.float32), rate=rate)
    return Clip(visual=SILENT, audio=Stream(status=Status.OK, data={rate: sound}))


DIM = 64


class Few(torch.nn.Module):
    """A network that costs nothing: what is looked at is what goes in and out."""

    def forward(self, x):
        return x.flatten(1)[:, :DIM]


def small(name):
    """The encoder around such a network."""
    network = Frozen(Few(), device="cuda", precision="fp32")
    module = import_module(f"extract.encoders.{name}")
    known = {"identity": {}, "notes": {}}
    encoder = {
        "simclrv2": lambda: module.SimCLRv2(network, DIM, name, module.Config(), **known),
        "mae": lambda: module.MAE(network, name, module.Config(), **known),
        "mobilenetv2": lambda: module.MobileNetV2Encoder(network, name, **known),
        "efficientnet_lite": lambda: module.EfficientNetLiteEncoder(network, name, 224, **known),
    }[name]()
    encoder.dim = DIM
    return encoder


FRAMES = ["simclrv2", "mae", "mobilenetv2", "efficientnet_lite"]


@pytest.mark.parametrize("name", FRAMES)
def test_no_clip_waits_for_the_card(name):
    """Each clip's matrices were copied anew, which waits for all batches that were given before."""
    with fake_card() as card:
        encoder = small(name)
        unit = UnitEncoder(encoder, batch_size=4)
        unit.put("first", seen(4, side=encoder.short_side))  # shapes are new: matrices come
        card.copies.clear()
        for k in range(5):
            unit.put(str(k), seen(3, side=encoder.short_side))
        assert card.waits == []
        assert card.questions == []
        assert len([copy for copy in card.copies if copy.to == "cuda"]) == 5


@pytest.mark.parametrize(("name", "share"), [("simclrv2", 0.45), ("mae", 0.45)])
def test_only_what_the_network_sees_is_copied(name, share):
    """Of a frame of 16:9 it is less than half."""
    with fake_card() as card:
        encoder = small(name)
        encoder.preprocess(torch.zeros(1, *WIDE, 3, dtype=torch.uint8))
        card.copies.clear()
        encoder.preprocess(torch.zeros(8, *WIDE, 3, dtype=torch.uint8))
    assert 0 < card.bytes("cuda") < share * 8 * 3 * WIDE[0] * WIDE[1]


@pytest.mark.parametrize("name", ["yamnet:untrained", "vggish:untrained"])
def test_no_sound_waits_for_the_card(name):
    with fake_card() as card:
        encoder = extract.load_encoder(name, device="cuda")
        dim = encoder.dim
        encoder.forward = lambda x: x.flatten(1)[:, :1].expand(-1, dim)
        unit = UnitEncoder(encoder, batch_size=4)
        unit.put("first", heard(4, encoder.sample_rate))
        card.copies.clear()
        for k in range(3):
            unit.put(str(k), heard(4, encoder.sample_rate))
        assert card.waits == []
        assert card.questions == []


def test_rows_leave_the_card_batch_by_batch_in_half_precision():
    """They stayed as fp32 until the end of their unit: gigabytes of 512 clips."""
    with fake_card() as card:
        encoder = small("simclrv2")
        unit = UnitEncoder(encoder, batch_size=4)
        for k in range(10):
            unit.put(str(k), seen(4))
        out = [copy.bytes for copy in card.copies if copy.to == "cpu"]
        assert out == [4 * encoder.dim * 2] * 10
        kept = [batch.rows for parts in unit.packer._done for _, batch, _ in parts]
        assert {rows.device.type for rows in kept} == {"cpu"}
        assert {rows.dtype for rows in kept} == {torch.float16}


def test_the_host_runs_ahead_by_a_few_batches_and_no_more():
    with fake_card() as card:
        landing = Landing()
        rows = torch.zeros(4, 8, device=CARD)
        landed = [landing.take(rows) for _ in range(BATCHES_AHEAD + 3)]
        assert [batch.arrived is None for batch in landed] == [True] * 3 + [False] * BATCHES_AHEAD
        assert [event.waited for event in card.events] == [True] * 3 + [False] * BATCHES_AHEAD
        landing.wait()
        assert all(batch.arrived is None for batch in landed)


def test_the_cards_time_is_told_by_events():
    """The clock of the host sees launches only."""
    with fake_card() as card:
        unit = UnitEncoder(small("simclrv2"), batch_size=4)
        unit.put("first", seen(2))
        card.copies.clear()  # of the matrix
        for k in range(5):
            unit.put(str(k), seen(2))
        unit.flush()
        assert card.waits == []  # the next unit's clips need not wait for the end of this one
        assert unit.packer.clock.seconds == 0
        unit.packer.clock.settle()
        # Six clips are prepared and three batches computed, at 2 ms each.
        assert unit.packer.clock.seconds == pytest.approx(9 * 0.002)


def test_on_a_processor_no_event_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", None)
    packer = Packer(as_stored, 2)
    packer.put(torch.ones(5, 3))
    assert len(packer.finish()[0]) == 5
    assert packer.clock.seconds == 0


def test_halves_are_those_of_numpy_and_what_is_too_large_is_no_number():
    rows = torch.randn(100, 50) * 10.0 ** torch.randint(-9, 5, (100, 50))
    rows[0, :5] = torch.tensor([MAX_FLOAT16, -MAX_FLOAT16, 6e-8, 2e-8, 0.0])
    fits = rows.abs() <= MAX_FLOAT16
    stored = as_stored(rows)
    np.testing.assert_array_equal(
        stored.numpy()[fits.numpy()], rows.numpy()[fits.numpy()].astype(np.float16)
    )
    odd = torch.tensor([[65_504.1, -65_519.0, torch.inf, -torch.inf, torch.nan]])
    assert as_stored(odd).isnan().all()  # 65,519 would round to the largest that there is


class Narrow:
    """An encoder whose device holds so few items of each kind."""

    name, slug, modality, dim, short_side = "narrow", "narrow", "visual", 3, 8
    identity, notes = {}, {}

    def __init__(self, prepared=99, computed=99):
        self.most, self.sizes = {"preprocess": prepared, "forward": computed}, []

    def _checked(self, what, x):
        self.sizes.append((what, len(x)))
        if len(x) > self.most[what]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return x

    def preprocess(self, x):
        return self._checked("preprocess", x).flatten(1)[:, :3].float()

    def forward(self, x):
        return self._checked("forward", x) * 2

    def __call__(self, x):
        return self.forward(self.preprocess(x))


def rows_of(encoder, sizes=(6, 5)):
    unit = UnitEncoder(encoder, batch_size=8)
    for k, size in enumerate(sizes):
        unit.put(str(k), seen(size, (8, 8), 8))
    return unit.rows()


@pytest.mark.parametrize("what", ["preprocess", "forward"])
def test_memory_that_is_short_anywhere_halves_what_goes_in(what):
    """Only the network itself was tried again: preparing frames ended the run."""
    encoder = Narrow(**{{"preprocess": "prepared", "forward": "computed"}[what]: 3})
    assert rows_of(encoder).row_count.tolist() == [6, 5]
    assert max(size for kind, size in encoder.sizes if kind == what) >= 6
    encoder.sizes.clear()
    rows_of(encoder)  # the next unit, which on a cluster is another call
    assert max(size for kind, size in encoder.sizes if kind == what) in (2, 3)


def test_a_batch_that_memory_does_not_hold_is_smaller_for_good():
    class Items(torch.Tensor):
        def new_empty(self, size, **how):
            asked.append(size[0])
            if size[0] > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return torch.empty(size)

    asked, limit = [], Limit()
    for _ in range(2):
        packer = Packer(lambda x: x * 2, 8, limit)
        packer.put(torch.ones(5, 2).as_subclass(Items))
        assert torch.equal(packer.finish()[0], torch.full((5, 2), 2.0))
    assert asked == [8, 4, 2, 2]
    assert limit.of(8) == 2


def test_two_threads_leave_fp32_whole():
    """Each forward switched TF32 off and back on, for the other thread too."""
    seen_on, (begun, inside, left) = [], (threading.Event() for _ in range(3))

    def first(x):
        begun.set()
        inside.wait(5)
        return x

    def second(x):
        inside.set()
        left.wait(5)
        seen_on.append(torch.backends.cudnn.allow_tf32)
        return x

    def beside(frozen):
        with FakeTensorMode(allow_non_fake_inputs=True):  # a mode is of one thread
            frozen(torch.zeros(1, 1, device=CARD))
        left.set()

    before = torch.backends.cudnn.allow_tf32
    try:
        with fake_card():
            one, other = (
                Frozen(torch.nn.Identity(), device="cuda", precision="fp32") for _ in range(2)
            )
            one._network, other._network = first, second
            thread = threading.Thread(target=beside, args=(one,))
            thread.start()
            begun.wait(5)
            other(torch.zeros(1, 1, device=CARD))
            thread.join(10)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    assert seen_on == [False]


def test_networks_of_libraries_are_whole_too_and_their_clips_wait_for_nothing():
    """They had TF32 unless one of ours stood beside them, and copies waited for earlier batches."""
    flags = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    named = Named(name="timm", slug="timm-x", dim=2, identity={}, notes={})
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
        with fake_card() as card:
            device = at_rest(torch.nn.Linear(4, 2), "cuda", "fp32", "timm")
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
            encoder = LibraryFrames(
                named, lambda x: x.float().flatten(1), torch.nn.Identity(), device, short_side=8
            )
            card.copies.clear()
            given = encoder.preprocess(torch.zeros(3, 8, 8, 3, dtype=torch.uint8))
            assert given.device.type == "cuda"
            assert [copy.to for copy in card.copies if copy.to == "cuda"] == ["cuda"]
            assert card.waits == []
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = flags


@pytest.mark.gpu
def test_rows_of_a_card_are_whole():
    torch.manual_seed(0)
    packer = Packer(lambda x: as_stored(x @ x.T @ x), 64)
    clips = [torch.randn(n, 64, device="cuda") for n in (64, 128, 1, 63, 500)]
    for clip in clips:
        packer.put(clip)
    for rows in packer.finish():
        assert rows.device.type == "cpu"
        assert rows.isfinite().all()
    assert packer.clock.seconds > 0
