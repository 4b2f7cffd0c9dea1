"""Every format of ours keeps the promises of `Format`."""

import pytest

from store import plugins
from store.errors import UnknownPlugin
from store.exchange.exchange import export
from store.testing import FormatContract
from store.testing.formats import make_store

FAMILY = "store.exchange.formats"


@pytest.mark.parametrize("name", plugins.names(FAMILY), scope="class")
class TestFormats(FormatContract):
    """Of ours."""


def test_an_unknown_format_is_answered_with_what_exists(tmp_path):
    with pytest.raises(UnknownPlugin, match=plugins.names(FAMILY)[0]):
        export(make_store(tmp_path / "fs"), "nothing", tmp_path / "out")
