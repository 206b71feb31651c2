"""An issuer for the tests: keys, ID tokens of any shape, and servers that behave badly."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from keyferry.federation.jwks import Fetched, Jwks, parse

NOW = 1_790_000_000

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """``number`` tells keys of one size apart."""
    assert number >= 0
    return rsa.generate_private_key(65537, bits)


EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def jwk(key: PrivateKey, kid: str = "k1", **members: Any) -> dict[str, Any]:
    """The public JWK of ``key``."""
    public: dict[str, Any]
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    public.pop("key_ops", None)
    return {**public, "kid": kid, "use": "sig", **members}


def jwk_set(*keys: Mapping[str, Any]) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def token(
    claims: Mapping[str, Any],
    key: Any = None,
    *,
    algorithm: str = "RS256",
    **header: Any,
) -> str:
    """A signed JWT; a claim or a header parameter of `...` is left out."""
    sent = {name: value for name, value in claims.items() if value is not ...}
    headers = {"kid": "k1", **header}
    headers = {name: value for name, value in headers.items() if value is not ...}
    return jwt.encode(sent, key or rsa_key(), algorithm=algorithm, headers=headers)


@dataclass
class Clock:
    time: int = NOW

    def __call__(self) -> int:
        return self.time


@dataclass
class Issuer:
    """Stands in for `keyferry.federation.jwks.fetch`: serves key sets by URL, and counts."""

    sets: dict[str, bytes | Exception]
    fresh_seconds: int = 3_600
    fetches: list[str] = field(default_factory=list)
    delay: float = 0

    def __call__(self, uri: str) -> Fetched:
        self.fetches.append(uri)
        time.sleep(self.delay)
        served = self.sets[uri]
        if isinstance(served, Exception):
            raise served
        return Fetched(parse(served), self.fresh_seconds)

    def jwks(self, clock: Clock | None = None) -> Jwks:
        return Jwks(now=clock or Clock(), fetch=self)


@contextlib.contextmanager
def server(
    talk: Callable[[socket.socket], None],
    tls: ssl.SSLContext | None = None,
    requests: list[bytes] | None = None,
) -> Iterator[tuple[str, list[float]]]:
    """A server on 127.0.0.1 that has ``talk`` deal with each connection after its request, which is
    put into ``requests``.

    Gives the URL of its JWKS, and the list of the moments at which somebody connected.
    """
    connected: list[float] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    peer, _ = listener.accept()
                    if over.is_set():
                        peer.close()
                        return
                    connected.append(time.monotonic())
                    threads.append(threading.Thread(target=deal, args=(peer,)))
                    threads[-1].start()

        def deal(plain: socket.socket) -> None:
            with contextlib.suppress(OSError), plain, wrapped(plain) as peer:
                received = b""
                while b"\r\n\r\n" not in received:
                    piece = peer.recv(4096)
                    if not piece:
                        return
                    received += piece
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)\r\n", received)
                end = received.index(b"\r\n\r\n") + 4 + (int(length[1]) if length else 0)
                while len(received) < end and (piece := peer.recv(4096)):
                    received += piece
                if requests is not None:
                    requests.append(received)
                talk(peer)

        def wrapped(plain: socket.socket) -> socket.socket:
            return tls.wrap_socket(plain, server_side=True) if tls else plain

        threads = [threading.Thread(target=serve)]
        threads[0].start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/jwks", connected
        finally:
            over.set()
            with contextlib.suppress(OSError):
                socket.create_connection(listener.getsockname(), timeout=1).close()
            for thread in threads:
                thread.join()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """An HTTP response; JSON of the right length unless ``headers`` say something else."""
    names = {header.partition(":")[0].lower() for header in headers}
    lines = [f"HTTP/1.1 {status}", *headers]
    if "content-type" not in names:
        lines.append("Content-Type: application/json; charset=UTF-8")
    if not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def sending(data: bytes) -> Callable[[socket.socket], None]:
    return lambda peer: peer.sendall(data)
