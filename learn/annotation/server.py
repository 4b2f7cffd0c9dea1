"""The page's server: one process, on loopback only, for whoever has the address.

The address holds a token, which nobody guesses. Requests must name this server as their host (so
that no name of somebody else's comes to mean it) and come from its own page, if from any: browsers
say so in `Origin` and `Sec-Fetch-Site`. Media are asked for by clip id, and nothing else of the
disk is ever read. Labels are kept before the answer goes out.

Source: Tornado, which is installed with dask; its `StaticFileHandler` answers requests for ranges.
"""

import asyncio
import hmac
import json
import secrets
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from tornado import httpserver, netutil, web

from learn.annotation.annotations import StaleError
from learn.annotation.label_file import ChangedElsewhereError
from learn.annotation.session import Session
from store.errors import InputError, MicroshotError

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
MOST_BYTES = 16 << 10  # of what a page sends
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
STATIC = {"annotate.js": "text/javascript", "annotate.css": "text/css"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What every request is held against and answered from."""

    session: Session
    token: str
    port: int
    title: str

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self.token}/"


class Guarded(web.RequestHandler):
    """Any request: refused unless it is meant for this server and comes from its page."""

    def initialize(self, site: Site) -> None:
        """Tornado hands over what the application was made with."""
        self.site = site

    def set_default_headers(self) -> None:
        """Headers of every answer, refusals too."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.clear_header("Server")

    def prepare(self) -> None:
        """Refuse before anything is looked up.

        Raises:
            HTTPError: 403 of another host or origin, 404 of another token.
        """
        hosts = {f"{name}:{self.site.port}" for name in NAMES}
        if self.request.headers.get_list("Host") not in [[host] for host in hosts]:
            raise web.HTTPError(403, reason="Another host")
        origin = self.request.headers.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in hosts}:
            raise web.HTTPError(403, reason="Another origin")
        site = self.request.headers.get("Sec-Fetch-Site", "none")
        if site not in ("same-origin", "none"):
            raise web.HTTPError(403, reason="Another site")
        token = self.request.path.split("/")[1]
        if not hmac.compare_digest(token.encode(), self.site.token.encode()):
            raise web.HTTPError(404)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Two words instead of a page."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code} {self._reason}\n")


class Nothing(Guarded):
    """Whatever has no handler."""

    def prepare(self) -> None:
        """Refuse.

        Raises:
            HTTPError: always.
        """
        super().prepare()
        raise web.HTTPError(404)


class Page(Guarded):
    """The page itself."""

    def get(self) -> None:
        """HTML."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(_page(self.site.title))


class Part(Guarded):
    """The page's script and style."""

    def get(self, name: str) -> None:
        """The file as it is installed."""
        self.set_header("Content-Type", f"{STATIC[name]}; charset=utf-8")
        self.finish(_part(name))


class Asked(Guarded):
    """What a window shows, and what it does; JSON both ways."""

    def get(self) -> None:
        """The state of a window."""
        self._give(
            lambda: self.site.session.state(
                self.get_query_argument("window")[:64],
                self.get_query_argument("column", strip=False),
            )
        )

    def post(self) -> None:
        """One act.

        Raises:
            HTTPError: it is no act.
        """
        if self.request.headers.get("Content-Type", "").partition(";")[0] != "application/json":
            raise web.HTTPError(415)
        try:
            asked = json.loads(self.request.body)
            kind, window, column = (str(asked[key]) for key in ("kind", "window", "column"))
        except (ValueError, LookupError, TypeError, RecursionError):
            raise web.HTTPError(400) from None
        act = _ACTS.get(kind)
        if act is None:
            raise web.HTTPError(400)
        self._give(lambda: act(self.site.session, window[:64], column, asked))

    def _give(self, ask: Callable[[], Mapping[str, Any]]) -> None:
        try:
            given = ask()
        except StaleError as error:
            self._refuse(409, str(error))
        except (KeyError, TypeError, ValueError) as error:
            inside = isinstance(error, MicroshotError)
            self._refuse(400, str(error) if inside else "not an act")
        except ChangedElsewhereError as error:
            self._refuse(409, str(error))
        except MicroshotError as error:
            self._refuse(400, str(error))
        except OSError as error:
            self._refuse(507, f"not written: {error.strerror or error}")
        else:
            self.finish(json.dumps(given))

    def _refuse(self, status: int, message: str) -> None:
        self.set_status(status)
        self.finish(json.dumps({"error": message}))


_ACTS: Mapping[str, Callable[[Session, str, str, Mapping[str, Any]], Mapping[str, Any]]] = {
    "answer": lambda s, w, c, a: s.answer(w, c, _text(a, "clip"), _number(a), _text(a, "name")),
    "none": lambda s, w, c, a: s.answer(w, c, _text(a, "clip"), _number(a), "", none=True),
    "skip": lambda s, w, c, a: s.skip(w, c, _text(a, "clip")),
    "show": lambda s, w, c, a: s.show(w, c, _text(a, "clip")),
    "undo": lambda s, w, c, a: s.undo(w, c),
}


class Picture(Guarded):
    """The small picture of a clip."""

    def get(self) -> None:
        """A JPEG, if it is made.

        Raises:
            HTTPError: 404 of no picture.
        """
        made = self.site.session.thumbnails.get(self.get_query_argument("clip", strip=False))
        if made is None:
            raise web.HTTPError(404)
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(made)


class MediaFile(Guarded, web.StaticFileHandler):
    """The media file of a clip, whole or in ranges."""

    def initialize(self, site: Site) -> None:  # type: ignore[override]
        """The folder is of no use here: every file is looked up by its clip."""
        self.site = site
        web.StaticFileHandler.initialize(self, path="/")

    async def get(self, path: str = "", include_body: bool = True) -> None:
        """The bytes that were asked for.

        Raises:
            HTTPError: 404 of a clip that is unknown or has no file.
        """
        found = self.site.session.files.find(self.get_query_argument("clip", strip=False))
        if found is None:
            raise web.HTTPError(404)
        self._found = found
        await super().get("", include_body)

    def head(self, path: str = "") -> Any:
        """The headers alone."""
        return self.get(path, include_body=False)

    def validate_absolute_path(self, root: str, absolute_path: str) -> str:
        """The clip's file, whatever the path says."""
        return str(self._found.file)

    def get_content_type(self) -> str:
        """By a fixed list, so that no clip is taken for a page."""
        return self._found.content_type

    def set_extra_headers(self, path: str) -> None:
        """A file opened by itself may run nothing."""
        self.set_header("Content-Security-Policy", "default-src 'none'; media-src 'self'; sandbox")
        self.set_header("Cache-Control", "private, max-age=3600")

    @classmethod
    def get_content_version(cls, abspath: str) -> str:
        """By size and time: hashing a film would keep everybody waiting."""
        found = Path(abspath).stat()
        return f"{found.st_size:x}-{found.st_mtime_ns:x}"

    @classmethod
    def _get_cached_version(cls, abs_path: str) -> str:
        return cls.get_content_version(abs_path)


def application(site: Site) -> web.Application:
    """Everything that can be asked for."""
    given = {"site": site}
    return web.Application(
        [
            (r"/[^/]+/", Page, given),
            (r"/[^/]+/(annotate\.js|annotate\.css)", Part, given),
            (r"/[^/]+/state", Asked, given),
            (r"/[^/]+/picture", Picture, given),
            (r"/[^/]+/media", MediaFile, given),
        ],
        default_handler_class=Nothing,
        default_handler_args=given,
        log_function=lambda handler: None,  # addresses hold the token
    )


async def serve(
    session: Session, title: str, port: int, ready: Callable[[Site], None], stop: asyncio.Event
) -> None:
    """Answer until `stop`; `ready` is told the address.

    Raises:
        InputError: the port is taken.
    """
    try:
        sockets = netutil.bind_sockets(port, HOST)
    except OSError as error:
        raise InputError(f"port {port} cannot be had ({error.strerror}); leave it out") from None
    site = Site(
        session=session, token=secrets.token_urlsafe(24), port=sockets[0].getsockname()[1],
        title=title,
    )  # fmt: skip
    server = httpserver.HTTPServer(
        application(site), max_body_size=MOST_BYTES, max_buffer_size=1 << 20,
        idle_connection_timeout=120,
    )  # fmt: skip
    server.add_sockets(sockets)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError, RuntimeError, ValueError):  # another thread, or Windows
            loop.add_signal_handler(name, stop.set)
    ready(site)
    await stop.wait()
    server.stop()
    await server.close_all_connections()


@cache
def _page(title: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("learn.annotation", "page"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("annotate.html.j2").render(title=title)


@cache
def _part(name: str) -> bytes:
    return (resources("learn.annotation") / "page" / name).read_bytes()


def _text(asked: Mapping[str, Any], key: str) -> str:
    value = asked[key]
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def _number(asked: Mapping[str, Any]) -> int:
    value = asked["version"]
    if not isinstance(value, int):
        raise TypeError("version")
    return value
