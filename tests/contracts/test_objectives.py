"""Every objective of ours keeps the promises of `Objective`."""

import pytest

from learn.testing import ObjectiveContract
from store import plugins

FAMILY = "learn.training.objectives"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestObjectives(ObjectiveContract):
    """Of ours."""
