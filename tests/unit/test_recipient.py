"""Which encryption keys are accepted, and how they are named and stored."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import JWKRegistry

from keyferry.jose import base64url
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk, X25519Jwk
from keyferry.sessions.store import session_from_item, session_to_item
from tests.unit.test_rotation import ROW

P256 = {  # RFC 7518 Appendix C, Bob's
    "kty": "EC",
    "crv": "P-256",
    "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
    "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
}
X25519 = {  # RFC 8037 Appendix A.6, Bob's
    "kty": "OKP",
    "crv": "X25519",
    "x": "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08",
}
RSA = {  # RFC 7638 §3.1
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
    "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
    "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
    "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
}
PRIME = 2**255 - 19


def rsa_jwk(bits: int) -> dict[str, str]:
    numbers = rsa.generate_private_key(65537, bits).public_key().public_numbers()
    return {"kty": "RSA", "n": integer(numbers.n), "e": integer(numbers.e)}


def integer(value: int) -> str:
    return base64url.encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


EVERY_KEY = [P256, X25519, RSA]


def read(members: dict[str, Any], *, allow_rsa: bool = True) -> Recipient:
    return Recipient.from_members(members, allow_rsa=allow_rsa)


class TestAccepted:
    @pytest.mark.parametrize(
        ("members", "alg"),
        [
            (P256, "ECDH-ES"),
            (P256 | {"alg": "ECDH-ES"}, "ECDH-ES"),
            (P256 | {"alg": "ECDH-ES+A256KW"}, "ECDH-ES+A256KW"),
            (X25519, "ECDH-ES"),
            (X25519 | {"alg": "ECDH-ES+A256KW"}, "ECDH-ES+A256KW"),
            (RSA, "RSA-OAEP"),
            (RSA | {"alg": "RSA-OAEP"}, "RSA-OAEP"),
        ],
    )
    def test_the_key_chooses_among_the_algorithms_of_its_type(
        self, members: dict[str, str], alg: str
    ) -> None:
        recipient = read(members)
        assert recipient.alg == alg
        assert recipient.members() == members | {"alg": alg}

    @pytest.mark.parametrize("members", EVERY_KEY, ids=lambda each: each["kty"])
    def test_what_webcrypto_and_others_add(self, members: dict[str, Any]) -> None:
        operations = ["wrapKey", "encrypt"] if members["kty"] == "RSA" else []
        more = {"use": "enc", "key_ops": operations, "ext": True, "kid": "x"}
        assert read(members | more) == read(members)

    @pytest.mark.parametrize("members", EVERY_KEY, ids=lambda each: each["kty"])
    def test_thumbprint_agrees_with_joserfc(self, members: dict[str, Any]) -> None:
        assert read(members).thumbprint() == JWKRegistry.import_key({**members}).thumbprint()

    @pytest.mark.parametrize("bits", [3072, 4096])
    def test_longer_rsa_keys(self, bits: int) -> None:
        assert read(rsa_jwk(bits)).alg == "RSA-OAEP"


class TestRefused:
    @pytest.mark.parametrize(
        ("members", "why"),
        [
            ({}, "key type"),
            ({"kty": None}, "key type"),
            ({"kty": ["EC"]}, "key type"),
            ({"kty": "oct", "k": "AAAA"}, "key type"),
            (P256 | {"kty": "RSA"}, "key type"),
            (P256 | {"crv": "P-384"}, "key type"),
            (P256 | {"crv": "secp256k1"}, "key type"),
            (P256 | {"crv": "X25519"}, "key type"),
            (X25519 | {"crv": "Ed25519"}, "key type"),
            (X25519 | {"crv": "X448"}, "key type"),
            (P256 | {"d": "AAAA"}, "private"),
            (X25519 | {"d": "AAAA"}, "private"),
            (RSA | {"p": "AAAA"}, "private"),
            (P256 | {"use": "sig"}, "another use"),
            (P256 | {"use": None}, "another use"),
            (P256 | {"key_ops": ["sign"]}, "operation"),
            (P256 | {"key_ops": ["wrapKey"]}, "operation"),
            (RSA | {"key_ops": ["deriveBits"]}, "operation"),
            (RSA | {"key_ops": ["decrypt"]}, "operation"),
            (P256 | {"alg": "ECDH-ES+A128KW"}, "alg"),
            (P256 | {"alg": "RSA-OAEP"}, "alg"),
            (P256 | {"alg": "dir"}, "alg"),
            (P256 | {"alg": "PBES2-HS256+A128KW"}, "alg"),
            (P256 | {"alg": None}, "alg"),
            (P256 | {"alg": ["ECDH-ES"]}, "alg"),
            (P256 | {"alg": "ES256"}, "alg"),
            (X25519 | {"alg": "HPKE-0"}, "alg"),
            (RSA | {"alg": "RSA1_5"}, "alg"),
            (RSA | {"alg": "RSA-OAEP-256"}, "alg"),
            (RSA | {"alg": "RS256"}, "alg"),
            (RSA | {"alg": "ECDH-ES"}, "alg"),
            # 33 and 31 bytes: the same point under another thumbprint
            (P256 | {"x": base64url.encode(b"\0" + base64url.decode(P256["x"]))}, "length"),
            (P256 | {"y": base64url.encode(base64url.decode(P256["y"])[1:])}, "length"),
            (P256 | {"x": P256["x"] + "="}, "base64url"),
            (P256 | {"x": 1}, "missing"),
            ({"kty": "EC", "crv": "P-256", "x": P256["x"]}, "missing"),
            (P256 | {"y": P256["x"]}, "not on the curve"),
            (P256 | {"x": "A" * 43, "y": "A" * 43}, "not on the curve"),
            (X25519 | {"x": base64url.encode(bytes(31))}, "length"),
            (X25519 | {"x": base64url.encode(bytes(33))}, "length"),
            (RSA | {"n": base64url.encode(b"\0" + base64url.decode(RSA["n"]))}, "leading zeros"),
            (RSA | {"e": base64url.encode(b"\0\x01\0\x01")}, "leading zeros"),
            (RSA | {"e": "Aw"}, "exponent"),
            (RSA | {"e": integer(2**32 + 1)}, "exponent"),
            (RSA | {"e": integer(2**17)}, "not an RSA public key"),
            (RSA | {"n": integer(2**2047 + 2)}, "even"),
            (RSA | {"n": ""}, "length"),
            (RSA | {"n": integer(2**1023 + 1)}, "length"),
            (RSA | {"n": integer(2**2046 + 1)}, "length"),
            (RSA | {"n": integer(2**4096 + 1)}, "length"),
            (RSA | {"n": integer(2**9000 + 1)}, "length"),
        ],
        ids=str,
    )
    def test_everything_else(self, members: dict[str, Any], why: str) -> None:
        with pytest.raises(ValueError, match=why):
            read(members)

    # The eight points of small order on Curve25519 and its twist have these u-coordinates: 0, 1, -1
    # and the two of order 8 (RFC 7748 §7 names the effect). They make everybody agree on zero.
    @pytest.mark.parametrize(
        "u",
        [
            0,
            1,
            PRIME - 1,
            325606250916557431795983626356110631294008115727848805560023387167927233504,
            39382357235489614581723060781553021112529911719440698176882885853963445705823,
        ],
    )
    def test_x25519_points_of_small_order(self, u: int) -> None:
        with pytest.raises(ValueError, match="small order"):
            read(X25519 | {"x": base64url.encode(u.to_bytes(32, "little"))})

    @pytest.mark.parametrize("u", [PRIME, PRIME + 1, PRIME + 9, 2**255 - 1, 2**255 + 9])
    def test_x25519_coordinates_with_another_spelling(self, u: int) -> None:
        with pytest.raises(ValueError, match="not reduced"):
            read(X25519 | {"x": base64url.encode(u.to_bytes(32, "little"))})

    @pytest.mark.parametrize("alg", [None, "RSA-OAEP"])
    def test_rsa_where_the_stack_does_not_allow_it(self, alg: str | None) -> None:
        with pytest.raises(ValueError, match="key type not accepted"):
            read(RSA | ({"alg": alg} if alg else {}), allow_rsa=False)

    @pytest.mark.parametrize("members", EVERY_KEY, ids=lambda each: each["kty"])
    def test_refusals_quote_nothing(self, members: dict[str, Any]) -> None:
        for name in (*members, "alg", "use", "d"):
            with pytest.raises(ValueError) as refusal:  # noqa: PT011 -- its text is looked at
                read(members | {name: "planted"})
            assert "planted" not in str(refusal.value)


class TestStored:
    @pytest.mark.parametrize(
        "members", [*EVERY_KEY, P256 | {"alg": "ECDH-ES+A256KW"}], ids=lambda each: each["kty"]
    )
    def test_row_gives_back_what_was_put(self, members: dict[str, Any]) -> None:
        session = replace(ROW, encryption_key=read(members))
        assert session_from_item(session_to_item(session)) == session

    def test_row_of_a_default_key_is_as_before_there_were_kinds_of_keys(self) -> None:
        """Sessions of before live on, and those of today survive a deployment that is rolled back."""
        item = session_to_item(replace(ROW, encryption_key=read(P256)))
        assert (item["encryption_x"], item["encryption_y"]) == ({"S": P256["x"]}, {"S": P256["y"]})
        assert "encryption_key" not in item


@given(st.binary(min_size=32, max_size=32))
def test_every_x25519_key_pair_is_accepted(scalar: bytes) -> None:
    public = x25519.X25519PrivateKey.from_private_bytes(scalar).public_key()
    assert read(X25519Jwk.from_key(public).members()).jwk.key() == public


@given(st.integers(1, 2**255))
def test_every_p256_key_pair_is_accepted(scalar: int) -> None:
    public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
    members = EcJwk.from_key(public).members()
    assert read(json.loads(json.dumps(members))).jwk.key() == public
