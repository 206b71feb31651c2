"""``/v1/mfa/totp``: the signed-in user's own second factor, from the QR code to its removal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from keyferry import aws, clock
from keyferry.config import Deployment, TokenPolicy
from keyferry.edge import authentication
from keyferry.edge.request import JSON, Request
from keyferry.edge.response import Response, of_json
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.live import LiveSessions
from keyferry.sessions.model import Session
from keyferry.users import totp
from keyferry.users.guessing import GuessStore
from keyferry.users.model import User
from keyferry.users.second_factor import SecondFactors

RECENT_LOGIN_SECONDS: Final = 15 * 60
"""How long after its login a session may set up a second factor."""

Code = Annotated[str, StringConstraints(min_length=6, max_length=32)]


class CodeRequest(BaseModel):
    """The body of the confirmation and of the removal."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    code: Code


@dataclass(frozen=True, slots=True)
class TotpEnrolment:
    keyring: UnwrappedKeyring
    live: LiveSessions
    factors: SecondFactors
    guesses: GuessStore
    policy: TokenPolicy
    now: Callable[[], int]
    random: Callable[[int], bytes]
    issuer_name: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        deployment = Deployment.from_environ(environ)
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            live=LiveSessions(
                dynamodb, environ["KEYFERRY_SESSIONS_TABLE"], environ["KEYFERRY_USERS_TABLE"]
            ),
            factors=SecondFactors(
                dynamodb,
                environ["KEYFERRY_CREDENTIALS_TABLE"],
                environ["KEYFERRY_USERS_TABLE"],
                kms,
                environ["KEYFERRY_KEYRING_KEY_ARN"],
                deployment,
            ),
            guesses=GuessStore(dynamodb, environ["KEYFERRY_GUESSES_TABLE"]),
            policy=TokenPolicy.from_environ(environ),
            now=clock.now,
            random=clock.random,
            issuer_name=deployment.app,
        )

    def begin(self, request: Request) -> Response:
        """``POST /v1/mfa/totp``: a new secret, in force once a code of it has confirmed it.

        Only soon after a login: whoever has got hold of a session could otherwise set up a second
        factor of their own, and the owner would log in no more.
        """
        session, user = self._caller(request)
        if self.now() - session.created_at > RECENT_LOGIN_SECONDS:
            raise RequestRefused("insufficient_user_authentication", "totp: login too long ago")
        secret = self.random(totp.SECRET_BYTES)
        if not self.factors.begin(user.sub, secret):
            raise RequestRefused("already_enrolled", "totp: in force")
        uri = totp.otpauth_uri(secret, issuer=self.issuer_name, account=user.username)
        return of_json({"secret": totp.base32(secret), "otpauth_uri": uri})

    def confirm(self, request: Request) -> Response:
        """``POST /v1/mfa/totp/confirm``: the only time that the recovery codes are shown."""
        (_, user), code = self._caller(request), _code(request)
        enrolment = self.factors.read(user.sub)
        if enrolment is None or enrolment.confirmed:
            raise RequestRefused("invalid_request", "totp: nothing to confirm")
        recovery = self.factors.confirm(enrolment, code, now=self.now(), random=self.random)
        if recovery is None:
            raise RequestRefused("invalid_code", "totp: code")
        logger.info("second factor", extra={"outcome": "confirmed", "sub": user.sub})
        count(Metric.SECOND_FACTOR_ENROLLED)
        return of_json({"recovery_codes": recovery})

    def remove(self, request: Request) -> Response:
        """``POST /v1/mfa/totp/remove``, with a code: a stolen session alone must not do it."""
        (_, user), code = self._caller(request), _code(request)
        try:
            attempt = self.factors.use_counted(
                self.guesses,
                user.sub,
                code,
                jkt="",
                source_ip=request.source_ip,
                now=self.now,
                invocation_id=request.invocation_id,
            )
        except RequestRefused:
            count(Metric.ACCOUNT_THROTTLED)
            raise
        if attempt is None:
            count(Metric.SECOND_FACTOR_REFUSED)
            raise RequestRefused("invalid_code", "totp: code")
        self.factors.remove(user.sub, also=self.guesses.forgive(attempt, jkt=""))
        logger.info("second factor", extra={"outcome": "removed", "sub": user.sub})
        return Response(204, content_type=None)

    def _caller(self, request: Request) -> tuple[Session, User]:
        now = self.now()
        client_id = authentication.client_id(request, self.keyring)
        token, _ = authentication.authenticate(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            require_dpop=self.policy.require_dpop,
        )
        return self.live.require(token, now=now, client_id=client_id)


def _code(request: Request) -> str:
    try:
        return CodeRequest.model_validate(request.fields(JSON)).code
    except ValidationError:
        raise RequestRefused("invalid_request", "body is not a code") from None
