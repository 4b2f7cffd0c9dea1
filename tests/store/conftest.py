"""Units and stores small enough to reason about."""

import numpy as np
import pytest

import store
from store import FeatureSpec, Status, UnitRows


def build_rows(
    clips: dict[str, int], *, dim: int = 4, status: Status | None = None, seed: int = 0
) -> UnitRows:
    """A unit from {clip id: rows}; clips without rows have `status`, by default decode-error."""
    rng = np.random.default_rng(seed)
    count = np.array(list(clips.values()), np.uint16)
    without = Status.DECODE_ERROR if status is None else status
    times = [np.arange(n, dtype=np.int32) * 40 for n in count]
    return UnitRows(
        clip_ids=tuple(clips),
        values=rng.standard_normal((int(count.sum()), dim)).astype(np.float16),
        row_time_ms=np.concatenate([np.empty(0, np.int32), *times]),
        row_count=count,
        status=np.where(count > 0, Status.OK, without).astype(np.uint8),
        media_sha256=rng.integers(0, 256, (len(clips), 32)).astype(np.uint8),
        detail=tuple(f"how {clip} went" for clip in clips),
    )


@pytest.fixture(scope="session")
def make_rows():
    return build_rows


@pytest.fixture
def spec():
    return FeatureSpec(slug="toy", modality="visual", dim=4, identity={"fps": 1.0})


@pytest.fixture
def fs(tmp_path):
    return store.create(tmp_path / "fs")


@pytest.fixture
def feature(fs, spec):
    return fs.add_feature(spec)
