"""Make docs/mobile/vectors.json: values that a port to a phone has to reproduce or open.

`python -m tests.mobile.make_vectors` writes new ones, with new keys. `test_vectors.py` holds what is
written against the server's code and against the reference client's. The keys in the file are for
tests alone, and everybody has them.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7515_jws import sign_es256
from keyferry.vault.device_envelope import HPKE, JWE, DeviceEnvelope
from keyferry_client.device import SoftwareDeviceKeys
from keyferry_client.dpop import access_token_hash, make_proof
from keyferry_client.jose import concat_kdf, thumbprint

VECTORS: Final = Path(__file__).resolve().parents[2] / "docs" / "mobile" / "vectors.json"

ISSUER: Final = "https://auth.example.com"
NOW: Final = 1_795_334_400
ACCESS_TOKEN: Final = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
"""The one of RFC 9449 §7.1, whose `ath` is in its example."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def standard(data: bytes) -> str:
    """Base64 as the APIs of phones have it by default, and as pins are written."""
    return base64.b64encode(data).decode("ascii")


def pkcs8(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    return standard(
        key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def vectors() -> dict[str, Any]:
    device = SoftwareDeviceKeys.generate()
    exported = device.export()
    signing = serialization.load_pem_private_key(exported["signing"].encode(), None)
    encryption = serialization.load_pem_private_key(exported["encryption"].encode(), None)
    assert isinstance(signing, ec.EllipticCurvePrivateKey)
    assert isinstance(encryption, ec.EllipticCurvePrivateKey)
    kid = thumbprint(device.encryption_jwk)
    proof = make_proof(
        device,
        "GET",
        f"{ISSUER}/v1/keys?names=gemini",
        issued_at=NOW,
        nonce="a-nonce-of-the-server",
        access_token=ACCESS_TOKEN,
        jti="the-jti-of-this-proof",
    )
    raw = device.sign(b"what is signed")
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    other = ec.generate_private_key(ec.SECP256R1())
    shared = encryption.exchange(ec.ECDH(), other.public_key())
    return {
        "about": "Values for tests of a port. The private keys are public: use them for nothing else.",
        "device_key": {
            "jwk": dict(device.signing_jwk),
            "jkt": thumbprint(device.signing_jwk),
            "private_pkcs8": pkcs8(signing),
        },
        "encryption_key": {
            "jwk": dict(device.encryption_jwk),
            "kid": kid,
            "private_pkcs8": pkcs8(encryption),
        },
        "concat_kdf": {
            "shared_secret": b64(shared),
            "algorithm": "A256GCM",
            "bits": 256,
            "derived": b64(concat_kdf(shared, "A256GCM", 256)),
        },
        "signature": {
            "message": "what is signed",
            "asn1": b64(der),
            "jose": b64(raw),
        },
        "proof": {
            "access_token": ACCESS_TOKEN,
            "ath": access_token_hash(ACCESS_TOKEN),
            "method": "GET",
            "url": f"{ISSUER}/v1/keys?names=gemini",
            "dpop": proof.header,
        },
        "provider_nonce": hashlib.sha256(thumbprint(device.signing_jwk).encode()).hexdigest(),
        "delivery": delivery(device, kid),
        "pin": pin(),
    }


def delivery(device: SoftwareDeviceKeys, kid: str) -> dict[str, Any]:
    server = ec.generate_private_key(ec.SECP256R1())
    numbers = server.public_key().public_numbers()
    jwk = {
        "kty": "EC",
        "crv": "P-256",
        "x": b64(numbers.x.to_bytes(32, "big")),
        "y": b64(numbers.y.to_bytes(32, "big")),
    }
    claims = {
        "iss": ISSUER,
        "aud": "android",
        "sub": "a-user",
        "sid": "a-session",
        "iat": NOW,
        "proof_jti": "the-jti-of-this-proof",
        "encryption_kid": kid,
        "min_fetch_interval": 60,
        "keys": {
            "gemini": {
                "value": "AIza-not-a-real-key",
                "version": 3,
                "min_version": 1,
                "cache_seconds": 300,
            }
        },
        "refused": {"maps": "app_version_too_old"},
    }
    jwt = sign_es256(typ="keyferry-keys+jwt", kid=thumbprint(jwk), claims=claims, key=server)
    recipient = Recipient.from_members(device.encryption_jwk, allow_rsa=False)
    old = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    public = old.public_key().public_numbers()
    rsa_jwk = {
        "kty": "RSA",
        "n": b64(public.n.to_bytes(256, "big")),
        "e": b64(public.e.to_bytes(3, "big")),
        "alg": "RSA-OAEP",
    }
    old_phone = Recipient.from_members(rsa_jwk, allow_rsa=True)
    return {
        "signing_jwk": jwk,
        "jwt": jwt,
        "jwe": DeviceEnvelope(recipient, JWE).seal(jwt, random=os.urandom),
        "hpke": DeviceEnvelope(recipient, HPKE).seal(jwt, random=os.urandom),
        "rsa_private_pkcs8": pkcs8(old),
        "rsa_kid": thumbprint(rsa_jwk),
        "rsa_jwe": DeviceEnvelope(old_phone, JWE).seal(jwt, random=os.urandom),
    }


def pin() -> dict[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "auth.example.com")])
    begin = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + datetime.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return {
        "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        "sha256": standard(hashlib.sha256(spki).digest()),
    }


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=2) + "\n", encoding="utf-8")
