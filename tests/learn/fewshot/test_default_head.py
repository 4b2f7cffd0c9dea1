"""The default head has a name, a version and a full SPEC."""

import pytest

from learn.evaluation.config import EpisodesConfig
from learn.fewshot.default_head import LATEST, NAME, VERSIONS, resolved
from store import plugins
from store.errors import ConfigError


@pytest.mark.parametrize("spec", VERSIONS.values())
def test_every_version_can_be_built_and_answers_alike_whatever_lengths_are(spec):
    head = plugins.build("learn.fewshot.heads", spec)
    assert head.scale_free
    assert not head.transductive
    assert head.centred_by != "base"


def test_results_quote_the_full_spec():
    asked = EpisodesConfig(store="s").head_specs
    assert asked == (VERSIONS[LATEST],) == EpisodesConfig(store="s", heads=(NAME,)).head_specs
    both = EpisodesConfig(store="s", heads=("default", LATEST, "ridge")).head_specs
    assert both == (VERSIONS[LATEST], "ridge")


def test_a_version_that_was_never_made_is_refused():
    assert resolved("default-1") == VERSIONS["default-1"]
    with pytest.raises(ConfigError, match="no head 'default-0'"):
        resolved("default-0")
