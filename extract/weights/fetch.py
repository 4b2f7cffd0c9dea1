"""Fetches published weights: checked, and under their final name only when whole.

    DIRECTORY/<name>/<file>            the file
    DIRECTORY/<name>/<file>.json       its sha256 and size as first fetched; checked ever after
    DIRECTORY/<name>/.<file>.part      what has come so far (`extract/weights/download.py`)

A mirror (`MICROSHOT_WEIGHTS_URL`) serves the same tree, so any such directory can be one. Nothing
is asked of the network where `MICROSHOT_OFFLINE` is set.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from extract.weights.catalogue import CATALOGUE, Published, RemoteFile, find
from extract.weights.download import Progress, disk, download, forget, read_json, write_json
from store.errors import WeightsError
from store.lock import alone

_MD5 = partial(hashlib.md5, usedforsecurity=False)


class Busy(WeightsError):  # noqa: N818 (as all errors of ours)
    """Another process fetches the same file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """Weights on disk, checked."""

    name: str
    files: tuple[Path, ...]
    sha256: tuple[str, ...]
    next_step: str  # a command, or the SPEC that loads them
    spec: str  # that loads them by name; empty where no encoder reads them

    def to_dict(self) -> dict[str, Any]:
        """The object that `extract weights fetch --json` prints."""
        return {
            "name": self.name,
            "files": {str(f): s for f, s in zip(self.files, self.sha256, strict=True)},
            "next_step": self.next_step,
            "spec": self.spec,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """One file to have: where, and what it must be."""

    file: RemoteFile
    path: Path
    url: str
    pin: str | None

    @property
    def record(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    @property
    def part(self) -> Path:
        return self.path.with_name(f".{self.path.name}.part")


def default_directory() -> Path:
    """`MICROSHOT_WEIGHTS_DIR`, or `microshot/weights` in the user's cache."""
    if chosen := os.environ.get("MICROSHOT_WEIGHTS_DIR"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "microshot" / "weights"


def is_offline() -> bool:
    """True if `MICROSHOT_OFFLINE` forbids the network."""
    return os.environ.get("MICROSHOT_OFFLINE", "").lower() not in ("", "0", "false", "no")


def listing(directory: Path | None = None) -> list[dict[str, Any]]:
    """One row for each set of published weights, with whether it is on disk."""
    root = directory or default_directory()
    return [
        {
            "name": weights.name,
            "encoder": weights.encoder,
            "spec": weights.spec if weights.use != "none" else None,
            "verified": weights.verified,
            "files": [file.name for file in weights.files],
            "size_bytes": weights.size_bytes,
            "licence": weights.licence,
            "attribution": weights.attribution,
            "accuracy": weights.accuracy,
            "source": weights.source,
            "present": all((root / weights.name / f.name).is_file() for f in weights.files),
        }
        for weights in CATALOGUE.values()
    ]


def fetch(
    name: str,
    directory: Path | None = None,
    *,
    sha256: str | None = None,
    accept_unverified: bool = False,
    offline: bool = False,
    base_url: str | None = None,
    progress: Progress = lambda done, total, message: None,
) -> Fetched:
    """All files of the weights `name`, from disk or else from the network.

    Args:
        sha256: what the file must hash to; for several files theirs in order, with commas.
        accept_unverified: believe what comes first, where no digest says what it must be.
        offline: ask nothing of the network. (also: `MICROSHOT_OFFLINE`)
        base_url: a mirror. (default: `MICROSHOT_WEIGHTS_URL`, else the publisher)

    Raises:
        WeightsError: unknown name, no answer, or not the file that was expected; files that are
            not on disk and may not be fetched.
    """
    published = find(name)
    pins = _pins(published, sha256)
    folder = (directory or default_directory()) / name
    if not all((folder / file.name).is_file() for file in published.files):
        _refuse(published, folder, offline or is_offline(), accept_unverified or None not in pins)
    mirror = base_url or os.environ.get("MICROSHOT_WEIGHTS_URL")
    paths, digests = [], []
    for file, pin in zip(published.files, pins, strict=True):
        url = f"{mirror.rstrip('/')}/{name}/{quote(file.name)}" if mirror else file.url
        wanted = _Wanted(file=file, path=folder / file.name, url=_http(url), pin=pin)
        with alone_with(wanted.path):
            digest = _on_disk(wanted) if wanted.path.is_file() else _fetched(wanted, progress)
        size = wanted.path.stat().st_size
        progress(size, size, f"{wanted.path}: {size} bytes, sha256 {digest}")
        paths.append(wanted.path)
        digests.append(digest)
    return Fetched(
        name=name,
        files=tuple(paths),
        sha256=tuple(digests),
        next_step=_next_step(published, paths[0]),
        spec="" if published.use == "none" else published.spec,
    )


def _refuse(published: Published, folder: Path, offline: bool, accepted: bool) -> None:
    """Refuse to fetch what may not be fetched.

    Raises:
        WeightsError: has the command that would.
    """
    if offline:
        raise WeightsError(
            f"{published.name} is not in {folder}, and nothing is fetched offline; where there is "
            f"a network, run: {published.command}"
        )
    if not accepted and not published.verified:
        digests = ",".join(["HEX"] * len(published.files))
        raise WeightsError(
            f"{published.name} is not in {folder}, and is unverified: no digest of its publisher "
            f"is known that it could be held against; run: {published.command} (believes what "
            f"comes first, and checks it ever after), or with --sha256 {digests}"
        )


def _on_disk(wanted: _Wanted) -> str:
    """The sha256 of a file that is there, checked like any other."""
    digest = _check(wanted, wanted.path, advice=f"delete {wanted.path} and fetch it again")
    if not wanted.record.is_file():
        _record(wanted, wanted.path, digest)
    return digest


def _fetched(wanted: _Wanted, progress: Progress) -> str:
    """The sha256 of a file that was not there and is now."""
    download(wanted.url, wanted.part, size_bytes=wanted.file.size_bytes, progress=progress)
    try:
        digest = _check(wanted, wanted.part, advice="nothing was kept; check the source")
    except WeightsError:
        forget(wanted.part)
        raise
    with disk(wanted.path):
        _record(wanted, wanted.part, digest)  # first: no file goes without a record
        wanted.part.replace(wanted.path)
        _fsync(wanted.path.parent)
    forget(wanted.part)
    return digest


def _check(wanted: _Wanted, path: Path, *, advice: str) -> str:
    """The sha256 of `path`, once it has proved to be what was expected."""
    published, url = wanted.file, wanted.url
    with disk(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        md5 = hashlib.file_digest(file, _MD5).hexdigest() if published.md5 else ""
    if published.size_bytes not in (None, size):
        raise WeightsError(
            f"{path} has {size} bytes, published are {published.size_bytes}; {advice}"
        )
    if published.md5 and not md5.startswith(published.md5):
        raise WeightsError(f"{path} has md5 {md5}, published is {published.md5}; {advice}")
    if wanted.pin not in (None, digest):
        raise WeightsError(
            f"{wanted.path.name} from {url} has sha256 {digest} instead of {wanted.pin}; {advice}, "
            f"or correct `sha256`"
        )
    recorded = read_json(wanted.record).get("sha256")
    if recorded not in (None, digest):
        raise WeightsError(
            f"{wanted.path.name} from {url} has sha256 {digest}, but {recorded} when first "
            f"fetched; {advice}, or delete {wanted.record} to accept the new file"
        )
    return digest


def _record(wanted: _Wanted, path: Path, digest: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"sha256": digest, "size_bytes": path.stat().st_size, "url": wanted.url, "fetched": now}
    write_json(wanted.record, facts)


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Hold a file of weights: two fetches of one would write into the same part.

    Raises:
        Busy: another process holds it.
    """
    with ExitStack() as stack:
        with disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(alone(path.with_name(f".{path.name}.lock")))
            except BlockingIOError:
                raise Busy(
                    f"{path} is being fetched by another process; wait until it is done"
                ) from None
        yield


def _pins(published: Published, sha256: str | None) -> list[str | None]:
    if sha256 is None:
        return [None] * len(published.files)
    pins = sha256.lower().split(",")
    whole = all(re.fullmatch(r"[0-9a-f]{64}", pin) for pin in pins)
    if not whole or len(pins) != len(published.files):
        names = ", ".join(file.name for file in published.files)
        raise WeightsError(
            f"`sha256` {sha256!r}: {published.name} needs {len(published.files)} of 64 "
            f"hexadecimal digits each, with commas, for {names}"
        )
    return list(pins)


def _http(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise WeightsError(f"{url} is no http or https address; check MICROSHOT_WEIGHTS_URL")
    return url


def _next_step(published: Published, path: Path) -> str:
    if published.use == "convert":
        output = f"{published.name}.safetensors"
        return f"extract weights convert {path} --encoder {published.encoder} -o {output}"
    if published.use == "none":
        return f"{path.name} cannot be loaded as it is"
    joint = "," if ":" in published.encoder else ":"
    return f"{published.encoder}{joint}weights={path}"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
