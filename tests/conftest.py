"""Tests marked `soak` take minutes and run only when asked for: `pytest -m soak`, `make soak`."""

import pytest


def pytest_collection_modifyitems(config, items):
    if "soak" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run by `make soak`"))
