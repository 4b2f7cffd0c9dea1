"""Storage in a bucket that speaks S3 and refuses a conditional put (S3, MinIO, R2, …).

Region, endpoint and credentials come from the environment (AWS_…), as with every S3 client, and go
nowhere else. A request whose answer was lost is sent again; what it then finds is compared with
what was sent, for the refusal may be the echo of our own success.
"""

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from store.errors import ConfigError, DamagedStore, StoreError

_ATTEMPTS = 7
_FIRST_WAIT_SECONDS = 0.05
_TIMEOUT = "60 seconds"

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
        self.name = url.rstrip("/")
        self._obstore = obstore
        # The waiting is ours, so that every verb decides for itself what is safe to repeat.
        plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
        self._store: Any = S3Store.from_url(
            self.name,
            client_options={"timeout": _TIMEOUT, "allow_http": plain},
            retry_config={"max_retries": 0},
        )

    def get(self, key: str, *, limit_bytes: int) -> bytes:
        def get() -> bytes:
            found = self._obstore.get(self._store, key)
            if found.meta["size"] > limit_bytes:
                raise DamagedStore(
                    f"{self.name}/{key} is larger than {limit_bytes} bytes; it is not ours"
                )
            return bytes(found.bytes())

        try:
            return self._repeated(f"read {key}", get, may_lack=True)
        except FileNotFoundError:
            raise DamagedStore(f"{self.name}/{key} is missing") from None

    def exists(self, key: str) -> bool:
        try:
            head = lambda: self._obstore.head(self._store, key)  # noqa: E731
            self._repeated(f"look for {key}", head, may_lack=True)
        except FileNotFoundError:
            return False
        return True

    def list(self, prefix: str) -> list[str]:
        def listed() -> list[str]:
            pages = self._obstore.list(self._store, prefix=prefix)
            return sorted(found["path"] for page in pages for found in page)

        return self._repeated(f"list {prefix}", listed)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        already: type[Exception] = self._obstore.exceptions.AlreadyExistsError

        def put() -> bool:
            try:
                self._obstore.put(self._store, key, data, mode="create", use_multipart=False)
            except already:
                try:
                    return bytes(self._obstore.get(self._store, key).bytes()) == data
                except FileNotFoundError as error:
                    raise ConnectionError("refused as present, but absent") from error
            return True

        return self._repeated(f"create {key}", put)

    def publish(self, key: str, parts: Iterable[tuple[str, bytes]]) -> None:
        group = b""
        for name, data in parts:
            if name == "zarr.json":
                group = data
            else:
                self._put(f"{key}/{name}", data)
        assert group, "a part has a zarr.json"
        self._put(f"{key}/zarr.json", group)

    def delete(self, key: str) -> None:
        self._repeated(f"delete {key}", lambda: self._obstore.delete(self._store, key))

    def _put(self, key: str, data: bytes) -> None:
        """Safe to repeat: no two writers have the name of one part."""
        self._repeated(f"write {key}", lambda: self._obstore.put(self._store, key, data))

    def _repeated(self, what: str, act: Callable[[], T], *, may_lack: bool = False) -> T:
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
                    raise StoreError(f"cannot {what} in {self.name}: {reason}") from error
                time.sleep(_FIRST_WAIT_SECONDS * 2**attempt)
        raise AssertionError
