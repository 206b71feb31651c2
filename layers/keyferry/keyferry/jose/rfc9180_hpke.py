"""HPKE (RFC 9180) in base mode, for one message: DHKEM(P-256 or X25519, HKDF-SHA256), HKDF-SHA256,
AES-256-GCM.

``cryptography`` has HPKE too, but takes its ephemeral key from OpenSSL's generator, whose state two
microVMs restored from one SnapStart snapshot would share: the same key and nonce for two messages.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyferry.jose.agreement import agree
from keyferry.jose.rfc7517_jwk import EcJwk, X25519Jwk

# RFC 9180 §7.1 to §7.3.
KEM_P256: Final = 0x0010
KEM_X25519: Final = 0x0020
KDF_HKDF_SHA256: Final = 0x0001
AEAD_AES_256_GCM: Final = 0x0002

_BASE_MODE: Final = b"\0"
_SECRET_BYTES: Final = 32
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Sealed(NamedTuple):
    """``enc`` is the ephemeral public key as DHKEM serialises it: 65 or 32 bytes (RFC 9180 §7.1)."""

    enc: bytes
    ciphertext: bytes


def kem_id(recipient: EcJwk | X25519Jwk) -> int:
    return KEM_P256 if isinstance(recipient, EcJwk) else KEM_X25519


def seal(
    plaintext: bytes,
    recipient: EcJwk | X25519Jwk,
    *,
    info: bytes,
    aad: bytes = b"",
    random: Callable[[int], bytes],
) -> Sealed:
    """``SealBase`` (RFC 9180 §6.1). ``random`` must be `os.urandom` in production."""
    shared_secret, enc = _encapsulate(recipient, random)
    key, nonce = _key_schedule(shared_secret, kem_id(recipient), info)
    # The context is used once, so the sequence number is 0 and the nonce the base nonce (§5.2).
    return Sealed(enc, AESGCM(key).encrypt(nonce, plaintext, aad))


def _encapsulate(
    recipient: EcJwk | X25519Jwk, random: Callable[[int], bytes]
) -> tuple[bytes, bytes]:
    """``Encap`` (RFC 9180 §4.1): the shared secret and ``enc``."""
    ephemeral, dh = agree(recipient, random)
    enc = ephemeral.octets()
    suite = b"KEM" + _i2osp(kem_id(recipient))
    eae_prk = _labeled_extract(suite, b"", b"eae_prk", dh)
    context = enc + recipient.octets()
    return _labeled_expand(suite, eae_prk, b"shared_secret", context, _SECRET_BYTES), enc


def _key_schedule(shared_secret: bytes, kem: int, info: bytes) -> tuple[bytes, bytes]:
    """``KeySchedule`` (RFC 9180 §5.1) without a pre-shared key: key and base nonce."""
    suite = b"HPKE" + _i2osp(kem) + _i2osp(KDF_HKDF_SHA256) + _i2osp(AEAD_AES_256_GCM)
    context = (
        _BASE_MODE
        + _labeled_extract(suite, b"", b"psk_id_hash", b"")
        + _labeled_extract(suite, b"", b"info_hash", info)
    )
    secret = _labeled_extract(suite, shared_secret, b"secret", b"")
    key = _labeled_expand(suite, secret, b"key", context, _KEY_BYTES)
    return key, _labeled_expand(suite, secret, b"base_nonce", context, _NONCE_BYTES)


def _labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt, b"HPKE-v1" + suite + label + ikm, hashlib.sha256)


def _labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    """HKDF-Expand (RFC 5869 §2.3) for at most 32 bytes, which is one round."""
    labeled = _i2osp(length) + b"HPKE-v1" + suite + label + info
    return hmac.digest(prk, labeled + b"\x01", hashlib.sha256)[:length]


def _i2osp(value: int) -> bytes:
    return value.to_bytes(2, "big")
