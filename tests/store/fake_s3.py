"""A bucket on loopback, and a proxy in front of it that loses answers, refuses and resets."""

import http.client
import logging
import socket
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "bucket"
SECRET = "canary-7c1f"
ERRORS = {
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "SlowDown",
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet, or each answer waits for a delayed ACK

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.next_fault(self.command, self.path)
        if fault == "reset":
            return self.reset()
        if fault in ERRORS:
            return self.answer(fault, f"<Error><Code>{ERRORS[fault]}</Code></Error>".encode())
        status, headers, data = self.forward(body)
        if fault == "lost":
            return self.reset()
        if fault == "late 503":
            return self.answer(503, b"<Error><Code>SlowDown</Code></Error>")
        return self.answer(status, data, headers)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_request  # noqa: N815

    def forward(self, body):
        """The real server's answer; puts wait in line, for it looks and writes in two steps."""
        if self.command == "PUT":
            with self.server.puts:
                return self.ask(body)
        return self.ask(body)

    def ask(self, body):
        headers = dict(self.headers)
        if self.server.deaf:
            headers = {k: v for k, v in headers.items() if k.lower() != "if-none-match"}
        connection = http.client.HTTPConnection(*self.server.behind, timeout=30)
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, answer.getheaders(), data

    def answer(self, status, data, headers=()):
        self.send_response_only(status)
        length = str(len(data))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *args):
        pass


class Proxy(ThreadingHTTPServer):
    """`plan(method, words, faults)` gives the next requests of that kind these faults."""

    daemon_threads = True
    deaf = False  # forwards conditional puts as plain ones

    def __init__(self, behind):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.plans, self.hit = behind, [], 0
        self._lock, self.puts = threading.Lock(), threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def plan(self, method, words, faults):
        self.plans.append((method, words, deque(faults)))

    def next_fault(self, method, path):
        with self._lock:
            for wanted, words, faults in self.plans:
                if wanted == method and words in path and faults:
                    fault = faults.popleft()
                    self.hit += fault is not None
                    return fault
        return None

    def handle_error(self, request, client_address):
        pass  # connections that were reset on purpose


def serve():
    """A server and the address it listens at."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return server, server.get_host_and_port()


def make_bucket(address):
    connection = http.client.HTTPConnection(*address, timeout=30)
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request"}
    connection.request("PUT", f"/{BUCKET}", headers=signed)
    assert connection.getresponse().status in (200, 409)
    connection.close()
