"""Every protocol of ours keeps the promises of `EvaluationProtocol`."""

import pytest

from learn.testing import ProtocolContract
from store import plugins

FAMILY = "learn.evaluation.protocols"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestProtocols(ProtocolContract):
    """Of ours."""
