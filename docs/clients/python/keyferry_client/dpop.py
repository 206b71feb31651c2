"""DPoP proofs (RFC 9449): a short signed statement that this device makes this very request."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import httpx

from .device import DeviceKeys
from .jose import b64encode, compact_json


@dataclass(frozen=True, slots=True)
class Proof:
    header: str
    """The value of the `DPoP` request header."""

    jti: str
    """The proof's identifier. A key delivery repeats it, which ties the reply to this request."""


def target_uri(url: str) -> str:
    """`htu`: the request's URI without query and fragment (RFC 9449 §4.2)."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))


def access_token_hash(access_token: str) -> str:
    """`ath`: ties a proof to the access token beside it (RFC 9449 §4.2)."""
    return b64encode(hashlib.sha256(access_token.encode("ascii")).digest())


def make_proof(
    device: DeviceKeys,
    method: str,
    url: str,
    *,
    issued_at: int,
    nonce: str | None = None,
    access_token: str | None = None,
    encryption_kid: str | None = None,
    jti: str | None = None,
) -> Proof:
    """Sign one proof for one request. Never send the same proof twice, not even when repeating a
    request.

    `encryption_kid` names the encryption key that the body of this request has: the proof is signed
    and the body is not, so nobody on the way can put another key there.
    """
    jti = jti or secrets.token_urlsafe(32)
    header = {"typ": "dpop+jwt", "alg": "ES256", "jwk": dict(device.signing_jwk)}
    claims: dict[str, str | int] = {
        "jti": jti,
        "htm": method,
        "htu": target_uri(url),
        "iat": issued_at,
    }
    if nonce is not None:
        claims["nonce"] = nonce
    if encryption_kid is not None:
        claims["encryption_kid"] = encryption_kid
    if access_token is not None:
        claims["ath"] = access_token_hash(access_token)
    signing_input = f"{b64encode(compact_json(header))}.{b64encode(compact_json(claims))}"
    return Proof(f"{signing_input}.{b64encode(device.sign(signing_input.encode('ascii')))}", jti)


class NonceCache:
    """The newest `DPoP-Nonce` of each origin (RFC 9449 §8.2: a nonce belongs to the server that
    gave it).
    """

    def __init__(self) -> None:
        self._nonces: dict[tuple[str, str, int | None], str] = {}

    def get(self, url: str) -> str | None:
        return self._nonces.get(_origin(httpx.URL(url)))

    def remember(self, response: httpx.Response) -> None:
        nonce = response.headers.get("DPoP-Nonce")
        if nonce:
            self._nonces[_origin(response.request.url)] = nonce


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
