"""Verification of DPoP proofs (RFC 9449 §4.3)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.errors import RequestRefused
from keyferry.jose import base64url, rfc7515_jws
from keyferry.jose.rfc7515_jws import Jws
from keyferry.jose.rfc7517_jwk import EcJwk, Ed25519Jwk
from keyferry.jose.strict_json import loads_object

MAX_PROOF_LENGTH: Final = 4096
"""Characters. A proof of a phone has some 500."""

IAT_LEEWAY_SECONDS: Final = 60
"""How far ``iat`` may be from our clock, either way, in a proof without a nonce."""

_MAX_JTI_LENGTH: Final = 256
_MAX_TIME: Final = 2**40
_DEFAULT_PORTS: Final[Mapping[str, int]] = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Proof:
    """What a verified proof says: the thumbprint of the key that made it, its ``jti``, after which
    moment of our clock it was made, if it carries a nonce that says so, and the thumbprint of the
    encryption key that the request is to be about, if it names one (a claim of ours)."""

    jkt: str
    jti: str
    made_after: int | None
    encryption_kid: str | None = None


def verify(
    proof: str,
    *,
    method: str,
    url: str,
    now: int,
    nonce_time: Callable[[str], int | None],
    access_token: str | None = None,
) -> Proof:
    """Check ``proof`` against the request ``method url`` and, on a resource, ``access_token``.

    A proof with a nonce of the last minutes needs no good ``iat``, so a phone whose clock is days
    off still works. One with an older nonce of ours, or with none, needs an ``iat`` within
    `IAT_LEEWAY_SECONDS`; so a phone that comes back after a while is not sent round twice for
    nothing. ``nonce_time`` tells when a nonce was issued, or None when it is not ours.

    Raise `RequestRefused` with ``invalid_dpop_proof``, or with ``use_dpop_nonce`` when all that is
    missing is a nonce of ours.
    """
    try:
        jws = rfc7515_jws.parse(proof, max_length=MAX_PROOF_LENGTH)
        jkt = _verified_thumbprint(jws)
        claims = loads_object(jws.payload)
        jti = _text(claims, "jti")
        htm, htu = _text(claims, "htm"), _text(claims, "htu")
        iat = claims.get("iat")
    except ValueError as error:
        raise RequestRefused("invalid_dpop_proof", f"proof: {error}") from None
    if not 0 < len(jti) <= _MAX_JTI_LENGTH:
        raise RequestRefused("invalid_dpop_proof", "proof: jti length")
    if htm != method:
        raise RequestRefused("invalid_dpop_proof", "proof: htm of another request")
    if not _same_target(htu, url):
        raise RequestRefused("invalid_dpop_proof", "proof: htu of another request")
    if access_token is not None and not _is_hash_of(claims.get("ath"), access_token):
        raise RequestRefused("invalid_dpop_proof", "proof: ath of another token")
    if isinstance(iat, bool) or not isinstance(iat, int | float) or not 0 <= iat < _MAX_TIME:
        raise RequestRefused("invalid_dpop_proof", "proof: iat is not a number")
    nonce = claims.get("nonce")
    if nonce is not None and not isinstance(nonce, str):
        raise RequestRefused("invalid_dpop_proof", "proof: nonce is not a string")
    encryption_kid = claims.get("encryption_kid")
    if encryption_kid is not None and not isinstance(encryption_kid, str):
        raise RequestRefused("invalid_dpop_proof", "proof: encryption_kid is not a string")
    made_after = nonce_time(nonce) if nonce is not None else None
    if nonce is not None and made_after is None:
        raise RequestRefused("use_dpop_nonce", "proof: nonce not ours")
    fresh = made_after is not None and now - made_after < LIFETIME_SECONDS
    if not fresh and abs(now - iat) > IAT_LEEWAY_SECONDS:
        raise RequestRefused("use_dpop_nonce", "proof: no fresh nonce, and iat is off")
    return Proof(jkt, jti, made_after, encryption_kid)


def _verified_thumbprint(jws: Jws) -> str:
    if jws.header.get("typ") != "dpop+jwt":
        raise ValueError("typ")
    members = jws.header.get("jwk")
    if not isinstance(members, dict):
        raise ValueError("jwk is missing")
    if members.get("kty") == "OKP":
        okp = Ed25519Jwk.from_members(members, use="sig")
        verified, thumbprint = jws.verify_eddsa(okp.key()), okp.thumbprint()
    else:
        ec = EcJwk.from_members(members, use="sig")
        verified, thumbprint = jws.verify_es256(ec.key()), ec.thumbprint()
    if not verified:
        raise ValueError("signature")
    return thumbprint


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")
    return value


def _is_hash_of(ath: object, access_token: str) -> bool:
    expected = base64url.encode(hashlib.sha256(access_token.encode("utf-8")).digest())
    if not isinstance(ath, str):
        return False
    return hmac.compare_digest(ath.encode("utf-8", "surrogatepass"), expected.encode("ascii"))


def _same_target(htu: str, url: str) -> bool:
    """Whether two URLs name one resource: query and fragment ignored (RFC 9449 §4.3 check 9),
    scheme, host and default port normalised (RFC 3986 §6.2)."""
    if htu == url and url.isprintable():
        return True
    try:
        return _target(htu) == _target(url)
    except ValueError:
        return False


def _target(url: str) -> tuple[str, str, int | None, str]:
    if not url.isprintable():  # urlsplit would leave tabs and line ends out without a word
        raise ValueError("control character")
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ValueError("userinfo")
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port, parts.path or "/"
