"""Bytes as people write them."""

import pytest

from store.errors import ConfigError
from store.sizes import parse_size, size


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4096", 4096), ("1B", 1), ("512MiB", 512 << 20), ("2GB", 2 * 10**9), ("2g", None),
        ("1.5 GiB", 3 << 29), ("1kB", 1000), ("1K", 1000), ("3T", 3 * 10**12), ("1TiB", 1 << 40),
        ("", None), ("-1", None), ("1e3", None), ("0", None), ("0.5", None), ("1.5", 1),
        ("GiB", None),
    ],
)  # fmt: skip
def test_sizes_are_read(text, count):
    if count is None:
        with pytest.raises(ConfigError, match=r"size|less than a byte"):
            parse_size(text)
    else:
        assert parse_size(text) == count


def test_sizes_are_written():
    assert [size(n) for n in (0, 999, 1000, 1_700_000_000, 2.5e12)] == [
        "0 B", "999 B", "1.0 kB", "1.7 GB", "2.5 TB",
    ]  # fmt: skip
