"""DPoP proofs and nonces (RFC 9449)."""

import hashlib
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from keyferry.dpop import nonce
from keyferry.dpop.proof import Proof, verify
from keyferry.errors import RequestRefused
from keyferry.jose import base64url
from keyferry.jose.rfc7517_jwk import EcJwk

NOW = 1_790_000_000
URL = "https://api.example.com/prod/v1/token"
KEY = ec.generate_private_key(ec.SECP256R1())
JWK = EcJwk.from_key(KEY.public_key())
NONCE_KEY = b"n" * 32


def proof(
    key: Any = KEY,
    *,
    algorithm: str = "ES256",
    header: dict[str, Any] | None = None,
    **claims: Any,
) -> str:
    payload = {"jti": "j", "htm": "POST", "htu": URL, "iat": NOW, **claims}
    payload = {name: value for name, value in payload.items() if value is not ...}
    headers = {"typ": "dpop+jwt", "jwk": JWK.members(), **(header or {})}
    return jwt.encode(payload, key, algorithm=algorithm, headers=headers)


def check(token: str, **overrides: Any) -> Proof:
    arguments: dict[str, Any] = {
        "method": "POST",
        "url": URL,
        "now": NOW,
        "nonce_time": lambda presented: nonce.time_of_issue(NONCE_KEY, presented, NOW),
    }
    return verify(token, **{**arguments, **overrides})


def refusal(token: str, **overrides: Any) -> str:
    with pytest.raises(RequestRefused) as refused:
        check(token, **overrides)
    return refused.value.code


def test_good_proof() -> None:
    assert check(proof()) == Proof(jkt=JWK.thumbprint(), jti="j", made_after=None)


def test_eddsa_proof() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(raw)}
    assert check(proof(key, algorithm="EdDSA", header={"jwk": jwk})).jti == "j"


@pytest.mark.parametrize(
    "htu",
    [
        "HTTPS://API.example.com/prod/v1/token",
        "https://api.example.com:443/prod/v1/token",
        URL + "?a=b",
        URL + "#f",
    ],
)
def test_equal_targets(htu: str) -> None:
    assert check(proof(htu=htu)).jti == "j"


@pytest.mark.parametrize(
    "htu",
    [
        "https://api.example.com/v1/token",
        "https://api.example.com/prod/v1/token/",
        "https://api.example.com/prod/V1/token",
        "http://api.example.com/prod/v1/token",
        "https://api.example.com:444/prod/v1/token",
        "https://evil.example/prod/v1/token",
        "https://api.example.com@evil.example/prod/v1/token",
        "https://u@api.example.com/prod/v1/token",
        "https://[::1/prod/v1/token",
        "https://api.example.com:x/prod/v1/token",
        "https://api.example.com:0/prod/v1/token",
        "https://api.example.com/prod\n/v1/token",
        "/prod/v1/token",
        "",
    ],
)
def test_other_targets(htu: str) -> None:
    assert refusal(proof(htu=htu)) == "invalid_dpop_proof"


BAD = {
    "empty": "",
    "one part": "x",
    "not base64": "a.b.c",
    "too long": "a" * 5000,
    "typ JWT": proof(header={"typ": "JWT"}),
    "typ at+jwt": proof(header={"typ": "at+jwt"}),
    "no jwk": proof(header={"jwk": None}),
    "jwk a text": proof(header={"jwk": "x"}),
    "private jwk": proof(header={"jwk": {**JWK.members(), "d": base64url.encode(b"d" * 32)}}),
    "symmetric jwk": proof(header={"jwk": {"kty": "oct", "k": "AAAA"}}),
    "jwk for encryption": proof(header={"jwk": {**JWK.members(), "use": "enc"}}),
    "jwk off the curve": proof(
        header={"jwk": {**JWK.members(), "x": base64url.encode(b"\0" * 32)}}
    ),
    "crit": proof(header={"crit": ["exp"]}),
    "signed by another key": proof(ec.generate_private_key(ec.SECP256R1())),
    "HS256": proof("k" * 32, algorithm="HS256"),
    "none": proof("", algorithm="none"),
    "RS256": proof(rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    "no jti": proof(jti=...),
    "empty jti": proof(jti=""),
    "long jti": proof(jti="j" * 257),
    "jti a number": proof(jti=7),
    "htm GET": proof(htm="GET"),
    "htm in lower case": proof(htm="post"),
    "no htm": proof(htm=...),
    "no htu": proof(htu=...),
    "no iat": proof(iat=...),
    "iat a text": proof(iat="now"),
    "iat a boolean": proof(iat=True),
    "nonce a number": proof(nonce=7),
    "iat below zero": proof(iat=-1),
    "iat beyond all time": proof(iat=1e300),
    "key_ops of lists": proof(header={"jwk": {**JWK.members(), "key_ops": [[]]}}),
    "key_ops of objects": proof(header={"jwk": {**JWK.members(), "key_ops": [{}]}}),
}


@pytest.mark.parametrize("fault", BAD)
def test_refused(fault: str) -> None:
    assert refusal(BAD[fault]) == "invalid_dpop_proof"


def test_public_key_as_hmac_secret() -> None:
    pem = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    members = {"alg": "HS256", "typ": "dpop+jwt", "jwk": JWK.members()}
    header = base64url.encode(json.dumps(members).encode())
    signing_input = f"{header}.{proof().split('.')[1]}"
    mac = base64url.encode(hmac.digest(pem, signing_input.encode(), hashlib.sha256))
    assert refusal(f"{signing_input}.{mac}") == "invalid_dpop_proof"


class TestTime:
    @pytest.mark.parametrize("iat", [NOW - 60, NOW, NOW + 60])
    def test_near(self, iat: int) -> None:
        assert check(proof(iat=iat)).jti == "j"

    @pytest.mark.parametrize("iat", [NOW - 61, NOW + 61, 0, 2**40 - 1])
    def test_far_without_a_nonce_asks_for_one(self, iat: float) -> None:
        assert refusal(proof(iat=iat)) == "use_dpop_nonce"

    def test_infinity_is_no_time(self) -> None:
        header, _, _ = proof().split(".")
        claims = b'{"jti":"j","htm":"POST","htu":"%s","iat":1e999}' % URL.encode()
        signing_input = f"{header}.{base64url.encode(claims)}"
        r, s = decode_dss_signature(KEY.sign(signing_input.encode(), ec.ECDSA(hashes.SHA256())))
        signature = base64url.encode(r.to_bytes(32, "big") + s.to_bytes(32, "big"))
        assert refusal(f"{signing_input}.{signature}") == "invalid_dpop_proof"

    @pytest.mark.parametrize("days", [-3, 3, -3650])
    def test_a_good_nonce_needs_no_good_clock(self, days: int) -> None:
        check(proof(iat=NOW + days * 86_400, nonce=nonce.issue(NONCE_KEY, NOW)))

    def test_a_bad_nonce_is_not_mended_by_a_good_clock(self) -> None:
        assert refusal(proof(nonce="x")) == "use_dpop_nonce"
        assert refusal(proof(nonce="\ud800")) == "use_dpop_nonce"


class TestAccessTokenHash:
    ath = base64url.encode(hashlib.sha256(b"token").digest())

    def test_good(self) -> None:
        assert check(proof(ath=self.ath), access_token="token").jti == "j"

    @pytest.mark.parametrize("ath", [..., "", "x", 7, "\ud800", ath + "="])
    def test_bad(self, ath: object) -> None:
        assert refusal(proof(ath=ath), access_token="token") == "invalid_dpop_proof"


class TestNonce:
    def test_says_when_it_was_issued(self) -> None:
        issued = nonce.issue(NONCE_KEY, NOW)
        for later in (0, 1, 299, 86_400):
            assert nonce.time_of_issue(NONCE_KEY, issued, NOW + later) == NOW

    def test_is_not_from_the_future(self) -> None:
        issued = nonce.issue(NONCE_KEY, NOW)
        assert nonce.time_of_issue(NONCE_KEY, issued, NOW - nonce.CLOCK_SKEW_SECONDS) == NOW
        assert nonce.time_of_issue(NONCE_KEY, issued, NOW - nonce.CLOCK_SKEW_SECONDS - 1) is None

    def test_of_another_key(self) -> None:
        assert nonce.time_of_issue(b"m" * 32, nonce.issue(NONCE_KEY, NOW), NOW) is None

    def test_every_changed_character_is_seen(self) -> None:
        issued = nonce.issue(NONCE_KEY, NOW)
        for position in range(len(issued)):
            other = "A" if issued[position] != "A" else "B"
            changed = issued[:position] + other + issued[position + 1 :]
            assert nonce.time_of_issue(NONCE_KEY, changed, NOW) is None

    @pytest.mark.parametrize("text", ["", "x", "A" * 22, "A" * 1000, "\ud800", "é"])
    def test_nonsense(self, text: str) -> None:
        assert nonce.time_of_issue(NONCE_KEY, text, NOW) is None

    def test_shows_in_the_proof(self) -> None:
        assert check(proof(nonce=nonce.issue(NONCE_KEY, NOW - 100))).made_after == NOW - 100

    @pytest.mark.parametrize("age", [300, 3600])
    def test_an_old_one_needs_a_good_clock(self, age: int) -> None:
        old = nonce.issue(NONCE_KEY, NOW - age)
        assert check(proof(nonce=old)).made_after == NOW - age
        assert refusal(proof(nonce=old, iat=NOW - 61)) == "use_dpop_nonce"
