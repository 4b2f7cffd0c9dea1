"""Every fusion of ours keeps the promises of `Fusion`."""

import pytest

from learn.testing import FusionContract
from store import plugins

FAMILY = "learn.fewshot.fusions"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestFusions(FusionContract):
    """Of ours."""
