"""Kept HTTP/1.1 connections to one endpoint of AWS, and the one form of answer that comes over them.

The framing is done here and not by `http.client`: there, reading one answer's header takes about as
long as signing and sending the request. What is understood is what AWS's JSON services send: a
status, header fields, and a body whose length is given once. Anything else is no answer.
"""

from __future__ import annotations

import functools
import select
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from keyferry.aws_json.endpoint import Endpoint
from keyferry.sockets import connect

CONNECT_SECONDS: Final = 1.0
"""For the addresses of the endpoint together, and as much again for the TLS handshake."""

ANSWER_SECONDS: Final = 2.0
"""From the request until its answer is whole."""

MAX_IDLE_SECONDS: Final = 300.0
"""A network may forget an idle connection without a word to either side; a NAT gateway of AWS does
after 350 seconds (VPC User Guide)."""

MAX_KEPT: Final = 10

MAX_HEAD_BYTES: Final = 32 * 1024
MAX_BODY_BYTES: Final = 20 * 1024 * 1024
"""BatchGetItem answers with up to 16 MB of rows (DynamoDB API Reference), and its JSON is longer."""

_CHUNK: Final = 64 * 1024
_END_OF_HEAD: Final = b"\r\n\r\n"


class NoAnswer(Exception):
    """No answer that can be read. ``reason`` is a constant of ours or an exception's name.

    ``unread`` says that nothing of an answer had come when the other side ended the connection.
    """

    def __init__(self, reason: str, *, unread: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unread = unread


@dataclass(frozen=True, slots=True)
class Answer:
    """Header fields by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(slots=True)
class _Kept:
    peer: socket.socket
    since: float


@dataclass(slots=True)
class Connections:
    """Threads may share this: each exchange has a connection of its own while it lasts.

    ``now`` is a clock in seconds that counts while the machine is frozen.
    """

    endpoint: Endpoint
    tls: ssl.SSLContext | None
    """For an endpoint that is secure."""

    now: Callable[[], float] = time.time
    _kept: list[_Kept] = field(default_factory=list)

    @classmethod
    def to(cls, endpoint: Endpoint, *, ca_bundle: str | None = None) -> Connections:
        """``ca_bundle`` names a file of certificate authorities to trust instead of the system's."""
        return cls(endpoint, _trusting(ca_bundle) if endpoint.secure else None)

    def exchange(self, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST ``body``. Raise `NoAnswer`.

        A connection that the other side has closed while it was idle costs no try: it is replaced,
        whether that shows before the request is sent or, as a reset, after. The request may then
        have been sent twice, as with every retry.
        """
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        request = f"POST / HTTP/1.1\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        octets = request.encode("latin-1") + body
        peer = self._take()
        if peer is not None:
            try:
                return self._over(peer, octets)
            except NoAnswer as failure:
                if not failure.unread:
                    raise
        return self._over(self._open(), octets)

    def close(self) -> None:
        while self._kept:
            self._kept.pop().peer.close()

    def _take(self) -> socket.socket | None:
        while True:
            try:
                kept = self._kept.pop()  # the one used last
            except IndexError:
                return None
            if 0 <= self.now() - kept.since < MAX_IDLE_SECONDS and _is_silent(kept.peer):
                return kept.peer
            kept.peer.close()

    def _open(self) -> socket.socket:
        host, port = self.endpoint.host, self.endpoint.port
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            peer = connect(addresses, seconds=CONNECT_SECONDS)
        except OSError as error:
            raise NoAnswer(f"connect: {type(error).__name__}") from None
        try:
            # Head and body are one write, which is to leave at once.
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls is not None:
                peer.settimeout(CONNECT_SECONDS)
                peer = self.tls.wrap_socket(peer, server_hostname=host)
        except OSError as error:  # ssl.SSLError is one
            peer.close()
            raise NoAnswer(f"connect: {type(error).__name__}") from None
        return peer

    def _over(self, peer: socket.socket, request: bytes) -> Answer:
        try:
            answer, reusable = _exchange(peer, request)
        except OSError as error:
            peer.close()
            raise NoAnswer(type(error).__name__) from None
        except BaseException:
            # Whatever else it was: the next answer on this connection would be to this request.
            peer.close()
            raise
        if reusable and len(self._kept) < MAX_KEPT:
            self._kept.append(_Kept(peer, self.now()))
        else:
            peer.close()
        return answer


@functools.cache
def _trusting(ca_bundle: str | None) -> ssl.SSLContext:
    """One for all endpoints: to read the certificate authorities takes tens of milliseconds."""
    return ssl.create_default_context(cafile=ca_bundle)


def _exchange(peer: socket.socket, request: bytes) -> tuple[Answer, bool]:
    """The answer, and whether the connection can be used again."""
    deadline = time.monotonic() + ANSWER_SECONDS
    peer.settimeout(ANSWER_SECONDS)
    try:
        peer.sendall(request)
        received = peer.recv(_CHUNK)
    except TimeoutError:
        raise
    except OSError as error:
        raise NoAnswer(type(error).__name__, unread=True) from None
    if not received:
        raise NoAnswer("closed", unread=True)
    while (end := received.find(_END_OF_HEAD)) < 0:
        if len(received) > MAX_HEAD_BYTES:
            raise NoAnswer("header too long")
        received += _more(peer, deadline)
    version, status, headers = _head(received[:end])
    length = _body_length(headers)
    body = received[end + len(_END_OF_HEAD) :]
    if len(body) < length:
        whole = bytearray(body)
        while len(whole) < length:
            whole += _more(peer, deadline)
        body = bytes(whole)
    if len(body) > length:
        raise NoAnswer("more than the answer")
    reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Answer(status, headers, body), reusable


def _more(peer: socket.socket, deadline: float) -> bytes:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("answer")
    peer.settimeout(remaining)
    received = peer.recv(_CHUNK)
    if not received:
        raise NoAnswer("cut off")
    return received


def _head(octets: bytes) -> tuple[str, int, dict[str, str]]:
    """The version, the status, and the header fields (RFC 9112 §4 and §5)."""
    first, *lines = octets.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit()):
        raise NoAnswer("not HTTP")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        # Two lengths, or a folded line, are how one answer is made to look like two.
        if not colon or name != name.strip() or (name in headers and name == "content-length"):
            raise NoAnswer("header")
        headers[name] = value.strip(" \t")
    return version, int(status), headers


def _body_length(headers: Mapping[str, str]) -> int:
    text = headers.get("content-length", "")
    if "transfer-encoding" in headers or not (text.isascii() and text.isdigit()):
        raise NoAnswer("no length")
    if len(text) > 9 or int(text) > MAX_BODY_BYTES:
        raise NoAnswer("body too long")
    return int(text)


def _is_silent(peer: socket.socket) -> bool:
    """Whether nothing has come since the last answer. The end of the connection would have, and so
    would what nobody asked for."""
    if isinstance(peer, ssl.SSLSocket) and peer.pending():
        return False
    with suppress(OSError, ValueError):
        poller = select.poll()
        poller.register(peer, select.POLLIN | select.POLLPRI)
        return not poller.poll(0)
    return False
