"""Public keys as JWK (RFC 7517): P-256 (RFC 7518 §6.2), Ed25519 and X25519 (RFC 8037), RSA (RFC 7518
§6.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519

from keyferry.jose import base64url

COORDINATE_BYTES: Final = 32
"""Length of a P-256 coordinate, and of an Ed25519 or X25519 public key, in bytes."""

MIN_RSA_BITS: Final = 2048
"""RFC 7518 §3.3."""

MAX_RSA_BITS: Final = 8192

_PRIVATE_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

Use = Literal["sig", "enc"]

_KEY_OPS: Final[Mapping[Use, tuple[str, ...]]] = {
    "sig": ("verify",),
    "enc": ("deriveKey", "deriveBits"),
}
_RSA_KEY_OPS: Final[Mapping[Use, tuple[str, ...]]] = {
    "sig": ("verify",),
    "enc": ("encrypt", "wrapKey"),
}

_X25519_PRIME: Final = 2**255 - 19
# Any key will do: what it agrees on with a point of small order is zero, which OpenSSL refuses.
_X25519_PROBE: Final = x25519.X25519PrivateKey.from_private_bytes(bytes(COORDINATE_BYTES))


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
        use or another signature algorithm, or coordinates that are not exactly 32 bytes: a
        zero-padded coordinate would give one key many RFC 7638 thumbprints. That the point is on the
        curve is checked by `key`.
        """
        _require(members, kty="EC", crv="P-256", use=use)
        if use == "sig":
            _require_alg(members, "ES256")
        jwk = cls(x=_text(members, "x"), y=_text(members, "y"))
        if (
            len(base64url.decode(jwk.x)) != COORDINATE_BYTES
            or len(base64url.decode(jwk.y)) != COORDINATE_BYTES
        ):
            raise ValueError("coordinate of the wrong length")
        return jwk

    def key(self) -> ec.EllipticCurvePublicKey:
        """Raise `ValueError` when the point is not on the curve."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.octets())

    def thumbprint(self) -> str:
        """The RFC 7638 SHA-256 thumbprint, base64url."""
        canonical = f'{{"crv":"P-256","kty":"EC","x":"{self.x}","y":"{self.y}"}}'
        return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())

    def members(self) -> dict[str, str]:
        return {"kty": "EC", "crv": "P-256", "x": self.x, "y": self.y}

    def octets(self) -> bytes:
        """The uncompressed point (SEC 1 §2.3.3), 65 bytes."""
        return b"\x04" + base64url.decode(self.x) + base64url.decode(self.y)


@dataclass(frozen=True, slots=True)
class Ed25519Jwk:
    """An Ed25519 public key. ``x`` is base64url of exactly 32 bytes."""

    x: str

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, use: Use) -> Self:
        """Raise `ValueError` as `EcJwk.from_members` does."""
        _require(members, kty="OKP", crv="Ed25519", use=use)
        _require_alg(members, "EdDSA", "Ed25519")
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
class X25519Jwk:
    """An X25519 public key. ``x`` is base64url of exactly 32 bytes."""

    x: str

    @classmethod
    def from_key(cls, key: x25519.X25519PublicKey) -> Self:
        return cls(x=base64url.encode(key.public_bytes_raw()))

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, use: Use) -> Self:
        """Raise `ValueError` as `EcJwk.from_members` does, and for a coordinate that is not reduced.

        RFC 7748 §5 takes those too, but they would give one key several RFC 7638 thumbprints.
        That the point is not one of small order is checked by `key`.
        """
        _require(members, kty="OKP", crv="X25519", use=use)
        jwk = cls(x=_text(members, "x"))
        if len(jwk.octets()) != COORDINATE_BYTES:
            raise ValueError("public key of the wrong length")
        if int.from_bytes(jwk.octets(), "little") >= _X25519_PRIME:
            raise ValueError("coordinate not reduced")
        return jwk

    def key(self) -> x25519.X25519PublicKey:
        """Raise `ValueError` when the point is of small order (RFC 7748 §6.1): whoever sent such a
        key would agree with everybody on a secret that everybody knows."""
        key = x25519.X25519PublicKey.from_public_bytes(self.octets())
        _X25519_PROBE.exchange(key)
        return key

    def thumbprint(self) -> str:
        """The RFC 7638 thumbprint with the members of RFC 8037 §2, base64url."""
        canonical = f'{{"crv":"X25519","kty":"OKP","x":"{self.x}"}}'
        return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())

    def members(self) -> dict[str, str]:
        return {"kty": "OKP", "crv": "X25519", "x": self.x}

    def octets(self) -> bytes:
        """The u-coordinate (RFC 7748 §5), 32 bytes."""
        return base64url.decode(self.x)


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

    def thumbprint(self) -> str:
        """The RFC 7638 SHA-256 thumbprint, base64url."""
        canonical = f'{{"e":"{self.e}","kty":"RSA","n":"{self.n}"}}'
        return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())

    def members(self) -> dict[str, str]:
        return {"kty": "RSA", "n": self.n, "e": self.e}

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
        accepted = (_RSA_KEY_OPS if kty == "RSA" else _KEY_OPS)[use]
        # Compared, not looked up in a set: a member of somebody else's list need not be hashable.
        if not isinstance(operations, list) or not all(each in accepted for each in operations):
            raise ValueError("key is for another operation")


def _require_alg(members: Mapping[str, Any], *accepted: str) -> None:
    """``alg`` may be left out, and must not be of another algorithm (RFC 7517 §4.4)."""
    if members.get("alg", accepted[0]) not in accepted:
        raise ValueError("key is for another algorithm")


def _text(members: Mapping[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing")
    return value
