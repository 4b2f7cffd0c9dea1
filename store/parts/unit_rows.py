"""The rows of one unit, checked before they may be written.

Shapes: n = clips of the unit, R = all their rows, D = embedding size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float16, Int32, UInt8, UInt16, UInt64

from store.names import UNPRINTABLE, clip_id_fault
from store.status import STORED, Status

MAX_UNIT_CLIPS = 1 << 20
MAX_DETAIL_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitRows:
    """Rows and status of every clip of one unit, packed in clip order.

    `detail` says in a few words which decoder was used, or what went wrong; it is cut to one line
    of 500 characters.

    Raises:
        ValueError: anything that does not fit together; the caller built it wrong.
    """

    clip_ids: tuple[str, ...]
    values: Float16[np.ndarray, "R D"]
    row_time_ms: Int32[np.ndarray, "R"]
    row_count: UInt16[np.ndarray, "n"]
    status: UInt8[np.ndarray, "n"]
    media_sha256: UInt8[np.ndarray, "n 32"]
    detail: tuple[str, ...]

    def __post_init__(self) -> None:
        detail = tuple(UNPRINTABLE.sub(" ", text)[:MAX_DETAIL_CHARS] for text in self.detail)
        object.__setattr__(self, "detail", detail)
        self._check_shapes()
        self._check_clips()
        self._check_rows()

    def _check_shapes(self) -> None:
        clips, rows = len(self.clip_ids), len(self.row_time_ms)
        if not 1 <= clips <= MAX_UNIT_CLIPS:
            raise ValueError(f"a unit has 1..{MAX_UNIT_CLIPS} clips, not {clips}")
        if self.values.ndim != 2:
            raise ValueError(f"values has {self.values.ndim} axes; it is [rows, size]")
        wanted = {
            "values": (np.float16, (rows, self.values.shape[1])),
            "row_time_ms": (np.int32, (rows,)),
            "row_count": (np.uint16, (clips,)),
            "status": (np.uint8, (clips,)),
            "media_sha256": (np.uint8, (clips, 32)),
        }
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != shape:
                wants = f"{np.dtype(dtype)}{list(shape)}"
                raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, not {wants}")
        if len(self.detail) != clips:
            raise ValueError(f"{len(self.detail)} details for {clips} clips")

    def _check_clips(self) -> None:
        for clip_id in self.clip_ids:
            if fault := clip_id_fault(clip_id):
                raise ValueError(f"clip id {clip_id[:80]!r} {fault}")
        if len(set(self.clip_ids)) < len(self.clip_ids):
            raise ValueError("a clip id occurs twice in one unit")
        if unknown := set(self.status.tolist()) - set(map(int, STORED)):
            raise ValueError(f"status {min(unknown)} cannot be stored")
        has_rows = np.isin(self.status, (Status.OK, Status.PARTIAL))
        if (wrong := np.flatnonzero(has_rows != (self.row_count > 0))).size:
            i = wrong[0]
            raise ValueError(
                f"clip {self.clip_ids[i]!r} is {Status(int(self.status[i])).kind} "
                f"with {self.row_count[i]} rows"
            )

    def _check_rows(self) -> None:
        rows = len(self.row_time_ms)
        if (total := int(self.row_count.sum(dtype=np.int64))) != rows:
            raise ValueError(f"row_count sums to {total}, but there are {rows} rows")
        if not np.isfinite(self.values).all():
            raise ValueError(
                "values holds NaN or infinity; such a clip is not-finite, without rows"
            )
        clip_of_row = np.repeat(np.arange(len(self.clip_ids)), self.row_count)
        falls = (np.diff(self.row_time_ms) < 0) & (np.diff(clip_of_row) == 0)
        if falls.any():
            clip_id = self.clip_ids[clip_of_row[np.flatnonzero(falls)[0]]]
            raise ValueError(f"the row times of clip {clip_id!r} go backwards")

    @property
    def row_start(self) -> UInt64[np.ndarray, "n"]:
        """The first row of each clip."""
        return np.cumsum(self.row_count, dtype=np.uint64) - self.row_count

    def chosen(self, clips: Sequence[int]) -> "UnitRows":
        """The rows of some of the clips, by their indices."""
        index = np.asarray(clips, dtype=np.int64)
        start, count = self.row_start.astype(np.int64)[index], self.row_count[index]
        rows = np.repeat(start - (np.cumsum(count, dtype=np.int64) - count), count)
        rows += np.arange(len(rows))
        return UnitRows(
            clip_ids=tuple(self.clip_ids[i] for i in index.tolist()),
            values=self.values[rows],
            row_time_ms=self.row_time_ms[rows],
            row_count=count,
            status=self.status[index],
            media_sha256=self.media_sha256[index],
            detail=tuple(self.detail[i] for i in index.tolist()),
        )
