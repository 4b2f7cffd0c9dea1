"""Every encoder of ours keeps the promises of `Encoder`, and some that others need not keep."""

from functools import cache

import pytest
import torch

import extract
from extract.encoders._network import Frozen, plain
from extract.testing import AudioEncoderContract, StackEncoderContract, VisualEncoderContract
from extract.testing.encoders import (
    FAMILY,
    description,
    generator,
    items,
    load,
    load_as,
    relative,
    untrained,
    with_words,
)
from store import plugins
from store.errors import ConfigError

# Those of other libraries: tests/extract/encoders/test_libraries.py.
NAMES = [n for n in plugins.names(FAMILY) if description(n).dims]
AUDIO = [n for n in NAMES if hasattr(plugins.module(FAMILY, n).Config, "window_seconds")]
STACKS = [n for n in NAMES if hasattr(plugins.module(FAMILY, n).Config, "hop")]
VISUAL = [n for n in NAMES if n not in AUDIO and n not in STACKS]
SMALL = ("frames=4", "side=32")  # of stacks, where the published take minutes
BF16_COSINE = 0.999
NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)


@pytest.mark.parametrize("name", VISUAL)
class TestVisualEncoders(VisualEncoderContract):
    """Of frames."""


@pytest.mark.parametrize("name", [with_words(name, *SMALL) for name in STACKS])
class TestStackEncoders(StackEncoderContract):
    """Of stacks of frames."""


@pytest.mark.parametrize("name", AUDIO)
class TestAudioEncoders(AudioEncoderContract):
    """Of sound."""


# Every variant of every encoder, as settings of a SPEC.
EVERYTHING = [
    (name, f"variant={variant}" if variant else "")
    for name in NAMES
    for variant in description(name).dims
]


def ends():
    """The first and the last variant of every encoder in every run, those between in the soak."""
    for name, settings in EVERYTHING:
        variants = list(description(name).dims)
        end = settings.removeprefix("variant=") in (variants[0], variants[-1])
        yield pytest.param(name, settings, marks=() if end else pytest.mark.soak)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def encoder(name):
    return load(name)


def trained(network):
    """Batch norms as training leaves them, so that folding them wrongly or not at all would show.

    Variances are small and scales follow them, or deep networks would run out of digits.
    """
    seed = generator()
    for norm in network.modules():
        if isinstance(norm, NORMS):
            norm.running_var.uniform_(-5, 0, generator=seed).exp_()
            with torch.no_grad():
                norm.weight.uniform_(0.6, 1.2, generator=seed).mul_(norm.running_var.sqrt())
                norm.bias.normal_(0, 0.03, generator=seed)
            norm.running_mean.normal_(0, 0.03, generator=seed)
    return network


@pytest.fixture
def trained_looking(monkeypatch):
    def load(name, settings, precision="fp32"):
        def frozen(network, **how):
            return Frozen(trained(network), **how)

        monkeypatch.setattr(plugins.module(FAMILY, name), "Frozen", frozen)
        small = SMALL if name in STACKS else ()
        return extract.load_encoder(
            with_words(name, *untrained(name), settings, *small), precision=precision
        )

    return load


def weightless(name, settings):
    """A network without numbers, on a device that only follows shapes: it costs nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extract.weights.loading.initialise", lambda network, **_: None)
        words = ",".join(filter(None, (*untrained(name), settings)))
        return extract.load_encoder(f"{name}:{words}" if words else name, "meta")


# The smallest of every encoder in every run of the suite, the others in soaks.
EXTENTS = pytest.mark.parametrize(
    "extent", [slice(0, 1), pytest.param(slice(1, None), marks=pytest.mark.soak)]
)


@cache
def structures(name):
    """Of the variants that differ in nothing but sizes, the one with the fewest weights."""
    smallest = {}
    for variant in (settings for of, settings in EVERYTHING if of == name):
        network = weightless(name, variant)._network._network
        kinds = {(type(m), getattr(m, "kernel_size", None)) for m in network.modules()}
        weights = sum(p.numel() for p in network.parameters())
        known = smallest.setdefault(frozenset(kinds), (weights, variant))
        smallest[frozenset(kinds)] = min(known, (weights, variant))
    return [variant for _, variant in sorted(smallest.values())]


def test_both_modalities_are_tested():
    """Guards `AUDIO` and `VISUAL`: a renamed setting must not empty one."""
    assert {load(n).modality for n in AUDIO} == {"audio"}
    assert {load(n).modality for n in VISUAL} == {"visual"}
    assert {load(n).modality for n in STACKS} == {"visual"}


def test_its_slug_begins_with_its_name(encoder, name):
    assert encoder.slug.startswith(name)


@pytest.mark.parametrize(("name", "settings"), list(ends()))
def test_its_description_is_true(name, settings):
    encoder = weightless(name, settings)
    assert encoder.modality == description(name).modality
    assert encoder.dim == description(name).dims[settings.removeprefix("variant=")]
    assert encoder(items(encoder, 2).to("meta")).shape[1:] == (encoder.dim,)


@EXTENTS
def test_the_fast_path_equals_the_plain_one(name, trained_looking, extent):
    """Folded batch norms and channels last against neither."""
    for settings in structures(name)[extent]:
        fast = trained_looking(name, settings)
        with plain():
            slow = trained_looking(name, settings)
        x = items(fast, 2)
        assert relative(fast(x), slow(x)) < 1e-5, settings
        assert fast.identity == slow.identity
        left = [m for m in fast._network._network.modules() if isinstance(m, NORMS)]
        assert not left, settings


@EXTENTS
def test_bf16_points_where_fp32_does(name, trained_looking, extent):
    """A cosine of .999 in every row; docs/decisions.md says what each encoder reaches."""
    if "bf16" not in description(name).precisions:
        with pytest.raises(ConfigError, match=f"{name} keeps its rows in fp32 only.*=auto"):
            load_as(name, "bf16")
        return
    for settings in structures(name)[extent]:
        fine, coarse = (trained_looking(name, settings, p) for p in ("fp32", "bf16"))
        x = items(fine, 2)
        rows, theirs = coarse(x), fine(x)
        assert rows.dtype == torch.float32
        cosine = torch.cosine_similarity(rows, theirs).min()
        assert cosine >= BF16_COSINE, (settings, cosine)
        assert not torch.equal(rows, theirs)
        assert coarse.identity != fine.identity


def test_auto_is_bf16_on_a_gpu_if_rows_stay(name, monkeypatch):
    wanted = "bf16" if "bf16" in description(name).precisions else "fp32"
    built = []
    monkeypatch.setattr(plugins, "build", lambda *_, **how: built.append(how["precision"]))
    for device in ("cpu", "cuda", "cuda:1"):
        load_as(name, "auto", device)
    assert built == ["fp32", wanted, wanted]


@pytest.mark.parametrize(
    ("device", "precision", "says"),
    [
        ("cpu", "fp8", "bf16, fp32"),
        ("cuda:99", "fp32", "use device=cpu"),
        ("abacus", "fp32", "cpu"),
    ],
)
def test_a_device_or_precision_that_is_not_there(name, device, precision, says):
    with pytest.raises(ConfigError, match=says):
        load_as(name, precision, device)
