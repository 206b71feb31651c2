"""A service of AWS on a port of 127.0.0.1 that does what a test tells it, byte for byte."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

Step = Callable[[socket.socket, "Received"], bool]
"""Answers one request, or does not; returns whether the connection goes on."""


@dataclass(frozen=True)
class Received:
    connection: int
    """Which one it came over: 1 for the first."""
    head: str
    body: bytes

    def header(self, name: str) -> str | None:
        for line in self.head.split("\r\n")[1:]:
            found, _, value = line.partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return None


@dataclass
class LocalService:
    """``steps`` are for the requests in their order; the last one is for all that follow."""

    steps: list[Step]
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    received: list[Received] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def serve(self, peer: socket.socket, number: int) -> None:
        with suppress(OSError):
            if self.tls is not None:
                peer = self.tls.wrap_socket(peer, server_side=True)
            while (request := _read(peer, number)) is not None:
                with self._lock:
                    step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                    self.received.append(request)
                if not step(peer, request):
                    break
        peer.close()


@contextmanager
def serving(*steps: Step, tls: ssl.SSLContext | None = None) -> Iterator[LocalService]:
    service = LocalService(list(steps), tls)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        service.port = listener.getsockname()[1]

        def accept() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                service.connections += 1
                service._open.append(peer)
                arguments = (peer, service.connections)
                threading.Thread(target=service.serve, args=arguments, daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield service
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            for peer in service._open:
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
                peer.close()
            thread.join(5)


def answering(
    body: object,
    *,
    status: int = 200,
    checksum: int | None = None,
    close: bool = False,
    **headers: str,
) -> Step:
    """A body that is not bytes becomes JSON. ``checksum`` is of the body unless it is given."""
    octets = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {
        "Content-Type": "application/x-amz-json-1.0",
        "Content-Length": str(len(octets)),
        "x-amz-crc32": str(zlib.crc32(octets) if checksum is None else checksum),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())

    def step(peer: socket.socket, _: Received) -> bool:
        peer.sendall(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + octets)
        return not close

    return step


def sending(octets: bytes, *, then_close: bool = True) -> Step:
    """These bytes and no others."""

    def step(peer: socket.socket, _: Received) -> bool:
        peer.sendall(octets)
        return not then_close

    return step


def resetting(peer: socket.socket, _: Received) -> bool:
    """End the connection by a reset (RST), with nothing said."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def closing(_: socket.socket, __: Received) -> bool:
    return False


def _read(peer: socket.socket, number: int) -> Received | None:
    octets = b""
    while b"\r\n\r\n" not in octets:
        more = peer.recv(65536)
        if not more:
            return None
        octets += more
    head, _, body = octets.partition(b"\r\n\r\n")
    request = Received(number, head.decode("latin-1"), b"")
    length = int(request.header("content-length") or 0)
    while len(body) < length:
        body += peer.recv(65536)
    return Received(number, request.head, body)


def members(received: Received) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(received.body)
    return told
