"""``POST /v1/login``: a password and a device in, a session out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from keyferry import aws, clock
from keyferry.config import TokenPolicy
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
from keyferry.users.guessing import Attempt, GuessStore
from keyferry.users.model import MAX_USERNAME_LENGTH, User, UserStatus, canonical_username
from keyferry.users.passwords import (
    MAX_PASSWORD_BYTES,
    hash_password,
    needs_rehash,
    normalise,
    verify_password,
)
from keyferry.users.store import (
    PasswordCredential,
    UserStore,
    credential_from_item,
    credential_key,
)

PASSWORD: Final = "pwd"
"""The authentication method, as RFC 8176 §2 names it."""

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
    """The body of ``POST /v1/login``."""

    model_config = _STRICT

    username: Annotated[str, StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH)]
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)]
    device: DeviceRequest


@dataclass(frozen=True, slots=True)
class Login:
    keyring: UnwrappedKeyring
    users: UserStore
    guesses: GuessStore
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
        username, password = _canonical(body)
        jkt = proof.jkt if proof else ""
        self.grants.unwrap_keys()
        attempt = self._reserve(request, username, jkt)
        found = credential_from_item(username, attempt.beside)
        for _ in range(_CHECKS):
            user, credential = self._user(found, password, attempt)
            session, token = self.grants.begin(
                user,
                client_id=client_id,
                jkt=jkt,
                amr=(PASSWORD,),
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
                    stronger_phc=self._stronger(credential, password),
                    also=self.guesses.forgive(attempt, jkt=jkt),
                )
            except CredentialChanged:
                # Changed, or only hashed anew by another login: the next check tells.
                found = self.users.password_credential(username)
                continue
            logger.info(
                "login",
                extra={"outcome": "succeeded", "sid": session.sid, "displaced": displaced},
            )
            count(Metric.LOGIN_SUCCEEDED)
            return self.grants.respond(session, token)
        raise Unavailable("login: the credential kept changing")

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
        self, credential: PasswordCredential | None, password: bytes, attempt: Attempt
    ) -> tuple[User, PasswordCredential]:
        """The user that the two open, and the credential that did. One answer and one amount of
        work for every failure: an unknown name, a wrong password and a disabled user can not be
        told apart."""
        right = verify_password(password, credential.phc if credential else None)
        # Read for an unknown name as well, so that the calls do not tell.
        user = self.users.user(credential.sub if credential else "-")
        if credential is None or user is None or not right or user.status is not UserStatus.ACTIVE:
            self.guesses.failed(attempt)
            count(Metric.LOGIN_FAILED)
            raise RequestRefused("invalid_grant", "login: unknown, wrong or disabled")
        return user, credential

    def _stronger(self, credential: PasswordCredential, password: bytes) -> str | None:
        """A hash at today's parameters, when the stored one was made at others."""
        if not needs_rehash(credential.phc):
            return None
        return hash_password(password, random=self.random)


def _canonical(body: LoginRequest) -> tuple[str, bytes]:
    try:
        password = normalise(body.password.get_secret_value())
        return canonical_username(body.username), password
    except ValueError:
        raise RequestRefused("invalid_request", "user name or password: form") from None


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
