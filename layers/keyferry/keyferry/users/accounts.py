"""A user's own password: chosen with an invitation or at registration, changed when signed in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from keyferry import aws, clock
from keyferry.attestation.app_check import HEADER, AppCheck, Checked
from keyferry.config import TokenPolicy
from keyferry.edge import authentication
from keyferry.edge.request import JSON, Request
from keyferry.edge.response import Response, of_json
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused
from keyferry.federation.jwks import Jwks
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.store import SessionStore
from keyferry.tokens.access import AccessToken
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.invitation import (
    MAX_CODE_LENGTH,
    InvitationStore,
    invitation_from_item,
    invitation_key,
)
from keyferry.users.model import (
    MAX_USERNAME_LENGTH,
    User,
    canonical_new_username,
    canonical_username,
)
from keyferry.users.new_password import NewPasswordPolicy
from keyferry.users.password_change import PasswordChange
from keyferry.users.passwords import (
    MAX_PASSWORD_BYTES,
    Typed,
    hash_password,
)
from keyferry.users.store import (
    PasswordCredential,
    UserStore,
    credential_from_item,
    credential_key,
)

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

Username = Annotated[str, StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)]


class RedeemRequest(BaseModel):
    """The body of ``POST /v1/invitations/redeem``."""

    model_config = _STRICT

    username: Username
    code: Annotated[SecretStr, Field(min_length=1, max_length=MAX_CODE_LENGTH)]
    password: Password


class RegisterRequest(BaseModel):
    """The body of ``POST /v1/register``."""

    model_config = _STRICT

    username: Username
    password: Password


class PasswordRequest(BaseModel):
    """The body of ``POST /v1/password``."""

    model_config = _STRICT

    current_password: Password
    new_password: Password


Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Accounts:
    keyring: UnwrappedKeyring
    invitations: InvitationStore
    change: PasswordChange
    guesses: GuessStore
    app_check: AppCheck
    policy: TokenPolicy
    passwords: NewPasswordPolicy
    self_registration: bool
    now: Callable[[], int]
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        users = UserStore.from_environ(dynamodb, environ)
        policy = TokenPolicy.from_environ(environ)
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            invitations=InvitationStore(users),
            change=PasswordChange(
                users, SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"])
            ),
            guesses=GuessStore(
                dynamodb, environ["KEYFERRY_GUESSES_TABLE"], policy.absolute_seconds
            ),
            app_check=AppCheck.from_environ(Jwks(clock.now), dynamodb, environ),
            policy=policy,
            passwords=NewPasswordPolicy.from_environ(environ),
            # Only the exact word opens it: a typing error must not.
            self_registration=environ["KEYFERRY_SELF_REGISTRATION"] == "true",
            now=clock.now,
            random=clock.random,
        )

    def redeem(self, request: Request) -> Response:
        """``POST /v1/invitations/redeem``. One answer and one amount of work for a name that is not
        invited, a wrong code, one that has expired and one that is spent. Failures count against
        the network that they come from."""
        body = _body(request, RedeemRequest)
        authentication.client_id(request, self.keyring)
        username = _canonical(body.username)
        password = self._admit(body.password, username)
        checked = self._attest(request)
        now = self.now()
        with _counting_refusals():
            redemption = self.guesses.redeeming(
                request.source_ip,
                now=now,
                beside=(self.change.users.credentials_table, invitation_key(username)),
            )
        phc = hash_password(password, random=self.random)
        invitation = invitation_from_item(redemption.beside)
        code = body.code.get_secret_value()
        if invitation is None or not invitation.is_opened_by(code, now):
            self.guesses.redemption_failed(redemption)
            raise _not_invited()
        user = User.new(invitation.username, invitation.roles, now=now, random=self.random)
        credential = PasswordCredential(username, user.sub, phc)
        if not self.invitations.redeem(invitation, user, credential, now=now):
            # Another request was faster, or an operator gave the name to somebody else.
            raise _not_invited()
        count(Metric.ACCOUNT_REDEEMED)
        logger.info(
            "account",
            extra={"outcome": "redeemed", "sub": user.sub, "app_check": checked.result},
        )
        return of_json({"username": user.username})

    def register(self, request: Request) -> Response:
        """``POST /v1/register``, where the stack allows it. A user who came that way has no role.

        That a name is taken can not be kept from somebody who wants to have it.
        """
        if not self.self_registration:
            raise RequestRefused("registration_closed", "register: not allowed by this stack")
        body = _body(request, RegisterRequest)
        authentication.client_id(request, self.keyring)
        username = _canonical(body.username, canonical_new_username)
        password = self._admit(body.password, username)
        checked = self._attest(request)
        with _counting_refusals():
            self.guesses.register(
                request.source_ip, now=self.now(), invocation_id=request.invocation_id
            )
        user = User.new(body.username, (), now=self.now(), random=self.random)
        phc = hash_password(password, random=self.random)
        credential = PasswordCredential(username, user.sub, phc)
        if not self.invitations.register(user, credential, now=self.now()):
            count(Metric.ACCOUNT_REFUSED)
            raise RequestRefused("username_taken", "register: taken or invited")
        count(Metric.ACCOUNT_REGISTERED)
        logger.info(
            "account",
            extra={"outcome": "registered", "sub": user.sub, "app_check": checked.result},
        )
        return of_json({"username": user.username})

    def change_password(self, request: Request) -> Response:
        """``POST /v1/password``: for the signed-in user, who proves to know the old one. Every other
        session ends, this one goes on."""
        body = _body(request, PasswordRequest)
        now = self.now()
        token = self._authenticate(request, now)
        user, own, others = self.change.caller(token.sub, token.sid, now=now)
        client_id = authentication.client_id(request, self.keyring)
        if own.jkt != (token.jkt or "") or own.client_id != client_id:
            raise RequestRefused("invalid_token", "session of another device or client")
        username = canonical_username(user.username)
        octets = self._admit(body.new_password, username)
        attempt = self._reserve(request, username, own.jkt)
        credential = credential_from_item(username, attempt.beside)
        # Of a user without a password none is right, and the work is the same.
        right = _typed(body.current_password).opens(credential.phc if credential else None)
        if credential is None or credential.sub != user.sub or not right:
            self.guesses.failed(attempt)
            count(Metric.ACCOUNT_REFUSED)
            raise RequestRefused("wrong_password", "password: current one wrong")
        ended = self.change.write(
            user,
            own,
            others,
            credential,
            hash_password(octets, random=self.random),
            now=now,
            also=self.guesses.forgive(attempt, jkt=own.jkt),
        )
        logger.info("account", extra={"outcome": "password changed", "sub": user.sub})
        if ended:
            count(Metric.SESSION_ENDED, ended)
        return of_json({"ended": ended})

    def _authenticate(self, request: Request, now: int) -> AccessToken:
        token, _ = authentication.authenticate(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            require_dpop=self.policy.require_dpop,
        )
        return token

    def _reserve(self, request: Request, username: str, jkt: str) -> Attempt:
        """Count the attempt where logins count theirs: a stolen session is no way to guess on."""
        with _counting_refusals():
            return self.guesses.reserve(
                username,
                jkt=jkt,
                source_ip=request.source_ip,
                now=self.now(),
                invocation_id=request.invocation_id,
                beside=(self.change.users.credentials_table, credential_key(username)),
            )

    def _attest(self, request: Request) -> Checked:
        """Raise `RequestRefused` (``attestation_required``) or `Unavailable`, as at login."""
        checked = self.app_check.check(
            request.headers.one(HEADER), invocation_id=request.invocation_id
        )
        self.app_check.admit(checked)
        return checked

    def _admit(self, password: SecretStr, username: str) -> bytes:
        return self.passwords.admit(password.get_secret_value(), username=username)


def _body(request: Request, kind: type[Body]) -> Body:
    fields = request.fields(JSON)
    try:
        return kind.model_validate(fields)
    except ValidationError:
        raise RequestRefused("invalid_request", f"body is not a {kind.__name__}") from None


def _canonical(username: str, form: Callable[[str], str] = canonical_username) -> str:
    try:
        return form(username)
    except ValueError:
        raise RequestRefused("invalid_request", "user name: form") from None


def _typed(password: SecretStr) -> Typed:
    try:
        return Typed.read(password.get_secret_value())
    except ValueError:
        raise RequestRefused("invalid_request", "current password: form") from None


@contextmanager
def _counting_refusals() -> Iterator[None]:
    """Around a limit, which refuses for one reason alone."""
    try:
        yield
    except RequestRefused:
        count(Metric.ACCOUNT_THROTTLED)
        raise


def _not_invited() -> RequestRefused:
    count(Metric.ACCOUNT_REFUSED)
    return RequestRefused(
        "invalid_grant", "invitation", description="This invitation is not valid (any more)."
    )
