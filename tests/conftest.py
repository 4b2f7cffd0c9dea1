"""Which tests run: `soak` when asked for, `gpu` where there is one or `REQUIRE_GPU=1` says so."""

import os

import pytest

from tests import checking

checking.install()
os.environ["MICROSHOT_OFFLINE"] = "1"  # no test asks the network for weights
os.environ.pop("MICROSHOT_WEIGHTS_DIR", None)


def pytest_configure(config):
    """No test can tell whether a flush reached the disk, and 10,000 of them are minutes."""
    if "soak" not in config.option.markexpr:
        os.fsync = os.fstat  # refuses what is no descriptor, as it would


def pytest_collection_modifyitems(config, items):
    soak = "soak" in config.option.markexpr
    for item in items:
        if item.get_closest_marker("soak") and not soak:
            item.add_marker(pytest.mark.skip(reason="takes minutes; run by `make soak`"))


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and os.environ.get("REQUIRE_GPU") != "1":
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device; REQUIRE_GPU=1 makes this a failure")
