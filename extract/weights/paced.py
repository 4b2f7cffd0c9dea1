"""HTTP whose answers have a least pace and a largest head: no server can hold us for ever.

`http.client` waits for ever for a head that comes letter by letter, or after any number of
`100 Continue`. Here every byte that comes is counted where it comes from the network.
"""

import io
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib import request

WINDOW_SECONDS = 60.0
LEAST_BYTES_PER_SECOND = 1000  # over a window; a modem had four times that
MAX_HEAD_BYTES = 256 << 10  # of an answer before its body, with all answers `100 Continue`


class TooSlow(TimeoutError):  # noqa: N818 (what happened, to be tried again)
    """A window went by in which too little came."""


class _Paced(io.RawIOBase):
    """What comes over a connection, counted."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self._raw = raw
        self._begun, self._in_window = time.monotonic(), 0
        self.head_bytes: int | None = MAX_HEAD_BYTES

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        """Bytes as they come."""
        count = self._raw.readinto(buffer)
        self._in_window += count or 0
        if self.head_bytes is not None:
            self.head_bytes -= count or 0
            if self.head_bytes < 0:
                raise HTTPException(f"a head of more than {MAX_HEAD_BYTES} bytes")
        seconds = time.monotonic() - self._begun
        if seconds > WINDOW_SECONDS:
            if self._in_window < LEAST_BYTES_PER_SECOND * seconds:
                raise TooSlow(f"{self._in_window} bytes in {seconds:.3g} s, which is too slow")
            self._begun, self._in_window = time.monotonic(), 0
        return count

    def close(self) -> None:
        """Close the connection too."""
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._paced = _Paced(self.fp.detach())
        self.fp: Any = io.BufferedReader(self._paced)

    def begin(self) -> None:
        super().begin()
        self._paced.head_bytes = None


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class Http(request.HTTPHandler):
    """Opens http addresses."""

    def http_open(self, req: request.Request) -> HTTPResponse:
        """An answer with a least pace."""
        return self.do_open(_Connection, req)  # type: ignore[arg-type]


class Https(request.HTTPSHandler):
    """Opens https addresses, with certificates checked."""

    def https_open(self, req: request.Request) -> HTTPResponse:
        """An answer with a least pace."""
        return self.do_open(_SecureConnection, req)  # type: ignore[arg-type]
