"""Downloads one file over http or https into a part on disk, going on where it broke off.

`PART` holds what has come so far and `PART.json` what it is part of: address, length and the
server's mark (ETag or date) of that version. A part is continued only while all of these hold.

Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (range requests).
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from extract.weights.paced import Http, Https, TooSlow
from store.errors import WeightsError
from store.sizes import size

ATTEMPTS = 5  # in a row without a megabyte more than there ever was
MAX_ATTEMPTS = 50  # in all; a line that breaks more often is asked again by hand
MAX_WASTE = 2  # times the file that may come twice, from a server that cannot go on
DEADLINE_SECONDS = 24 * 3600.0
BACKOFF_SECONDS = 1.0  # doubles with each attempt
TIMEOUT_SECONDS = 30.0  # without a byte
MAX_BYTES = 32 << 30
_BLOCK_BYTES = 1 << 20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_UNSATISFIABLE = 416  # the part reaches beyond the file on the server
_MIRROR = "set MICROSHOT_WEIGHTS_URL to a mirror"

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, a line for people


class _Tally:
    """What all attempts at one file have cost."""

    def __init__(self) -> None:
        self.deadline = time.monotonic() + DEADLINE_SECONDS
        self.received_bytes = 0
        self.attempts = 0

    def add(self, count: int, total: int) -> None:
        """Count what came.

        Raises:
            WeightsError: it is too much.
        """
        self.received_bytes += count
        if self.received_bytes > (1 + MAX_WASTE) * total:
            raise WeightsError(
                f"{self.received_bytes} bytes came for a file of {total}: it does not go on "
                f"where it broke off; {_MIRROR}"
            )
        if time.monotonic() > self.deadline:
            raise _Interrupted(f"it took more than {DEADLINE_SECONDS / 3600:g} hours")


class _Interrupted(Exception):  # noqa: N818 (not an error yet: the caller tries again)
    """The network failed in a way that may pass."""


def download(url: str, part: Path, *, size_bytes: int | None, progress: Progress) -> None:
    """Fetch `url` until `part` holds the whole file; its bytes are not judged.

    Raises:
        WeightsError: no such file, not of the size expected, or the network kept failing. What
            came so far stays for the next call where it can be continued.
    """
    attempt, most = 0, _size(part)
    tally = _Tally()
    while True:
        try:
            _continue(url, part, size_bytes, progress, tally)
        except _Interrupted as interruption:
            tally.attempts += 1
            # against the most there ever was: a part may be lost and won again for ever
            attempt = 1 if _size(part) - most >= _BLOCK_BYTES else attempt + 1
            most = max(most, _size(part))
            late = time.monotonic() > tally.deadline
            if attempt >= ATTEMPTS or tally.attempts >= MAX_ATTEMPTS or late:
                raise WeightsError(
                    f"cannot fetch {url}: {interruption} ({tally.attempts} attempts); run the "
                    f"command again to go on, or {_MIRROR}"
                ) from None
            time.sleep(BACKOFF_SECONDS * 2 ** (attempt - 1))
        else:
            return


def forget(part: Path) -> None:
    """Remove a part and what is known of it."""
    for path in (part, _facts(part)):
        with suppress(FileNotFoundError):
            path.unlink()


def _continue(
    url: str, part: Path, size_bytes: int | None, progress: Progress, tally: _Tally
) -> None:
    """One request for what is missing.

    Raises:
        _Interrupted: it broke off.
        WeightsError: trying again would not help.
    """
    known = read_json(_facts(part))
    have = _size(part) if known.get("url") == url else 0
    if have and have == known.get("total"):
        return
    headers = {"User-Agent": "microshot", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": str(known.get("mark"))}
    with _answer(url, headers, part) as response:
        start, total = _extent(response, url, size_bytes)
        mark = _mark(response)
        _refuse_if_no_room(part, total - start)
        same = start == have and total == known.get("total") and mark in ("", known.get("mark"))
        if start != 0 and not same:
            forget(part)
            raise _Interrupted(f"it answers with bytes from {start} of another version")
        with disk(part):
            if start == 0:
                forget(part)
                if mark:
                    write_json(_facts(part), {"url": url, "total": total, "mark": mark})
            file = part.open("r+b" if start else "wb")
        with file:
            file.seek(start)
            _copy(response, file, start, total, progress, tally)


def _refuse_if_no_room(part: Path, missing: int) -> None:
    """Refuse a download that cannot be finished, before it fills the disk.

    Raises:
        WeightsError: names both sizes.
    """
    free = shutil.disk_usage(part.parent).free
    if missing > free:
        raise WeightsError(
            f"{part.parent} has {size(free)} left, and {size(missing)} are still to come; make "
            f"room there, or choose another directory with MICROSHOT_WEIGHTS_DIR"
        )


def _copy(
    response: HTTPResponse,
    file: IO[bytes],
    done: int,
    total: int,
    progress: Progress,
    tally: _Tally,
) -> None:
    try:
        while done < total:
            with _network():
                block = response.read1(min(_BLOCK_BYTES, total - done))  # what is there
            tally.add(len(block), total)
            if not block:
                raise _Interrupted(f"it broke off after {done} of {total} bytes")
            with disk(Path(file.name)):
                file.write(block)
            done += len(block)
            progress(done, total, "")
    finally:
        with disk(Path(file.name)):
            file.flush()
            os.fsync(file.fileno())


def _extent(response: HTTPResponse, url: str, size_bytes: int | None) -> tuple[int, int]:
    """The first byte that an answer brings, and the length of the whole file."""
    headers = response.headers
    if headers.get("Content-Encoding", "identity") != "identity":
        raise WeightsError(f"{url} answers with compressed bytes; {_MIRROR}")
    if "Transfer-Encoding" in headers:
        raise WeightsError(f"{url} does not say how long it is; {_MIRROR}")
    number = r"(\d{1,15})"
    if response.status == 206:
        match = re.fullmatch(rf"bytes {number}-{number}/{number}", headers.get("Content-Range", ""))
        if not match:
            raise WeightsError(f"{url} does not say which bytes it sends; {_MIRROR}")
        start, _, total = map(int, match.groups())
    elif re.fullmatch(number, headers.get("Content-Length", "")):
        start, total = 0, int(headers["Content-Length"])
    else:
        raise WeightsError(f"{url} does not say how long it is; {_MIRROR}")
    if total > MAX_BYTES or (size_bytes is not None and total != size_bytes):
        expected = f"at most {MAX_BYTES}" if size_bytes is None else size_bytes
        raise WeightsError(f"{url} has {total} bytes; expected {expected}; {_MIRROR}")
    return start, total


def _mark(response: HTTPResponse) -> str:
    """A mark that tells one version of the file from another; empty if the server gives none."""
    etag = response.headers.get("ETag", "")
    mark = "" if etag.startswith("W/") else etag  # a weak one says nothing of single bytes
    mark = mark or response.headers.get("Last-Modified", "")
    return mark if re.fullmatch(r"[ -~]{1,200}", mark) else ""


@contextmanager
def _answer(url: str, headers: dict[str, str], part: Path) -> Iterator[HTTPResponse]:
    opener = request.OpenerDirector()  # knows http and https only: no file:, ftp: or data:
    for handler in (
        request.ProxyHandler, Http, Https, _Redirects,
        request.HTTPDefaultErrorHandler, request.HTTPErrorProcessor, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    try:
        with _network():
            response = opener.open(request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        if error.code == _UNSATISFIABLE:
            forget(part)
        if error.code in _TRANSIENT | {_UNSATISFIABLE}:
            raise _Interrupted(f"HTTP {error.code}") from None
        raise WeightsError(
            f"{url}: HTTP {error.code}; it may have moved: check the address, or {_MIRROR}"
        ) from None
    with response:
        yield response


class _Redirects(request.HTTPRedirectHandler):
    """Follows redirects, but never out of https or to another scheme."""

    def redirect_request(
        self, req: request.Request, fp: Any, code: int, msg: str, headers: HTTPMessage,
        newurl: str,
    ) -> request.Request | None:  # fmt: skip
        allowed = {"https"} if req.type == "https" else {"http", "https"}
        if urlsplit(newurl).scheme not in allowed:
            fp.close()
            raise WeightsError(f"{req.full_url} leads to {newurl!r}, which is refused; {_MIRROR}")
        fp.close()  # else all that it says is read
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _network() -> Iterator[None]:
    """Turn what may pass into `_Interrupted`."""
    try:
        yield
    except HTTPError:
        raise
    except TooSlow as error:
        raise _Interrupted(str(error)) from None
    except TimeoutError:
        raise _Interrupted(f"no answer within {TIMEOUT_SECONDS:g} s") from None
    except URLError as error:
        if isinstance(error.reason, TimeoutError) and not isinstance(error.reason, TooSlow):
            raise _Interrupted(f"no answer within {TIMEOUT_SECONDS:g} s") from None
        raise _Interrupted(str(error.reason)) from None
    except (HTTPException, OSError, ValueError) as error:
        raise _Interrupted(f"{type(error).__name__}: {error}") from None


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn an operating system error into ours.

    Raises:
        WeightsError: names the file and the reason, such as a full disk.
    """
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"cannot use {path}: {error.strerror or error}; make room there, or choose another "
            f"directory with MICROSHOT_WEIGHTS_DIR"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """A small record; empty if it is not there or damaged."""
    try:
        record = json.loads(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError):
        record = {}
    return record if isinstance(record, dict) else {}


def write_json(path: Path, facts: dict[str, Any]) -> None:
    """Write a record, whole and durable."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as file:
        file.write(json.dumps(facts, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _facts(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
