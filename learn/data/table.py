"""Results as tables of pandas."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from store.optional import library

if TYPE_CHECKING:
    import pandas as pd


def frame(rows: Sequence[Mapping[str, Any]]) -> "pd.DataFrame":
    """A line for each row; what is nested becomes columns with dotted names.

    Raises:
        ConfigError: pandas is not installed.
    """
    return library("pandas", "frames").json_normalize([dict(row) for row in rows])
