"""The two key pairs of a device.

They are two because secure hardware gives a key one purpose: a key that signs does not agree on
secrets.

    signing key      iOS      Secure Enclave, SecureEnclave.P256.Signing.PrivateKey
                     Android  Keystore, EC P-256 with PURPOSE_SIGN, StrongBox where there is one
    encryption key   iOS      Secure Enclave, SecureEnclave.P256.KeyAgreement.PrivateKey
                     Android  Keystore, EC P-256 with PURPOSE_AGREE_KEY (API 31 and later); before
                              that RSA with PURPOSE_DECRYPT, where the server allows RSA

A port implements `DeviceKeys` with a few calls into that hardware; the rest of this package never
sees a private key. `SoftwareDeviceKeys` keeps them in memory. It is for tests, demonstrations and
servers, not for phones.
"""

from __future__ import annotations

from typing import Literal, Protocol, Self, TypeGuard

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .jose import PublicJwk, b64decode, b64encode

Kind = Literal["P-256", "X25519", "RSA"]
EncryptionKey = ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey | rsa.RSAPrivateKey


class DeviceKeys(Protocol):
    @property
    def signing_jwk(self) -> PublicJwk:
        """Public half of the DPoP key (RFC 9449). Its thumbprint is what tokens are bound to."""

    @property
    def encryption_jwk(self) -> PublicJwk:
        """Public half of the key that API keys are encrypted to; sent at login, and when it is
        replaced.

        Its `alg` says how: `ECDH-ES` or `ECDH-ES+A256KW` for P-256 and X25519, `RSA-OAEP` for RSA.
        Nothing that was encrypted in another way is opened.
        """

    def sign(self, message: bytes) -> bytes:
        """ES256: ECDSA on P-256 with SHA-256 as 64 bytes `r || s` (RFC 7518 §3.4), not as ASN.1.

        CryptoKit: `signature.rawRepresentation`. Android's `SHA256withECDSA` gives ASN.1: convert
        it.
        """

    def agree(self, public: PublicJwk) -> bytes:
        """ECDH with the encryption key: 32 bytes, on P-256 the x coordinate of the shared point.

        `ValueError` for a point that is not on the curve, or on X25519 for a result of zeros only.
        """

    def unwrap(self, encrypted_key: bytes) -> bytes:
        """RSA-OAEP (SHA-1, MGF1 with SHA-1) with an RSA encryption key. `ValueError` when it fails.

        Android: `RSA/ECB/OAEPWithSHA-1AndMGF1Padding`. A device without an RSA key raises.
        """


class SoftwareDeviceKeys:
    """Both keys in this process's memory."""

    def __init__(
        self,
        signing: ec.EllipticCurvePrivateKey,
        encryption: EncryptionKey,
        *,
        key_wrap: bool = False,
    ) -> None:
        self._signing = signing
        self._encryption = encryption
        self._key_wrap = key_wrap

    @classmethod
    def generate(cls, kind: Kind = "P-256", *, key_wrap: bool = False) -> Self:
        """`key_wrap` asks for `ECDH-ES+A256KW` in place of `ECDH-ES`; with RSA it says nothing."""
        return cls(
            ec.generate_private_key(ec.SECP256R1()), _new_encryption_key(kind), key_wrap=key_wrap
        )

    def renew_encryption_key(self, kind: Kind = "P-256", *, key_wrap: bool = False) -> None:
        """Make another encryption key. The server hears of it by
        `KeyferryClient.replace_encryption_key`.
        """
        self._encryption, self._key_wrap = _new_encryption_key(kind), key_wrap

    @property
    def signing_jwk(self) -> PublicJwk:
        return _jwk(self._signing.public_key())

    @property
    def encryption_jwk(self) -> PublicJwk:
        key = self._encryption
        if isinstance(key, rsa.RSAPrivateKey):
            numbers = key.public_key().public_numbers()
            n, e = (
                b64encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
                for value in (numbers.n, numbers.e)
            )
            return {"kty": "RSA", "n": n, "e": e, "alg": "RSA-OAEP"}
        alg = "ECDH-ES+A256KW" if self._key_wrap else "ECDH-ES"
        if isinstance(key, x25519.X25519PrivateKey):
            x = b64encode(key.public_key().public_bytes_raw())
            return {"kty": "OKP", "crv": "X25519", "x": x, "alg": alg}
        return {**_jwk(key.public_key()), "alg": alg}

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._signing.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def agree(self, public: PublicJwk) -> bytes:
        match self._encryption:
            case x25519.X25519PrivateKey() as key:
                return key.exchange(
                    x25519.X25519PublicKey.from_public_bytes(b64decode(public["x"]))
                )
            case ec.EllipticCurvePrivateKey() as key:
                x, y = (int.from_bytes(b64decode(public[name]), "big") for name in ("x", "y"))
                # public_key() refuses a point that is not on the curve; a port must make sure that
                # its library does too.
                peer = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
                return key.exchange(ec.ECDH(), peer)
            case _:
                raise ValueError("an RSA key does not agree")

    def unwrap(self, encrypted_key: bytes) -> bytes:
        if not isinstance(self._encryption, rsa.RSAPrivateKey):
            raise ValueError("not an RSA key")
        # RFC 7518 §4.3 has SHA-1 in both places. That is sound here, as nothing in it rests on
        # collisions, and it is what every Android Keystore can do.
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
        return self._encryption.decrypt(encrypted_key, oaep)

    def export(self) -> dict[str, str]:
        """Both private keys as PKCS #8 PEM and the encryption key's `alg`, for the command line of
        this package. Hardware has no such call.
        """
        return {
            "signing": _pem(self._signing),
            "encryption": _pem(self._encryption),
            "alg": self.encryption_jwk["alg"],
        }

    @classmethod
    def restore(cls, exported: dict[str, str]) -> Self:
        signing = load_pem_private_key(exported["signing"].encode("ascii"), password=None)
        if not _is_p256(signing):
            raise ValueError("not a P-256 private key")
        encryption = load_pem_private_key(exported["encryption"].encode("ascii"), password=None)
        if not (
            _is_p256(encryption)
            or isinstance(encryption, x25519.X25519PrivateKey | rsa.RSAPrivateKey)
        ):
            raise ValueError("not a private key to encrypt to")
        return cls(signing, encryption, key_wrap=exported.get("alg") == "ECDH-ES+A256KW")


def _new_encryption_key(kind: Kind) -> EncryptionKey:
    match kind:
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "X25519":
            return x25519.X25519PrivateKey.generate()
        case "RSA":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def _jwk(key: ec.EllipticCurvePublicKey) -> PublicJwk:
    numbers = key.public_numbers()
    # Exactly 32 bytes each, also when a coordinate starts with zeros: else the thumbprint is
    # another one.
    x, y = (b64encode(value.to_bytes(32, "big")) for value in (numbers.x, numbers.y))
    return {"kty": "EC", "crv": "P-256", "x": x, "y": y}


def _pem(key: EncryptionKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode("ascii")


def _is_p256(key: object) -> TypeGuard[ec.EllipticCurvePrivateKey]:
    return isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
