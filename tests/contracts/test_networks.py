"""Every network of ours keeps the promises of `Network`."""

import pytest

from learn.testing import NetworkContract
from store import plugins

FAMILY = "learn.models.networks"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestNetworks(NetworkContract):
    """Of ours."""
