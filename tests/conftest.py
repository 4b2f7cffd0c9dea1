"""Which tests run: `soak` when asked for, `gpu` where there is one or `REQUIRE_GPU=1` says so."""

import os

import pytest

os.environ["MICROSHOT_OFFLINE"] = "1"  # no test asks the network for weights
os.environ.pop("MICROSHOT_WEIGHTS_DIR", None)


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
