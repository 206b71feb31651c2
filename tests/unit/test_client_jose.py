"""The reference client's primitives against the values that the RFCs print, and its refusals."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe, jws
from joserfc.jwk import ECKey

from keyferry_client.device import SoftwareDeviceKeys
from keyferry_client.errors import TamperedDelivery
from keyferry_client.jose import (
    b64decode,
    b64encode,
    concat_kdf,
    decrypt,
    public_p256_jwk,
    thumbprint,
    verify_jwt,
)

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
