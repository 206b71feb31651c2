"""The reference client's primitives against the values that the RFCs print, and its refusals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from keyferry_client.device import Kind, SoftwareDeviceKeys
from keyferry_client.errors import TamperedDelivery
from keyferry_client.jose import (
    b64decode,
    b64encode,
    concat_kdf,
    decrypt,
    public_agreement_jwk,
    public_p256_jwk,
    thumbprint,
    verify_jwt,
)

VECTORS = Path(__file__).parents[1] / "vectors"

# RFC 7518 Appendix C: Alice's ephemeral key, Bob's static key.
ALICE = {
    "kty": "EC",
    "crv": "P-256",
    "x": "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
    "y": "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
}
BOB_D = "VEmDZpDXXK8p8N0Cndsxs924q6nS1RXFASRl6BfUqdw"
SHARED_SECRET = bytes.fromhex(
    "9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4"  # printed in decimal there
)


def bob() -> SoftwareDeviceKeys:
    key = ec.derive_private_key(int.from_bytes(b64decode(BOB_D), "big"), ec.SECP256R1())
    return SoftwareDeviceKeys(key, key)


def test_rfc_7518_appendix_c_key_agreement() -> None:
    assert bob().encryption_jwk["x"] == "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ"
    assert bob().agree(ALICE) == SHARED_SECRET


def test_rfc_7518_appendix_c_key_derivation() -> None:
    derived = concat_kdf(SHARED_SECRET, "A128GCM", 128, apu=b"Alice", apv=b"Bob")
    assert b64encode(derived) == "VqqN6vgjbSBcIijNcacQGg"


def test_rfc_7638_section_3_1_thumbprint() -> None:
    modulus = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
        "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
        "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
        "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    key = {"kty": "RSA", "n": modulus, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    assert thumbprint(key) == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_thumbprint_of_an_elliptic_curve_key_agrees_with_joserfc() -> None:
    key = ECKey.generate_key("P-256")
    members = {name: str(value) for name, value in key.as_dict(private=False).items()}
    assert thumbprint(members) == key.thumbprint()


@given(st.binary(max_size=70))
def test_base64url_has_one_spelling(data: bytes) -> None:
    text = b64encode(data)
    assert b64decode(text) == data
    for other in (text + "=", text + "\n", " " + text, text + "+"):
        with pytest.raises(TamperedDelivery):
            b64decode(other)


@pytest.mark.parametrize("text", ["A", "AB", "A+/=", "é", "AAA=", "AA=="])
def test_base64url_that_is_not_canonical_is_refused(text: str) -> None:
    with pytest.raises(TamperedDelivery):
        b64decode(text)


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "OKP"},
        {"crv": "P-384"},
        {"d": BOB_D},
        {"x": b64encode(b"\0" + b64decode(ALICE["x"]))},
        {"y": b64encode(b64decode(ALICE["y"])[:31])},
        {"x": 7},
    ],
)
def test_public_key_that_is_not_plain_p256_is_refused(change: dict[str, Any]) -> None:
    assert public_p256_jwk({**ALICE, "kid": "ignored"}) == ALICE
    with pytest.raises(TamperedDelivery):
        public_p256_jwk({**ALICE, **change})


# ── JWE ──────────────────────────────────────────────────────────────────


def encrypted(device: SoftwareDeviceKeys, **header: Any) -> str:
    """A JWE by a library that shares no code with the client."""
    protected = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT"}
    protected |= {"kid": thumbprint(device.encryption_jwk)} | header
    key = ECKey.import_key({**device.encryption_jwk})
    return jwe.encrypt_compact(protected, b"inner", key, algorithms=list(ALGORITHMS))


ALGORITHMS = ("ECDH-ES", "ECDH-ES+A256KW", "A256GCM", "A128GCM")


def opened(token: str, device: SoftwareDeviceKeys) -> bytes:
    return decrypt(token, device)


def test_jwe_of_another_implementation_opens() -> None:
    device = SoftwareDeviceKeys.generate()
    assert opened(encrypted(device), device) == b"inner"


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ECDH-ES+A256KW"},
        {"enc": "A128GCM"},
        {"cty": "json"},
        {"kid": "another"},
        {"apu": "QWxpY2U"},
    ],
)
def test_jwe_with_another_header_is_refused(header: dict[str, Any]) -> None:
    device = SoftwareDeviceKeys.generate()
    with pytest.raises(TamperedDelivery):
        opened(encrypted(device, **header), device)


@pytest.mark.parametrize("extra", [{"zip": "DEF"}, {"crit": ["exp"]}, {"apv": "Qm9i"}])
def test_jwe_header_that_is_not_understood_is_refused(extra: dict[str, Any]) -> None:
    device = SoftwareDeviceKeys.generate()
    protected, _, rest = encrypted(device).partition(".")
    header = json.loads(b64decode(protected)) | extra
    with pytest.raises(TamperedDelivery, match="unexpected JWE header"):
        opened(f"{b64encode(json.dumps(header).encode())}.{rest}", device)


def test_jwe_for_another_device_is_refused_even_under_our_kid() -> None:
    device, other = SoftwareDeviceKeys.generate(), SoftwareDeviceKeys.generate()
    token = encrypted(other, kid=thumbprint(device.encryption_jwk))
    with pytest.raises(TamperedDelivery):
        opened(token, device)


def flip(index: int) -> Callable[[str], str]:
    def change(token: str) -> str:
        parts = token.split(".")
        data = bytearray(b64decode(parts[index]))
        data[len(data) // 2] ^= 1
        parts[index] = b64encode(bytes(data))
        return ".".join(parts)

    return change


@pytest.mark.parametrize(
    "change",
    [
        flip(0),
        flip(2),
        flip(3),
        flip(4),
        lambda token: token + "=",
        lambda token: token + ".",
        lambda token: token[:-8],
        lambda token: token.replace("..", ".AAAA."),
        lambda token: (
            token.rpartition(".")[0] + "." + b64encode(b64decode(token.split(".")[4])[:4])
        ),
        lambda token: "",
    ],
)
def test_altered_jwe_is_refused(change: Callable[[str], str]) -> None:
    device = SoftwareDeviceKeys.generate()
    with pytest.raises(TamperedDelivery):
        opened(change(encrypted(device)), device)


def test_ephemeral_key_off_the_curve_is_refused() -> None:
    device = SoftwareDeviceKeys.generate()
    header = {
        "alg": "ECDH-ES",
        "enc": "A256GCM",
        "cty": "JWT",
        "kid": thumbprint(device.encryption_jwk),
        "epk": ALICE | {"y": b64encode(b"\1" * 32)},
    }
    parts = (json.dumps(header).encode(), b"", os.urandom(12), b"ciphertext", os.urandom(16))
    with pytest.raises(TamperedDelivery, match="not a good point"):
        opened(".".join(map(b64encode, parts)), device)


# ── other kinds of keys ──────────────────────────────────────────────────


def test_rfc_8037_appendix_a_6_key_agreement() -> None:
    # The private keys stand in RFC 7748 §6.1; the epk and Z here in RFC 8037.
    bob = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
    key = x25519.X25519PrivateKey.from_private_bytes(bytes.fromhex(bob))
    device = SoftwareDeviceKeys(ec.generate_private_key(ec.SECP256R1()), key)
    assert device.encryption_jwk["x"] == "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"
    epk = {"kty": "OKP", "crv": "X25519", "x": "hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo"}
    assert public_agreement_jwk(epk | {"kid": "ignored"}, "X25519") == epk
    assert device.agree(epk).hex() == (
        "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    )


def test_rfc_7520_section_5_2_rsa_oaep() -> None:
    vector = json.loads((VECTORS / "rfc7520_5_2.json").read_text(encoding="utf-8"))
    members = RSAKey.import_key(vector["key"])
    pem = members.as_pem(private=True).decode()
    device = SoftwareDeviceKeys.restore(
        SoftwareDeviceKeys.generate().export() | {"encryption": pem}
    )
    protected, encrypted_key, nonce, ciphertext, tag = vector["jwe"].split(".")
    content_key = device.unwrap(b64decode(encrypted_key))
    assert b64encode(content_key) == vector["content_encryption_key"]
    opened = AESGCM(content_key).decrypt(
        b64decode(nonce), b64decode(ciphertext) + b64decode(tag), protected.encode()
    )
    assert opened.decode() == vector["plaintext"]
    # It is another kind of content for a key of another name, and refused as a delivery.
    with pytest.raises(TamperedDelivery, match="another device"):
        decrypt(vector["jwe"], device)


def test_rfc_3394_section_4_6_key_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """256 bits under 256 bits, as a delivery has them: in place of a key that was agreed on."""
    wrapping = bytes(range(32))
    wrapped = "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"
    content_key = "00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f"
    device = SoftwareDeviceKeys.generate(key_wrap=True)
    monkeypatch.setattr("keyferry_client.jose.concat_kdf", lambda *_: wrapping)

    def token(encrypted_key: str) -> str:
        header = {
            "alg": "ECDH-ES+A256KW",
            "enc": "A256GCM",
            "cty": "JWT",
            "kid": thumbprint(device.encryption_jwk),
            "epk": ALICE,
        }
        protected, nonce = b64encode(json.dumps(header).encode()), os.urandom(12)
        key = AESGCM(bytes.fromhex(content_key))
        sealed = key.encrypt(nonce, b"inner", protected.encode())
        parts = (bytes.fromhex(encrypted_key), nonce, sealed[:-16], sealed[-16:])
        return ".".join((protected, *map(b64encode, parts)))

    assert decrypt(token(wrapped), device) == b"inner"
    for other in ("", wrapped[:-2], "29" + wrapped[2:], wrapped + "0" * 16):
        with pytest.raises(TamperedDelivery, match="encrypted key"):
            decrypt(token(other), device)


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "EC"},
        {"crv": "Ed25519"},
        {"d": BOB_D},
        {"x": b64encode(b"\0" * 33)},
        {"x": b64encode(b"\0" * 31)},
        {"x": 7},
    ],
)
def test_public_key_that_is_not_plain_x25519_is_refused(change: dict[str, Any]) -> None:
    epk = {"kty": "OKP", "crv": "X25519", "x": b64encode(b"\x09" + b"\0" * 31)}
    with pytest.raises(TamperedDelivery):
        public_agreement_jwk(epk | change, "X25519")


@pytest.mark.parametrize("kind", ["P-256", "X25519", "RSA"])
@pytest.mark.parametrize("part", range(5))
def test_every_part_is_protected(kind: Kind, part: int) -> None:
    device = SoftwareDeviceKeys.generate(kind, key_wrap=True)
    jwk = device.encryption_jwk
    protected = {"alg": jwk["alg"], "enc": "A256GCM", "cty": "JWT", "kid": thumbprint(jwk)}
    key = JWKRegistry.import_key({**jwk})
    token = jwe.encrypt_compact(
        protected, b"inner" * 9, key, algorithms=["ECDH-ES+A256KW", "RSA-OAEP", "A256GCM"]
    )
    assert opened(token, device) == b"inner" * 9
    with pytest.raises(TamperedDelivery):
        opened(flip(part)(token), device)


def test_x25519_ephemeral_key_of_small_order_is_refused() -> None:
    device = SoftwareDeviceKeys.generate("X25519")
    header = {
        "alg": "ECDH-ES",
        "enc": "A256GCM",
        "cty": "JWT",
        "kid": thumbprint(device.encryption_jwk),
        "epk": {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
    }
    parts = (json.dumps(header).encode(), b"", os.urandom(12), b"ciphertext", os.urandom(16))
    with pytest.raises(TamperedDelivery, match="not a good point"):
        opened(".".join(map(b64encode, parts)), device)


# ── JWT ──────────────────────────────────────────────────────────────────


def signed(key: ECKey, claims: dict[str, Any], **header: Any) -> str:
    protected = {"alg": "ES256", "typ": "keyferry-keys+jwt", "kid": "k1"} | header
    return jws.serialize_compact(protected, json.dumps(claims), key, algorithms=["ES256", "ES384"])


def members(key: ECKey) -> dict[str, str]:
    return {name: str(value) for name, value in key.as_dict(private=False).items()}


def test_signature_of_another_implementation_verifies() -> None:
    key = ECKey.generate_key("P-256")
    token = signed(key, {"sub": "u"})
    assert verify_jwt(token, typ="keyferry-keys+jwt", jwk=members(key)) == {"sub": "u"}


@pytest.mark.parametrize(
    ("header", "curve"),
    [
        ({"typ": "at+jwt"}, "P-256"),
        ({"typ": "JWT"}, "P-256"),
        ({"kid": None}, "P-256"),
        ({"alg": "ES384"}, "P-384"),
    ],
)
def test_token_of_another_kind_is_refused(header: dict[str, Any], curve: Any) -> None:
    key = ECKey.generate_key(curve)
    if "kid" in header:
        parts = signed(key, {}).split(".")
        without = {"alg": "ES256", "typ": "keyferry-keys+jwt"}
        token = ".".join((b64encode(json.dumps(without).encode()), *parts[1:]))
    else:
        token = signed(key, {}, **header)
    with pytest.raises(TamperedDelivery):
        verify_jwt(token, typ="keyferry-keys+jwt", jwk=members(key))


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_algorithm_of_the_senders_choice_is_refused(algorithm: str) -> None:
    key = ECKey.generate_key("P-256")
    header = {"alg": algorithm, "typ": "keyferry-keys+jwt", "kid": "k1"}
    token = f"{b64encode(json.dumps(header).encode())}.{b64encode(b'{}')}."
    with pytest.raises(TamperedDelivery):
        verify_jwt(token, typ="keyferry-keys+jwt", jwk=members(key))


@pytest.mark.parametrize(
    "change",
    [
        flip(1),
        flip(2),
        lambda token: token + "==",
        lambda token: token[:-1],
        lambda token: token + "\n",
    ],
)
def test_altered_signature_is_refused(change: Callable[[str], str]) -> None:
    key = ECKey.generate_key("P-256")
    with pytest.raises(TamperedDelivery):
        verify_jwt(change(signed(key, {})), typ="keyferry-keys+jwt", jwk=members(key))


def test_deeply_nested_json_is_refused_and_not_followed() -> None:
    key = ECKey.generate_key("P-256")
    bomb = b64encode(b"[" * 100_000)
    with pytest.raises(TamperedDelivery):
        verify_jwt(f"{bomb}.e30.AAAA", typ="keyferry-keys+jwt", jwk=members(key))
