"""The loopback server of `test_fetch`, for all tests of weights."""

from tests.extract.weights.test_fetch import server as server
