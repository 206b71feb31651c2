"""Whom something is encrypted to: a public key, and the one algorithm that it is used with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from keyferry.jose import base64url
from keyferry.jose.rfc7517_jwk import EcJwk, RsaJwk, X25519Jwk

Algorithm = Literal["ECDH-ES", "ECDH-ES+A256KW", "RSA-OAEP"]
"""Key management algorithms of RFC 7518 §4.1. ``RSA-OAEP`` with SHA-1 in both places is the only
OAEP that every Android Keystore can open; SHA-1 is sound there, as nothing rests on collisions."""

MAX_RSA_BITS: Final = 4096
"""A longer one would only make each delivery slower."""

_AGREEMENT: Final[tuple[Algorithm, ...]] = ("ECDH-ES", "ECDH-ES+A256KW")


@dataclass(frozen=True, slots=True)
class Recipient:
    jwk: EcJwk | X25519Jwk | RsaJwk
    alg: Algorithm = "ECDH-ES"

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, allow_rsa: bool) -> Self:
        """Read and check a JWK that somebody else made: key type, length and use, that nothing in it
        is private, and that the key itself is a good one. ``alg`` (RFC 7517 §4.4) chooses among the
        algorithms of its key type; without it that is the first.

        Raise `ValueError` with a text that is ours and quotes nothing.
        """
        match members.get("kty"):
            case "EC":
                ec = EcJwk.from_members(members, use="enc")
                _check(ec, "point not on the curve")
                return cls(ec, _algorithm(members, _AGREEMENT))
            case "OKP":
                okp = X25519Jwk.from_members(members, use="enc")
                _check(okp, "point of small order")
                return cls(okp, _algorithm(members, _AGREEMENT))
            case "RSA" if allow_rsa:
                return cls(_rsa(members), _algorithm(members, ("RSA-OAEP",)))
            case _:
                raise ValueError("key type not accepted")

    @classmethod
    def from_own(cls, members: Mapping[str, str]) -> Self:
        """The inverse of `members`, for what was checked before it was stored."""
        jwk: EcJwk | X25519Jwk | RsaJwk
        match members["kty"]:
            case "EC":
                jwk = EcJwk(members["x"], members["y"])
            case "OKP":
                jwk = X25519Jwk(members["x"])
            case _:
                jwk = RsaJwk(members["n"], members["e"])
        return cls(jwk, _algorithm(members, (*_AGREEMENT, "RSA-OAEP")))

    def members(self) -> dict[str, str]:
        return {**self.jwk.members(), "alg": self.alg}

    def thumbprint(self) -> str:
        """The RFC 7638 thumbprint of the key, base64url. It says nothing about ``alg``."""
        return self.jwk.thumbprint()


def _algorithm(members: Mapping[str, Any], accepted: tuple[Algorithm, ...]) -> Algorithm:
    named = members.get("alg", accepted[0])
    for algorithm in accepted:
        if named == algorithm:
            return algorithm
    raise ValueError("alg not accepted for this key type")


def _check(jwk: EcJwk | X25519Jwk, refusal: str) -> None:
    try:
        jwk.key()
    except ValueError:
        raise ValueError(refusal) from None


def _rsa(members: Mapping[str, Any]) -> RsaJwk:
    jwk = RsaJwk.from_members(members, use="enc")
    modulus = base64url.decode(jwk.n)
    # RFC 7518 §6.3.1.1 and §2: no octets in front, else one key has many thumbprints.
    if modulus.startswith(b"\0") or base64url.decode(jwk.e).startswith(b"\0"):
        raise ValueError("integer with leading zeros")
    if len(modulus) * 8 > MAX_RSA_BITS:
        raise ValueError("modulus of a length not accepted")
    # OpenSSL can not encrypt to an even one, and would say so at each delivery.
    if not modulus[-1] & 1:
        raise ValueError("modulus is even")
    try:
        jwk.key()
    except ValueError:
        raise ValueError("not an RSA public key") from None
    return jwk
