"""One half of a Diffie-Hellman agreement: a fresh ephemeral key against a public one.

Both envelopes begin with it: ECDH-ES (RFC 7518 §4.6) and HPKE's DHKEM (RFC 9180 §4.1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, x25519

from keyferry.jose.rfc7517_jwk import EcJwk, X25519Jwk

_SCALAR_BYTES: Final = 32
# The order of the P-256 group (SEC 2 §2.4.2).
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def agree(
    public: EcJwk | X25519Jwk, random: Callable[[int], bytes]
) -> tuple[EcJwk | X25519Jwk, bytes]:
    """The public half of a fresh key pair on the curve of ``public``, and the 32-byte secret that the
    two share.

    ``random`` must be `os.urandom` in production. The ephemeral key comes from it, and not from
    OpenSSL's generator, whose state two microVMs restored from one SnapStart snapshot would share.
    Raise `ValueError` for a point that is not on the curve, or of small order.
    """
    if isinstance(public, EcJwk):
        p256 = ec.derive_private_key(_p256_scalar(random), ec.SECP256R1())
        return EcJwk.from_key(p256.public_key()), p256.exchange(ec.ECDH(), public.key())
    # Every 32 bytes are a private key: RFC 7748 §5 fixes five bits of them.
    curve25519 = x25519.X25519PrivateKey.from_private_bytes(random(_SCALAR_BYTES))
    return X25519Jwk.from_key(curve25519.public_key()), curve25519.exchange(public.key())


def _p256_scalar(random: Callable[[int], bytes]) -> int:
    # Rejection keeps the scalar uniform (FIPS 186-5 A.2.2); a second draw happens once in 2^32.
    while not 0 < (value := int.from_bytes(random(_SCALAR_BYTES), "big")) < _P256_ORDER:
        continue
    return value
