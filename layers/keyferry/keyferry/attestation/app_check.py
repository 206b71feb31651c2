"""Firebase App Check: whether a login comes from a genuine copy of the app.

The app gets its token from Firebase, which asked App Attest, Play Integrity or another attestation
provider, and sends it in the header `HEADER`. The token is a bearer token: it says that some
genuine copy of the app got it within its time to live (an hour, unless the project says otherwise),
not that this phone did, and not whose phone it is. So it is evidence beside a login, never instead
of one, and it is looked at when a session begins; from then on the device key stands for the app
that was attested.

Limited-use tokens. Google knows whether a token was used before at any backend: one consumes a token
by calling ``projects.verifyAppCheckToken`` with a Google service account, and is told
``alreadyConsumed``. Keyferry has no such account. What it can do is to take each token once in one
stack, which is what `AppCheck.used` is for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry import clock
from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused, Unavailable
from keyferry.federation.jwks import RETRY_SECONDS, Jwks
from keyferry.federation.signature import SignedClaims, verified
from keyferry.single_use import SingleUse

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

HEADER: Final = "x-firebase-appcheck"
JWKS_URI: Final = "https://firebaseappcheck.googleapis.com/v1/jwks"
ISSUER: Final = "https://firebaseappcheck.googleapis.com/"
"""Followed by the project number."""

MAX_LENGTH: Final = 8 * 1024
"""Characters."""

CLOCK_SKEW_SECONDS: Final = 60

_PROJECT_NUMBER: Final = re.compile(r"[1-9][0-9]{0,19}")


class Mode(StrEnum):
    OFF = "off"
    MONITOR = "monitor"
    ENFORCE = "enforce"


class Result(StrEnum):
    """What can be said of one token."""

    VALID = "valid"
    MISSING = "missing"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"


class Decision(StrEnum):
    ATTESTED = "attested"
    """Goes on, and the session says that it is attested."""

    NOT_ATTESTED = "not_attested"
    """Goes on, and the session does not say so."""

    REFUSED = "refused"
    """``attestation_required``."""

    LATER = "later"
    """503: the caller may well be right, and is to come back."""


_METRICS: Final[Mapping[Result, Metric]] = MappingProxyType(
    {
        Result.VALID: Metric.APP_CHECK_VALID,
        Result.MISSING: Metric.APP_CHECK_MISSING,
        Result.INVALID: Metric.APP_CHECK_INVALID,
        Result.UNAVAILABLE: Metric.APP_CHECK_UNAVAILABLE,
    }
)

_ALL_PASS: Final = dict.fromkeys(Result, Decision.NOT_ATTESTED)

DECISIONS: Final[Mapping[Mode, Mapping[Result, Decision]]] = MappingProxyType(
    {
        # Nothing is verified, so nothing is claimed.
        Mode.OFF: _ALL_PASS,
        # For finding out how many of the installed apps would be refused: nobody is.
        Mode.MONITOR: {**_ALL_PASS, Result.VALID: Decision.ATTESTED},
        # When Google's keys cannot be had, letting everybody in would let an attacker choose the
        # moment; and a 4xx would tell a genuine app that it is none, for which an app may give up
        # or log out. Keys are served for an hour beyond their age, so this takes an outage of
        # hours, and it stops logins only: sessions are refreshed without App Check.
        Mode.ENFORCE: {
            Result.VALID: Decision.ATTESTED,
            Result.MISSING: Decision.REFUSED,
            Result.INVALID: Decision.REFUSED,
            Result.UNAVAILABLE: Decision.LATER,
        },
    }
)


@dataclass(frozen=True, slots=True)
class Checked:
    """A result, why it is not better (a constant, for the log), and which app was attested."""

    result: Result
    reason: str = ""
    app_id: str | None = None


@dataclass(frozen=True, slots=True)
class AppCheck:
    """``app_ids`` are the Firebase app ids (``1:<project number>:ios:…``) of our own apps: a project
    can have others, and a debug build need not be among them."""

    mode: Mode
    project_number: str
    app_ids: frozenset[str]
    jwks: Jwks
    now: Callable[[], int]
    used: SingleUse | None = None
    """Where each token is good once; None where it is good until it expires."""
    jwks_uri: str = JWKS_URI

    def __post_init__(self) -> None:
        if self.mode is Mode.OFF:
            return
        if not _PROJECT_NUMBER.fullmatch(self.project_number):
            raise ValueError("App Check: the project number is a number, not the project id")
        if not self.app_ids:
            raise ValueError("App Check: no app ids")

    @classmethod
    def from_environ(
        cls, jwks: Jwks, dynamodb: DynamoDBClient, environ: Mapping[str, str] = os.environ
    ) -> Self:
        """Raise `ValueError` for a mode that is none: a typing error must not switch this off."""
        mode = Mode(environ["KEYFERRY_APP_CHECK"])
        if mode is Mode.OFF:
            return cls(mode, "", frozenset(), jwks, clock.now)
        limited_use = {"true": True, "false": False}.get(environ["KEYFERRY_APP_CHECK_LIMITED_USE"])
        if limited_use is None:
            raise ValueError("App Check: limited use is neither true nor false")
        app_ids = (each.strip() for each in environ["KEYFERRY_APP_CHECK_APP_IDS"].split(","))
        return cls(
            mode=mode,
            project_number=environ["KEYFERRY_APP_CHECK_PROJECT_NUMBER"],
            app_ids=frozenset(filter(None, app_ids)),
            jwks=jwks,
            now=clock.now,
            used=SingleUse(dynamodb, environ["KEYFERRY_PROOFS_TABLE"]) if limited_use else None,
        )

    def check(self, token: str | None, *, invocation_id: str) -> Checked:
        """Verify the token that came in `HEADER`, and use it up where each is good once. Switched
        off, nothing is looked at, fetched or counted."""
        if self.mode is Mode.OFF:
            return Checked(Result.MISSING, "off")
        checked = self._check(token, invocation_id)
        count(_METRICS[checked.result])
        return checked

    def _check(self, token: str | None, invocation_id: str) -> Checked:
        if not token:
            return Checked(Result.MISSING, "no token")
        try:
            signed = verified(
                token,
                jwks=self.jwks,
                jwks_uri=self.jwks_uri,
                algorithms=("RS256",),
                max_length=MAX_LENGTH,
            )
            app_id = self._app_id(signed)
        except ValueError as error:
            return Checked(Result.INVALID, str(error))
        except Unavailable:
            return Checked(Result.UNAVAILABLE, "keys cannot be had")
        try:
            # Last: a token that is refused for another reason is not used up.
            self._use(signed, invocation_id)
        except ValueError as error:
            return Checked(Result.INVALID, str(error))
        except Unavailable:
            return Checked(Result.UNAVAILABLE, "use cannot be recorded")
        return Checked(Result.VALID, app_id=app_id)

    def admit(self, checked: Checked) -> bool:
        """Whether the session that is about to begin is attested.

        Raise `RequestRefused` (``attestation_required``) or `Unavailable` when none may begin.
        """
        match DECISIONS[self.mode][checked.result]:
            case Decision.ATTESTED:
                return True
            case Decision.NOT_ATTESTED:
                return False
            case Decision.REFUSED:
                raise RequestRefused("attestation_required", f"app check: {checked.reason}")
            case Decision.LATER:
                raise Unavailable(f"app check: {checked.reason}", retry_after=RETRY_SECONDS)

    def _use(self, signed: SignedClaims, invocation_id: str) -> None:
        if self.used is None:
            return
        jti = signed.claims.get("jti")
        if not isinstance(jti, str) or not jti:
            raise ValueError("no jti: not a limited-use token")
        expires_at = int(signed.time("exp")) + CLOCK_SKEW_SECONDS
        if not self.used.use("app check", jti, expires_at=expires_at, invocation_id=invocation_id):
            raise ValueError("used before")

    def _app_id(self, signed: SignedClaims) -> str:
        if signed.header.get("typ") != "JWT":
            raise ValueError("typ")
        if signed.claims.get("iss") != ISSUER + self.project_number:
            raise ValueError("iss")
        audience: Any = signed.claims.get("aud")
        # Google lists the project by its number and by its id.
        if not isinstance(audience, list) or f"projects/{self.project_number}" not in audience:
            raise ValueError("aud")
        now = self.now()
        if now >= signed.time("exp"):
            raise ValueError("expired")
        if signed.time("iat") > now + CLOCK_SKEW_SECONDS:
            raise ValueError("iat in the future")
        app_id = signed.claims.get("sub")
        if not isinstance(app_id, str) or app_id not in self.app_ids:
            raise ValueError("sub of another app")
        return app_id
