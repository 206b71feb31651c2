"""JWE compact serialisation (RFC 7516) with ``A256GCM`` and the key management that the device asked
for: ``ECDH-ES`` on P-256 unless it said otherwise, as that is the one curve that both Android Keystore
and Secure Enclave agree on in hardware.

No ``zip`` (RFC 8725 §3.6) and no ``apu``/``apv``: the recipient's thumbprint stands in the protected
header, which is the additional data of the encryption anyway.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap

from keyferry.jose import base64url
from keyferry.jose.agreement import agree
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import RsaJwk

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CEK_BITS: Final = 256
# RFC 7518 §4.3: the default parameters of RFC 8017 A.2.1, which are SHA-1 in both places.
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303


def encrypt(
    plaintext: bytes, recipient: Recipient, *, cty: str, random: Callable[[int], bytes]
) -> str:
    """Encrypt to ``recipient``, whose thumbprint becomes ``kid``.

    ``random`` must be `os.urandom` in production; ephemeral keys come from it too (`agreement.agree`).
    """
    header: dict[str, Any] = {
        "alg": recipient.alg,
        "enc": "A256GCM",
        "cty": cty,
        "kid": recipient.thumbprint(),
    }
    jwk = recipient.jwk
    if isinstance(jwk, RsaJwk):
        cek = random(_CEK_BITS // 8)
        # The seed of OAEP is OpenSSL's, which can not be given one. Were it to come twice out of one
        # snapshot, the padded messages would still differ, as their content keys are drawn here, and
        # RSA hides how: only equal keys under equal seeds would show.
        encrypted_key = jwk.key().encrypt(cek, _OAEP)
    else:
        epk, shared_secret = agree(jwk, random)
        header["epk"] = epk.members()
        if recipient.alg == "ECDH-ES":
            # The agreed key is the key, and there is none to send (RFC 7516 §5.1 step 5).
            cek = concat_kdf(shared_secret, algorithm="A256GCM")
            encrypted_key = b""
        else:
            cek = random(_CEK_BITS // 8)
            encrypted_key = aes_key_wrap(concat_kdf(shared_secret, algorithm=recipient.alg), cek)
    protected = base64url.encode(json.dumps(header, separators=(",", ":")).encode("ascii"))
    nonce = random(_NONCE_BYTES)
    sealed = AESGCM(cek).encrypt(nonce, plaintext, protected.encode("ascii"))
    parts = (encrypted_key, nonce, sealed[:-_TAG_BYTES], sealed[-_TAG_BYTES:])
    return ".".join((protected, *map(base64url.encode, parts)))


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
