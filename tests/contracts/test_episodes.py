"""Every episode task of ours keeps the promises of `EpisodeTask`."""

import pytest

from learn.testing import TaskContract
from store import plugins

FAMILY = "learn.fewshot.tasks"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestTasks(TaskContract):
    """Of ours."""
