"""A feature as tables of other libraries: pandas and xarray, imported when they are asked for.

Shapes: V = clips, N = rows of all clips, T = rows of a padded clip, D = embedding size.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from store.errors import ConfigError, choices
from store.features.packed import Packed
from store.features.streaming import Lazy
from store.optional import library

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

ROWS = ("each", "mean")


def to_pandas(clips: Packed, *, rows: str = "each") -> "pd.DataFrame":
    """A line for each row of each clip, or for the mean of each clip's rows.

    Raises:
        ConfigError: another word for `rows`, or no pandas.
    """
    pandas = library("pandas", "frames")
    if rows not in ROWS:
        raise ConfigError(f"rows={rows!r} is none of {choices(rows, ROWS)}")
    ids = np.array(clips.clip_ids, object)
    if rows == "mean":
        there = clips.mask
        sums = np.add.reduceat(clips.values.astype(np.float32), clips.offsets[:-1][there], axis=0) \
            if there.any() else np.empty((0, clips.values.shape[1]), np.float32)  # fmt: skip
        means = sums / clips.counts[there, None]
        return pandas.DataFrame(means, index=pandas.Index(ids[there], name="clip_id"))
    seconds = clips.time_ms / 1000
    index = pandas.MultiIndex.from_arrays(
        [np.repeat(ids, clips.counts), seconds], names=["clip_id", "seconds"]
    )
    return pandas.DataFrame(clips.values, index=index)


def to_xarray(
    clips: Packed | Lazy, *, padded: bool, name: str, attributes: Mapping[str, Any]
) -> "xr.Dataset":
    """Rows one after the other (CF's contiguous ragged array), or every clip at one length.

    Raises:
        ConfigError: no xarray.
    """
    xarray = library("xarray", "frames")
    ids = ("clip", np.array(clips.clip_ids, object))
    attrs = {"feature": name, **attributes}
    if padded:
        assert isinstance(clips, Packed)
        same = clips.padded()
        return xarray.Dataset(
            {
                "values": (("clip", "row", "embedding"), same.values),
                "mask": (("clip", "row"), same.mask),
                "seconds": (("clip", "row"), same.time_ms / 1000),
            },
            coords={"clip_id": ids},
            attrs=attrs,
        )
    counts = np.diff(clips.offsets)
    of_row = np.repeat(np.arange(len(counts)), counts)
    return xarray.Dataset(
        {
            "values": (("row", "embedding"), clips.values),
            "seconds": (("row",), clips.time_ms / 1000),
            "row_size": (("clip",), counts, {"sample_dimension": "row"}),
        },
        coords={"clip_id": ids, "clip_of_row": ("row", of_row)},
        attrs=attrs,
    )
