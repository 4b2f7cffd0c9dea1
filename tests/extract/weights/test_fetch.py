"""Fetching weights from a loopback server that misbehaves in every way asked for."""

import hashlib
import json
import re
import shutil
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from extract.weights import download, fetch, paced
from extract.weights.catalogue import CATALOGUE
from store.errors import WeightsError

NAME, FILE = "panns-cnn14", "Cnn14_mAP=0.431.pth"
BODY = bytes(range(256)) * 16_000  # 4 MB
DIGEST = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `body` under every path; `plan` says how each request in turn goes wrong."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.etag, self.plan = BODY, '"one"', []
        self.seen, self.conditions = [], []
        self.ranges, self.careless = True, False
        self.left = 0  # times that the client went away
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        server.seen.append((self.path, asked))
        server.conditions.append(condition)
        fault = server.plan.pop(0) if server.plan else None
        match fault:
            case int():
                return self.send_error(fault)
            case "reset":
                return self.reset()
            case "silent":
                return threading.Event().wait(1)
            case "drip" | "drip head" | "continue" | "long head" | "fast continue":
                return self.hold(fault)
            case "long redirect":
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                return self.pour(b"x" * 65536, 0.0)
            case ("redirect", where):
                self.send_response(302)
                self.send_header("Location", where)
                self.send_header("Content-Length", "0")
                return self.end_headers()
        start = 0
        if asked and server.ranges and (condition in (None, server.etag) or server.careless):
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        body = server.body[start:]
        self.send_response(206 if start else 200)
        if start:
            total = len(server.body)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if server.etag:
            self.send_header("ETag", server.etag)
        if fault == "gzip":
            self.send_header("Content-Encoding", "gzip")
        if fault != "no length":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if isinstance(fault, tuple):  # ("cut" or "cut and reset", bytes)
            body = body[: fault[1]]
        try:
            self.wfile.write(body)
        except OSError:
            return None
        return self.reset() if isinstance(fault, tuple) and fault[0] == "cut and reset" else None

    def hold(self, how):
        """Keep the client: each byte in time, and no end."""
        self.close_connection = True
        if how == "drip":
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.server.body)))
            self.end_headers()
            return self.pour(b"x", 0.02)
        if how in ("continue", "fast continue"):
            return self.pour(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05 * (how == "continue"))
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        if how == "drip head":
            return self.pour(b"x", 0.02)
        return self.pour(b"X: " + b"x" * 60_000 + b"\r\n", 0.0)

    def pour(self, piece, seconds):
        """Send one piece again and again, until the client has had enough."""
        try:
            for _ in range(5000):
                self.wfile.write(piece)
                time.sleep(seconds)
        except OSError:
            self.server.left += 1
        self.close_connection = True

    def reset(self):
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(paced, "WINDOW_SECONDS", 0.2)
    monkeypatch.setattr(paced, "MAX_HEAD_BYTES", 100_000)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("MICROSHOT_OFFLINE")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("MICROSHOT_WEIGHTS_URL", f"{server.url}/mirror/")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / NAME


def names(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def assert_whole(folder):
    assert (folder / FILE).read_bytes() == BODY
    assert names(folder) == [FILE, f"{FILE}.json"]
    assert json.loads((folder / f"{FILE}.json").read_text())["sha256"] == DIGEST


def assert_nothing_under_its_name(folder):
    assert not (folder / FILE).exists()
    assert not (folder / f"{FILE}.json").exists()


def test_a_file_is_fetched_once_and_recorded(server, tmp_path, folder):
    reports = []
    fetched = fetch.fetch(
        NAME, tmp_path, accept_unverified=True, progress=lambda *a: reports.append(a)
    )
    assert fetched.files == (folder / FILE,)
    assert fetched.sha256 == (DIGEST,)
    assert fetched.next_step == f"panns:variant=cnn14,weights={folder / FILE}"
    assert_whole(folder)
    assert reports[0][1] == reports[-1][0] == len(BODY)
    assert [done for done, _, _ in reports] == sorted(done for done, _, _ in reports)
    assert DIGEST in reports[-1][2]
    assert fetch.fetch(NAME, tmp_path, accept_unverified=True) == fetched
    assert server.seen == [("/mirror/panns-cnn14/Cnn14_mAP%3D0.431.pth", None)]


@pytest.mark.parametrize("how", ["cut", "cut and reset"])
def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path, folder, how):
    server.plan = [(how, 3_000_000), None]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    if how == "cut":  # a reset may take bytes along that were sent
        assert server.seen[1][1] == "bytes=3000000-"


def test_a_later_call_goes_on_too(server, tmp_path, folder):
    server.plan = [("cut", 3_000_000), *[503] * 20]
    with pytest.raises(WeightsError, match=r"503.*attempts"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_nothing_under_its_name(folder)
    server.plan, server.seen = [], []
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen[0][1] == "bytes=3000000-"
    assert server.conditions[-1] == '"one"'


def test_an_answer_without_a_mark_ends_what_was_known_of_the_part(server, tmp_path, folder):
    for etag, body, cut in (('"one"', BODY, 3_000_000), ("", BODY[::-1], 2_000_000)):
        server.etag, server.body = etag, body
        server.plan = [("cut", cut), 404]
        with pytest.raises(WeightsError):
            fetch.fetch(NAME, tmp_path, accept_unverified=True)
    server.etag, server.body = '"one"', BODY
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen[-1][1] is None


def test_a_whole_part_is_not_fetched_again(server, tmp_path, folder, monkeypatch):
    """Killed between the last byte and the rename."""
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_check", lambda *a, **k: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_nothing_under_its_name(folder)
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert len(server.seen) == 1


def test_a_server_without_ranges_starts_over(server, tmp_path, folder):
    server.ranges = False
    server.plan = [("cut", 3_000_000)]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen[1][1] == "bytes=3000000-"


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_a_server_without_a_strong_mark_is_never_continued(server, tmp_path, folder, etag):
    server.etag = etag
    server.plan = [("cut", 3_000_000)]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen[1][1] is None


@pytest.mark.parametrize("careless", [False, True], ids=["obeys If-Range", "ignores it"])
def test_a_file_that_changes_between_two_attempts_is_not_patched_together(
    server, tmp_path, folder, careless
):
    server.plan = [("cut", 3_000_000), *[500] * 4]
    with pytest.raises(WeightsError):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    server.body, server.etag, server.careless = BODY[::-1], '"two"', careless
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert (folder / FILE).read_bytes() == BODY[::-1]


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "silent"])
def test_what_may_pass_is_tried_again(server, tmp_path, folder, fault):
    server.plan = [fault, fault]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("plan", "says", "requests"),
    [
        ([404], "HTTP 404.*MICROSHOT_WEIGHTS_URL", 1),
        ([403], "HTTP 403", 1),
        ([500] * 9, r"HTTP 500 \(5 attempts\); run the command again", 5),
        (["reset"] * 9, r"\(5 attempts\)", 5),
        (["silent"] * 9, r"no answer within 0.5 s \(5 attempts\)", 5),
        ([("cut", 10)] * 9, r"broke off after .* of 4096000 bytes \(5 attempts\)", 5),
        (["no length"], "does not say how long", 1),
        (["gzip"], "compressed", 1),
        ([("redirect", "file:///etc/passwd")], "HTTP 302", 1),
        ([("redirect", "ftp://127.0.0.1/x")], "refused", 1),
        ([("redirect", "/again")] * 30, "HTTP 302", None),
    ],
)
def test_what_stays_wrong_is_one_line_and_leaves_nothing(
    server, tmp_path, folder, plan, says, requests
):
    server.plan = plan
    with pytest.raises(WeightsError, match=says) as error:
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert "\n" not in str(error.value)
    assert requests in (None, len(server.seen))
    assert_nothing_under_its_name(folder)


def test_a_redirect_keeps_the_range(server, tmp_path, folder):
    again = ("redirect", "/elsewhere")
    server.plan = [again, ("cut", 3_000_000), again]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen[-1] == ("/elsewhere", "bytes=3000000-")


def test_a_wrong_digest_keeps_nothing(server, tmp_path, folder):
    with pytest.raises(WeightsError, match=f"sha256 {DIGEST} instead of {'0' * 64}"):
        fetch.fetch(NAME, tmp_path, sha256="0" * 64)
    assert names(folder) == []
    fetch.fetch(NAME, tmp_path, sha256=DIGEST.upper())
    assert_whole(folder)
    with pytest.raises(WeightsError, match=r"delete .* and fetch it again"):
        fetch.fetch(NAME, tmp_path, sha256="0" * 64)
    assert_whole(folder)


def test_a_file_that_changed_since_it_was_first_fetched_is_refused(server, tmp_path, folder):
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    (folder / FILE).unlink()
    server.body = BODY[::-1]
    with pytest.raises(WeightsError, match="when first fetched; nothing was kept"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert names(folder) == [f"{FILE}.json"]
    (folder / f"{FILE}.json").unlink()
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert (folder / FILE).read_bytes() == BODY[::-1]


def test_a_file_that_rots_on_disk_is_noticed(server, tmp_path, folder):
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    with (folder / FILE).open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(WeightsError, match="when first fetched; delete"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)


def test_a_file_put_there_by_hand_is_recorded(server, tmp_path, folder):
    folder.mkdir()
    (folder / FILE).write_bytes(BODY)
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)
    assert server.seen == []


def test_published_sizes_and_digests_are_held(server, tmp_path):
    with pytest.raises(WeightsError, match=r"4096000 bytes; expected 25237595"):
        fetch.fetch("panns-cnn10", tmp_path)
    size = CATALOGUE["panns-cnn10"].size_bytes
    server.body = bytes(size)
    with pytest.raises(WeightsError, match=r"published is bfb1f1f9968938fa8ef4012b8471f5f6"):
        fetch.fetch("panns-cnn10", tmp_path)
    assert names(tmp_path / "panns-cnn10") == []


def test_all_files_of_a_checkpoint_come(server, tmp_path):
    name = "simclrv2-r50_1x_sk1-pretrained"
    fetched = fetch.fetch(name, tmp_path, sha256=",".join([DIGEST] * 3))
    assert [path.suffix for path in fetched.files] == [
        ".index", ".data-00000-of-00001", ".meta"
    ]  # fmt: skip
    assert all(path.read_bytes() == BODY for path in fetched.files)
    assert fetched.next_step == (
        f"extract weights convert {tmp_path / name / 'model.ckpt-250228.index'} "
        f"--encoder simclrv2:variant=r50_1x_sk1 -o {name}.safetensors"
    )
    with pytest.raises(WeightsError, match="needs 3 of 64"):
        fetch.fetch(name, tmp_path, sha256=DIGEST)


def test_two_fetches_of_one_file_do_not_mix(server, tmp_path):
    server.plan = ["silent"]
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append(fetch.fetch(NAME, tmp_path, accept_unverified=True))
    )
    thread.start()
    while not server.seen:
        pass
    with pytest.raises(WeightsError, match="another process"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    thread.join()
    assert outcome[0].sha256 == (DIGEST,)


def test_what_no_publisher_vouches_for_is_fetched_only_if_that_is_accepted(server, tmp_path):
    with pytest.raises(WeightsError, match=r"fetch panns-cnn14 --accept-unverified .*--sha256 HEX"):
        fetch.fetch(NAME, tmp_path)
    assert server.seen == []
    fetch.fetch(NAME, tmp_path, sha256=DIGEST)
    fetch.fetch(NAME, tmp_path)  # it is there, and its record says what it is
    assert len(server.seen) == 1
    listed = {row["name"]: row["verified"] for row in fetch.listing(tmp_path)}
    assert listed["panns-cnn10"]
    assert not listed[NAME]


@pytest.mark.parametrize("how", ["option", "environment"])
def test_offline_nothing_is_asked_and_the_command_is_said(server, tmp_path, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("MICROSHOT_OFFLINE", "1")
    with pytest.raises(WeightsError, match=r"offline.* run: extract weights fetch panns-cnn10$"):
        fetch.fetch("panns-cnn10", tmp_path, offline=how == "option")
    assert (server.seen, list(tmp_path.iterdir())) == ([], [])


def test_a_file_that_the_disk_has_no_room_for_is_not_begun(server, tmp_path, folder, monkeypatch):
    free = shutil._ntuple_diskusage(10**9, 10**9 - 4_000_000, 4_000_000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: free)
    with pytest.raises(WeightsError, match=r"4\.0 MB left, and 4\.1 MB are .* make room"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert names(folder) == []
    monkeypatch.undo()
    server.plan = [("cut", 3_000_000), 404]
    monkeypatch.setattr(download, "BACKOFF_SECONDS", 0.001)
    monkeypatch.setenv("MICROSHOT_WEIGHTS_URL", server.url)
    monkeypatch.delenv("MICROSHOT_OFFLINE", raising=False)
    with pytest.raises(WeightsError):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: free)
    fetch.fetch(NAME, tmp_path, accept_unverified=True)  # a part of it is there already
    assert_whole(folder)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://host/x", "host/x", "http://", "http://[x"])
def test_only_http_is_spoken(tmp_path, url, monkeypatch):
    monkeypatch.delenv("MICROSHOT_OFFLINE")
    with pytest.raises(WeightsError, match="no http or https address"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True, base_url=url)


def test_a_directory_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / NAME).write_text("in the way")
    with pytest.raises(WeightsError, match=r"cannot use .*panns-cnn14"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)


def test_the_directory_is_chosen_by_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MICROSHOT_WEIGHTS_DIR", str(tmp_path / "a"))
    assert fetch.default_directory() == tmp_path / "a"
    monkeypatch.delenv("MICROSHOT_WEIGHTS_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.default_directory() == tmp_path / "microshot" / "weights"


def test_the_listing_says_what_is_there(server, tmp_path):
    assert not any(row["present"] for row in fetch.listing(tmp_path))
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    rows = fetch.listing(tmp_path)
    assert [row["name"] for row in rows if row["present"]] == [NAME]
    json.dumps(rows)


# ── servers that would keep us for ever ──────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("drip", "too slow"),
        ("drip head", "too slow"),
        ("continue", "too slow"),
        ("fast continue", "a head of more than"),
        ("long head", "a head of more than"),
    ],
)
def test_a_server_that_never_ends_is_left(server, tmp_path, folder, monkeypatch, how, says):
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    server.plan = [how] * 9
    begun = time.monotonic()
    with pytest.raises(WeightsError, match=rf"({says}).* \(2 attempts\); run the command again"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert time.monotonic() - begun < 20
    assert len(server.seen) == 2
    assert_nothing_under_its_name(folder)


def test_what_a_redirect_says_is_not_read(server, tmp_path, folder):
    server.plan = ["long redirect"]
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_whole(folder)


def test_a_part_lost_and_won_again_is_no_progress(server, tmp_path, folder, monkeypatch):
    """A server that cuts, then answers with another version, for ever."""
    monkeypatch.setattr(download, "MAX_WASTE", 100)
    served = iter(range(1000))

    class Versions:
        def __get__(self, *_):
            return f'"{next(served)}"'

    monkeypatch.setattr(Server, "etag", Versions(), raising=False)
    server.__dict__.pop("etag", None)
    server.careless = True
    server.plan = [("cut", 1_500_000)] * 200
    with pytest.raises(WeightsError, match=r"attempts\); run the command again to go on"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert len(server.seen) <= 12


def test_attempts_have_an_end_even_with_progress(server, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(download, "MAX_ATTEMPTS", 3)
    monkeypatch.setattr(download, "_BLOCK_BYTES", 1000)
    server.plan = [("cut", 100_000)] * 30
    with pytest.raises(WeightsError, match=r"broke off .* \(3 attempts\)"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert len(server.seen) == 3
    server.plan = []
    fetch.fetch(NAME, tmp_path, accept_unverified=True)  # and goes on
    assert_whole(folder)


def test_a_server_that_starts_over_and_over_is_left(server, tmp_path, folder):
    server.ranges = False
    server.plan = [("cut", 4_000_000)] * 30
    with pytest.raises(WeightsError, match=r"bytes came for a file of 4096000"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert len(server.seen) == 4


def test_there_is_a_deadline(server, tmp_path, folder, monkeypatch):
    monkeypatch.setattr(download, "DEADLINE_SECONDS", 0.0)
    with pytest.raises(WeightsError, match=r"more than 0 hours \(1 attempts\); run the command"):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert_nothing_under_its_name(folder)


def test_a_part_of_another_length_is_not_continued(server, tmp_path, folder):
    server.plan = [("cut", 3_000_000), *[500] * 9]
    with pytest.raises(WeightsError):
        fetch.fetch(NAME, tmp_path, accept_unverified=True)
    server.body = BODY + b"more"  # under the same mark
    server.plan = []
    fetch.fetch(NAME, tmp_path, accept_unverified=True)
    assert (folder / FILE).read_bytes() == server.body
