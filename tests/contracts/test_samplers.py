"""Every sampler of ours keeps the promises of `Sampler`."""

import pytest

from extract.testing import SamplerContract
from store import plugins

FAMILY = "extract.media.samplers"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestSamplers(SamplerContract):
    """Of ours."""
