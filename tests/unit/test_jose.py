"""The JOSE subset against published values, against implementations of others, and against abuse."""

import base64
import json
import os
from pathlib import Path
from typing import Any, ClassVar

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from keyferry.jose import base64url, rfc7515_jws, rfc7516_jwe, rfc9180_hpke
from keyferry.jose.agreement import agree
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk, Ed25519Jwk, RsaJwk, X25519Jwk
from keyferry.jose.strict_json import loads_object

RFC9449_JWK = {  # RFC 9449 §4.1
    "kty": "EC",
    "crv": "P-256",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
}


RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_RECIPIENT = Recipient(
    RsaJwk(
        **{  # type: ignore[arg-type]
            name: value
            for name, value in RSAKey.import_key(RSA_KEY.public_key()).as_dict().items()
            if name in ("n", "e")
        }
    ),
    "RSA-OAEP",
)
EVERY_RECIPIENT = [
    *(
        Recipient(jwk, alg)
        for jwk in (
            EcJwk.from_key(ec.generate_private_key(ec.SECP256R1()).public_key()),
            X25519Jwk.from_key(x25519.X25519PrivateKey.generate().public_key()),
        )
        for alg in ("ECDH-ES", "ECDH-ES+A256KW")
    ),
    RSA_RECIPIENT,
]


def named(recipient: Recipient) -> str:
    return f"{recipient.jwk.members()['kty']} {recipient.alg}"


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
            {"alg": "ES384"},
            {"alg": "ECDH-ES"},
            {"alg": None},
            {"alg": ["ES256"]},
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

    @pytest.mark.parametrize("recipient", EVERY_RECIPIENT, ids=named)
    def test_header(self, recipient: Recipient) -> None:
        protected, encrypted_key, nonce, _, tag = rfc7516_jwe.encrypt(
            b"x", recipient, cty="JWT", random=os.urandom
        ).split(".")
        header = json.loads(base64url.decode(protected))
        epk = header.pop("epk", None)
        assert header == {
            "alg": recipient.alg,
            "enc": "A256GCM",
            "cty": "JWT",
            "kid": recipient.thumbprint(),
        }
        if recipient.alg == "RSA-OAEP":
            assert epk is None
        else:
            members = recipient.jwk.members()
            assert epk.keys() == members.keys()
            assert (epk["kty"], epk["crv"]) == (members["kty"], members["crv"])
        lengths = {"ECDH-ES": 0, "ECDH-ES+A256KW": 40, "RSA-OAEP": 256}
        assert len(base64url.decode(encrypted_key)) == lengths[recipient.alg]
        assert (len(base64url.decode(nonce)), len(base64url.decode(tag))) == (12, 16)

    @pytest.mark.parametrize("recipient", EVERY_RECIPIENT, ids=named)
    def test_every_encryption_is_new(self, recipient: Recipient) -> None:
        tokens = [
            rfc7516_jwe.encrypt(b"x", recipient, cty="JWT", random=os.urandom).split(".")
            for _ in range(20)
        ]
        fresh = {"ECDH-ES": (0, 2), "ECDH-ES+A256KW": (0, 1, 2), "RSA-OAEP": (1, 2)}
        for part in fresh[recipient.alg]:
            assert len({token[part] for token in tokens}) == 20

    @pytest.mark.parametrize("recipient", EVERY_RECIPIENT[:-1], ids=named)
    def test_ephemeral_key_comes_from_the_given_randomness_alone(
        self, recipient: Recipient
    ) -> None:
        """Two processes restored from one snapshot share OpenSSL's state, but not the kernel's."""
        first, second = (
            rfc7516_jwe.encrypt(b"x", recipient, cty="JWT", random=lambda n: b"\x07" * n)
            for _ in range(2)
        )
        assert first == second

    def test_content_key_of_rsa_comes_from_the_given_randomness(self) -> None:
        token = rfc7516_jwe.encrypt(
            b"x", RSA_RECIPIENT, cty="JWT", random=lambda length: b"\x07" * length
        )
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)  # noqa: S303
        encrypted_key = base64url.decode(token.split(".")[1])
        assert RSA_KEY.decrypt(encrypted_key, oaep) == b"\x07" * 32

    def test_scalar_out_of_range_is_drawn_again(self) -> None:
        draws = iter([b"\xff" * 32, b"\0" * 32, b"\x01" * 32, b"\x01" * 12])
        recipient = Recipient(EcJwk.from_key(self.key.public_key()))
        token = rfc7516_jwe.encrypt(b"x", recipient, cty="JWT", random=lambda _: next(draws))
        header = json.loads(base64.urlsafe_b64decode(token.split(".")[0] + "=="))
        expected = ec.derive_private_key(int.from_bytes(b"\x01" * 32, "big"), ec.SECP256R1())
        assert header["epk"] == EcJwk.from_key(expected.public_key()).members()


class TestAgreement:
    def test_rfc7518_appendix_c(self) -> None:
        alice = base64url.decode("0_NxaRPUMQoAJt50Gz8YiTr8gRTwyEaCumd-MToTmIo")
        bob = EcJwk(
            "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
            "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
        )
        epk, shared_secret = agree(bob, lambda _: alice)
        assert epk == EcJwk(
            "gI0GAILBdu7T53akrFmMyGcsF3n5dO7MmwNBHKW5SV0",
            "SLW_xSffzlPWrHEVI30DHM_4egVwt3NQqeUD7nMFpps",
        )
        assert shared_secret.hex() == (
            "9e56d91d817135d372834283bf84269cfb316ea3da806a48f6daa7798cfe90c4"
        )

    def test_rfc8037_appendix_a_6(self) -> None:
        ephemeral = bytes.fromhex(
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
        )
        bob = X25519Jwk("3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08")
        epk, shared_secret = agree(bob, lambda _: ephemeral)
        assert epk == X25519Jwk("hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo")
        assert shared_secret.hex() == (
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
        )

    def test_rfc7748_section_5_2_ladder(self) -> None:
        scalar = "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4"
        u = "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c"
        public = X25519Jwk(base64url.encode(bytes.fromhex(u)))
        _, shared_secret = agree(public, lambda _: bytes.fromhex(scalar))
        assert shared_secret.hex() == (
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
        )

    def test_bad_points_are_refused(self) -> None:
        for public in (EcJwk("A" * 43, "A" * 43), X25519Jwk("A" * 43)):
            with pytest.raises(ValueError, match=r"Invalid EC key|shared key"):
                agree(public, os.urandom)


class TestHpke:
    """RFC 9180 against the vectors that were published with it."""

    vectors: ClassVar[list[dict[str, Any]]] = json.loads(
        (Path(__file__).parents[1] / "vectors" / "rfc9180_base.json").read_text()
    )

    @staticmethod
    def recipient(vector: dict[str, Any]) -> EcJwk | X25519Jwk:
        public = bytes.fromhex(vector["pkRm"])
        if vector["kem_id"] == rfc9180_hpke.KEM_P256:
            return EcJwk(base64url.encode(public[1:33]), base64url.encode(public[33:]))
        return X25519Jwk(base64url.encode(public))

    def test_there_is_something_to_test(self) -> None:
        suites = {(each["kem_id"], each["kdf_id"], each["aead_id"]) for each in self.vectors}
        assert suites == {(0x10, 1, 1), (0x10, 1, 2), (0x20, 1, 1), (0x20, 1, 2)}

    @pytest.mark.parametrize("vector", vectors, ids=lambda each: f"{each['kem_id']:#x}")
    def test_encapsulation(self, vector: dict[str, Any]) -> None:
        recipient = self.recipient(vector)
        shared_secret, enc = rfc9180_hpke._encapsulate(
            recipient, lambda _: bytes.fromhex(vector["skEm"])
        )
        assert (shared_secret.hex(), enc.hex()) == (vector["shared_secret"], vector["enc"])
        assert recipient.octets().hex() == vector["pkRm"]

    @pytest.mark.parametrize(
        "vector",
        [each for each in vectors if each["aead_id"] == rfc9180_hpke.AEAD_AES_256_GCM],
        ids=lambda each: f"{each['kem_id']:#x}",
    )
    def test_first_encryption(self, vector: dict[str, Any]) -> None:
        given = {name: bytes.fromhex(vector[name]) for name in ("skEm", "info", "aad", "pt")}
        sealed = rfc9180_hpke.seal(
            given["pt"],
            self.recipient(vector),
            info=given["info"],
            aad=given["aad"],
            random=lambda _: given["skEm"],
        )
        assert (sealed.enc.hex(), sealed.ciphertext.hex()) == (vector["enc"], vector["ct"])
        secret = bytes.fromhex(vector["shared_secret"])
        key, nonce = rfc9180_hpke._key_schedule(secret, vector["kem_id"], given["info"])
        assert (key.hex(), nonce.hex()) == (vector["key"], vector["base_nonce"])

    @pytest.mark.parametrize("recipient", EVERY_RECIPIENT[:-1:2], ids=named)
    def test_every_message_is_new(self, recipient: Recipient) -> None:
        assert not isinstance(recipient.jwk, RsaJwk)
        sealed = [
            rfc9180_hpke.seal(b"x", recipient.jwk, info=b"", random=os.urandom) for _ in range(20)
        ]
        assert len({each.enc for each in sealed}) == 20
