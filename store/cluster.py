"""Lines to a dask scheduler: which are safe, and how they are opened."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from store.errors import ClusterError, InputError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 5.0


def check_url(url: str, insecure_tcp: bool) -> None:
    """Refuse what others could listen to, or send work on.

    On one machine too: its other users reach every port of it, and may be the first to listen at
    the one that is expected.

    Raises:
        InputError: no address of a scheduler.
        ClusterError: tcp:// that nobody vouches for.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("tcp", "tls") or not parts.hostname or parts.port is None:
        raise InputError(f"{url!r} is no scheduler; write tls://HOST:8786")
    if parts.scheme == "tcp" and not insecure_tcp:
        raise ClusterError(
            f"whoever reaches {url}, any user of this machine too, may read what goes over it and "
            "run programs as you; use tls:// (docs/cluster.md), or `insecure_tcp` where there is "
            "nobody else"
        )


@contextmanager
def connected(url: str, insecure_tcp: bool = False) -> Iterator["Client"]:
    """A client of the scheduler at that address.

    Raises:
        InputError, ClusterError: as `check_url`; no certificates; nobody answers.
    """
    check_url(url, insecure_tcp)
    from distributed import Client
    from distributed.security import Security

    _quiet()
    security = Security()
    if url.startswith("tls:") and not security.tls_ca_file:
        raise ClusterError(
            "tls:// needs certificates: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE and "
            "…__CLIENT__CERT and …__CLIENT__KEY (docs/cluster.md)"
        )
    try:
        client = Client(url, security=security, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:160]
        raise ClusterError(f"no scheduler answers at {url} ({reason})") from None
    try:
        yield client
    finally:
        client.close(timeout=CLOSE_SECONDS)


def _quiet() -> None:
    for name in ("distributed", "distributed.client", "distributed.comm", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what matters, we say in one line
