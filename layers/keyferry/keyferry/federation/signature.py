"""JWTs of other issuers: whether one was signed with a key of its issuer (RFC 7515, RFC 8725)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keyferry.federation.jwks import Jwks
from keyferry.jose import rfc7515_jws
from keyferry.jose.strict_json import loads_object

if TYPE_CHECKING:
    from jwt import PyJWS

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
"""What a provider may be pinned to. No algorithm with a shared secret can ever be among them."""

_MAX_KID_LENGTH: Final = 256
_MAX_TIME: Final = 2**40


@dataclass(frozen=True, slots=True)
class SignedClaims:
    """Header and claims of a JWT whose signature was right; nothing more has been checked."""

    header: Mapping[str, Any]
    claims: Mapping[str, Any]

    def time(self, name: str) -> float:
        """A NumericDate (RFC 7519 §2). Raise `ValueError` when it is missing or none."""
        value = self.claims.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} is not a number")
        if not 0 <= value < _MAX_TIME:
            raise ValueError(f"{name} is not a time")
        return value


def verified(
    token: str, *, jwks: Jwks, jwks_uri: str, algorithms: tuple[str, ...], max_length: int
) -> SignedClaims:
    """Check the signature of ``token`` with the key that its ``kid`` names at ``jwks_uri``.

    Key and algorithm are pinned to each other there, so a token cannot choose how its key is used
    (RFC 8725 §3.1). Header parameters that carry or point at keys (``jwk``, ``jku``, ``x5c``,
    ``x5u``) are not looked at. Raise `ValueError` with a constant reason, or `Unavailable`.
    """
    jws = rfc7515_jws.parse(token, max_length=max_length)
    algorithm, kid = jws.header.get("alg"), jws.header.get("kid")
    if algorithm not in algorithms or algorithm not in ALGORITHMS:
        raise ValueError("alg")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID_LENGTH:
        raise ValueError("kid is missing")
    key = jwks.key(jwks_uri, kid, algorithm)
    if key is None:
        raise ValueError("kid of no key")
    from jwt import PyJWTError  # see _pyjws

    try:
        payload = _pyjws().decode(token, key, algorithms=[algorithm])
    except PyJWTError:
        raise ValueError("signature") from None
    return SignedClaims(jws.header, loads_object(payload))


@functools.cache
def _pyjws() -> PyJWS:
    # Imported at the first use: with all of X.509 behind it, it would cost every cold start some
    # 30 ms, and a login with a password never needs it.
    from jwt import PyJWS

    return PyJWS(algorithms=ALGORITHMS)
