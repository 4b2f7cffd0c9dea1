"""The promises of `Sampler`, as tests of any policy; they need hypothesis."""

import pickle
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.media.samplers import Footage, Sampler
from extract.media.sampling import FAMILY, Sampling
from store import plugins
from store.errors import MicroshotError
from store.spec import canonical_json


@st.composite
def footages(draw: Any) -> Any:
    """Clips of any frame rate, also a variable one, with any key frames and changes."""
    gaps = draw(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60))
    seconds = np.cumsum([0.0, *gaps[1:]])
    key = draw(st.lists(st.booleans(), min_size=len(gaps), max_size=len(gaps)))
    changes = draw(st.lists(st.floats(0, 1), min_size=len(gaps), max_size=len(gaps)))
    last = draw(st.floats(0.001, 2.0))
    return Footage(
        seconds=seconds,
        duration=float(seconds[-1]) + last,
        key=np.array(key),
        changes=lambda: np.array(changes),
    )


def variants(name: str) -> Any:
    """The default settings, and each numeric setting moved in turn."""
    config = plugins.module(FAMILY, name).Config()
    yield config
    for field in fields(config):
        value = getattr(config, field.name)
        for moved in (value + 1, value * 2, value / 2):
            try:
                other = replace(config, **{field.name: type(value)(moved)})
                plugins.module(FAMILY, name).build(other)
            except MicroshotError:
                continue
            if other != config:
                yield other
                break
        else:
            raise AssertionError(f"{name}.{field.name} cannot be moved")


class SamplerContract:
    """It is pure, and its indices are in order and within the clip."""

    @pytest.fixture(scope="class")
    @classmethod
    def sampler(cls, name: str) -> Any:
        """The policy of that name with its defaults."""
        return plugins.build(FAMILY, name)

    def test_a_sampler_says_what_it_is(self, sampler: Any) -> None:
        assert isinstance(sampler, Sampler)
        assert sampler.identity
        canonical_json(sampler.identity)

    @settings(deadline=None, max_examples=60)
    @given(clip=footages())
    def test_frames_are_there_in_order_and_no_more_than_said(self, sampler: Any, clip: Any) -> None:
        chosen = sampler(clip)
        assert 1 <= len(chosen) <= sampler.most_frames(clip.duration)
        assert chosen.min() >= 0
        assert chosen.max() < len(clip.seconds)
        assert np.all(np.diff(chosen) >= 0)

    @settings(deadline=None, max_examples=30)
    @given(clip=footages())
    def test_the_answer_is_a_function_of_the_clip(self, sampler: Any, clip: Any) -> None:
        again = pickle.loads(pickle.dumps(sampler))  # it travels to decode processes
        np.testing.assert_array_equal(sampler(clip), again(clip))
        assert again.identity == sampler.identity

    def test_no_two_settings_share_an_identity(self, name: str) -> None:
        found = [
            canonical_json(plugins.module(FAMILY, name).build(config).identity)
            for config in variants(name)
        ]
        assert len(found) == len(set(found))

    def test_it_can_be_asked_for_by_name(self, name: str, sampler: Any) -> None:
        sampling = Sampling(sample=name, max_seconds=7.0)
        assert sampling.identity == {**sampler.identity, "max_seconds": 7.0}
        assert sampling.most_frames() == sampler.most_frames(7.0)
        assert pickle.loads(pickle.dumps(sampling)) == sampling
