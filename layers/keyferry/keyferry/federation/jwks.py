"""The signing keys of other issuers (RFC 7517 §5), fetched from them and kept in memory.

An issuer's server is believed about its keys and about nothing else. However it behaves, one fetch
takes at most `CONNECT_SECONDS` + `ANSWER_SECONDS` (and what the system's resolver takes to find the
host) and `MAX_BYTES`; and however callers behave, they cause few fetches in one function instance:

    key known, set fresh             no fetch
    key unknown, set fresh           a fetch, unless there was one in the last `UNKNOWN_KEY_SECONDS`
    set too old, or none             a fetch, unless one failed in the last `RETRY_SECONDS`
    fetch failed, key known          served for `STALE_SECONDS` more: a login does not hang on the
                                     issuer's worst hour
    fetch failed, key unknown        `Unavailable`: nobody can tell whether the key exists
    fetch succeeded, key unknown     no such key
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyferry import __version__, clock
from keyferry.edge.telemetry import logger
from keyferry.errors import Unavailable
from keyferry.jose.rfc7517_jwk import EcJwk, Ed25519Jwk, RsaJwk
from keyferry.jose.strict_json import loads_object

if TYPE_CHECKING:
    import http.client

CONNECT_SECONDS: Final = 1.0
ANSWER_SECONDS: Final = 2.0
"""For the TLS handshake and the whole answer, however many pieces it comes in."""

MAX_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 64
MAX_ISSUERS: Final = 32

MIN_FRESH_SECONDS: Final = 300
MAX_FRESH_SECONDS: Final = 86_400
STALE_SECONDS: Final = 3_600

UNKNOWN_KEY_SECONDS: Final = 60
RETRY_SECONDS: Final = 10

_MAX_HEADER_BYTES: Final = 16 * 1024
_MAX_KID_LENGTH: Final = 256
_MAX_AGE: Final = re.compile(r'(?:^|,)\s*max-age\s*=\s*"?(\d{1,10})"?\s*(?:,|$)', re.IGNORECASE)
_UNCACHEABLE: Final = re.compile(r"(?:^|,)\s*no-(?:store|cache)\b", re.IGNORECASE)

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
KeySet = Mapping[tuple[str, str], PublicKey]
"""By ``kid`` and algorithm: a key checks one algorithm's signatures, whatever a token says."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An issuer's keys, and for how many seconds they count as fresh."""

    keys: KeySet
    fresh_seconds: int


@dataclass(slots=True)
class _Held:
    """What is known of one issuer. ``tried_at`` is when it was last asked."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    keys: KeySet | None = None
    fetched_at: int = 0
    fresh_until: int = 0
    tried_at: int | None = None
    failed: bool = False

    def is_fresh(self, now: int) -> bool:
        # A clock that was set back makes everything old.
        return self.keys is not None and self.fetched_at <= now < self.fresh_until

    def is_usable(self, now: int) -> bool:
        return self.keys is not None and self.fetched_at <= now < self.fresh_until + STALE_SECONDS

    def tried_within(self, seconds: int, now: int) -> bool:
        return self.tried_at is not None and 0 <= now - self.tried_at < seconds


def fetch(uri: str) -> Fetched:
    """Ask an issuer for its keys. Raise `OSError`, `http.client.HTTPException` or `ValueError` for
    anything but a sound answer from exactly there; a redirect is not followed."""
    from keyferry import outgoing  # and http.client, which most cold starts have no use for

    parts = checked_uri(uri)
    secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or outgoing.DEFAULT_PORTS[secure]
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    with outgoing.exchange(
        outgoing.connect(addresses, seconds=CONNECT_SECONDS),
        host=host,
        port=port,
        secure=secure,
        deadline=time.monotonic() + ANSWER_SECONDS,
        max_bytes=MAX_BYTES + _MAX_HEADER_BYTES,
        method="GET",
        target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        headers={
            "Accept": "application/jwk-set+json, application/json",
            "User-Agent": f"keyferry/{__version__}",
        },
    ) as response:
        return Fetched(parse(_body(response)), _fresh_seconds(response))


def checked_uri(uri: str) -> SplitResult:
    """Raise `ValueError` unless keys may be fetched from ``uri``: over TLS, or from this machine."""
    if not uri.isascii() or not uri.isprintable() or " " in uri or len(uri) > 512:
        raise ValueError("URL: form")
    parts = urlsplit(uri)
    if parts.scheme != "https" and (parts.scheme, parts.hostname) != ("http", "127.0.0.1"):
        raise ValueError("URL: not https")
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise ValueError("URL: host")
    if parts.fragment or parts.port == 0:
        raise ValueError("URL: form")
    return parts


def parse(document: bytes) -> KeySet:
    """The keys of a JWK Set that signatures can be checked with.

    What is not understood, not public, weak, or for another use is left out (RFC 7517 §5). Of two
    keys with one ``kid`` and one algorithm the first counts. No URL in a key is followed, and no
    certificate is looked at. Raise `ValueError` when the document is none.
    """
    listed = loads_object(document).get("keys")
    if not isinstance(listed, list):
        raise ValueError("no keys")
    if len(listed) > MAX_KEYS:
        raise ValueError("too many keys")
    keys: dict[tuple[str, str], PublicKey] = {}
    for members in listed:
        with suppress(ValueError):
            name, key = _key(members)
            keys.setdefault(name, key)
    return keys


@dataclass(slots=True)
class Jwks:
    """The keys of any number of issuers, by the URL of their JWKS. Safe to share among threads."""

    now: Callable[[], int] = clock.now
    fetch: Callable[[str], Fetched] = fetch
    _issuers: dict[str, _Held] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def key(self, uri: str, kid: str, algorithm: str) -> PublicKey | None:
        """The key that the issuer calls ``kid``, or None: it has no such key for ``algorithm``.

        Raise `Unavailable` when the issuer cannot be asked and what is held does not tell.
        """
        held = self._issuer(uri)
        name = (kid, algorithm)
        keys = held.keys  # once: another thread may put new ones there
        if keys is not None and name in keys and held.is_fresh(self.now()):
            return keys[name]
        with held.lock:  # one fetch, however many wait for it
            now = self.now()
            if self._is_due(held, name, now):
                self._refresh(uri, held, now)
            if held.keys is not None and held.is_usable(now):
                found = held.keys.get(name)
                if found is not None or not held.failed:
                    return found
        raise Unavailable("jwks: the issuer cannot be asked", retry_after=RETRY_SECONDS)

    def _issuer(self, uri: str) -> _Held:
        with self._lock:
            held = self._issuers.get(uri)
            if held is None:
                while len(self._issuers) >= MAX_ISSUERS:
                    del self._issuers[next(iter(self._issuers))]  # the oldest
                held = self._issuers[uri] = _Held()
            return held

    def _is_due(self, held: _Held, name: tuple[str, str], now: int) -> bool:
        if not held.is_fresh(now):
            return not (held.failed and held.tried_within(RETRY_SECONDS, now))
        # Another thread may have fetched it while this one waited for the lock.
        known = held.keys is not None and name in held.keys
        return not known and not held.tried_within(UNKNOWN_KEY_SECONDS, now)

    def _refresh(self, uri: str, held: _Held, now: int) -> None:
        from http.client import HTTPException  # as in `fetch`

        held.tried_at = now
        try:
            fetched = self.fetch(uri)
        except (OSError, HTTPException, ValueError) as error:
            held.failed = True
            # The type alone: a message can quote what the server sent.
            logger.warning("jwks", extra={"outcome": "failed", "error": type(error).__name__})
            return
        held.failed = False
        held.keys, held.fetched_at = fetched.keys, now
        held.fresh_until = now + fetched.fresh_seconds


def _body(response: http.client.HTTPResponse) -> bytes:
    from keyferry import outgoing

    if response.status != 200:
        raise ValueError("status")
    media_type = (response.getheader("Content-Type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not re.fullmatch(
        r"application/[a-z0-9.-]+\+json", media_type
    ):
        raise ValueError("media type")
    return outgoing.read_body(response, max_bytes=MAX_BYTES)


def _fresh_seconds(response: http.client.HTTPResponse) -> int:
    """RFC 9111 §4.2, within our own bounds."""
    directives = response.getheader("Cache-Control") or ""
    max_age = _MAX_AGE.search(directives)
    if max_age is None or _UNCACHEABLE.search(directives):
        return MIN_FRESH_SECONDS
    age = response.getheader("Age") or "0"
    spent = int(age) if re.fullmatch(r"[0-9]{1,10}", age) else 0
    return min(max(int(max_age[1]) - spent, MIN_FRESH_SECONDS), MAX_FRESH_SECONDS)


def _key(members: Any) -> tuple[tuple[str, str], PublicKey]:
    if not isinstance(members, dict):
        raise ValueError("not a JWK")
    kid = members.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID_LENGTH:
        raise ValueError("kid")
    algorithm, key = _typed(members)
    if members.get("alg", algorithm) != algorithm:
        raise ValueError("key is for another algorithm")
    return (kid, algorithm), key


def _typed(members: Mapping[str, Any]) -> tuple[str, PublicKey]:
    match members.get("kty"):
        case "RSA":
            return "RS256", RsaJwk.from_members(members, use="sig").key()
        case "EC":
            return "ES256", EcJwk.from_members(members, use="sig").key()
        case "OKP":
            return "EdDSA", Ed25519Jwk.from_members(members, use="sig").key()
        case _:
            raise ValueError("key type not accepted")
