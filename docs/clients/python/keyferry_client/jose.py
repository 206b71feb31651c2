"""The JOSE that a phone needs: thumbprints, one key derivation, one decryption, one verification.

Everything here is short because the algorithms are pinned: ES256 signatures (RFC 7518 §3.4) and
ECDH-ES with A256GCM on P-256 (RFC 7518 §4.6, §5.3). An algorithm named by the other side is
compared, never obeyed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from .errors import TamperedDelivery

PublicJwk = Mapping[str, str]

# RFC 7638 §3.2, in the order of §3.3.
_REQUIRED_MEMBERS = {"EC": ("crv", "kty", "x", "y"), "RSA": ("e", "kty", "n")}


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


def decrypt(token: str, *, kid: str, agree: Callable[[PublicJwk], bytes]) -> bytes:
    """Open a compact JWE (RFC 7516 §3.1) that was encrypted to the key named `kid`.

    `agree` is the one step that happens inside the secure hardware: ECDH between the device's
    private key and the ephemeral public key, giving the 32-byte x coordinate.
    """
    try:
        protected, encrypted_key, nonce, ciphertext, tag = token.split(".")
    except ValueError as error:
        raise TamperedDelivery("not a compact JWE") from error
    header = json_object(b64decode(protected))
    expected = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT", "kid": kid}
    if {name: header.get(name) for name in expected} != expected:
        raise TamperedDelivery("encrypted with another algorithm or to another device")
    # Nothing else is understood: no "zip" (compression leaks), no "crit" (RFC 7516 §4.1.13).
    if header.keys() - expected.keys() - {"epk", "typ"}:
        raise TamperedDelivery("unexpected JWE header")
    # With direct key agreement the second part is empty (RFC 7518 §4.6).
    if encrypted_key:
        raise TamperedDelivery("unexpected encrypted key")
    if len(b64decode(nonce)) != 12 or len(b64decode(tag)) != 16:
        raise TamperedDelivery("wrong nonce or tag length")
    try:
        shared_secret = agree(public_p256_jwk(header.get("epk")))
    except ValueError as error:
        # A point off the curve would leak bits of the private key; the library refuses it.
        raise TamperedDelivery("the ephemeral key is not a point on P-256") from error
    key = concat_kdf(shared_secret, "A256GCM", 256)
    try:
        # The protected header as received is the additional authenticated data (RFC 7516 §5.2).
        return AESGCM(key).decrypt(
            b64decode(nonce), b64decode(ciphertext) + b64decode(tag), protected.encode()
        )
    except InvalidTag as error:
        raise TamperedDelivery("the ciphertext was altered") from error


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
