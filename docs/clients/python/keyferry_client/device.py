"""The two key pairs of a device.

They are two because secure hardware gives a key one purpose: a key that signs does not agree on
secrets.

    signing key      iOS      Secure Enclave, SecureEnclave.P256.Signing.PrivateKey
                     Android  Keystore, EC P-256 with PURPOSE_SIGN, StrongBox where there is one
    encryption key   iOS      Secure Enclave, SecureEnclave.P256.KeyAgreement.PrivateKey
                     Android  Keystore, EC P-256 with PURPOSE_AGREE_KEY (API 31 and later)

A port implements `DeviceKeys` with four calls into that hardware; the rest of this package never
sees a private key. `SoftwareDeviceKeys` keeps them in memory. It is for tests, demonstrations and
servers, not for phones.
"""

from __future__ import annotations

from typing import Protocol, Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .jose import PublicJwk, b64decode, b64encode


class DeviceKeys(Protocol):
    @property
    def signing_jwk(self) -> PublicJwk:
        """Public half of the DPoP key (RFC 9449). Its thumbprint is what tokens are bound to."""

    @property
    def encryption_jwk(self) -> PublicJwk:
        """Public half of the key that API keys are encrypted to; sent once, at login."""

    def sign(self, message: bytes) -> bytes:
        """ES256: ECDSA on P-256 with SHA-256 as 64 bytes `r || s` (RFC 7518 §3.4), not as ASN.1.

        CryptoKit: `signature.rawRepresentation`. Android's `SHA256withECDSA` gives ASN.1: convert
        it.
        """

    def agree(self, public: PublicJwk) -> bytes:
        """ECDH with the encryption key: the x coordinate of the shared point, 32 bytes."""


class SoftwareDeviceKeys:
    """Both keys in this process's memory."""

    def __init__(
        self, signing: ec.EllipticCurvePrivateKey, encryption: ec.EllipticCurvePrivateKey
    ) -> None:
        self._signing = signing
        self._encryption = encryption

    @classmethod
    def generate(cls) -> Self:
        return cls(ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1()))

    @property
    def signing_jwk(self) -> PublicJwk:
        return _jwk(self._signing.public_key())

    @property
    def encryption_jwk(self) -> PublicJwk:
        return _jwk(self._encryption.public_key())

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._signing.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def agree(self, public: PublicJwk) -> bytes:
        x, y = (int.from_bytes(b64decode(public[name]), "big") for name in ("x", "y"))
        # public_key() refuses a point that is not on the curve; a port must make sure that its
        # library does too.
        peer = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        return self._encryption.exchange(ec.ECDH(), peer)

    def export(self) -> dict[str, str]:
        """Both private keys as PKCS #8 PEM, for the command line of this package. Hardware has no
        such call.
        """
        return {"signing": _pem(self._signing), "encryption": _pem(self._encryption)}

    @classmethod
    def restore(cls, exported: dict[str, str]) -> Self:
        return cls(_private_key(exported["signing"]), _private_key(exported["encryption"]))


def _jwk(key: ec.EllipticCurvePublicKey) -> PublicJwk:
    numbers = key.public_numbers()
    # Exactly 32 bytes each, also when a coordinate starts with zeros: else the thumbprint is
    # another one.
    x, y = (b64encode(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _private_key(pem: str) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem.encode("ascii"), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 private key")
    return key
