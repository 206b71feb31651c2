"""ID tokens (OpenID Connect Core 1.0 §3.1.3.7): what opens a session, and every way it must not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm

from keyferry.errors import RequestRefused, Unavailable
from keyferry.federation.id_token import CLOCK_SKEW_SECONDS, Identity, nonce_digest, verify
from keyferry.federation.jwks import UNKNOWN_KEY_SECONDS
from keyferry.federation.providers import (
    FirstLogin,
    Kind,
    Nonce,
    Provider,
    apple,
    firebase,
    google,
    oidc,
)
from keyferry.federation.store import identity_digest, new_user
from keyferry.jose import base64url
from keyferry.users.model import canonical_new_username, canonical_username
from tests.unit.identity_provider import (
    EC_KEY,
    ED_KEY,
    NOW,
    Clock,
    Issuer,
    jwk,
    jwk_set,
    rsa_key,
    token,
)

DEVICE = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
"""The thumbprint of a device key."""

PROVIDER = oidc(
    "corp",
    "https://issuer.example",
    ("app-ios", "app-android"),
    "https://issuer.example/jwks",
    algorithms=("RS256", "ES256", "EdDSA"),
)
OTHER = oidc(
    "other", "https://other.example/", ("app-ios",), "https://other.example/jwks", nonce=Nonce.NONE
)
SETS = {
    PROVIDER.jwks_uri: jwk_set(jwk(rsa_key()), jwk(EC_KEY, "e1"), jwk(ED_KEY, "d1")),
    OTHER.jwks_uri: jwk_set(jwk(rsa_key(1))),
}
CLAIMS: dict[str, Any] = {
    "iss": PROVIDER.issuer,
    "aud": "app-ios",
    "sub": "248289761001",
    "iat": NOW - 5,
    "exp": NOW + 300,
    "nonce": nonce_digest(DEVICE),
    "email": "jane@example.com",
    "email_verified": True,
    "name": "Jane Doe",
}
IDENTITY = Identity(PROVIDER.issuer, "248289761001", "jane@example.com", True, "Jane Doe")


@pytest.fixture
def issuer() -> Issuer:
    return Issuer(dict(SETS))


def check(
    sent: str,
    provider: Provider = PROVIDER,
    *,
    issuer: Issuer | None = None,
    nonce: str | None = DEVICE,
    now: int = NOW,
) -> Identity:
    jwks = (issuer or Issuer(dict(SETS))).jwks()
    return verify(sent, provider, now=now, jwks=jwks, expected_nonce=nonce)


def refusal(sent: str, provider: Provider = PROVIDER, **options: Any) -> str:
    """Why it was refused, as the log has it; to the caller every refusal is the same."""
    with pytest.raises(RequestRefused) as refused:
        check(sent, provider, **options)
    assert refused.value.code == "invalid_grant"
    assert refused.value.description == refused.value.kind.description
    return refused.value.reason.removeprefix("id token: ")


def signed(**changes: Any) -> str:
    return token({**CLAIMS, **changes})


class TestGood:
    @pytest.mark.parametrize(
        ("key", "algorithm", "kid"),
        [(rsa_key(), "RS256", "k1"), (EC_KEY, "ES256", "e1"), (ED_KEY, "EdDSA", "d1")],
        ids=["RS256", "ES256", "EdDSA"],
    )
    def test_each_algorithm(self, key: Any, algorithm: str, kid: str) -> None:
        assert check(token(CLAIMS, key, algorithm=algorithm, kid=kid)) == IDENTITY

    def test_without_typ(self) -> None:
        assert check(token(CLAIMS, typ="")) == IDENTITY

    def test_only_what_is_needed(self) -> None:
        sent = signed(email=..., email_verified=..., name=...)
        assert check(sent) == Identity(PROVIDER.issuer, "248289761001", None, False, None)

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": ["app-ios"]},
            {"aud": ["app-ios", "app-android"], "azp": "app-ios"},
            {"azp": "app-android"},
            {"typ": "ID"},
            {"iat": NOW + CLOCK_SKEW_SECONDS},
            {"iat": NOW - PROVIDER.max_age},
            {"iat": NOW - 5.5},
            {"exp": NOW + 1},
            {"nbf": NOW + CLOCK_SKEW_SECONDS},
            {"auth_time": NOW - 86_400 * 30},
            {"sub": "x" * 255},
            {"acr": "0", "amr": ["pwd"], "at_hash": "x", "unknown": {"a": []}},
        ],
        ids=str,
    )
    def test_allowed(self, changes: dict[str, Any]) -> None:
        assert check(signed(**changes)).issuer == PROVIDER.issuer

    @pytest.mark.parametrize(
        ("changes", "email", "verified", "name"),
        [
            ({"email_verified": "true"}, "jane@example.com", True, "Jane Doe"),
            ({"email_verified": "false"}, "jane@example.com", False, "Jane Doe"),
            ({"email_verified": "yes"}, "jane@example.com", False, "Jane Doe"),
            ({"email_verified": [True]}, "jane@example.com", False, "Jane Doe"),
            ({"email_verified": ...}, "jane@example.com", False, "Jane Doe"),
            ({"email": ..., "email_verified": True}, None, False, "Jane Doe"),
            ({"email": 7}, None, False, "Jane Doe"),
            ({"email": "x" * 255}, None, False, "Jane Doe"),
            ({"email": "a\r\nb@example.com"}, None, False, "Jane Doe"),
            ({"name": "\u202egpj.exe"}, "jane@example.com", True, None),
            ({"name": "Žofie Nováková"}, "jane@example.com", True, "Žofie Nováková"),
            ({"name": {"first": "Jane"}}, "jane@example.com", True, None),
        ],
        ids=str,
    )
    def test_what_is_shown_to_people(
        self, changes: dict[str, Any], email: str | None, verified: bool, name: str | None
    ) -> None:
        found = check(signed(**changes))
        assert (found.email, found.email_verified, found.name) == (email, verified, name)


def unsigned(header: dict[str, Any], claims: dict[str, Any] | None = None) -> str:
    parts = [json.dumps(each).encode() for each in (header, claims or CLAIMS)]
    return ".".join([*map(base64url.encode, parts), ""])


def mac(secret: bytes, **header: Any) -> str:
    signing_input = unsigned({"alg": "HS256", "typ": "JWT", **header}).rpartition(".")[0]
    tag = hmac.digest(secret, signing_input.encode(), hashlib.sha256)
    return f"{signing_input}.{base64url.encode(tag)}"


PEM = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
ES256_HEADER = b'{"alg": "ES256", "kid": "e1"}'
STRANGER = ec.generate_private_key(ec.SECP256R1())


class TestSignature:
    @pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, ["none"]])
    def test_alg_none(self, algorithm: object) -> None:
        assert refusal(unsigned({"alg": algorithm, "typ": "JWT", "kid": "k1"})) == "alg"
        assert refusal(unsigned({"typ": "JWT", "kid": "k1"})) == "alg"

    @pytest.mark.parametrize(
        "secret",
        [PEM, PEM.rstrip(), DER, json.dumps(jwk(rsa_key())).encode(), b"", b"k1"],
        ids=["PEM", "PEM without line end", "DER", "JWK", "empty", "kid"],
    )
    def test_hs256_with_the_public_key(self, secret: bytes) -> None:
        assert refusal(mac(secret, kid="k1")) == "alg"

    @pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
    def test_another_algorithm_for_the_right_key(self, algorithm: str) -> None:
        assert refusal(token(CLAIMS, algorithm=algorithm)) == "alg"

    def test_an_algorithm_that_this_provider_does_not_use(self) -> None:
        pinned = replace(PROVIDER, algorithms=("RS256",))
        assert refusal(token(CLAIMS, EC_KEY, algorithm="ES256", kid="e1"), pinned) == "alg"

    @pytest.mark.parametrize(
        ("key", "algorithm", "kid"),
        [
            (EC_KEY, "ES256", "k1"),
            (rsa_key(), "RS256", "e1"),
            (rsa_key(), "RS256", "d1"),
            (ED_KEY, "EdDSA", "e1"),
        ],
    )
    def test_rsa_and_ec_confused(self, key: Any, algorithm: str, kid: str) -> None:
        assert refusal(token(CLAIMS, key, algorithm=algorithm, kid=kid)) == "kid of no key"

    def test_signed_by_a_stranger_under_a_known_kid(self) -> None:
        assert refusal(token(CLAIMS, rsa_key(9))) == "signature"
        assert refusal(token(CLAIMS, STRANGER, algorithm="ES256", kid="e1")) == "signature"

    def test_keys_that_the_token_brings_along(self, issuer: Issuer) -> None:
        """``jwk``, ``jku``, ``x5u`` and ``x5c`` are not looked at, and nothing is fetched for them."""
        brought = {
            "jwk": jwk(STRANGER, "e1"),
            "jku": "https://evil.example/jwks",
            "x5u": "https://evil.example/chain",
            "x5c": [base64.b64encode(DER).decode()],
        }
        sent = token(CLAIMS, STRANGER, algorithm="ES256", kid="e1", **brought)
        assert refusal(sent, issuer=issuer) == "signature"
        assert issuer.fetches == [PROVIDER.jwks_uri]

    @pytest.mark.parametrize("kid", [..., "", 7, ["k1"], "k" * 257, "k2", "K1", "k1 ", "../k1"])
    def test_kid(self, kid: object) -> None:
        # PyJWT does not sign such a header.
        header = {"alg": "RS256", **({"kid": kid} if kid is not ... else {})}
        assert refusal(unsigned(header) + "AAAA") in ("kid is missing", "kid of no key")

    @pytest.mark.parametrize("position", range(0, 256, 17))
    def test_flipped_bits(self, position: int) -> None:
        first, second, signature = signed().split(".")
        octets = bytearray(base64url.decode(signature))
        octets[position] ^= 1
        assert refusal(f"{first}.{second}.{base64url.encode(bytes(octets))}") == "signature"

    def test_claims_of_another_token(self) -> None:
        ours, victims = signed().split("."), signed(sub="victim").split(".")
        assert refusal(f"{ours[0]}.{victims[1]}.{ours[2]}") == "signature"

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda sent: "",
            lambda sent: ".",
            lambda sent: sent + ".",
            lambda sent: sent + "=",
            lambda sent: sent + "\n",
            lambda sent: " " + sent,
            lambda sent: sent.replace(".", "..", 1),
            lambda sent: sent.rpartition(".")[0],
            lambda sent: "é" + sent,
            lambda sent: "\ud800",
            lambda sent: "a" * 17_000,
            lambda sent: json.dumps({"protected": sent}),
        ],
        ids=range(12),
    )
    def test_not_a_compact_jws(self, spoil: Callable[[str], str]) -> None:
        refusal(spoil(signed()))

    def test_longest(self) -> None:
        assert len(signed(padding="x" * 11_500)) < 16 * 1024
        assert check(signed(padding="x" * 11_500)) == IDENTITY
        assert refusal(signed(padding="x" * 12_500)) == "too long"

    def test_crit_and_unencoded_payload(self) -> None:
        header = {"alg": "RS256", "kid": "k1", "crit": ["exp"]}
        assert refusal(unsigned(header) + "AAAA") == "crit is not supported"
        assert refusal(unsigned({"alg": "RS256", "kid": "k1", "b64": False}) + "AAAA")

    def test_a_claim_twice(self) -> None:
        """Two parsers that disagree about which one counts are a way round every check."""
        text = json.dumps(CLAIMS)[:-1] + ', "sub": "victim"}'
        assert refusal(raw_es256(ES256_HEADER, text.encode())) == "duplicate member"

    @pytest.mark.parametrize("claims", [b"[]", b"7", b"null", b"", b"{", b"\xff", b'{"iat": NaN}'])
    def test_signed_but_not_claims(self, claims: bytes) -> None:
        refusal(raw_es256(ES256_HEADER, claims))


def raw_es256(header: bytes, payload: bytes) -> str:
    """Signed as it is, whatever it is."""
    signing_input = f"{base64url.encode(header)}.{base64url.encode(payload)}"
    signature = ECAlgorithm(ECAlgorithm.SHA256).sign(signing_input.encode(), EC_KEY)
    return f"{signing_input}.{base64url.encode(signature)}"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no iss": ({"iss": ...}, "iss"),
    "iss of another": ({"iss": "https://evil.example"}, "iss"),
    "iss with a slash": ({"iss": "https://issuer.example/"}, "iss"),
    "iss in capitals": ({"iss": "https://ISSUER.example"}, "iss"),
    "iss longer": ({"iss": "https://issuer.example.evil.example"}, "iss"),
    "iss a list": ({"iss": ["https://issuer.example"]}, "iss"),
    "iss a number": ({"iss": 7}, "iss"),
    "no aud": ({"aud": ...}, "aud"),
    "aud of another client": ({"aud": "app-web"}, "aud"),
    "aud empty": ({"aud": []}, "aud"),
    "aud an empty text": ({"aud": ""}, "aud"),
    "aud an object": ({"aud": {"app-ios": 1}}, "aud"),
    "aud in a list of lists": ({"aud": [["app-ios"]]}, "aud"),
    "aud a prefix": ({"aud": "app"}, "aud"),
    "aud ours and another": ({"aud": ["app-ios", "evil"], "azp": "app-ios"}, "aud"),
    "two of ours and no azp": (
        {"aud": ["app-ios", "app-android"]},
        "azp with several audiences",
    ),
    "two of ours, azp of another": (
        {"aud": ["app-ios", "app-android"], "azp": "evil"},
        "azp with several audiences",
    ),
    "azp of another": ({"azp": "evil"}, "azp"),
    "azp empty": ({"azp": ""}, "azp"),
    "azp a list": ({"azp": ["app-ios"]}, "azp"),
    "no exp": ({"exp": ...}, "exp is not a number"),
    "expired": ({"exp": NOW}, "expired"),
    "exp a text": ({"exp": str(NOW + 300)}, "exp is not a number"),
    "exp a boolean": ({"exp": True}, "exp is not a number"),
    "exp null": ({"exp": None}, "exp is not a number"),
    "exp beyond all time": ({"exp": 1e300}, "exp is not a time"),
    "no iat": ({"iat": ...}, "iat is not a number"),
    "iat in the future": ({"iat": NOW + CLOCK_SKEW_SECONDS + 1}, "iat in the future"),
    "iat too long ago": ({"iat": NOW - PROVIDER.max_age - 1}, "iat too long ago"),
    "iat below zero": ({"iat": -1}, "iat is not a time"),
    "nbf in the future": ({"nbf": NOW + CLOCK_SKEW_SECONDS + 1}, "nbf in the future"),
    "nbf a text": ({"nbf": "now"}, "nbf is not a number"),
    "auth_time in the future": (
        {"auth_time": NOW + CLOCK_SKEW_SECONDS + 1},
        "auth_time in the future",
    ),
    "no nonce": ({"nonce": ...}, "nonce is missing"),
    "nonce null": ({"nonce": None}, "nonce is missing"),
    "nonce empty": ({"nonce": ""}, "nonce of another login"),
    "nonce in the clear": ({"nonce": DEVICE}, "nonce of another login"),
    "nonce in capitals": ({"nonce": nonce_digest(DEVICE).upper()}, "nonce of another login"),
    "nonce a surrogate": ({"nonce": "\ud800"}, "nonce of another login"),
    "nonce of another device": ({"nonce": nonce_digest("other")}, "nonce of another login"),
    "no sub": ({"sub": ...}, "sub"),
    "sub empty": ({"sub": ""}, "sub"),
    "sub a number": ({"sub": 248289761001}, "sub"),
    "sub too long": ({"sub": "x" * 256}, "sub"),
    "sub not ASCII": ({"sub": "jané"}, "sub"),
    "sub with a NUL": ({"sub": "a\0b"}, "sub"),
    "sub with a line end": ({"sub": "a\n"}, "sub"),
    "an access token": ({"typ": "Bearer"}, "typ claim"),
    "a logout token": ({"events": {"x": {}}, "nonce": ...}, "security event"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong(fault: str) -> None:
    changes, reason = WRONG[fault]
    claims = {name: value for name, value in {**CLAIMS, **changes}.items() if value is not ...}
    # Signed as it is: PyJWT does not make every one of them.
    assert refusal(raw_es256(ES256_HEADER, json.dumps(claims).encode())) == reason


@pytest.mark.parametrize(
    "typ", ["at+jwt", "logout+jwt", "dpop+jwt", "secevent+jwt", "application/at+jwt", "JWE"]
)
def test_other_tokens_of_the_same_issuer(typ: str) -> None:
    assert refusal(token(CLAIMS, typ=typ)) == "typ"


class TestNonce:
    """The ID token is bound to the device key: `expected_nonce` is its thumbprint."""

    def test_replayed_from_another_device(self) -> None:
        stolen = signed()
        assert check(stolen, nonce=DEVICE) == IDENTITY
        assert refusal(stolen, nonce="thumbprint-of-the-thief") == "nonce of another login"

    def test_the_token_does_not_tell_what_it_was_made_of(self) -> None:
        """Who has read the token's nonce cannot pass it off as what was digested."""
        assert refusal(signed(), nonce=nonce_digest(DEVICE)) == "nonce of another login"

    @pytest.mark.parametrize("expected", [None, ""])
    def test_nothing_expected(self, expected: str | None) -> None:
        for nonce in (..., None, "", nonce_digest("")):
            assert refusal(signed(nonce=nonce), nonce=expected) == (
                "nothing to compare the nonce with"
            )

    def test_a_provider_without(self) -> None:
        provider = replace(PROVIDER, nonce=Nonce.NONE)
        for nonce in (..., "anything"):
            assert check(signed(nonce=nonce), provider, nonce=None) == IDENTITY


class TestTwoProviders:
    claims = {**CLAIMS, "iss": OTHER.issuer, "nonce": ...}  # noqa: RUF012 -- read only

    def test_each_its_own(self, issuer: Issuer) -> None:
        assert check(token(self.claims, rsa_key(1)), OTHER, issuer=issuer).issuer == OTHER.issuer
        assert issuer.fetches == [OTHER.jwks_uri]

    def test_a_token_of_one_for_the_other(self) -> None:
        assert refusal(token(self.claims, rsa_key(1)), PROVIDER) == "signature"
        assert refusal(signed(), OTHER) == "signature"

    def test_one_that_speaks_for_the_other(self) -> None:
        """An issuer that signs what another one says: its own key, the other one's name."""
        assert refusal(token(CLAIMS, rsa_key(1)), OTHER) == "iss"
        assert refusal(token(CLAIMS, rsa_key(1)), PROVIDER) == "signature"

    def test_one_subject_at_two_issuers_is_two_people(self) -> None:
        there = check(token(self.claims, rsa_key(1)), OTHER)
        here = check(signed())
        assert there.subject == here.subject
        assert identity_digest(there.issuer, there.subject) != identity_digest(
            here.issuer, here.subject
        )

    def test_issuer_and_subject_cannot_be_shifted_into_each_other(self) -> None:
        assert identity_digest("https://a", "b1") != identity_digest("https://ab", "1")
        with pytest.raises(ValueError, match="issuer"):
            replace(PROVIDER, issuer="https://a\0b")


class TestEmail:
    """An address never decides whose account it is."""

    def test_the_same_address_at_another_issuer(self) -> None:
        claims = {**CLAIMS, "iss": OTHER.issuer, "sub": "thief", "email_verified": False}
        thief = check(token(claims, rsa_key(1)), OTHER)
        owner = check(signed())
        assert thief.email == owner.email
        assert identity_digest(thief.issuer, thief.subject) != identity_digest(
            owner.issuer, owner.subject
        )

    def test_the_same_address_under_another_subject_of_one_issuer(self) -> None:
        thief, owner = check(signed(sub="thief")), check(signed())
        assert identity_digest(thief.issuer, thief.subject) != identity_digest(
            owner.issuer, owner.subject
        )

    def test_who_is_provisioned_is_not_called_by_it(self) -> None:
        """Or an operator would take a stranger for the user ``jane@example.com``."""
        provider = replace(PROVIDER, first_login=FirstLogin.OPEN, roles=("user",))
        made = new_user(provider, check(signed()), sub="s", now=NOW)
        assert "jane" not in made.username
        assert made.username == canonical_username(made.username)
        with pytest.raises(ValueError, match="kept for users of a provider"):
            canonical_new_username(made.username.upper())
        assert made.roles == ("user",)


class TestKeys:
    def test_unknown_kid_storm(self, issuer: Issuer) -> None:
        jwks = issuer.jwks()

        def forged(number: int) -> str:
            sent = token(CLAIMS, rsa_key(9), kid=f"x{number}")
            with pytest.raises(RequestRefused) as refused:
                verify(sent, PROVIDER, now=NOW, jwks=jwks, expected_nonce=DEVICE)
            return refused.value.reason

        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(forged, range(200))) == {"id token: kid of no key"}
        assert len(issuer.fetches) == 1
        good = verify(signed(), PROVIDER, now=NOW, jwks=jwks, expected_nonce=DEVICE)
        assert good == IDENTITY

    def test_an_outage_is_not_the_callers_fault(self, issuer: Issuer) -> None:
        issuer.sets[PROVIDER.jwks_uri] = OSError()
        with pytest.raises(Unavailable):
            check(signed(), issuer=issuer)

    def test_a_key_that_rotates(self, issuer: Issuer) -> None:
        clock = Clock()
        jwks = issuer.jwks(clock)
        assert verify(signed(), PROVIDER, now=NOW, jwks=jwks, expected_nonce=DEVICE) == IDENTITY
        issuer.sets[PROVIDER.jwks_uri] = jwk_set(jwk(rsa_key(2), "k2"), jwk(rsa_key()))
        clock.time += UNKNOWN_KEY_SECONDS
        sent = token(CLAIMS, rsa_key(2), kid="k2")
        assert verify(sent, PROVIDER, now=NOW, jwks=jwks, expected_nonce=DEVICE) == IDENTITY
        assert len(issuer.fetches) == 2

    def test_junk_costs_no_fetch(self, issuer: Issuer) -> None:
        for junk in ("", "a.b.c", unsigned({"alg": "none", "kid": "k1"}), mac(PEM, kid="k1")):
            refusal(junk, issuer=issuer)
        assert issuer.fetches == []


class TestPresets:
    def sets(self, provider: Provider) -> Issuer:
        return Issuer({provider.jwks_uri: SETS[PROVIDER.jwks_uri]})

    def test_firebase(self) -> None:
        provider = firebase("my-project")
        claims = {
            **CLAIMS,
            "iss": "https://securetoken.google.com/my-project",
            "aud": "my-project",
            "auth_time": NOW - 50,
            "nonce": ...,
            "firebase": {"identities": {}, "sign_in_provider": "password"},
        }
        issuer = self.sets(provider)

        def of(**changes: Any) -> str:
            return token({**claims, **changes})

        assert check(of(), provider, issuer=issuer, nonce=None).subject == CLAIMS["sub"]
        assert refusal(of(aud="other"), provider, issuer=issuer) == "aud"
        assert refusal(of(iss="https://securetoken.google.com/other"), provider, issuer=issuer) == (
            "iss"
        )
        tenant = {"sign_in_provider": "password", "tenant": "t1"}
        assert refusal(of(firebase=tenant), provider, issuer=issuer) == "firebase tenant"
        of_tenant = firebase("my-project", tenant="t1")
        assert check(of(firebase=tenant), of_tenant, issuer=issuer).subject == CLAIMS["sub"]
        assert refusal(of(), of_tenant, issuer=issuer) == "firebase tenant"
        anonymous = {"sign_in_provider": "anonymous"}
        assert refusal(of(firebase=anonymous), provider, issuer=issuer) == "firebase anonymous"
        lenient = firebase("my-project", anonymous=True)
        assert check(of(firebase=anonymous), lenient, issuer=issuer).subject == CLAIMS["sub"]
        es256 = token(claims, EC_KEY, algorithm="ES256", kid="e1")
        assert refusal(es256, provider, issuer=issuer) == "alg"

    def test_google_has_two_spellings_of_its_name(self) -> None:
        provider = google(("web.apps.googleusercontent.com",))
        claims = {**CLAIMS, "aud": "web.apps.googleusercontent.com"}
        issuer = self.sets(provider)
        found = {
            check(token({**claims, "iss": name, "azp": azp}), provider, issuer=issuer)
            for name in ("accounts.google.com", "https://accounts.google.com")
            for azp in ("android.apps.googleusercontent.com", "web.apps.googleusercontent.com", ...)
        }
        assert {each.issuer for each in found} == {"https://accounts.google.com"}, "one account"
        two = [claims["aud"], "android.apps.googleusercontent.com"]
        several = token({**claims, "iss": "accounts.google.com", "aud": two})
        assert refusal(several, provider, issuer=issuer) == "aud"

    def test_apple_with_a_relay_address(self) -> None:
        provider = apple(("com.example.app",))
        claims = {
            **CLAIMS,
            "iss": "https://appleid.apple.com",
            "aud": "com.example.app",
            "email": "x7f@privaterelay.appleid.com",
            "email_verified": "true",
            "is_private_email": "true",
            "nonce_supported": True,
        }
        found = check(token(claims), provider, issuer=self.sets(provider))
        assert (found.email, found.email_verified) == ("x7f@privaterelay.appleid.com", True)

    def test_apples_notices_to_the_server_are_no_logins(self) -> None:
        """Signed with the same keys, for the same client."""
        provider = apple(("com.example.app",), nonce=Nonce.NONE)
        claims = {
            **CLAIMS,
            "iss": "https://appleid.apple.com",
            "aud": "com.example.app",
            "events": '{"type":"account-delete"}',
        }
        assert refusal(token(claims), provider, issuer=self.sets(provider)) == "security event"

    @pytest.mark.parametrize("make", [google, apple])
    def test_a_nonce_is_asked_for(self, make: Callable[[tuple[str, ...]], Provider]) -> None:
        assert make(("client",)).nonce is Nonce.REQUIRED
        assert PROVIDER.nonce is Nonce.REQUIRED

    def test_kinds(self) -> None:
        kinds = [each.kind for each in (firebase("abcd"), google(("c",)), apple(("c",)), PROVIDER)]
        assert kinds == list(Kind)
        made = (firebase("abcd"), google(("c",)), apple(("c",)), PROVIDER)
        assert {each.first_login for each in made} == {FirstLogin.CLOSED}
