"""Rows of a kept manifest, without all the others: what a worker of a cluster needs of it.

Shapes: n = rows asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from store.columns import Columns
from store.errors import DamagedStore
from store.manifest import MAX_KEPT_BYTES
from store.storage.storage import Storage

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_GROUPS_HELD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFile:
    """One file of a kept manifest, and the number of its rows."""

    key: str
    rows: int


class KeptRows:
    """Rows of a manifest that is kept in these files, one after the other."""

    def __init__(self, storage: Storage, files: Sequence[KeptFile]) -> None:
        self._storage, self._files = storage, tuple(files)
        self._begins = np.cumsum([0, *(file.rows for file in files)])
        self._group = lru_cache(_GROUPS_HELD)(self._read_group)
        self._file = lru_cache(1)(self._open)

    def take(self, rows: Int64[np.ndarray, "n"], columns: Sequence[str]) -> Columns:
        """Cells of these rows, which are in order, of those columns that there are.

        Raises:
            DamagedStore: a file is gone, or not as long as it was.
        """
        import pyarrow

        pieces = []
        for number in np.unique(np.searchsorted(self._begins, rows, side="right") - 1).tolist():
            first, stop = self._begins[number], self._begins[number + 1]
            own = rows[(rows >= first) & (rows < stop)] - first
            pieces += self._of_file(number, own, tuple(columns))
        tables = pyarrow.concat_tables(pieces)
        return Columns({name: tables.column(name) for name in tables.column_names})

    def _of_file(
        self, number: int, rows: Int64[np.ndarray, "n"], columns: tuple[str, ...]
    ) -> list[Any]:
        import pyarrow

        metadata = self._file(number).metadata
        if metadata.num_rows != self._files[number].rows:
            raise DamagedStore(f"{self._files[number].key} is not the manifest that was kept")
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        begins = np.cumsum([0, *sizes])
        groups = np.searchsorted(begins, rows, side="right") - 1
        return [
            self._group(number, group, columns).take(
                pyarrow.array(rows[groups == group] - begins[group])
            )
            for group in np.unique(groups).tolist()
        ]

    def _read_group(self, number: int, group: int, columns: tuple[str, ...]) -> Any:
        import pyarrow

        file = self._file(number)
        present = [name for name in columns if name in file.schema_arrow.names]
        try:
            read = file.read_row_group(group, columns=present)
            read.validate(full=True)  # text that is no UTF-8 above all
        except MemoryError:  # which Arrow has as one of its own
            raise
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(number, error) from error
        return read

    def _open(self, number: int) -> "ParquetFile":
        import pyarrow
        from pyarrow import parquet

        key, root = self._files[number].key, self._storage.local_path
        try:
            if root is not None:
                return parquet.ParquetFile(root / key, memory_map=True)
            data = self._storage.get(key, limit_bytes=MAX_KEPT_BYTES)
            return parquet.ParquetFile(pyarrow.BufferReader(data))
        except MemoryError:  # which Arrow has as one of its own
            raise
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(number, error) from error

    def _damaged(self, number: int, error: Exception) -> DamagedStore:
        reason = str(error).splitlines()[0][:200]
        return DamagedStore(f"{self._files[number].key} cannot be read ({reason})")
