"""The JOSE subset against published values, against implementations of others, and against abuse."""

import base64
import json
import os
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import ECKey
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from keyferry.jose import base64url, rfc7515_jws, rfc7516_jwe
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk, Ed25519Jwk
from keyferry.jose.strict_json import loads_object

RFC9449_JWK = {  # RFC 9449 §4.1
    "kty": "EC",
    "crv": "P-256",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
}


def private_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    scalar = key.private_numbers().private_value.to_bytes(32, "big")
    return {**EcJwk.from_key(key.public_key()).members(), "d": base64url.encode(scalar)}


class TestBase64Url:
    @given(st.binary(max_size=100))
    def test_round_trip(self, data: bytes) -> None:
        assert base64url.decode(base64url.encode(data)) == data

    @given(st.text(alphabet="ABab01-_+/= \n.", max_size=12))
    def test_every_value_has_one_spelling(self, text: str) -> None:
        try:
            data = base64url.decode(text)
        except ValueError:
            return
        assert base64url.encode(data) == text

    @pytest.mark.parametrize(
        "text", ["AA==", "AA=", "A", "AB", "A A", "A+/A", "AA\n", "Ä", "AAAA\0"]
    )
    def test_other_spellings_are_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="base64url"):
            base64url.decode(text)


class TestStrictJson:
    @pytest.mark.parametrize(
        "document",
        [
            b'{"a":1,"a":1}',
            b'{"a":{"b":1,"b":2}}',
            b"[]",
            b'"x"',
            b"null",
            b'{"a":NaN}',
            b'{"a":Infinity}',
            b"{",
            b"",
            b"\xff",
            '{"a":1}'.encode("utf-16"),
            b"[" * 100_000,
            b'{"a":' + b"[" * 100_000,
        ],
    )
    def test_refused(self, document: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- every kind of ValueError counts
            loads_object(document)


class TestJwk:
    def test_rfc9449_thumbprint(self) -> None:
        jwk = EcJwk.from_members(RFC9449_JWK, use="sig")
        assert jwk.thumbprint() == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"

    def test_rfc8037_thumbprint(self) -> None:
        jwk = Ed25519Jwk.from_members(
            {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
            use="sig",
        )
        assert jwk.thumbprint() == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"

    def test_thumbprint_agrees_with_others(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        jwk = EcJwk.from_key(key.public_key())
        members: dict[str, Any] = {**jwk.members()}
        assert jwk.thumbprint() == ECKey.import_key(members).thumbprint()

    @pytest.mark.parametrize(
        "change",
        [
            {"kty": "RSA"},
            {"crv": "P-384"},
            {"crv": "secp256k1"},
            {"d": "AAAA"},
            {"k": "AAAA"},
            {"use": "enc"},
            {"key_ops": ["sign"]},
            {"key_ops": "verify"},
            {"x": None},
            {"x": 1},
            {"y": ""},
            # 33 bytes with a leading zero: the same point under another thumbprint
            {"x": base64url.encode(b"\0" + base64url.decode(RFC9449_JWK["x"]))},
            {"x": base64url.encode(base64url.decode(RFC9449_JWK["x"])[1:])},
            {"x": RFC9449_JWK["x"] + "="},
        ],
        ids=str,
    )
    def test_refused(self, change: dict[str, object]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            EcJwk.from_members({**RFC9449_JWK, **change}, use="sig")

    def test_off_curve_point_is_refused(self) -> None:
        jwk = EcJwk.from_members({**RFC9449_JWK, "y": RFC9449_JWK["x"]}, use="sig")
        with pytest.raises(ValueError, match="Invalid EC key"):
            jwk.key()


class TestJws:
    key = ec.generate_private_key(ec.SECP256R1())

    def test_pyjwt_verifies_ours(self) -> None:
        token = rfc7515_jws.sign_es256(typ="at+jwt", kid="k", claims={"a": "ü"}, key=self.key)
        assert jwt.decode(token, self.key.public_key(), algorithms=["ES256"]) == {"a": "ü"}
        assert jwt.get_unverified_header(token) == {"alg": "ES256", "typ": "at+jwt", "kid": "k"}

    def test_we_verify_pyjwts(self) -> None:
        token = jwt.encode({"a": 1}, self.key, algorithm="ES256")
        jws = rfc7515_jws.parse(token, max_length=1000)
        assert jws.verify_es256(self.key.public_key())
        assert json.loads(jws.payload) == {"a": 1}

    def test_eddsa(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        jws = rfc7515_jws.parse(jwt.encode({"a": 1}, key, algorithm="EdDSA"), max_length=1000)
        assert jws.verify_eddsa(key.public_key())
        assert not jws.verify_es256(self.key.public_key())

    def test_algorithm_is_pinned(self) -> None:
        for algorithm, key in (("HS256", "k" * 32), ("none", "")):
            jws = rfc7515_jws.parse(jwt.encode({}, key, algorithm=algorithm), max_length=1000)
            assert not jws.verify_es256(self.key.public_key())

    def test_der_signature_is_refused(self) -> None:
        # CVE-2022-21449 and its kin: all-zero and DER-encoded signatures
        token = rfc7515_jws.sign_es256(typ="x", kid="k", claims={}, key=self.key)
        signed = rfc7515_jws.parse(token, max_length=1000)
        for signature in (b"\0" * 64, b"", b"\x30\x06\x02\x01\x01\x02\x01\x01", b"\1" * 65):
            forged = rfc7515_jws.Jws(signed.header, signed.payload, signed.signing_input, signature)
            assert not forged.verify_es256(self.key.public_key())

    @given(st.integers(0, 200), st.sampled_from("=. \nA"))
    def test_one_spelling(self, position: int, insert: str) -> None:
        token = rfc7515_jws.sign_es256(typ="x", kid="k", claims={"a": 1}, key=self.key)
        position = min(position, len(token))
        changed = token[:position] + insert + token[position:]
        try:
            jws = rfc7515_jws.parse(changed, max_length=1000)
        except ValueError:
            return
        assert not jws.verify_es256(self.key.public_key())

    def test_crit_is_refused(self) -> None:
        token = jwt.encode({}, self.key, algorithm="ES256", headers={"crit": ["b64"], "b64": True})
        with pytest.raises(ValueError, match="crit"):
            rfc7515_jws.parse(token, max_length=1000)

    @pytest.mark.parametrize("token", ["", "..", "a.b", "a.b.c.d", "e30.e30", "e30..", "W10..AA"])
    def test_not_a_jws(self, token: str) -> None:
        try:
            jws = rfc7515_jws.parse(token, max_length=1000)
        except ValueError:
            return
        assert not jws.verify_es256(self.key.public_key())

    def test_length_is_bounded(self) -> None:
        with pytest.raises(ValueError, match="long"):
            rfc7515_jws.parse("a" * 1001, max_length=1000)


class TestJwe:
    key = ec.generate_private_key(ec.SECP256R1())
    recipient = Recipient(EcJwk.from_key(key.public_key()))

    def test_rfc7518_appendix_c(self) -> None:
        # The published agreement derives a 128-bit key with PartyInfo.
        shared_secret = bytes(
            [158, 86, 217, 29, 129, 113, 53, 211, 114, 131, 66, 131, 191, 132, 38, 156]
            + [251, 49, 110, 163, 218, 128, 106, 72, 246, 218, 167, 121, 140, 254, 144, 196]
        )
        derived = rfc7516_jwe.concat_kdf(
            shared_secret, algorithm="A128GCM", apu=b"Alice", apv=b"Bob", bits=128
        )
        assert base64url.encode(derived) == "VqqN6vgjbSBcIijNcacQGg"

    @given(st.binary(max_size=300))
    def test_joserfc_opens_ours(self, plaintext: bytes) -> None:
        token = rfc7516_jwe.encrypt(plaintext, self.recipient, cty="JWT", random=os.urandom)
        opened = joserfc_jwe.decrypt_compact(
            token, ECKey.import_key(private_jwk(self.key)), algorithms=["ECDH-ES", "A256GCM"]
        )
        assert opened.plaintext == plaintext
        assert opened.headers()["kid"] == self.recipient.thumbprint()
        assert "zip" not in opened.headers()

    def test_jwcrypto_opens_ours(self) -> None:
        token = rfc7516_jwe.encrypt(b"secret", self.recipient, cty="JWT", random=os.urandom)
        opened = JWE()
        opened.deserialize(token, JWK(**private_jwk(self.key)))
        assert opened.payload == b"secret"

    def test_every_encryption_is_new(self) -> None:
        tokens = {
            rfc7516_jwe.encrypt(b"x", self.recipient, cty="JWT", random=os.urandom)
            for _ in range(20)
        }
        parts = [token.split(".") for token in tokens]
        assert len({part[0] for part in parts}) == 20  # epk
        assert len({part[2] for part in parts}) == 20  # nonce

    def test_ephemeral_key_comes_from_the_given_randomness_alone(self) -> None:
        """Two processes restored from one snapshot share OpenSSL's state, but not the kernel's."""

        def fixed(length: int) -> bytes:
            return b"\x07" * length

        first, second = (
            rfc7516_jwe.encrypt(b"x", self.recipient, cty="JWT", random=fixed) for _ in range(2)
        )
        assert first == second

    def test_scalar_out_of_range_is_drawn_again(self) -> None:
        draws = iter([b"\xff" * 32, b"\0" * 32, b"\x01" * 32, b"\x01" * 12])
        token = rfc7516_jwe.encrypt(b"x", self.recipient, cty="JWT", random=lambda _: next(draws))
        header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
        expected = ec.derive_private_key(int.from_bytes(b"\x01" * 32, "big"), ec.SECP256R1())
        assert header["epk"] == EcJwk.from_key(expected.public_key()).members()
