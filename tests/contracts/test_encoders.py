"""Every encoder, present and future, keeps the promise of `Encoder`, with random weights."""

import json
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import extract
from extract.encoders import AudioEncoder, Encoder, VisualEncoder
from extract.encoders._network import Frozen, plain
from store import plugins
from store.errors import ConfigError, MissingFile, WeightsError

FAMILY = "extract.encoders"
NAMES = plugins.names(FAMILY)
AUDIO = [n for n in NAMES if hasattr(plugins.module(FAMILY, n).Config, "window_seconds")]
VISUAL = [n for n in NAMES if n not in AUDIO]
of_sound = pytest.mark.parametrize("name", AUDIO)
of_frames = pytest.mark.parametrize("name", VISUAL)
WITH_WEIGHTS = [n for n in NAMES if plugins.module(FAMILY, n).DESCRIPTION.weights != "none"]
of_weights = pytest.mark.parametrize("name", WITH_WEIGHTS)
FRAME_SIZES = [(1, 1), (17, 31), (300, 40), (240, 320), (224, 224)]
BF16_COSINE = 0.999
NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)


def description(name):
    return plugins.module(FAMILY, name).DESCRIPTION


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


@cache
def load(name, *settings):
    words = ",".join((*untrained(name), *settings))
    return extract.load_encoder(f"{name}:{words}" if words else name)


def untrained(name):
    """The word for random weights, where there are weights."""
    return ("untrained",) if name in WITH_WEIGHTS else ()


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
        words = ",".join(filter(None, (*untrained(name), settings)))
        return extract.load_encoder(f"{name}:{words}" if words else name, precision=precision)

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


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def items(encoder, count=3):
    """Frames or sounds that differ."""
    if encoder.modality == "visual":
        # Large coloured areas and some noise: networks average noise away.
        areas = F.interpolate(torch.rand(count, 3, 3, 3, generator=generator()) ** 2, (48, 64))
        noise = torch.rand(count, 3, 48, 64, generator=generator(1))
        return ((0.8 * areas + 0.2 * noise) * 255).byte().permute(0, 2, 3, 1).contiguous()
    seconds = encoder.window_seconds + encoder.hop_seconds
    return sounds(encoder, round(seconds * encoder.sample_rate), count)


@cache
def seen(name):
    """What the usual encoder is shown, and the rows it gives: computed once for all tests."""
    x = items(load(name))
    return x, load(name)(x)


def sounds(encoder, samples, count=2):
    loudness = torch.logspace(-2, -0.5, count)[:, None]
    return loudness * torch.randn(count, samples, generator=generator())


def relative(a, b):
    return float((a - b).norm() / b.norm())


def test_both_modalities_are_tested():
    """Guards `AUDIO` and `VISUAL`: a renamed setting must not empty one."""
    assert {load(n).modality for n in AUDIO} == {"audio"}
    assert {load(n).modality for n in VISUAL} == {"visual"}


def test_it_is_an_encoder_of_its_modality(encoder, name):
    assert isinstance(encoder, Encoder)
    assert encoder.name == name
    assert encoder.slug.startswith(name)
    kind = {"visual": VisualEncoder, "audio": AudioEncoder}[encoder.modality]
    assert isinstance(encoder, kind)


@pytest.mark.parametrize(("name", "settings"), list(ends()))
def test_its_description_is_true(name, settings):
    encoder = weightless(name, settings)
    assert encoder.modality == description(name).modality
    assert encoder.dim == description(name).dims[settings.removeprefix("variant=")]
    assert encoder(items(encoder, 2).to("meta")).shape[1:] == (encoder.dim,)


def test_its_description_names_the_variants_there_are(name):
    described = description(name)
    assert described.licence
    config = plugins.module(FAMILY, name).Config()
    assert getattr(config, "variant", "") in described.dims
    assert (list(described.dims) == [""]) == (not hasattr(config, "variant"))


def test_one_finite_row_of_dim_per_item(encoder, name):
    x, rows = seen(name)
    each = 1
    if encoder.modality == "audio":
        each = len(encoder.window_starts_seconds(x.shape[1]))
        assert each == (2 if encoder.window_seconds else 1)
    assert rows.shape == (3 * each, encoder.dim)
    assert rows.dtype == torch.float32
    assert rows.isfinite().all()
    assert rows.half().isfinite().all()  # stores are float16
    assert rows.std(0).max() > 0  # it looks at its input


def test_a_row_does_not_see_its_batch(encoder, name):
    x, rows = seen(name)
    alone = torch.cat([encoder(one[None]) for one in x])
    torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-5)
    order = torch.tensor([2, 0, 1])
    shuffled = encoder(x[order]).unflatten(0, (3, -1))
    torch.testing.assert_close(shuffled, rows.unflatten(0, (3, -1))[order], rtol=1e-4, atol=1e-5)


def test_encoding_is_preprocessing_then_forward_and_leaves_its_input_alone(encoder):
    x = items(encoder, 2)
    before = x.clone()
    rows = encoder(x)
    assert torch.equal(rows, encoder.forward(encoder.preprocess(x)))
    assert torch.equal(x, before)
    assert not rows.requires_grad


def test_the_spec_decides_the_numbers(encoder, name):
    x, rows = seen(name)
    state = torch.random.get_rng_state()
    again = load.__wrapped__(name)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's numbers move
    assert torch.equal(again(x), rows)
    assert again.identity == encoder.identity
    if name not in WITH_WEIGHTS:
        return
    other = load.__wrapped__(name, "seed=1")
    assert relative(other(x), rows) > 0.1
    assert other.identity != encoder.identity


def test_the_identity_is_json_and_says_what_matters(encoder):
    assert json.loads(json.dumps(encoder.identity)) == encoder.identity
    assert json.loads(json.dumps(encoder.notes)) == encoder.notes
    assert isinstance(encoder.identity["revision"], int)
    assert encoder.identity["precision"] == "fp32"
    assert encoder.identity["preprocessing"]


@of_weights
def test_random_weights_are_stamped(encoder):
    assert encoder.notes["untrained"] is True
    assert encoder.identity["weights"] == {"untrained": True, "seed": 0}
    assert encoder.slug.endswith("-untrained")


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


def load_as(name, precision, device="cpu"):
    return extract.load_encoder(":".join((name, *untrained(name))), device, precision)


def test_auto_is_bf16_on_a_gpu_if_rows_stay(name, monkeypatch):
    wanted = "bf16" if "bf16" in description(name).precisions else "fp32"
    built = []
    monkeypatch.setattr(plugins, "build", lambda *_, **how: built.append(how["precision"]))
    for device in ("cpu", "cuda", "cuda:1"):
        load_as(name, "auto", device)
    assert built == ["fp32", wanted, wanted]


@pytest.mark.parametrize("name", [n for n in WITH_WEIGHTS if description(n).weights == "file"])
def test_without_weights_it_says_what_to_write(name):
    with pytest.raises(WeightsError, match=f"weights=FILE .*, or {name}:untrained"):
        extract.load_encoder(name)


@of_weights
def test_weights_that_are_not_there(name, tmp_path):
    with pytest.raises(MissingFile, match="are not there"):
        extract.load_encoder(f"{name}:weights={tmp_path / 'nothing.safetensors'}")


@of_weights
def test_weights_and_none_at_once(name):
    with pytest.raises(ConfigError, match="exclude each other"):
        extract.load_encoder(f"{name}:weights=some.pth,untrained")


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


@of_frames
@pytest.mark.parametrize("size", FRAME_SIZES, ids=str)
def test_frames_of_any_size_are_accepted(encoder, size):
    frames = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8, generator=generator())
    x = encoder.preprocess(frames)
    assert x.shape[:2] == (1, 3)
    assert x.shape[2] == x.shape[3]
    assert encoder.forward(x).isfinite().all()


@of_frames
def test_nothing_is_lost_at_its_short_side(encoder):
    """At `short_side` the network's input is cut from the frame, not blown up."""
    side = encoder.short_side
    frames = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8, generator=generator())
    x = encoder.preprocess(frames)
    assert x.shape[2] <= side
    for channel in x[0]:  # interpolation would make thousands of levels out of 256
        assert len(channel.unique()) <= 256


@of_sound
@pytest.mark.parametrize("samples", [1, 7, 400, 5_000])
def test_sounds_shorter_than_a_window_are_completed_with_silence(encoder, samples):
    x = sounds(encoder, samples)
    rows = encoder(x)
    assert rows.shape == (2, encoder.dim)
    assert rows.isfinite().all()
    silence = torch.zeros(2, 3)
    torch.testing.assert_close(encoder(torch.cat([x, silence], 1)), rows, rtol=1e-4, atol=1e-5)


@of_sound
def test_windows_are_rows_of_their_own(name):
    """A window's row is the row of its sound alone: what comes before and after does not matter."""
    encoder = load(name)
    if not encoder.window_seconds:
        encoder = load(name, "window_seconds=2", "hop_seconds=1")
    seconds = encoder.window_seconds + 2.3 * encoder.hop_seconds
    length = round(seconds * encoder.sample_rate)
    x = sounds(encoder, length)
    starts = encoder.window_starts_seconds(length)
    assert len(starts) > 2
    rows = encoder(x).unflatten(0, (2, len(starts)))
    start = round(starts[1] * encoder.sample_rate)
    torch.testing.assert_close(
        encoder(x[:, start:]).unflatten(0, (2, -1))[:, 0], rows[:, 1], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(np.diff(starts), encoder.hop_seconds, rtol=1e-6)


@of_sound
def test_one_window_over_the_whole_sound(name):
    encoder = load(name, "window_seconds=0")
    for seconds in (0.1, 1, 2.5):
        x = sounds(encoder, round(seconds * encoder.sample_rate))
        assert encoder(x).shape == (2, encoder.dim)
        assert encoder.window_starts_seconds(x.shape[1]).tolist() == [0]


@of_sound
@pytest.mark.parametrize(
    "settings",
    [
        *("window_seconds=0.01", "window_seconds=-1"),
        *("window_seconds=2,hop_seconds=0", "window_seconds=2,hop_seconds=60"),
    ],
)
def test_impossible_windows_are_refused(name, settings):
    with pytest.raises(ConfigError, match="_seconds="):
        load(name, settings)
