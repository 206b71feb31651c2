"""Access tokens (RFC 9068) and refresh tokens."""

import os
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from keyferry.errors import RequestRefused
from keyferry.jose import base64url, rfc7515_jws
from keyferry.tokens import access, refresh
from keyferry.tokens.access import AccessToken
from keyferry.tokens.refresh import RefreshToken

NOW = 1_790_000_000
ISSUER = "https://api.example.com/prod"
KEY = ec.generate_private_key(ec.SECP256R1())
KEYS = {"k1": KEY.public_key()}
ACCESS = AccessToken(
    issuer=ISSUER,
    sub="sub",
    sid="sid",
    client_id="ios",
    scope="keys",
    roles=("user",),
    amr=("pwd",),
    jkt="thumbprint",
    jti="jti",
    issued_at=NOW,
    expires_at=NOW + 900,
)


class TestAccessToken:
    def verify(self, token: str, now: int = NOW) -> AccessToken:
        return access.verify(token, keys=KEYS, issuer=ISSUER, now=now)

    def refused(self, token: str, now: int = NOW) -> str:
        with pytest.raises(RequestRefused) as refused:
            self.verify(token, now)
        assert refused.value.code == "invalid_token"
        return refused.value.reason

    def test_round_trip(self) -> None:
        assert self.verify(access.sign(ACCESS, kid="k1", key=KEY)) == ACCESS
        bearer = replace(ACCESS, jkt=None)
        assert self.verify(access.sign(bearer, kid="k1", key=KEY)) == bearer

    def test_pyjwt_accepts_it(self) -> None:
        token = access.sign(replace(ACCESS, expires_at=4_000_000_000), kid="k1", key=KEY)
        claims = jwt.decode(
            token,
            KEY.public_key(),
            algorithms=["ES256"],
            audience=ISSUER,
            issuer=ISSUER,
            options={"require": ["exp", "iat", "sub", "aud", "iss", "jti"], "verify_iat": False},
        )
        assert claims["cnf"] == {"jkt": "thumbprint"}

    def test_expiry_is_exclusive(self) -> None:
        token = access.sign(ACCESS, kid="k1", key=KEY)
        assert self.verify(token, NOW + 899) == ACCESS
        assert "expired" in self.refused(token, NOW + 900)

    def test_from_the_future(self) -> None:
        assert "future" in self.refused(access.sign(ACCESS, kid="k1", key=KEY), NOW - 6)

    @pytest.mark.parametrize(
        "claim",
        ["iss", "aud", "sub", "sid", "client_id", "scope", "roles", "amr", "jti", "iat", "exp"],
    )
    def test_every_claim_is_required(self, claim: str) -> None:
        claims = ACCESS.claims()
        del claims[claim]
        self.refused(rfc7515_jws.sign_es256(typ=access.TYP, kid="k1", claims=claims, key=KEY))

    @pytest.mark.parametrize(
        ("typ", "kid", "change"),
        [
            ("JWT", "k1", {}),
            ("dpop+jwt", "k1", {}),
            ("keyferry-keys+jwt", "k1", {}),
            ("at+jwt", "k2", {}),
            ("at+jwt", "", {}),
            ("at+jwt", "k1", {"iss": "https://evil.example"}),
            ("at+jwt", "k1", {"aud": "https://other.example"}),
            ("at+jwt", "k1", {"iss": "https://evil.example", "aud": "https://evil.example"}),
            ("at+jwt", "k1", {"exp": "never"}),
            ("at+jwt", "k1", {"cnf": "x"}),
            ("at+jwt", "k1", {"cnf": {}}),
        ],
    )
    def test_confused(self, typ: str, kid: str, change: dict[str, Any]) -> None:
        claims = {**ACCESS.claims(), **change}
        self.refused(rfc7515_jws.sign_es256(typ=typ, kid=kid, claims=claims, key=KEY))

    def test_other_key_and_other_algorithms(self) -> None:
        self.refused(access.sign(ACCESS, kid="k1", key=ec.generate_private_key(ec.SECP256R1())))
        headers = {"typ": "at+jwt", "kid": "k1"}
        self.refused(jwt.encode(ACCESS.claims(), "", algorithm="none", headers=headers))
        self.refused(jwt.encode(ACCESS.claims(), "s" * 32, algorithm="HS256", headers=headers))
        self.refused("x" * 5000)
        self.refused("")

    def test_a_refresh_token_is_no_access_token(self) -> None:
        self.refused(token().encode(b"m" * 32))

    @given(st.binary(min_size=1, max_size=1))
    def test_lifetime_has_a_few_per_cent_of_jitter(self, jitter: bytes) -> None:
        assert 873 <= access.lifetime(900, jitter) <= 900

    def test_lifetime_spreads(self) -> None:
        assert access.lifetime(900, b"\0") == 900
        assert access.lifetime(900, b"\xff") == 873


def token(generation: int = 7, secret: bytes = b"s" * 16) -> RefreshToken:
    return RefreshToken(
        kid=base64url.encode(b"k" * 8),
        sub=base64url.encode(b"u" * 16),
        sid=base64url.encode(b"i" * 16),
        generation=generation,
        secret=secret,
    )


MAC_KEY = os.urandom(32)


def mac_key(kid: str) -> bytes | None:
    return MAC_KEY if kid == token().kid else None


class TestRefreshToken:
    def refused(self, text: str) -> None:
        with pytest.raises(RequestRefused) as refused:
            refresh.parse(text, mac_key)
        assert refused.value.code == "invalid_grant"

    @given(st.integers(0, refresh.MAX_GENERATION), st.binary(min_size=16, max_size=16))
    def test_round_trip(self, generation: int, secret: bytes) -> None:
        text = token(generation, secret).encode(MAC_KEY)
        assert len(text) == refresh.LENGTH == 128
        assert text.startswith("kfr_")
        assert refresh.parse(text, mac_key) == token(generation, secret)

    def test_every_flipped_bit_is_refused(self) -> None:
        text = token().encode(MAC_KEY)
        raw = bytearray(base64url.decode(text[4:]))
        for position in range(len(raw) * 8):
            raw[position // 8] ^= 1 << position % 8
            self.refused("kfr_" + base64url.encode(bytes(raw)))
            raw[position // 8] ^= 1 << position % 8

    def test_every_changed_character_is_refused(self) -> None:
        text = token().encode(MAC_KEY)
        for position in range(len(text)):
            for other in "A-_=+ .\0é":
                if text[position] != other:
                    self.refused(text[:position] + other + text[position + 1 :])

    def test_every_truncation_and_extension_is_refused(self) -> None:
        text = token().encode(MAC_KEY)
        for length in range(len(text)):
            self.refused(text[:length])
        for extra in ("A", "==", "\n", "A" * 100_000):
            self.refused(text + extra)
            self.refused(extra + text)

    def test_foreign_tokens_are_refused(self) -> None:
        self.refused(token().encode(b"other key" * 4))
        self.refused(access.sign(ACCESS, kid="k1", key=KEY))
        self.refused("kfr_" + "A" * 124)

    def test_retired_mac_key_is_refused(self) -> None:
        other = replace(token(), kid=base64url.encode(b"x" * 8))
        self.refused(other.encode(MAC_KEY))

    def test_generations_are_distinct_and_derivable(self) -> None:
        first = token()
        second = first.successor(generation=8, kid=first.kid)
        assert second.encode(MAC_KEY) != first.encode(MAC_KEY)
        assert second.encode(MAC_KEY) == first.successor(generation=8, kid=first.kid).encode(
            MAC_KEY
        )
        assert second.secret_hash == first.secret_hash

    def test_the_row_does_not_have_the_secret(self) -> None:
        assert token().secret not in token().secret_hash
        assert "s" * 16 not in repr(token())
