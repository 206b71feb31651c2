"""JWT access tokens (RFC 9068), bound to the device key by ``cnf.jkt`` (RFC 9449 §6.1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from keyferry.errors import RequestRefused
from keyferry.jose import rfc7515_jws
from keyferry.jose.strict_json import loads_object

TYP: Final = "at+jwt"
MAX_LENGTH: Final = 4096
"""Characters."""

CLOCK_SKEW_SECONDS: Final = 5
"""Between two of our own functions; no device clock is involved in an access token."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The claims of an access token. Times are seconds since the epoch."""

    issuer: str
    sub: str
    sid: str
    client_id: str
    scope: str
    roles: tuple[str, ...]
    amr: tuple[str, ...]
    jkt: str | None
    jti: str
    issued_at: int
    expires_at: int
    attested: bool = False

    def claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "aud": self.issuer,
            "sub": self.sub,
            "sid": self.sid,
            "client_id": self.client_id,
            "scope": self.scope,
            "roles": list(self.roles),
            "amr": list(self.amr),
            "jti": self.jti,
            "iat": self.issued_at,
            "exp": self.expires_at,
        }
        if self.attested:
            claims["attested"] = True
        if self.jkt is not None:
            claims["cnf"] = {"jkt": self.jkt}
        return claims


def lifetime(seconds: int, jitter: bytes) -> int:
    """``seconds`` less up to 3 % by one byte of ``jitter``.

    A fixed lifetime tells a thief who copied a refresh token when the owner will refresh next.
    """
    return seconds - seconds * 3 * jitter[0] // (100 * 255)


def sign(token: AccessToken, *, kid: str, key: ec.EllipticCurvePrivateKey) -> str:
    return rfc7515_jws.sign_es256(typ=TYP, kid=kid, claims=token.claims(), key=key)


def verify(
    token: str, *, keys: Mapping[str, ec.EllipticCurvePublicKey], issuer: str, now: int
) -> AccessToken:
    """Raise `RequestRefused` (``invalid_token``) unless we issued ``token`` and it still lives.

    ``keys`` are the keyring's public keys by ``kid``; algorithm and ``typ`` are pinned.
    """
    try:
        jws = rfc7515_jws.parse(token, max_length=MAX_LENGTH)
        if jws.header.get("typ") != TYP:
            raise ValueError("typ")
        kid = jws.header.get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise ValueError("kid")
        if not jws.verify_es256(key):
            raise ValueError("signature")
        access_token = _from_claims(loads_object(jws.payload))
    except (ValueError, KeyError, TypeError) as error:
        raise RequestRefused("invalid_token", f"access token: {_constant(error)}") from None
    if access_token.issuer != issuer:
        raise RequestRefused("invalid_token", "access token: iss")
    if now >= access_token.expires_at:
        raise RequestRefused("invalid_token", "access token: expired")
    if access_token.issued_at > now + CLOCK_SKEW_SECONDS:
        raise RequestRefused("invalid_token", "access token: iat in the future")
    return access_token


def _from_claims(claims: Mapping[str, Any]) -> AccessToken:
    # Only ours get this far, the signature is checked: a missing claim is a KeyError, not a leak.
    if claims["aud"] != claims["iss"]:
        raise ValueError("aud")
    confirmation = claims.get("cnf")
    return AccessToken(
        issuer=claims["iss"],
        sub=claims["sub"],
        sid=claims["sid"],
        client_id=claims["client_id"],
        scope=claims["scope"],
        roles=tuple(claims["roles"]),
        amr=tuple(claims["amr"]),
        jkt=confirmation["jkt"] if confirmation is not None else None,
        jti=claims["jti"],
        issued_at=int(claims["iat"]),
        expires_at=int(claims["exp"]),
        attested=claims.get("attested") is True,
    )


def _constant(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else "claims"
