"""A session over a small store, and its server on a thread."""

import asyncio
import http.client
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import store
from learn.annotation.annotate import opened
from learn.annotation.asked import AnnotateSettings
from learn.annotation.server import serve
from store import testing


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """120 clips of 5 classes, some of them silent, with a media file each."""
    folder = tmp_path_factory.mktemp("annotate")
    testing.fill(
        folder / "store", clips=120, rows=2, dim=12, classes=5, silent_share=0.2, disjoint=False
    )
    media = folder / "media"
    for i, path in enumerate(store.open(folder / "store").manifest().paths):
        (media / path).parent.mkdir(parents=True, exist_ok=True)
        (media / path).write_bytes(f"film {i} ".encode() * 50)
    (folder / "secret.mp4").write_bytes(b"secret")
    return folder


@pytest.fixture
def settings(small, tmp_path):
    """What `learn annotate` is asked."""
    return AnnotateSettings(
        store=str(small / "store"), media=(small / "media",), output=tmp_path / "labels.csv",
        group="none",
    )  # fmt: skip


def no_pictures(media):
    return [None] * len(media)


@pytest.fixture
def session(settings):
    with opened(settings, no_pictures) as labelling:
        yield labelling.session


@pytest.fixture
def truth(small):
    table = store.open(small / "store").manifest()
    return dict(zip(table.clip_ids, table.column("label"), strict=True))


class Client:
    """Requests to the page's server, as a browser or as anybody."""

    def __init__(self, site):
        self.site = site
        self.host = f"127.0.0.1:{site.port}"

    def ask(self, path, method="GET", body=None, token=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.site.port, timeout=20)
        wanted = f"/{self.site.token if token is None else token}/{path}"
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        data = json.dumps(body) if isinstance(body, dict) else body
        if isinstance(body, dict):
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, wanted, data, sent)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def act(self, kind, window="w", column="label", **more):
        asked = {"kind": kind, "window": window, "column": column, **more}
        status, _, text = self.ask("state", "POST", asked)
        return status, json.loads(text)


@contextmanager
def serving(session):
    """A client of the session's server."""
    loop, ready, sites = asyncio.new_event_loop(), threading.Event(), []

    async def run():
        stop = asyncio.Event()
        sites.append(stop)

        def told(site):
            sites.append(site)
            ready.set()

        await serve(session, "<b>title", 0, told, stop)

    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    assert ready.wait(20)
    try:
        yield Client(sites[1])
    finally:
        loop.call_soon_threadsafe(sites[0].set)
        thread.join(20)
        loop.close()


@pytest.fixture
def client(session):
    with serving(session) as made:
        yield made


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines()
