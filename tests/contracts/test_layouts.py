"""Every layout of ours keeps the promises of `Layout` on `data_manifests/layouts/NAME`."""

from pathlib import Path

import pytest

from extract.testing import LayoutContract
from store import plugins

EXAMPLES = Path(__file__).parents[2] / "data_manifests" / "layouts"
FAMILY = "extract.datasets.layouts"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestLayouts(LayoutContract):
    """Of ours."""

    @pytest.fixture
    def example(self, name):
        return EXAMPLES / name

    @pytest.fixture(autouse=True)
    def _missing(self, name, monkeypatch):
        monkeypatch.setattr(type(self), "names_one_more", name != "metaaudio")
