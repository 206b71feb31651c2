"""A service on this machine that proxied requests go to; remembers what it was sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

HOST = "api.example.com"
"""What it is called in the entries of keys."""


@dataclass(frozen=True)
class Received:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass
class LocalUpstream:
    port: int = 0
    received: list[Received] = field(default_factory=list)

    @property
    def connect_to(self) -> str:
        """For the template's parameter ``LocalUpstream``."""
        return f"{HOST}:443:127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Received]:
        """What came to this path."""
        return [each for each in self.received if each.target.partition("?")[0] == path]

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Self]:
        upstream = cls()

        class Handler(_Handler):
            received = upstream.received

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            upstream.port = server.server_address[1]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield upstream
            finally:
                server.shutdown()
                thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers by the last part of the path."""

    protocol_version = "HTTP/1.1"
    received: list[Received]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.received.append(Received(self.command, self.path, headers, body))
        key = headers.get("x-api-key", "")
        match self.path.partition("?")[0].rpartition("/")[2]:
            case "fail":
                self.answer(500, b'{"error": "theirs"}')
            case "redirect":
                location = "http://169.254.169.254/latest/meta-data/"
                self.answer(302, b"", {"Location": location})
            case "echo-key":
                self.answer(200, f'{{"you sent": "{key}"}}'.encode())
            case "echo-body":
                self.answer(200, body, {"Content-Type": headers.get("content-type", "")})
            case "huge":
                self.answer(200, b"x" * 2_000_000)
            case "binary":
                self.answer(200, bytes(range(256)), {"Content-Type": "image/png"})
            case "slow":
                time.sleep(3)
                self.answer(200, b"late")
            case _:
                self.answer(200, b'{"theirs": true}', {"Set-Cookie": "a=b", "ETag": '"1"'})

    def do_POST(self) -> None:
        self.do_GET()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        sent = {"Content-Type": "application/json", **(headers or {})}
        for name, value in {**sent, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass
