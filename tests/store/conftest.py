"""Units and stores small enough to reason about, and buckets to put them in."""

import itertools

import numpy as np
import pytest

import store
from store import FeatureSpec, Status, UnitRows
from tests.store import fake_s3

_numbers = itertools.count()


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


@pytest.fixture(scope="session")
def bucket():
    pytest.importorskip("obstore", reason="obstore is not installed (extra s3)")
    pytest.importorskip("moto", reason="moto is not installed")
    server, address = fake_s3.serve()
    fake_s3.make_bucket(address)
    yield address
    server.stop()


@pytest.fixture
def proxy(bucket, monkeypatch):
    line = fake_s3.Proxy(bucket)
    for name, value in {
        "AWS_ENDPOINT_URL": line.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": fake_s3.SECRET,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("store.storage.s3._FIRST_WAIT_SECONDS", 0.001)
    yield line
    line.shutdown()
    line.server_close()


@pytest.fixture
def url(proxy):
    return f"s3://{fake_s3.BUCKET}/here/test{next(_numbers)}"
