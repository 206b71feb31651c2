"""Public keys as JWK (RFC 7517): P-256 (RFC 7518 §6.2), Ed25519 (RFC 8037), RSA (RFC 7518 §6.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from keyferry.jose import base64url

COORDINATE_BYTES: Final = 32
"""Length of a P-256 coordinate, and of an Ed25519 public key, in bytes."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 §3.3."""

MAX_RSA_BITS: Final = 8192

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Use = Literal["sig", "enc"]

_KEY_OPS: Final[Mapping[Use, tuple[str, ...]]] = {
    "sig": ("verify",),
    "enc": ("deriveKey", "deriveBits"),
}


@dataclass(frozen=True, slots=True)
class EcJwk:
    """A P-256 public key. ``x`` and ``y`` are base64url of exactly 32 bytes."""

    x: str
    y: str

    @classmethod
    def from_key(cls, key: ec.EllipticCurvePublicKey) -> Self:
        numbers = key.public_numbers()
        return cls(
            x=base64url.encode(numbers.x.to_bytes(COORDINATE_BYTES, "big")),
            y=base64url.encode(numbers.y.to_bytes(COORDINATE_BYTES, "big")),
        )

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, use: Use) -> Self:
        """Read a JWK that somebody else made.

        Raise `ValueError` for another key type, a private key, a key that says it is for another
        use, or coordinates that are not exactly 32 bytes: a zero-padded coordinate would give one
        key many RFC 7638 thumbprints. That the point is on the curve is checked by `key`.
        """
        _require(members, kty="EC", crv="P-256", use=use)
        jwk = cls(x=_text(members, "x"), y=_text(members, "y"))
        if (
            len(base64url.decode(jwk.x)) != COORDINATE_BYTES
            or len(base64url.decode(jwk.y)) != COORDINATE_BYTES
        ):
            raise ValueError("coordinate of the wrong length")
        return jwk

    def key(self) -> ec.EllipticCurvePublicKey:
        """Raise `ValueError` when the point is not on the curve."""
        point = b"\x04" + base64url.decode(self.x) + base64url.decode(self.y)
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)

    def thumbprint(self) -> str:
        """The RFC 7638 SHA-256 thumbprint, base64url."""
        canonical = f'{{"crv":"P-256","kty":"EC","x":"{self.x}","y":"{self.y}"}}'
        return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())

    def members(self) -> dict[str, str]:
        return {"kty": "EC", "crv": "P-256", "x": self.x, "y": self.y}


@dataclass(frozen=True, slots=True)
class OkpJwk:
    """An Ed25519 public key. ``x`` is base64url of exactly 32 bytes."""

    x: str

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, use: Use) -> Self:
        """Raise `ValueError` as `EcJwk.from_members` does."""
        _require(members, kty="OKP", crv="Ed25519", use=use)
        jwk = cls(x=_text(members, "x"))
        if len(base64url.decode(jwk.x)) != COORDINATE_BYTES:
            raise ValueError("public key of the wrong length")
        return jwk

    def key(self) -> ed25519.Ed25519PublicKey:
        return ed25519.Ed25519PublicKey.from_public_bytes(base64url.decode(self.x))

    def thumbprint(self) -> str:
        """The RFC 8037 Appendix A.3 thumbprint, base64url."""
        canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{self.x}"}}'
        return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())


@dataclass(frozen=True, slots=True)
class RsaJwk:
    """An RSA public key. ``n`` and ``e`` are base64url of unsigned big-endian integers."""

    n: str
    e: str

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, use: Use) -> Self:
        """Raise `ValueError` as `EcJwk.from_members` does, and for a key that is too weak, or so
        large that checking one signature would take long."""
        _require(members, kty="RSA", crv=None, use=use)
        jwk = cls(n=_text(members, "n"), e=_text(members, "e"))
        numbers = jwk._numbers()
        if not MIN_RSA_BITS <= numbers.n.bit_length() <= MAX_RSA_BITS:
            raise ValueError("modulus of a length not accepted")
        # FIPS 186-5 A.1.1 wants more than 2^16; all but a few use exactly one more.
        if not 2**16 < numbers.e < 2**32:
            raise ValueError("exponent not accepted")
        return jwk

    def key(self) -> rsa.RSAPublicKey:
        """Raise `ValueError` when the two are not an RSA public key."""
        return self._numbers().public_key()

    def _numbers(self) -> rsa.RSAPublicNumbers:
        return rsa.RSAPublicNumbers(
            e=int.from_bytes(base64url.decode(self.e), "big"),
            n=int.from_bytes(base64url.decode(self.n), "big"),
        )


def _require(members: Mapping[str, Any], *, kty: str, crv: str | None, use: Use) -> None:
    if members.get("kty") != kty or members.get("crv") != crv:
        raise ValueError("key type not accepted")
    if not _PRIVATE_MEMBERS.isdisjoint(members):
        raise ValueError("private key where a public one belongs")
    if members.get("use", use) != use:
        raise ValueError("key is for another use")
    if "key_ops" in members:
        operations = members["key_ops"]
        # Compared, not looked up in a set: a member of somebody else's list need not be hashable.
        if not isinstance(operations, list) or not all(
            each in _KEY_OPS[use] for each in operations
        ):
            raise ValueError("key is for another operation")


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")
    return value
