"""Parquet tables of other people, read without trusting their sizes.

Shapes: N = rows of a table, D = embedding size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import compute, parquet

from store.errors import InputError
from store.exchange.formats._common import check_swell, matrix, opened

_WIDTH = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 12}


@contextmanager
def opened_table(source: Path) -> Iterator[parquet.ParquetFile]:
    """The file; its text stays as it is stored, a dictionary and numbers, until it is counted."""
    with opened(source, parquet.ParquetFile) as file:
        _check_size(file, source)
        leaves = [file.schema.column(i) for i in range(len(file.schema))]
        stored = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with opened(source, partial(parquet.ParquetFile, read_dictionary=stored)) as file:
        yield file


def _check_size(file: parquet.ParquetFile, source: Path) -> None:
    """Refuse what swells: a page of one number repeated has a few bytes for a billion of them."""
    size = 0
    for i in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(i)
        for k in range(group.num_columns):
            column = group.column(k)
            unpacked = column.num_values * _WIDTH.get(column.physical_type, 1)
            size += max(column.total_uncompressed_size, unpacked, 0)
    check_swell(str(source), source.stat().st_size, size)


def _is_text(kind: pyarrow.DataType) -> bool:
    types = pyarrow.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind)
        or types.is_binary(kind) or types.is_large_binary(kind)
    )  # fmt: skip


def is_cell(kind: pyarrow.DataType) -> bool:
    """True for scalars, categories of them, and lists of text."""
    types = pyarrow.types
    if types.is_dictionary(kind):
        return is_cell(kind.value_type) and not types.is_nested(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind):
        inner = kind.value_type
        return _is_text(inner.value_type if types.is_dictionary(inner) else inner)
    return bool(
        _is_text(kind) or types.is_boolean(kind) or types.is_integer(kind)
        or types.is_floating(kind) or types.is_temporal(kind) or types.is_null(kind)
        or types.is_fixed_size_binary(kind) or types.is_decimal(kind)
    ) and not types.is_interval(kind)  # fmt: skip


def text_bytes(column: pyarrow.Array) -> int:
    """The bytes that the text of a column has when its dictionary is written out."""
    if pyarrow.types.is_nested(column.type):
        column = column.flatten()
    if not pyarrow.types.is_dictionary(column.type) or not _is_text(column.type.value_type):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary).cast(pyarrow.int64())
    return int(compute.sum(lengths.take(column.indices)).as_py() or 0)


def items(column: pyarrow.Array) -> list[Any]:
    """The items of a column as Python has them; several labels of a cell joined by `;`."""
    types = pyarrow.types
    if types.is_timestamp(column.type) or types.is_duration(column.type):
        column = column.cast(pyarrow.string())  # Python has no nanoseconds
    if types.is_floating(column.type):
        return list(column.to_numpy(zero_copy_only=False))  # in their own precision
    if types.is_decimal(column.type):
        column = column.cast(pyarrow.string())
    found = column.to_pylist()
    if types.is_nested(column.type):
        return [None if item is None else ";".join(map(_plain, item)) for item in found]
    return found


def _plain(item: Any) -> str:
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else item or ""


def embeddings(column: pyarrow.Array, source: Path) -> np.ndarray:
    """Lists of numbers of one length, as rows."""
    kind = column.type
    is_list = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind)
    if not (is_list or pyarrow.types.is_fixed_size_list(kind)) or column.null_count:
        raise InputError(f"{source}: embedding is {kind}, not lists of numbers")
    lengths = set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or column.flatten().null_count:
        raise InputError(f"{source}: embeddings are not of one length: {sorted(lengths)[:4]}")
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return matrix(flat.reshape(len(column), lengths.pop()), str(source))
