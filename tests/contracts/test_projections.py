"""Every projection of ours keeps the promises of `Projection`."""

import pytest

from learn.testing import ProjectionContract
from store import plugins

FAMILY = "learn.models.projections"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestProjections(ProjectionContract):
    """Of ours."""
