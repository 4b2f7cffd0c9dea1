"""Storage in a bucket that speaks S3 and refuses a conditional put (S3, MinIO, R2, …).

Region, endpoint and credentials come from the environment (AWS_…), as with every S3 client, and go
nowhere else. A request whose answer was lost is sent again; what it then finds is compared with
what was sent, for the refusal may be the echo of our own success.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c

from store.errors import ConfigError, DamagedStore, StoreError
from store.storage import posix

_ATTEMPTS = 7
_FIRST_WAIT_SECONDS = 0.05
_TIMEOUT = "60 seconds"
_UPLOADS = 8  # at once
_BLOCK_BYTES = 8 << 20

T = TypeVar("T")


class S3Storage:
    """A prefix in a bucket."""

    def __init__(self, url: str) -> None:
        try:
            import obstore
            from obstore.store import S3Store
        except ImportError as error:
            raise ConfigError(
                f"{url} needs the package obstore; install it with: pip install 'microshot[s3]'"
            ) from error
        if not url.partition("://")[2].strip("/") or url.startswith("s3:///"):
            raise ConfigError(f"{url} names no bucket; write s3://BUCKET/PREFIX")
        self.name = url.rstrip("/")
        self._obstore = obstore
        # The waiting is ours, so that every verb decides for itself what is safe to repeat.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        try:
            self._store: Any = S3Store.from_url(
                self.name,
                client_options={"timeout": _TIMEOUT, "allow_http": plain},
                retry_config={"max_retries": 0},
            )
        except (obstore.exceptions.BaseError, ValueError) as error:
            reason = " ".join(str(error).partition("Debug source")[0].split())[:200]
            raise ConfigError(f"{url} cannot be used ({reason}); see: AWS_… settings") from error

    @property
    def local_path(self) -> None:
        """None: a bucket is no directory."""
        return None

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        """All bytes under a key, at most `limit_bytes`."""

        def get() -> bytes:
            answer = self._obstore.get(self._store, key)
            if answer.meta["size"] > limit_bytes:
                raise DamagedStore(
                    f"{self.name}/{key} is larger than {limit_bytes} bytes; it is not ours"
                )
            return bytes(answer.bytes())

        try:
            return self._repeated(f"read {key}", get, may_lack=True)
        except FileNotFoundError:
            raise DamagedStore(f"{self.name}/{key} is missing") from None

    def digests(self, key: str, *, deep: bool) -> tuple[int, str, str]:
        """Size, crc32c and, if `deep`, sha256 of what is under a key."""

        def digests() -> tuple[int, str, str]:
            size, crc, sha = 0, 0, sha256()
            for block in self._obstore.get(self._store, key).stream(min_chunk_size=_BLOCK_BYTES):
                data = bytes(block)
                size += len(data)
                crc = google_crc32c.extend(crc, data)
                if deep:
                    sha.update(data)
            return size, f"{crc:08x}", sha.hexdigest() if deep else ""

        try:
            return self._repeated(f"read {key}", digests, may_lack=True)
        except FileNotFoundError:
            raise DamagedStore(f"{self.name}/{key} is missing") from None

    def blob(self, key: str, size: int) -> "_Object":
        """The object of a key, for reading ranges of it."""
        return _Object(self, key, size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on, or as many as there are."""

        def ranged() -> bytes:
            return bytes(self._obstore.get_range(self._store, key, start=start, length=length))

        try:
            return self._repeated(f"read {key}", ranged, may_lack=True)
        except FileNotFoundError:
            raise DamagedStore(f"{self.name}/{key} is missing") from None

    def exists(self, key: str) -> bool:
        """Whether there is such a key now."""
        try:
            head = lambda: self._obstore.head(self._store, key)  # noqa: E731
            self._repeated(f"look for {key}", head, may_lack=True)
        except FileNotFoundError:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with `prefix`, sorted."""

        def listed() -> list[str]:
            pages = self._obstore.list(self._store, prefix=prefix)
            return sorted(entry["path"] for page in pages for entry in page)

        return self._repeated(f"list {prefix}", listed)

    def names(self, prefix: str) -> list[str]:
        """Keys and prefixes directly below a prefix, sorted."""

        def listed() -> list[str]:
            listing = self._obstore.list_with_delimiter(self._store, prefix)
            below = [*listing["common_prefixes"], *(entry["path"] for entry in listing["objects"])]
            return sorted(key.rstrip("/").rpartition("/")[2] for key in below)

        return self._repeated(f"list {prefix}", listed)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a key, whole and durable; False if it is there with other bytes."""
        already: type[Exception] = self._obstore.exceptions.AlreadyExistsError

        def put() -> bool:
            try:
                self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except already:
                try:
                    return self._get(key) == data
                except FileNotFoundError as error:
                    raise ConnectionError("refused as present, but absent") from error
            return True

        return self._repeated(f"create {key}", put)

    @contextmanager
    def staging(self, name: str) -> Iterator[Path]:
        """A new directory of this machine to prepare something in; it goes with the context."""
        with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
            yield Path(folder)

    def publish(self, staged: Path, key: str) -> None:
        """Upload what was staged, many files at once, and `zarr.json` last."""
        *names, group = sorted(posix.keys_under(staged), key=lambda name: name == "zarr.json")
        assert group == "zarr.json", "a part has a zarr.json"

        def put(name: str) -> None:
            """Safe to repeat: no two writers have the name of one part."""
            data = (staged / name).read_bytes()
            self._repeated(
                f"write {key}/{name}",
                lambda: self._obstore.put(self._store, f"{key}/{name}", data),
            )

        with ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(put, names))
        put(group)

    def move(self, key: str, target: str) -> bool:
        """Copy a key to a name that is free, and delete it; False if it is gone."""
        try:
            data = self._repeated(f"read {key}", lambda: self._get(key), may_lack=True)
        except FileNotFoundError:
            return False
        if not self.put_if_absent(target, data):
            raise StoreError(f"{self.name}/{target} is there already; run again")
        self.delete(key)
        return True

    def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        self._repeated(f"delete {key}", lambda: self._obstore.delete(self._store, key))

    def _get(self, key: str) -> bytes:
        return bytes(self._obstore.get(self._store, key).bytes())

    def _repeated(self, action: str, act: Callable[[], T], *, may_lack: bool = False) -> T:
        """The result of `act`, tried again after refusals that may pass.

        Raises:
            StoreError: it failed every time, or for a reason that stays.
            FileNotFoundError: there is no such key, if it `may_lack`.
        """
        exceptions = self._obstore.exceptions
        lasting = (
            exceptions.PermissionDeniedError,
            exceptions.UnauthenticatedError,
            FileNotFoundError,  # no such bucket
        )
        for attempt in range(_ATTEMPTS):
            try:
                return act()
            except StoreError:
                raise
            except (exceptions.BaseError, OSError) as error:
                if may_lack and isinstance(error, FileNotFoundError):
                    raise
                if attempt == _ATTEMPTS - 1 or isinstance(error, lasting):
                    reason = " ".join(str(error).partition("Debug source")[0].split())[:300]
                    raise StoreError(f"cannot {action} in {self.name}: {reason}") from error
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError


@dataclass(slots=True)
class _Object:
    """One object of which ranges are read."""

    storage: S3Storage
    key: str
    size: int  # as its record says; what is read is compared with checksums

    def read_into(self, views: Sequence[memoryview], offset: int) -> int:
        data = memoryview(self.storage.get_range(self.key, offset, sum(map(len, views))))
        done = 0
        for view in views:
            block = data[done : done + len(view)]
            view[: len(block)] = block
            done += len(block)
        return done
