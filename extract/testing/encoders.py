"""The promises of `Encoder`, as tests of any encoder with random weights.

Subclass `VisualEncoderContract`, `StackEncoderContract` (of stacks of frames) or
`AudioEncoderContract` and give `name`: the encoder's name, or a SPEC of a small network of it
(`timm:resnet10t`), to which the tests add `untrained` and settings.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import extract
from extract.encoders import AudioEncoder, Encoder, StackEncoder, VisualEncoder
from store import plugins
from store.errors import ConfigError, MissingFile, WeightsError

FAMILY = "extract.encoders"
FRAME_SIZES = [(1, 1), (17, 31), (300, 40), (240, 320), (224, 224)]


def plugin_of(name: str) -> str:
    """The encoder's name in `name`, which may be a SPEC."""
    return plugins.parse_spec(name).name


def description(name: str) -> Any:
    """The facts that the plug-in states."""
    return plugins.module(FAMILY, plugin_of(name)).DESCRIPTION


def has_weights(name: str) -> bool:
    """Whether there is anything to be random."""
    return bool(description(name).weights != "none")


def with_words(name: str, *words: str) -> str:
    """The SPEC with more settings."""
    more = ",".join(filter(None, words))
    return f"{name}{',' if ':' in name else ':'}{more}" if more else name


def untrained(name: str) -> tuple[str, ...]:
    """The word for random weights, where there are weights."""
    return ("untrained",) if has_weights(name) else ()


@cache
def load(name: str, *settings: str) -> Any:
    """The encoder with random weights."""
    return extract.load_encoder(with_words(name, *untrained(name), *settings))


def generator(seed: int = 0) -> torch.Generator:
    """Chance that is the same each time."""
    return torch.Generator().manual_seed(seed)


def items(encoder: Any, count: Any = 3) -> Any:
    """Frames, stacks of frames or sounds that differ."""
    if encoder.modality == "visual":
        each = stack_of(encoder)
        frames = count * max(1, *each, 1)
        # Large coloured areas and some noise: networks average noise away.
        areas = F.interpolate(torch.rand(frames, 3, 3, 3, generator=generator()) ** 2, (48, 64))
        noise = torch.rand(frames, 3, 48, 64, generator=generator(1))
        pixels = ((0.8 * areas + 0.2 * noise) * 255).byte().permute(0, 2, 3, 1)
        return pixels.reshape(count, *each, 48, 64, 3).contiguous()
    seconds = encoder.window_seconds + encoder.hop_seconds
    return sounds(encoder, round(seconds * encoder.sample_rate), count)


def stack_of(encoder: Any) -> tuple[int, ...]:
    """The frames that one item has, of encoders of stacks."""
    return (encoder.stack_frames,) if isinstance(encoder, StackEncoder) else ()


@cache
def seen(name: str) -> Any:
    """What the usual encoder is shown, and the rows it gives: computed once for all tests."""
    x = items(load(name))
    return x, load(name)(x)


def sounds(encoder: Any, samples: int, count: int = 2) -> torch.Tensor:
    """Noise of differing loudness."""
    loudness = torch.logspace(-2, -0.5, count)[:, None]
    return loudness * torch.randn(count, samples, generator=generator())


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far apart two are, in lengths of the second."""
    return float((a - b).norm() / b.norm())


def load_as(name: str, precision: str, device: str = "cpu") -> Any:
    """The encoder with random weights in another precision or place."""
    return extract.load_encoder(with_words(name, *untrained(name)), device, precision)


class EncoderContract:
    """A row depends on its own frame or window only; random weights only by `untrained`."""

    @pytest.fixture
    def encoder(self, name: str) -> Any:
        """The encoder with random weights, loaded once."""
        return load(name)

    @pytest.fixture
    def needs_weights(self, name: str) -> None:
        """Skips an encoder that has none."""
        if not has_weights(name):
            pytest.skip("it has no weights")

    @pytest.fixture
    def takes_a_file(self, name: str) -> None:
        """Skips an encoder without the setting `weights`."""
        if not hasattr(plugins.module(FAMILY, plugin_of(name)).Config, "weights"):
            pytest.skip("its weights are no file that is named")

    def test_it_is_an_encoder_of_its_modality(self, encoder: Any, name: str) -> None:
        assert isinstance(encoder, Encoder)
        assert encoder.name == plugin_of(name)
        kind = {"visual": VisualEncoder, "audio": AudioEncoder}[encoder.modality]
        assert isinstance(encoder, kind)

    def test_its_description_names_the_variants_there_are(self, name: str) -> None:
        described = description(name)
        assert described.licence
        config = plugins.module(FAMILY, plugin_of(name)).Config()
        if described.dims:  # else the model says it
            assert getattr(config, "variant", "") in described.dims
            assert (list(described.dims) == [""]) == (not hasattr(config, "variant"))

    def test_its_description_is_true(self, encoder: Any, name: str) -> None:
        described = description(name)
        assert described.modality in ("", encoder.modality)
        config = plugins.check(FAMILY, plugins.parse_spec(name, FAMILY))
        known = described.dims.get(getattr(config, "variant", ""), encoder.dim)
        assert encoder.dim == known

    def test_one_finite_row_of_dim_per_item(self, encoder: Any, name: str) -> None:
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

    def test_a_row_does_not_see_its_batch(self, encoder: Any, name: str) -> None:
        x, rows = seen(name)
        alone = torch.cat([encoder(one[None]) for one in x])
        torch.testing.assert_close(rows, alone, rtol=1e-4, atol=1e-5)
        order = torch.tensor([2, 0, 1])
        shuffled = encoder(x[order]).unflatten(0, (3, -1))
        torch.testing.assert_close(
            shuffled, rows.unflatten(0, (3, -1))[order], rtol=1e-4, atol=1e-5
        )

    def test_encoding_is_preprocessing_then_forward_and_leaves_its_input_alone(
        self, encoder: Any
    ) -> None:
        x = items(encoder, 2)
        before = x.clone()
        rows = encoder(x)
        assert torch.equal(rows, encoder.forward(encoder.preprocess(x)))
        assert torch.equal(x, before)
        assert not rows.requires_grad

    def test_the_spec_decides_the_numbers(self, encoder: Any, name: str) -> None:
        x, rows = seen(name)
        state = torch.random.get_rng_state()
        again = load.__wrapped__(name)
        assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's numbers move
        assert torch.equal(again(x), rows)
        assert again.identity == encoder.identity
        if not has_weights(name):
            return
        other = load.__wrapped__(name, "seed=1")
        assert relative(other(x), rows) > 0.1
        assert other.identity != encoder.identity

    def test_the_identity_is_json_and_says_what_matters(self, encoder: Any) -> None:
        assert json.loads(json.dumps(encoder.identity)) == encoder.identity
        assert json.loads(json.dumps(encoder.notes)) == encoder.notes
        assert isinstance(encoder.identity["revision"], int)
        assert encoder.identity["precision"] == "fp32"
        assert encoder.identity["preprocessing"]

    @pytest.mark.usefixtures("needs_weights")
    def test_random_weights_are_stamped(self, encoder: Any) -> None:
        assert encoder.notes["untrained"] is True
        assert encoder.identity["weights"] == {"untrained": True, "seed": 0}
        assert encoder.slug.endswith("-untrained")

    def test_without_weights_it_says_what_to_write(self, name: str) -> None:
        if description(name).weights != "file":
            pytest.skip("it has weights without a word")
        with pytest.raises(WeightsError, match=f"weights=FILE .*, or {plugin_of(name)}:untrained"):
            extract.load_encoder(name)

    @pytest.mark.usefixtures("takes_a_file")
    def test_weights_that_are_not_there(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(MissingFile, match="are not there"):
            extract.load_encoder(with_words(name, f"weights={tmp_path / 'nothing.safetensors'}"))

    @pytest.mark.usefixtures("takes_a_file")
    def test_weights_and_none_at_once(self, name: str) -> None:
        with pytest.raises(ConfigError, match="exclude each other"):
            extract.load_encoder(with_words(name, "weights=some.pth", "untrained"))


class VisualEncoderContract(EncoderContract):
    """Frames of any size are accepted, and nothing is lost at `short_side`."""

    @pytest.mark.parametrize("size", FRAME_SIZES, ids=str)
    def test_frames_of_any_size_are_accepted(self, encoder: Any, size: Any) -> None:
        shape = (1, *stack_of(encoder), *size, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
        x = encoder.preprocess(frames)
        assert x.shape[:2] == (1, 3)
        assert x.shape[-2] == x.shape[-1]
        assert encoder.forward(x).isfinite().all()

    def test_nothing_is_lost_at_its_short_side(self, encoder: Any) -> None:
        """At `short_side` the network's input is cut from the frame, not blown up."""
        side = encoder.short_side
        shape = (1, *stack_of(encoder), side, side, 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator())
        x = encoder.preprocess(frames)
        assert x.shape[-1] <= side
        for channel in x[0]:  # interpolation would make thousands of levels out of 256
            assert len(channel.unique()) <= 256


class StackEncoderContract(VisualEncoderContract):
    """The frames of a stack are seen together and in their order."""

    def test_the_order_of_frames_counts(self, encoder: Any, name: str) -> None:
        x, rows = seen(name)
        assert relative(encoder(x.flip(1)), rows) > 1e-3

    def test_stacks_of_the_length_and_distance_that_the_identity_names(self, encoder: Any) -> None:
        assert encoder.identity["stack"]["frames"] == encoder.stack_frames > 1
        assert encoder.identity["stack"]["hop"] == encoder.stack_hop > 0

    def test_its_description_names_its_frames_a_second(self, encoder: Any, name: str) -> None:
        assert description(name).frames_per_second == encoder.frames_per_second > 0


class AudioEncoderContract(EncoderContract):
    """A window's row is the row of its sound alone."""

    @pytest.mark.parametrize("samples", [1, 7, 400, 5_000])
    def test_sounds_shorter_than_a_window_are_completed_with_silence(
        self, encoder: Any, samples: Any
    ) -> None:
        x = sounds(encoder, samples)
        rows = encoder(x)
        assert rows.shape == (2, encoder.dim)
        assert rows.isfinite().all()
        silence = torch.zeros(2, 3)
        torch.testing.assert_close(encoder(torch.cat([x, silence], 1)), rows, rtol=1e-4, atol=1e-5)

    def test_windows_are_rows_of_their_own(self, name: str) -> None:
        """A window's row is that of its sound alone: what is around it is nothing to it."""
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

    def test_one_window_over_the_whole_sound(self, name: str) -> None:
        encoder = load(name, "window_seconds=0")
        for seconds in (0.1, 1, 2.5):
            x = sounds(encoder, round(seconds * encoder.sample_rate))
            assert encoder(x).shape == (2, encoder.dim)
            assert encoder.window_starts_seconds(x.shape[1]).tolist() == [0]

    @pytest.mark.parametrize(
        "settings",
        [
            *("window_seconds=0.01", "window_seconds=-1"),
            *("window_seconds=2,hop_seconds=0", "window_seconds=2,hop_seconds=60"),
        ],
    )
    def test_impossible_windows_are_refused(self, name: str, settings: Any) -> None:
        with pytest.raises(ConfigError, match="_seconds="):
            load(name, settings)
