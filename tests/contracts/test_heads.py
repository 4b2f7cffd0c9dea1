"""Every head of ours keeps the promises of `Head`."""

import pytest

from learn.testing import HeadContract
from store import plugins

FAMILY = "learn.fewshot.heads"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestHeads(HeadContract):
    """Of ours."""
