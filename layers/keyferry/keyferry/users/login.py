"""``POST /v1/login``: a password and a device in, a session out."""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    model_validator,
)

from keyferry import aws, clock
from keyferry.config import Deployment, TokenPolicy
from keyferry.edge import authentication
from keyferry.edge.request import JSON, Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.grant import Grants
from keyferry.sessions.model import Device
from keyferry.sessions.opening import CredentialChanged, SessionOpening
from keyferry.sessions.store import SessionStore
from keyferry.users import auth_session
from keyferry.users.auth_session import AuthSession, credential_digest
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.model import MAX_USERNAME_LENGTH, User, UserStatus, canonical_username
from keyferry.users.passwords import (
    MAX_PASSWORD_BYTES,
    hash_password,
    needs_rehash,
    normalise,
    verify_password,
)
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import (
    PasswordCredential,
    UserStore,
    credential_from_item,
    credential_key,
)

PASSWORD: Final = "pwd"
OTP: Final = "otp"
MFA: Final = "mfa"
"""Authentication methods, as RFC 8176 §2 names them."""

_CHECKS: Final = 3
"""How often a credential may change under a login."""

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class DeviceRequest(BaseModel):
    model_config = _STRICT

    name: ShortText
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    app_version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,64}$")]
    encryption_key: dict[str, Any]


class LoginRequest(BaseModel):
    """The body of ``POST /v1/login``: user name and password, with or without a code; or the
    ``auth_session`` that ``mfa_required`` gave, with a code."""

    model_config = _STRICT

    username: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH)] | None
    ) = None
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)] | None = None
    auth_session: Annotated[str | None, Field(max_length=2048, repr=False)] = None
    otp: Annotated[str, StringConstraints(min_length=6, max_length=32)] | None = None
    device: DeviceRequest

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        by_password = self.username is not None and self.password is not None
        goes_on = self.auth_session is not None and self.otp is not None
        if by_password == goes_on or (self.username is None) != (self.password is None):
            raise ValueError("user name and password, or auth_session and otp")
        return self


@dataclass(frozen=True, slots=True)
class Claim:
    """Who somebody says to be, and what is to prove it: a password now, or an earlier note of one."""

    username: str
    password: bytes | None = field(repr=False)
    auth_session: AuthSession | None

    def is_proved_by(self, credential: PasswordCredential | None) -> bool:
        """Whether the password is right, now or a moment ago. The work is the same for nobody."""
        if self.password is not None:
            return verify_password(self.password, credential.phc if credential else None)
        if credential is None or self.auth_session is None:
            return False
        return hmac.compare_digest(
            credential_digest(credential).encode(), self.auth_session.credential.encode()
        )


@dataclass(frozen=True, slots=True)
class Login:
    keyring: UnwrappedKeyring
    users: UserStore
    guesses: GuessStore
    factors: SecondFactors
    opening: SessionOpening
    grants: Grants
    policy: TokenPolicy
    now: Callable[[], int]
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        keyring = UnwrappedKeyring.from_environ(dynamodb, kms, environ)
        policy = TokenPolicy.from_environ(environ)
        users = UserStore.from_environ(dynamodb, environ)
        return cls(
            keyring=keyring,
            users=users,
            guesses=GuessStore(dynamodb, environ["KEYFERRY_GUESSES_TABLE"]),
            factors=SecondFactors(
                dynamodb,
                users.credentials_table,
                users.users_table,
                kms,
                environ["KEYFERRY_KEYRING_KEY_ARN"],
                Deployment.from_environ(environ),
            ),
            opening=SessionOpening(
                users,
                SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"]),
                limit=int(environ["KEYFERRY_MAX_SESSIONS"]),
            ),
            grants=Grants(keyring, policy, clock.now, clock.random),
            policy=policy,
            now=clock.now,
            random=clock.random,
        )

    def __call__(self, request: Request) -> Response:
        body = _body(request)
        encryption_key = _encryption_key(body.device.encryption_key)
        client_id = authentication.client_id(request, self.keyring)
        if body.device.platform != client_id:
            raise RequestRefused(
                "invalid_request",
                "platform of another client",
                description="device.platform must be the platform of the client key.",
            )
        proof = authentication.device_key(
            request.call(self.keyring.issuer),
            self.keyring,
            now=self.now(),
            required=self.policy.require_dpop,
        )
        jkt = proof.jkt if proof else ""
        claim = self._claim(body, client_id=client_id, jkt=jkt)
        self.grants.unwrap_keys()
        attempt = self._reserve(request, claim.username, jkt)
        credential = credential_from_item(claim.username, attempt.beside)
        for _ in range(_CHECKS):
            user, credential = self._user(credential, claim, attempt)
            amr = self._second_factor(body, user, credential, claim, attempt, client_id, jkt)
            session, token = self.grants.begin(
                user,
                client_id=client_id,
                jkt=jkt,
                amr=amr,
                device=Device(
                    name=body.device.name,
                    platform=body.device.platform,
                    app_version=body.device.app_version,
                ),
                encryption_key=(encryption_key.x, encryption_key.y),
                request_id=request.invocation_id,
            )
            try:
                displaced = self.opening.open(
                    session,
                    user,
                    credential,
                    stronger_phc=self._stronger(credential, claim.password),
                    also=self.guesses.forgive(attempt, jkt=jkt),
                )
            except CredentialChanged:
                if user.second_factor:
                    # The code is used up; what the app has to do is the same as after any refusal.
                    raise RequestRefused("invalid_grant", "login: credential changed") from None
                # Changed, or only hashed anew by another login: the next check tells.
                credential = self.users.password_credential(claim.username)
                continue
            logger.info(
                "login",
                extra={"outcome": "succeeded", "sid": session.sid, "displaced": displaced},
            )
            count(Metric.LOGIN_SUCCEEDED)
            return self.grants.respond(session, token)
        raise Unavailable("login: the credential kept changing")

    def _claim(self, body: LoginRequest, *, client_id: str, jkt: str) -> Claim:
        if body.auth_session is not None:
            session = auth_session.verify(body.auth_session, self.keyring, now=self.now())
            if (session.client_id, session.jkt) != (client_id, jkt):
                raise RequestRefused("invalid_grant", "auth session: of another device or client")
            return Claim(session.username, None, session)
        if body.username is None or body.password is None:
            raise RequestRefused("invalid_request", "neither password nor auth session")
        try:
            password = normalise(body.password.get_secret_value())
            return Claim(canonical_username(body.username), password, None)
        except ValueError:
            raise RequestRefused("invalid_request", "user name or password: form") from None

    def _reserve(self, request: Request, username: str, jkt: str) -> Attempt:
        try:
            return self.guesses.reserve(
                username,
                jkt=jkt,
                source_ip=request.source_ip,
                now=self.now(),
                invocation_id=request.invocation_id,
                beside=(self.users.credentials_table, credential_key(username)),
            )
        except RequestRefused:
            count(Metric.LOGIN_THROTTLED)
            raise

    def _user(
        self, credential: PasswordCredential | None, claim: Claim, attempt: Attempt
    ) -> tuple[User, PasswordCredential]:
        """The user that the claim opens, and the credential that it was proved by. One answer and
        one amount of work for every failure: an unknown name, a wrong password and a disabled user
        can not be told apart."""
        right = claim.is_proved_by(credential)
        # Read for an unknown name as well, so that the calls do not tell.
        user = self.users.user(credential.sub if credential else "-")
        if credential is None or user is None or not right or user.status is not UserStatus.ACTIVE:
            raise self._failed(attempt, "login: unknown, wrong or disabled")
        return user, credential

    def _second_factor(
        self,
        body: LoginRequest,
        user: User,
        credential: PasswordCredential,
        claim: Claim,
        attempt: Attempt,
        client_id: str,
        jkt: str,
    ) -> tuple[str, ...]:
        """The methods (RFC 8176) that this login has proved, the second factor where there is one.

        A code counts as an attempt like a password does, so codes are guessed at no faster.
        """
        if not user.second_factor:
            return (PASSWORD,)
        if body.otp is None:
            count(Metric.SECOND_FACTOR_REQUIRED)
            note = AuthSession(claim.username, client_id, jkt, credential_digest(credential))
            issued = auth_session.issue(note, self.keyring, now=self.now())
            raise RequestRefused("mfa_required", "login", members={"auth_session": issued})
        if not self.factors.use(user.sub, body.otp, now=self.now()):
            raise self._failed(attempt, "login: code wrong or used")
        return (PASSWORD, OTP, MFA)

    def _failed(self, attempt: Attempt, reason: str) -> RequestRefused:
        self.guesses.failed(attempt)
        count(Metric.LOGIN_FAILED)
        return RequestRefused("invalid_grant", reason)

    def _stronger(self, credential: PasswordCredential, password: bytes | None) -> str | None:
        """A hash at today's parameters, when the stored one was made at others."""
        if password is None or not needs_rehash(credential.phc):
            return None
        return hash_password(password, random=self.random)


def _body(request: Request) -> LoginRequest:
    fields = request.fields(JSON)
    try:
        return LoginRequest.model_validate(fields)
    except ValidationError as error:
        # Where it is wrong, never what it says there.
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise RequestRefused(
            "invalid_request", "body is not a login request", description=_at(where)
        ) from None


def _at(where: str) -> str:
    known = where if len(where) <= 64 and where.replace("_", "").replace(".", "").isalpha() else ""
    return f"The request is malformed{f' at {known}' if known else ''}."


def _encryption_key(members: dict[str, Any]) -> EcJwk:
    try:
        jwk = EcJwk.from_members(members, use="enc")
        jwk.key()
    except ValueError:
        raise RequestRefused(
            "invalid_request",
            "encryption_key",
            description="encryption_key must be a public P-256 JWK (RFC 7518 §6.2.1).",
        ) from None
    return jwk
