"""JWE compact serialisation (RFC 7516) with ``ECDH-ES`` on P-256 and ``A256GCM``.

P-256 because it is the one curve that both Android Keystore and Secure Enclave agree on in
hardware. No ``zip`` (RFC 8725 §3.6) and no ``apu``/``apv``: the recipient's thumbprint stands in
the protected header, which is the additional data of the encryption anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyferry.jose import base64url
from keyferry.jose.rfc7517_jwk import EcJwk

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CEK_BITS: Final = 256
# The order of the P-256 group (SEC 2 §2.4.2).
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def encrypt(plaintext: bytes, recipient: EcJwk, *, cty: str, random: Callable[[int], bytes]) -> str:
    """Encrypt to ``recipient``, whose thumbprint becomes ``kid``.

    ``random`` must be `os.urandom` in production. The ephemeral key comes from it too, and not from
    OpenSSL's generator, whose state two microVMs restored from one SnapStart snapshot would share.
    """
    return _encrypt_from_parts(
        plaintext, recipient, cty=cty, ephemeral=_scalar(random), nonce=random(_NONCE_BYTES)
    )


def _encrypt_from_parts(
    plaintext: bytes,
    recipient: EcJwk,
    *,
    cty: str,
    ephemeral: ec.EllipticCurvePrivateKey,
    nonce: bytes,
) -> str:
    """The deterministic half of `encrypt`, so that it can be held against published values."""
    header = {
        "alg": "ECDH-ES",
        "enc": "A256GCM",
        "cty": cty,
        "kid": recipient.thumbprint(),
        "epk": EcJwk.from_key(ephemeral.public_key()).members(),
    }
    protected = base64url.encode(json.dumps(header, separators=(",", ":")).encode("ascii"))
    key = concat_kdf(ephemeral.exchange(ec.ECDH(), recipient.key()), algorithm="A256GCM")
    sealed = AESGCM(key).encrypt(nonce, plaintext, protected.encode("ascii"))
    ciphertext, tag = sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:]
    # The second part, the encrypted key, is empty in direct key agreement (RFC 7516 §5.1 step 5).
    encoded = (base64url.encode(nonce), base64url.encode(ciphertext), base64url.encode(tag))
    return f"{protected}..{'.'.join(encoded)}"


def concat_kdf(
    shared_secret: bytes,
    *,
    algorithm: str,
    apu: bytes = b"",
    apv: bytes = b"",
    bits: int = _CEK_BITS,
) -> bytes:
    """The Concat KDF of RFC 7518 §4.6.2 for keys of up to 256 bits: one round of SHA-256."""
    if bits > 256:
        raise ValueError("one round gives 256 bits")

    def length_prefixed(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    other_info = (
        length_prefixed(algorithm.encode("ascii"))
        + length_prefixed(apu)
        + length_prefixed(apv)
        + bits.to_bytes(4, "big")
    )
    return hashlib.sha256(b"\x00\x00\x00\x01" + shared_secret + other_info).digest()[: bits // 8]


def _scalar(random: Callable[[int], bytes]) -> ec.EllipticCurvePrivateKey:
    # Rejection keeps the scalar uniform (FIPS 186-5 A.2.2); a second draw happens once in 2^32.
    while not 0 < (value := int.from_bytes(random(32), "big")) < _P256_ORDER:
        continue
    return ec.derive_private_key(value, ec.SECP256R1())
