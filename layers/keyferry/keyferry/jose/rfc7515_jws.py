"""JWS compact serialisation (RFC 7515) with ES256 (RFC 7518 §3.4), and EdDSA (RFC 8037) to verify.

`parse` splits and decodes and trusts nothing; `Jws.verify_es256` and `Jws.verify_eddsa` take the
key that the caller has already chosen. No function here picks a key or an algorithm from a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)

from keyferry.jose import base64url
from keyferry.jose.strict_json import loads_object

_SHA256: Final = ec.ECDSA(hashes.SHA256())
_INTEGER_BYTES: Final = 32
_JSON: Final = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class Jws:
    """A parsed and **unverified** compact JWS."""

    header: Mapping[str, Any]
    payload: bytes
    signing_input: bytes
    signature: bytes

    def verify_es256(self, key: ec.EllipticCurvePublicKey) -> bool:
        if self.header.get("alg") != "ES256" or len(self.signature) != 2 * _INTEGER_BYTES:
            return False
        r = int.from_bytes(self.signature[:_INTEGER_BYTES], "big")
        s = int.from_bytes(self.signature[_INTEGER_BYTES:], "big")
        try:
            key.verify(encode_dss_signature(r, s), self.signing_input, _SHA256)
        except InvalidSignature:
            return False
        return True

    def verify_eddsa(self, key: ed25519.Ed25519PublicKey) -> bool:
        # RFC 9864 names the algorithm "Ed25519"; RFC 8037's "EdDSA" is what phones send today.
        if self.header.get("alg") not in ("EdDSA", "Ed25519"):
            return False
        try:
            key.verify(self.signature, self.signing_input)
        except InvalidSignature:
            return False
        return True


def parse(token: str, *, max_length: int) -> Jws:
    """Raise `ValueError` for anything but three canonical parts under a JSON header.

    A ``crit`` header (RFC 7515 §4.1.11) is always refused: there is no extension to understand.
    """
    if len(token) > max_length:
        raise ValueError("too long")
    parts = token.split(".")
    if len(parts) != 3:
        raise ValueError("not a compact JWS")
    header = loads_object(base64url.decode(parts[0]))
    if "crit" in header:
        raise ValueError("crit is not supported")
    return Jws(
        header=header,
        payload=base64url.decode(parts[1]),
        signing_input=f"{parts[0]}.{parts[1]}".encode("ascii"),
        signature=base64url.decode(parts[2]),
    )


def sign_es256(
    *, typ: str, kid: str, claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey
) -> str:
    """Sign ``claims`` as a compact JWT (RFC 7519 §7.1)."""
    header = {"alg": "ES256", "typ": typ, "kid": kid}
    signing_input = f"{_segment(header)}.{_segment(claims)}"
    r, s = decode_dss_signature(key.sign(signing_input.encode("ascii"), _SHA256))
    signature = r.to_bytes(_INTEGER_BYTES, "big") + s.to_bytes(_INTEGER_BYTES, "big")
    return f"{signing_input}.{base64url.encode(signature)}"


def _segment(value: Mapping[str, Any]) -> str:
    return base64url.encode(_JSON.encode(value).encode("utf-8"))
