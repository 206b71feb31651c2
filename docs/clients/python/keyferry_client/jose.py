"""The JOSE that a phone needs: thumbprints, one key derivation, one decryption, one verification.

Everything here is short because the algorithms are pinned: ES256 signatures (RFC 7518 §3.4), and
A256GCM (§5.3) under the one key management algorithm that the device has registered (§4). A port
needs that one only. An algorithm named by the other side is compared, never obeyed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from .errors import TamperedDelivery

PublicJwk = Mapping[str, str]

# RFC 7638 §3.2, in the order of §3.3.
_REQUIRED_MEMBERS = {
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
    "RSA": ("e", "kty", "n"),
}


class Recipient(Protocol):
    """What decryption takes of `DeviceKeys`."""

    @property
    def encryption_jwk(self) -> PublicJwk: ...

    def agree(self, public: PublicJwk) -> bytes: ...

    def unwrap(self, encrypted_key: bytes) -> bytes: ...


def b64encode(data: bytes) -> str:
    """Base64url without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def b64decode(text: str) -> bytes:
    """Strict inverse of `b64encode`: text that is not the one canonical spelling is refused."""
    try:
        data = base64.b64decode(
            text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True
        )
    except (UnicodeEncodeError, binascii.Error) as error:
        raise TamperedDelivery("not base64url") from error
    if b64encode(data) != text:
        raise TamperedDelivery("not canonical base64url")
    return data


def json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TamperedDelivery("not JSON") from error
    if not isinstance(value, dict):
        raise TamperedDelivery("not a JSON object")
    return value


def compact_json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode("utf-8")


def thumbprint(jwk: PublicJwk) -> str:
    """RFC 7638: SHA-256 over the required members only, in lexical order, without white space."""
    required = {name: jwk[name] for name in _REQUIRED_MEMBERS[jwk["kty"]]}
    return b64encode(hashlib.sha256(compact_json(required)).digest())


def concat_kdf(
    shared_secret: bytes, algorithm: str, bits: int, apu: bytes = b"", apv: bytes = b""
) -> bytes:
    """The Concat KDF of RFC 7518 §4.6.2, written out because few phone libraries have it.

    One round of SHA-256 is enough for keys of up to 256 bits. Every length is a 32-bit big-endian
    number. `algorithm` is the `enc` value ("A256GCM") when the derived key is used directly.
    """

    def prefixed(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    other_info = (
        prefixed(algorithm.encode("ascii"))
        + prefixed(apu)
        + prefixed(apv)
        + bits.to_bytes(4, "big")
    )
    round_one = (1).to_bytes(4, "big")
    return hashlib.sha256(round_one + shared_secret + other_info).digest()[: bits // 8]


def public_p256_jwk(value: object) -> dict[str, str]:
    """A P-256 public key from the other side: exactly 32-byte coordinates, and nothing private."""
    if (
        not isinstance(value, dict)
        or value.get("kty") != "EC"
        or value.get("crv") != "P-256"
        or "d" in value
    ):
        raise TamperedDelivery("not a P-256 public key")
    for name in ("x", "y"):
        coordinate = value.get(name)
        if not isinstance(coordinate, str) or len(b64decode(coordinate)) != 32:
            raise TamperedDelivery("a P-256 coordinate has 32 bytes")
    return {name: value[name] for name in ("kty", "crv", "x", "y")}


def public_agreement_jwk(value: object, crv: str) -> PublicJwk:
    """An ephemeral public key from the other side, on the curve that this device uses."""
    if crv == "P-256":
        return public_p256_jwk(value)
    if (
        not isinstance(value, dict)
        or value.get("kty") != "OKP"
        or value.get("crv") != "X25519"
        or "d" in value
    ):
        raise TamperedDelivery("not an X25519 public key")
    x = value.get("x")
    if not isinstance(x, str) or len(b64decode(x)) != 32:
        raise TamperedDelivery("an X25519 public key has 32 bytes")
    return {"kty": "OKP", "crv": "X25519", "x": x}


def decrypt(token: str, device: Recipient) -> bytes:
    """Open a compact JWE (RFC 7516 §3.1) that was encrypted to this device in the one way that its
    `encryption_jwk` names.
    """
    try:
        protected, *rest = token.split(".")
        encrypted_key, nonce, ciphertext, tag = map(b64decode, rest)
    except ValueError as error:
        raise TamperedDelivery("not a compact JWE") from error
    header = json_object(b64decode(protected))
    jwk = device.encryption_jwk
    expected = {"alg": jwk["alg"], "enc": "A256GCM", "cty": "JWT", "kid": thumbprint(jwk)}
    if {name: header.get(name) for name in expected} != expected:
        raise TamperedDelivery("encrypted with another algorithm or to another device")
    # Nothing else is understood: no "zip" (compression leaks), no "crit" (RFC 7516 §4.1.13).
    ephemeral = {"epk"} if jwk["alg"].startswith("ECDH-ES") else set()
    if header.keys() - expected.keys() - ephemeral - {"typ"}:
        raise TamperedDelivery("unexpected JWE header")
    if len(nonce) != 12 or len(tag) != 16:
        raise TamperedDelivery("wrong nonce or tag length")
    key = _content_key(header.get("epk"), encrypted_key, device)
    if len(key) != 32:
        raise TamperedDelivery("wrong key length")
    try:
        # The protected header as received is the additional authenticated data (RFC 7516 §5.2).
        return AESGCM(key).decrypt(nonce, ciphertext + tag, protected.encode())
    except InvalidTag as error:
        raise TamperedDelivery("the ciphertext was altered") from error


def _content_key(epk: object, encrypted_key: bytes, device: Recipient) -> bytes:
    jwk = device.encryption_jwk
    if jwk["alg"] == "RSA-OAEP":
        try:
            return device.unwrap(encrypted_key)
        except ValueError as error:
            raise TamperedDelivery("the encrypted key does not open") from error
    try:
        shared_secret = device.agree(public_agreement_jwk(epk, jwk["crv"]))
    except ValueError as error:
        # A point off the curve would leak bits of the private key; the library refuses it.
        raise TamperedDelivery("the ephemeral key is not a good point on the curve") from error
    if jwk["alg"] == "ECDH-ES":
        # With direct key agreement the second part is empty (RFC 7518 §4.6).
        if encrypted_key:
            raise TamperedDelivery("unexpected encrypted key")
        return concat_kdf(shared_secret, "A256GCM", 256)
    try:
        # RFC 7518 §4.6.2: here the derived key is named by `alg`.
        return aes_key_unwrap(concat_kdf(shared_secret, jwk["alg"], 256), encrypted_key)
    except InvalidUnwrap as error:
        raise TamperedDelivery("the encrypted key was altered") from error


def jwt_kid(token: str, *, typ: str) -> str:
    """The signing key that a JWT names, after its header is found to be the expected one."""
    header = json_object(b64decode(token.partition(".")[0]))
    # RFC 8725 §3.1 and §3.11: the algorithm and the type are pinned, so that no token passes for
    # another kind.
    if header.get("alg") != "ES256" or header.get("typ") != typ or "crit" in header:
        raise TamperedDelivery(f"not an ES256 {typ}")
    kid = header.get("kid")
    if not isinstance(kid, str):
        raise TamperedDelivery("the signature names no key")
    return kid


def verify_jwt(token: str, *, typ: str, jwk: PublicJwk) -> dict[str, Any]:
    """The claims of a JWT whose signature, algorithm and type hold, to be checked by the caller."""
    jwt_kid(token, typ=typ)
    try:
        key = ECKey.import_key({**jwk})
        verified = jws.deserialize_compact(token, key, algorithms=["ES256"])
    except (JoseError, ValueError) as error:
        raise TamperedDelivery("the signature does not hold") from error
    return json_object(verified.payload)
