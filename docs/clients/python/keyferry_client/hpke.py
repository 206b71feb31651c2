"""HPKE (RFC 9180), the receiving side: base mode with HKDF-SHA256 and AES-256-GCM, for P-256 and X25519.

Where the platform has HPKE, use that: CryptoKit since iOS 17 (`P256_SHA256_AES_GCM_256`,
`HPKE.Recipient`), libraries elsewhere. This is what it does, written out for platforms without, and
needs no more of the hardware than the agreement does that a JWE takes.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import TamperedDelivery
from .jose import PublicJwk, Recipient, b64decode, b64encode, json_object, thumbprint

MEDIA_TYPE = "application/vnd.keyferry.hpke"

# RFC 9180 §7: KEM by curve, with the length of its serialised public key; KDF; AEAD.
_KEMS = {"P-256": (0x0010, 65), "X25519": (0x0020, 32)}
_HKDF_SHA256 = 0x0001
_AES_256_GCM = 0x0002


def open_sealed(token: str, device: Recipient) -> bytes:
    """The plaintext of `header.enc.ciphertext` (docs/protocol.md), or `TamperedDelivery`."""
    jwk = device.encryption_jwk
    if jwk.get("crv") not in _KEMS:
        raise TamperedDelivery("there is no HPKE for this device's key")
    kem, length = _KEMS[jwk["crv"]]
    try:
        header, enc, ciphertext = token.split(".")
    except ValueError as error:
        raise TamperedDelivery("not an HPKE delivery") from error
    # Compared as a whole: there is one suite, and nothing here is for the other side to choose.
    if json_object(b64decode(header)) != {
        "typ": "keyferry-hpke",
        "kem": kem,
        "kdf": _HKDF_SHA256,
        "aead": _AES_256_GCM,
        "kid": thumbprint(jwk),
        "cty": "JWT",
    }:
        raise TamperedDelivery("encrypted with another suite or to another device")
    encapsulated = b64decode(enc)
    if len(encapsulated) != length:
        raise TamperedDelivery("wrong length of the encapsulated key")
    try:
        shared = device.agree(_public_jwk(encapsulated, jwk["crv"]))
    except ValueError as error:
        raise TamperedDelivery("the encapsulated key is not a good point on the curve") from error
    secret = _decapsulate(shared, encapsulated + _serialized(jwk), kem)
    key, nonce = _key_schedule(secret, kem, info=f"keyferry-hpke.{header}".encode("ascii"))
    try:
        return AESGCM(key).decrypt(nonce, b64decode(ciphertext), None)
    except InvalidTag as error:
        raise TamperedDelivery("the ciphertext was altered") from error


def _public_jwk(serialized: bytes, crv: str) -> PublicJwk:
    if crv == "X25519":
        return {"kty": "OKP", "crv": crv, "x": b64encode(serialized)}
    if serialized[0] != 4:
        raise TamperedDelivery("not an uncompressed point")
    x, y = b64encode(serialized[1:33]), b64encode(serialized[33:])
    return {"kty": "EC", "crv": crv, "x": x, "y": y}


def _serialized(jwk: PublicJwk) -> bytes:
    x = b64decode(jwk["x"])
    return x if jwk["crv"] == "X25519" else b"\4" + x + b64decode(jwk["y"])


def _decapsulate(shared: bytes, kem_context: bytes, kem: int) -> bytes:
    """RFC 9180 §4.1, after the agreement."""
    suite = b"KEM" + _two_bytes(kem)
    prk = _extract(suite, b"", b"eae_prk", shared)
    return _expand(suite, prk, b"shared_secret", kem_context, 32)


def _key_schedule(secret: bytes, kem: int, *, info: bytes) -> tuple[bytes, bytes]:
    """RFC 9180 §5.1, base mode: the key, and the nonce of the first message."""
    suite = b"HPKE" + _two_bytes(kem) + _two_bytes(_HKDF_SHA256) + _two_bytes(_AES_256_GCM)
    context = (
        b"\0" + _extract(suite, b"", b"psk_id_hash", b"") + _extract(suite, b"", b"info_hash", info)
    )
    prk = _extract(suite, secret, b"secret", b"")
    return _expand(suite, prk, b"key", context, 32), _expand(suite, prk, b"base_nonce", context, 12)


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, hashlib.sha256)


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labeled = _two_bytes(length) + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\1", hashlib.sha256)[:length]


def _two_bytes(value: int) -> bytes:
    return value.to_bytes(2, "big")
