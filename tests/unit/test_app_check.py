"""Firebase App Check tokens, and what each mode makes of each result."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyferry.attestation import app_check as attestation
from keyferry.attestation.app_check import (
    DECISIONS,
    ISSUER,
    JWKS_URI,
    AppCheck,
    Checked,
    Decision,
    Mode,
    Result,
)
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url
from keyferry.single_use import SingleUse
from tests.unit.identity_provider import EC_KEY, NOW, Clock, Issuer, jwk, jwk_set, rsa_key, token

PROJECT = "123456789012"
APP = f"1:{PROJECT}:ios:a1b2c3"
CLAIMS: dict[str, Any] = {
    "iss": ISSUER + PROJECT,
    "aud": [f"projects/{PROJECT}", "projects/my-project"],
    "sub": APP,
    "iat": NOW - 100,
    "exp": NOW + 3_500,
    "jti": "j",
}
DYNAMODB: Any = None  # nothing here gets as far as to call it


@pytest.fixture
def google() -> Issuer:
    return Issuer({JWKS_URI: jwk_set(jwk(rsa_key()), jwk(EC_KEY, "e1"))})


@pytest.fixture
def app_check(google: Issuer) -> AppCheck:
    return make(google)


def make(google: Issuer, mode: Mode = Mode.ENFORCE) -> AppCheck:
    return AppCheck(mode, PROJECT, frozenset({APP}), google.jwks(), Clock())


def test_valid(app_check: AppCheck) -> None:
    assert app_check.check(token(CLAIMS), invocation_id="i") == Checked(Result.VALID, app_id=APP)


@pytest.mark.parametrize("sent", [None, ""])
def test_missing(app_check: AppCheck, google: Issuer, sent: str | None) -> None:
    assert app_check.check(sent, invocation_id="i").result is Result.MISSING
    assert google.fetches == []


INVALID: dict[str, tuple[dict[str, Any], str]] = {
    "of another project": ({"iss": ISSUER + "999"}, "iss"),
    "of a project whose number is longer": ({"iss": f"{ISSUER}{PROJECT}0"}, "iss"),
    "iss without a number": ({"iss": ISSUER}, "iss"),
    "no iss": ({"iss": ...}, "iss"),
    "for another project": ({"aud": ["projects/999"]}, "aud"),
    "aud a text": ({"aud": f"projects/{PROJECT}"}, "aud"),
    "aud the project id alone": ({"aud": ["projects/my-project"]}, "aud"),
    "no aud": ({"aud": ...}, "aud"),
    "of another app": ({"sub": f"1:{PROJECT}:web:ffff"}, "sub of another app"),
    "no app": ({"sub": ...}, "sub of another app"),
    "expired": ({"exp": NOW}, "expired"),
    "no exp": ({"exp": ...}, "exp is not a number"),
    "exp a boolean": ({"exp": True}, "exp is not a number"),
    "iat in the future": ({"iat": NOW + 61}, "iat in the future"),
    "no iat": ({"iat": ...}, "iat is not a number"),
}


@pytest.mark.parametrize("fault", INVALID)
def test_invalid(app_check: AppCheck, fault: str) -> None:
    changes, reason = INVALID[fault]
    assert app_check.check(token({**CLAIMS, **changes}), invocation_id="i") == Checked(
        Result.INVALID, reason
    )


def test_invalid_signatures(app_check: AppCheck) -> None:
    pem = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    claims = base64url.encode(json.dumps(CLAIMS).encode())

    def of(**header: Any) -> str:
        return base64url.encode(json.dumps({"typ": "JWT", "kid": "k1", **header}).encode())

    hs256 = f"{of(alg='HS256')}.{claims}"
    tag = base64url.encode(hmac.digest(pem, hs256.encode(), hashlib.sha256))
    tokens = {
        f"{of(alg='none')}.{claims}.": "alg",
        f"{hs256}.{tag}": "alg",
        token(CLAIMS, EC_KEY, algorithm="ES256", kid="e1"): "alg",
        token(CLAIMS, rsa_key(1)): "signature",
        token(CLAIMS, kid="unknown"): "kid of no key",
        token(CLAIMS, kid=...): "kid is missing",
        token(CLAIMS, typ="at+jwt"): "typ",
        token(CLAIMS, typ=""): "typ",
        "x": "not a compact JWS",
        "x" * 8193: "too long",
    }
    for sent, reason in tokens.items():
        assert app_check.check(sent, invocation_id="i") == Checked(Result.INVALID, reason)


def test_an_id_token_is_none(app_check: AppCheck) -> None:
    """Same project, same company, another issuer."""
    claims = {**CLAIMS, "iss": "https://securetoken.google.com/my-project", "aud": "my-project"}
    assert app_check.check(token(claims), invocation_id="i") == Checked(Result.INVALID, "iss")


def test_unavailable(google: Issuer) -> None:
    google.sets[JWKS_URI] = OSError()
    assert make(google).check(token(CLAIMS), invocation_id="i").result is Result.UNAVAILABLE
    assert len(google.fetches) == 1


def test_unknown_kid_storm(app_check: AppCheck, google: Issuer) -> None:
    for number in range(100):
        assert (
            app_check.check(token(CLAIMS, kid=f"x{number}"), invocation_id="i").result
            is Result.INVALID
        )
    assert len(google.fetches) == 1


class Uses:
    """Stands in for the table: remembers what was used, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.used: dict[tuple[str, ...], int] = {}

    def use(self, *parts: str, expires_at: int, invocation_id: str) -> bool:
        if self.error:
            raise self.error
        first = parts not in self.used
        self.used[parts] = expires_at
        return first


class TestLimitedUse:
    def limited(self, google: Issuer, uses: Uses, mode: Mode = Mode.ENFORCE) -> AppCheck:
        return replace(make(google, mode), used=cast("SingleUse", uses))

    def test_good_once(self, google: Issuer) -> None:
        uses = Uses()
        app_check = self.limited(google, uses)
        first, second = (app_check.check(token(CLAIMS), invocation_id="i") for _ in range(2))
        assert first == Checked(Result.VALID, app_id=APP)
        assert second == Checked(Result.INVALID, "used before")
        assert uses.used == {("app check", "j"): NOW + 3_560}, "for as long as it would be good"
        other = token({**CLAIMS, "jti": "k"})
        assert app_check.check(other, invocation_id="i").result is Result.VALID

    @pytest.mark.parametrize("jti", [..., "", 7, None, ["j"]])
    def test_without_a_jti_it_is_no_such_token(self, google: Issuer, jti: object) -> None:
        uses = Uses()
        app_check = self.limited(google, uses)
        checked = app_check.check(token({**CLAIMS, "jti": jti}), invocation_id="i")
        assert checked == Checked(Result.INVALID, "no jti: not a limited-use token")
        assert uses.used == {}
        ordinary = make(google).check(token({**CLAIMS, "jti": jti}), invocation_id="i")
        assert ordinary.result is Result.VALID

    @pytest.mark.parametrize("fault", INVALID)
    def test_what_is_refused_for_another_reason_is_not_used_up(
        self, google: Issuer, fault: str
    ) -> None:
        uses = Uses()
        changes, reason = INVALID[fault]
        checked = self.limited(google, uses).check(token({**CLAIMS, **changes}), invocation_id="i")
        assert checked == Checked(Result.INVALID, reason)
        self.limited(google, uses).check(token(CLAIMS, rsa_key(1)), invocation_id="i")
        assert uses.used == {}

    def test_when_its_use_can_not_be_recorded_nobody_knows(self, google: Issuer) -> None:
        app_check = self.limited(google, Uses(Unavailable("dynamodb:PutItem")))
        checked = app_check.check(token(CLAIMS), invocation_id="i")
        assert checked == Checked(Result.UNAVAILABLE, "use cannot be recorded")

    def test_off_uses_nothing_up(self, google: Issuer) -> None:
        uses = Uses()
        self.limited(google, uses, Mode.OFF).check(token(CLAIMS), invocation_id="i")
        assert uses.used == {}


class TestDecisions:
    """Of each mode, what becomes of a login: attested or not, or the status it is answered with."""

    @pytest.mark.parametrize(
        ("result", "outcomes"),
        [
            # off, monitor, enforce
            (Result.VALID, [False, True, True]),
            (Result.MISSING, [False, False, 403]),
            (Result.INVALID, [False, False, 403]),
            (Result.UNAVAILABLE, [False, False, 503]),
        ],
    )
    def test_each(self, google: Issuer, result: Result, outcomes: list[bool | int]) -> None:
        assert [outcome(make(google, mode), result) for mode in Mode] == outcomes

    def test_none_is_forgotten(self) -> None:
        assert DECISIONS.keys() == set(Mode)
        for decisions in DECISIONS.values():
            assert decisions.keys() == set(Result)
        refusing = {Decision.REFUSED, Decision.LATER}
        assert refusing.isdisjoint(DECISIONS[Mode.MONITOR].values())
        assert refusing.isdisjoint(DECISIONS[Mode.OFF].values())

    def test_no_refusal_looks_like_a_logout(self, google: Issuer) -> None:
        with pytest.raises(RequestRefused) as refused:
            make(google).admit(Checked(Result.MISSING))
        assert refused.value.code == "attestation_required"

    @pytest.mark.parametrize("mode", Mode)
    def test_each_result_is_counted(
        self, google: Issuer, monkeypatch: pytest.MonkeyPatch, mode: Mode
    ) -> None:
        """So that whoever turns it on knows first how many apps would be refused."""
        counted: list[str] = []
        monkeypatch.setattr(attestation, "count", counted.append)
        for presented in (token(CLAIMS), None, "x"):
            make(google, mode).check(presented, invocation_id="i")
        make(Issuer({JWKS_URI: OSError()}), mode).check(token(CLAIMS), invocation_id="i")
        results = ["AppCheckValid", "AppCheckMissing", "AppCheckInvalid", "AppCheckUnavailable"]
        assert counted == ([] if mode is Mode.OFF else results)

    def test_off_asks_nobody(self, google: Issuer) -> None:
        off = AppCheck.from_environ(google.jwks(), DYNAMODB, {"KEYFERRY_APP_CHECK": "off"})
        assert not off.admit(off.check(token(CLAIMS), invocation_id="i"))
        assert google.fetches == []


def outcome(app_check: AppCheck, result: Result) -> bool | int:
    try:
        return app_check.admit(Checked(result))
    except RequestRefused as refused:
        return refused.kind.status
    except Unavailable:
        return 503


class TestSettings:
    environ = {  # noqa: RUF012 -- read only
        "KEYFERRY_APP_CHECK": "enforce",
        "KEYFERRY_APP_CHECK_LIMITED_USE": "false",
        "KEYFERRY_APP_CHECK_PROJECT_NUMBER": PROJECT,
        "KEYFERRY_APP_CHECK_APP_IDS": f"{APP}, 1:{PROJECT}:android:d4,",
    }

    def test_good(self, google: Issuer) -> None:
        app_check = AppCheck.from_environ(google.jwks(), DYNAMODB, self.environ)
        assert app_check.mode is Mode.ENFORCE
        assert app_check.used is None
        assert app_check.app_ids == {APP, f"1:{PROJECT}:android:d4"}

    def test_limited_use(self, google: Issuer) -> None:
        limited = {"KEYFERRY_APP_CHECK_LIMITED_USE": "true", "KEYFERRY_PROOFS_TABLE": "proofs"}
        app_check = AppCheck.from_environ(google.jwks(), DYNAMODB, {**self.environ, **limited})
        assert app_check.used == SingleUse(DYNAMODB, "proofs")

    @pytest.mark.parametrize(
        "changes",
        [
            {"KEYFERRY_APP_CHECK": ""},
            {"KEYFERRY_APP_CHECK": "Enforce"},
            {"KEYFERRY_APP_CHECK": "on"},
            {"KEYFERRY_APP_CHECK_LIMITED_USE": "True"},
            {"KEYFERRY_APP_CHECK_LIMITED_USE": ""},
            {"KEYFERRY_APP_CHECK_PROJECT_NUMBER": ""},
            {"KEYFERRY_APP_CHECK_PROJECT_NUMBER": "my-project"},
            {"KEYFERRY_APP_CHECK_APP_IDS": ""},
            {"KEYFERRY_APP_CHECK_APP_IDS": " , "},
        ],
        ids=str,
    )
    def test_a_typing_error_switches_nothing_off(
        self, google: Issuer, changes: dict[str, str]
    ) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- StrEnum's own is one
            AppCheck.from_environ(google.jwks(), DYNAMODB, {**self.environ, **changes})
