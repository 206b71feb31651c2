"""Requests to other people's servers: within a time and a number of bytes, however those behave.

A socket's own time-out starts anew with every byte, and `http.client` bounds a line but not a
message. So whoever sends slowly or without end is stopped here.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final

from keyferry.sockets import connect as connect  # its two halves belong together for who calls

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

DEFAULT_PORTS: Final[Mapping[bool, int]] = {True: 443, False: 80}
"""With TLS, and without."""


class TooLarge(ValueError):
    """More bytes than may come."""


@contextmanager
def exchange(
    connected: socket.socket,
    *,
    host: str,
    port: int,
    secure: bool,
    deadline: float,
    max_bytes: int,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """One request and its response on a connection of their own, which is closed afterwards.

    With ``secure``, whoever answers must have a certificate for ``host`` (RFC 9110 §4.3.4).
    ``deadline`` is a moment of `time.monotonic`, for handshake, request and the whole response;
    ``max_bytes`` is for all that the server sends inside of TLS. A redirect is a response like any
    other. Raise `OSError` (`TimeoutError` after the deadline), `http.client.HTTPException`, or
    `TooLarge`.
    """
    with closing(connected) as plain:
        plain.settimeout(_remaining(deadline))
        # Closing what is wrapped twice does no harm; not closing the outer one leaks.
        with closing(tls().wrap_socket(plain, server_hostname=host) if secure else plain) as peer:
            connection = http.client.HTTPConnection(host, port)
            connection.sock = _Wire(peer, deadline, max_bytes)
            authority = host if port == DEFAULT_PORTS[secure] else f"{host}:{port}"
            connection.request(
                method,
                target,
                body=body,
                headers={
                    "Host": authority,
                    **headers,
                    # Nothing is unpacked here, so nothing is asked to be packed.
                    "Accept-Encoding": "identity",
                    "Connection": "close",
                },
            )
            with closing(connection.getresponse()) as response:
                yield response


def read_body(response: http.client.HTTPResponse, *, max_bytes: int) -> bytes:
    """The whole body. Raise `TooLarge` when it is over ``max_bytes``, and `ValueError` when it is
    encoded or cut off."""
    if (response.getheader("Content-Encoding") or "identity").strip().lower() != "identity":
        raise ValueError("content encoding")
    # http.client undoes this one alone, and takes any other for none.
    if (response.getheader("Transfer-Encoding") or "chunked").strip().lower() != "chunked":
        raise ValueError("transfer encoding")
    # An amount, always: without one, http.client reserves as much memory as the peer announces.
    body = response.read(max_bytes + 1)
    if len(body) > max_bytes:
        raise TooLarge("answer")
    if response.length:
        raise ValueError("answer cut off")
    return body


@functools.cache
def tls() -> ssl.SSLContext:
    # At the first use: reading all certificate authorities takes longer than the rest of it.
    return ssl.create_default_context()


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("answer")
    return remaining


class _Bounded(io.RawIOBase):
    """What a peer sends, up to a moment and a number of bytes."""

    def __init__(self, peer: socket.socket, deadline: float, max_bytes: int) -> None:
        self._peer, self._deadline, self._left = peer, deadline, max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._peer.settimeout(_remaining(self._deadline))
        received = self._peer.recv_into(buffer)
        self._left -= received
        if self._left < 0:
            raise TooLarge("answer")
        return received


class _Wire:
    """As much of a socket as `http.client` uses."""

    def __init__(self, peer: socket.socket, deadline: float, max_bytes: int) -> None:
        self._peer, self._deadline, self._max_bytes = peer, deadline, max_bytes

    def sendall(self, data: bytes) -> None:
        # Not the peer's own: under TLS that one starts its time-out anew with every record.
        unsent = memoryview(data)
        while unsent:
            self._peer.settimeout(_remaining(self._deadline))
            unsent = unsent[self._peer.send(unsent) :]

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Bounded(self._peer, self._deadline, self._max_bytes))

    def close(self) -> None:
        """Nothing: `http.client` closes it before it reads the answer; `exchange` closes the peer."""
