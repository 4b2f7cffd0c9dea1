"""Who may ask what: this machine, this page, this token, these clips."""

import json
import os

import pytest

from tests.learn.annotation.conftest import serving


def test_the_page_and_its_parts_forbid_everything_else(client):
    for path, kind in (("", "text/html"), ("annotate.js", "javascript"), ("annotate.css", "css")):
        status, headers, body = client.ask(path)
        assert status == 200
        assert kind in headers["Content-Type"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in headers
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body
    assert b"&lt;b&gt;title" in client.ask("")[2]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"}, {"Host": "127.0.0.1"}, {"Host": "127.0.0.1:1"}, {"Host": ""},
        {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"},
    ],
)  # fmt: skip
def test_other_hosts_and_origins_are_refused(client, session, headers):
    clip = session.state("w", "label")["clip"]["id"]
    body = {"kind": "answer", "window": "w", "column": "label", "clip": clip, "version": 0,
            "name": "x"}  # fmt: skip
    assert client.ask("state", "POST", body, **headers)[0] == 403
    assert client.ask("", **headers)[0] == 403
    assert client.ask("media?clip=" + clip, **headers)[0] == 403
    assert session.annotations.acts == 0


def test_its_own_page_may(client):
    for origin in (f"http://127.0.0.1:{client.site.port}", f"http://localhost:{client.site.port}"):
        host = origin.removeprefix("http://")
        asked = "state?window=w&column=label"
        status, _, _ = client.ask(asked, Origin=origin, Host=host, Sec_Fetch_Site="same-origin")
        assert status == 200


@pytest.mark.parametrize("token", ["", "x", "é", ".."])
def test_without_the_token_there_is_nothing(client, token):
    from urllib.parse import quote

    for path in ("", "state?window=w&column=label", "media?clip=x", "annotate.js", "no"):
        assert client.ask(path, token=quote(token))[0] == 404


@pytest.mark.parametrize(
    "clip",
    ["../secret.mp4", "..%2Fsecret.mp4", "%2e%2e/secret.mp4", "/etc/passwd", "class000/..", "",
     "file:///etc/passwd", "." * 5000],
)  # fmt: skip
def test_only_clips_of_the_store_are_served(client, clip):
    assert client.ask("media?clip=" + clip)[0] == 404
    assert client.ask("picture?clip=" + clip)[0] == 404
    assert client.ask("media/" + clip)[0] in (400, 404)


def test_ranges_of_a_clip(client, session, small):
    clip = session.state("w", "label")["clip"]["id"]
    whole = (small / "media" / clip).read_bytes()
    status, headers, body = client.ask("media?clip=" + clip)
    assert (status, body) == (200, whole)
    assert headers["Content-Type"] == "video/mp4"
    assert "sandbox" in headers["Content-Security-Policy"]
    status, headers, body = client.ask("media?clip=" + clip, Range="bytes=5-14")
    assert (status, body) == (206, whole[5:15])
    assert headers["Content-Range"] == f"bytes 5-14/{len(whole)}"
    assert client.ask("media?clip=" + clip, Range="bytes=-4")[2] == whole[-4:]
    assert client.ask("media?clip=" + clip, Range=f"bytes={len(whole)}-")[0] == 416
    assert client.ask("media?clip=" + clip, "HEAD")[2] == b""


def test_links_out_of_the_folder_and_odd_files_are_not_served(client, session, small, tmp_path):
    clip = session.state("w", "label")["clip"]["id"]
    place = small / "media" / clip
    kept = place.rename(place.with_suffix(".kept"))
    try:
        place.symlink_to(small / "secret.mp4")
        assert client.ask("media?clip=" + clip)[0] == 404
        place.unlink()
        place.symlink_to(kept.name)  # within the folder
        assert client.ask("media?clip=" + clip)[0] == 200
        place.unlink()
        os.mkfifo(place)
        assert client.ask("media?clip=" + clip)[0] == 404
    finally:
        place.unlink()
        kept.rename(place)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b"[" * 10000, b'{"kind": "answer"}', b'{"kind": 1, "window": 2}',
     {"kind": "answer", "window": "w", "column": "label", "clip": 3, "version": 0, "name": "x"},
     {"kind": "answer", "window": "w", "column": "label", "clip": "x", "version": "", "name": "x"},
     {"kind": "none", "window": "w", "column": "label"},
     {"kind": "drop", "window": "w", "column": "label"},
     {"kind": "skip", "window": "w", "column": "no", "clip": "x"}],
)  # fmt: skip
def test_what_is_no_act_is_refused(client, session, body):
    status, _, told = client.ask("state", "POST", body, Content_Type="application/json")
    assert status == 400
    assert b"Traceback" not in told
    assert session.annotations.acts == 0


def test_a_form_of_another_page_is_no_act(client):
    body = json.dumps({"kind": "undo", "window": "w", "column": "label"})
    assert client.ask("state", "POST", body, Content_Type="text/plain")[0] == 415
    with pytest.raises(ConnectionError):  # it is not even read
        client.ask("state", "POST", b"x" * 5_000_000, Content_Type="application/json")


def test_acts_are_kept_before_they_are_answered(client, settings):
    state = client.act("show", clip=next(iter(client.site.session._clips)))[1]
    clip = state["clip"]["id"]
    status, state = client.act("answer", clip=clip, version=0, name="x")
    assert status == 200
    assert state["recent"][0] == {"id": clip, "label": "x", "none": False, "picture": False}
    assert settings.output.read_text().splitlines()[-1].startswith(f"{clip},{clip},")
    status, told = client.act("answer", window="other", clip=clip, version=0, name="y")
    assert (status, "another window" in told["error"]) == (409, True)
    settings.output.write_text(settings.output.read_text() + "\n")
    status, told = client.act("undo")
    assert (status, "another program" in told["error"]) == (409, True)


def test_nothing_but_loopback_is_listened_on(session):
    import socket

    with serving(session) as client:
        for family, address in ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as other:
                other.settimeout(2)
                assert other.connect_ex((address, client.site.port)) != 0
