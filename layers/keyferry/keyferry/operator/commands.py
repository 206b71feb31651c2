"""The operator's commands, by direct invocation of the ``operator`` function.

    {"command": "keys.list", "arguments": {}}  →  {"ok": true, "result": {…}}
                                               →  {"ok": false, "error": {"error", "error_description"}}

No command reads a stored key back: this function can seal keys and has no right to open them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from aws_lambda_powertools.utilities.typing import LambdaContext
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
from keyferry.config import DAY, Deployment
from keyferry.edge.telemetry import (
    Metric,
    count,
    logger,
    report_failure,
    report_unavailable,
)
from keyferry.errors import CommandRefused, Unavailable
from keyferry.federation import providers as presets
from keyferry.federation.providers import FirstLogin, Nonce, Provider
from keyferry.federation.store import FederatedCredential, FederatedStore, Link, ProviderStore
from keyferry.operator.key_commands import KEY_COMMANDS, KeyCommands
from keyferry.operator.user_import import ImportUsers, Role, UserImport
from keyferry.sessions.store import SessionStore
from keyferry.users import totp
from keyferry.users.invitation import Invitation, InvitationStore, hash_code, new_code
from keyferry.users.model import User, UserStatus, canonical_new_username, canonical_username
from keyferry.users.passwords import MAX_PASSWORD_BYTES, hash_password, normalise
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import PasswordCredential, UserStore
from keyferry.vault.envelope import Sealer
from keyferry.vault.store import VaultStore

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

_ATTEMPTS: Final = 8


class AddUser(BaseModel):
    model_config = _STRICT

    username: str
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)]
    roles: Annotated[list[Role], Field(max_length=32)] = []


class OneUser(BaseModel):
    """Who logs in as ``username``, or is ``sub``: whoever came by a provider has no name to log in
    with."""

    model_config = _STRICT

    username: str | None = None
    sub: Annotated[str, StringConstraints(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.username is None) == (self.sub is None):
            raise ValueError("either username or sub")
        return self


class ConfirmTotp(OneUser):
    """``code`` is one of the authenticator app."""

    code: Annotated[SecretStr, Field(min_length=6, max_length=32)]


class SetRoles(OneUser):
    """``roles`` are all that the user has from now on; they may be none."""

    roles: Annotated[list[Role], Field(max_length=32)]


class NamedProvider(BaseModel):
    model_config = _STRICT

    name: str


class LinkIdentity(OneUser):
    """``subject`` is the user's ``sub`` at the provider."""

    provider: str
    subject: Annotated[str, Field(min_length=1, max_length=255)]


class PutProvider(BaseModel):
    """``kind`` names the preset, ``settings`` are its arguments in `keyferry.federation.providers`."""

    model_config = _STRICT

    kind: Literal["firebase", "google", "apple", "oidc"]
    settings: dict[str, Any]

    def provider(self) -> Provider:
        """Raise `TypeError` or `ValueError` for settings that the preset does not take."""
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.settings.items()
        }
        if "nonce" in settings:
            settings["nonce"] = Nonce(str(settings["nonce"]))
        if "first_login" in settings:
            settings["first_login"] = FirstLogin(str(settings["first_login"]))
        made: Provider = getattr(presets, self.kind)(**settings)
        return made


class SetPassword(BaseModel):
    model_config = _STRICT

    username: str
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)]


class InviteUser(BaseModel):
    """``expires_in`` is in seconds."""

    model_config = _STRICT

    username: str
    roles: Annotated[list[Role], Field(max_length=32)] = []
    expires_in: Annotated[int, Field(ge=300, le=30 * DAY)] = 7 * DAY


class Nothing(BaseModel):
    model_config = _STRICT


class RevokeSessions(OneUser):
    """All sessions of the user, or only ``sid``."""

    sid: str | None = None


class Invocation(BaseModel):
    """``operator`` is who gives the command, in the words of that one's own tool: it is for reading
    the audit trail, and nothing is decided by it."""

    model_config = _STRICT

    command: str
    arguments: dict[str, Any] = Field(default_factory=dict, repr=False)
    operator: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{0,512}$")] = ""


@dataclass(frozen=True, slots=True)
class Operator:
    users: UserStore
    sessions: SessionStore
    providers: ProviderStore
    federated: FederatedStore
    vault: VaultStore
    sealer: Sealer
    factors: SecondFactors
    issuer_name: str
    now: Callable[[], int]
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.boto3_dynamodb(), aws.boto3_kms()
        users = UserStore.from_environ(dynamodb, environ)
        deployment = Deployment.from_environ(environ)
        return cls(
            users=users,
            sessions=SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"]),
            vault=VaultStore(dynamodb, environ["KEYFERRY_VAULT_TABLE"]),
            providers=ProviderStore.from_environ(dynamodb, environ),
            federated=FederatedStore.from_environ(dynamodb, environ),
            sealer=Sealer.from_environ(kms, environ),
            factors=SecondFactors(
                dynamodb,
                users.credentials_table,
                users.users_table,
                kms,
                environ["KEYFERRY_KEYRING_KEY_ARN"],
                deployment,
            ),
            issuer_name=deployment.app,
            now=clock.now,
            random=clock.random,
        )

    def __call__(self, event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
        try:
            invocation = Invocation.model_validate(event)
            result = self._run(invocation, context.aws_request_id)
        except ValidationError as error:
            return _refused("invalid_request", _where(error))
        except CommandRefused as refused:
            return _refused(refused.code, refused.description)
        except Unavailable as unavailable:
            report_unavailable(unavailable.operation)
            return _refused("temporarily_unavailable", f"AWS: {unavailable.operation}; try again.")
        except Exception as error:  # noqa: BLE001 -- the last line before the caller
            report_failure(error)
            return _refused("server_error", "Something failed; see the operator function's log.")
        logger.info(
            "operator",
            extra={
                "command": invocation.command,
                "operator": invocation.operator,
                "sub": result.get("sub", ""),
            },
        )
        return {"ok": True, "result": result}

    def _run(self, invocation: Invocation, request_id: str) -> dict[str, Any]:
        name, arguments = invocation.command, invocation.arguments
        if name in KEY_COMMANDS:
            commands = KeyCommands(self.vault, self.sealer, self.now, invocation.operator)
            return KEY_COMMANDS[name](commands, arguments)
        run = self._commands().get(name)
        if run is None:
            raise CommandRefused("invalid_request", "There is no such command.")
        return run(arguments, request_id)

    def _commands(self) -> Mapping[str, Callable[[dict[str, Any], str], dict[str, Any]]]:
        """By name: what takes the arguments and the invocation's id."""
        return {
            "users.add": lambda a, _: self.add_user(AddUser.model_validate(a)),
            "users.disable": lambda a, i: self.disable_user(OneUser.model_validate(a), i),
            "users.enable": lambda a, _: self.enable_user(OneUser.model_validate(a)),
            "users.set_password": lambda a, i: self.set_password(SetPassword.model_validate(a), i),
            "users.show": lambda a, _: self.show_user(OneUser.model_validate(a)),
            "users.set_roles": lambda a, _: self.set_roles(SetRoles.model_validate(a)),
            "users.begin_totp": lambda a, _: self.begin_totp(OneUser.model_validate(a)),
            "users.confirm_totp": lambda a, _: self.confirm_totp(ConfirmTotp.model_validate(a)),
            "users.reset_second_factor": lambda a, i: self.reset_second_factor(
                OneUser.model_validate(a), i
            ),
            "users.link": lambda a, _: self.link_identity(LinkIdentity.model_validate(a)),
            "users.unlink": lambda a, i: self.unlink_identity(LinkIdentity.model_validate(a), i),
            "providers.put": lambda a, _: self.put_provider(PutProvider.model_validate(a)),
            "providers.list": lambda a, _: self.list_providers(Nothing.model_validate(a)),
            "providers.remove": lambda a, _: self.remove_provider(NamedProvider.model_validate(a)),
            "users.invite": lambda a, _: self.invite_user(InviteUser.model_validate(a)),
            "users.import": lambda a, _: UserImport(self.users, self.now, self.random)(
                ImportUsers.model_validate(a)
            ),
            "sessions.revoke": lambda a, i: self.revoke_sessions(
                RevokeSessions.model_validate(a), i
            ),
        }

    def add_user(self, request: AddUser) -> dict[str, Any]:
        username = _canonical(request.username, canonical_new_username)
        password = _password(request.password)
        user = User.new(request.username, request.roles, now=self.now(), random=self.random)
        phc = hash_password(password, random=self.random)
        if not self.users.add(user, PasswordCredential(username, user.sub, phc)):
            raise CommandRefused("already_exists", "There is a user of that name.")
        return {
            "sub": user.sub,
            "username": user.username,
            "roles": list(user.roles),
            "status": user.status,
        }

    def invite_user(self, request: InviteUser) -> dict[str, Any]:
        """The code is in the answer and nowhere else; an earlier one of this name is void."""
        canonical = _canonical(request.username, canonical_new_username)
        # A user who comes to be right after this look is safe: no invitation is redeemed over one.
        if self.users.sub_of(canonical) is not None:
            raise CommandRefused("already_exists", "There is a user of that name.")
        code = new_code(self.random)
        invitation = Invitation(
            username=request.username,
            roles=tuple(dict.fromkeys(request.roles)),
            code_hash=hash_code(code),
            expires_at=self.now() + request.expires_in,
        )
        InvitationStore(self.users).put(canonical, invitation)
        return {
            "username": invitation.username,
            "roles": list(invitation.roles),
            "code": code,
            "expires_at": invitation.expires_at,
        }

    def show_user(self, request: OneUser) -> dict[str, Any]:
        """``sessions`` is how many are alive, ``password`` whether the user has one."""
        user = self._user(request)
        return {
            "sub": user.sub,
            "username": user.username,
            "status": user.status,
            "roles": list(user.roles),
            "password": self._has_password(user),
            "second_factor": user.second_factor,
            "created_at": user.created_at,
            "sessions": len(self.sessions.living(user.sub, now=self.now())),
        }

    def set_roles(self, request: SetRoles) -> dict[str, Any]:
        """From the first write on, deliveries go by the new roles, and no login begins with the old
        ones. Sessions go on: what they have of the roles is for access tokens, and the next refresh
        of each gives one with the new ones."""
        sub, roles = self._sub(request), tuple(dict.fromkeys(request.roles))
        user = self.users.set_roles(sub, roles)
        for _ in range(_ATTEMPTS):
            if user is None:
                raise CommandRefused("not_found", "There is no such user.")
            told = user
            living = self.sessions.living(sub, now=self.now())
            changed = sum(self.sessions.set_roles(sub, each.sid, told.roles) for each in living)
            # Two commands at once may tell the sessions in the other order than they wrote the
            # user's row. Whoever is the last to tell them finds that here.
            user = self.users.user(sub)
            if user is not None and user.roles == told.roles:
                return {
                    "sub": sub,
                    "username": user.username,
                    "roles": list(user.roles),
                    "sessions": changed,
                }
        raise CommandRefused("conflict", "Others kept changing the user's roles; try again.")

    def disable_user(self, request: OneUser, request_id: str) -> dict[str, Any]:
        """From the first write on, no login and no delivery; when this returns, no session."""
        sub = self._set_status(request, UserStatus.DISABLED)
        ended = self.sessions.end_all(sub, now=self.now(), request_id=request_id)
        return {"sub": sub, "status": UserStatus.DISABLED, "revoked": ended}

    def enable_user(self, request: OneUser) -> dict[str, Any]:
        sub = self._set_status(request, UserStatus.ACTIVE)
        return {"sub": sub, "status": UserStatus.ACTIVE}

    def set_password(self, request: SetPassword, request_id: str) -> dict[str, Any]:
        """From the first write on, no login with the old one; when this returns, no session."""
        password = _password(request.password)
        phc = hash_password(password, random=self.random)
        sub = self.users.set_password(_canonical(request.username), phc, now=self.now())
        if sub is None:
            raise CommandRefused("not_found", "There is no user of that name.")
        ended = self.sessions.end_all(sub, now=self.now(), request_id=request_id)
        return {"sub": sub, "revoked": ended}

    def begin_totp(self, request: OneUser) -> dict[str, Any]:
        """The secret is in the answer and nowhere else, and in force once a code has confirmed it.
        One that was begun before and not confirmed is void."""
        user = self._user(request)
        secret = self.random(totp.SECRET_BYTES)
        if not self.factors.begin(user.sub, secret):
            raise CommandRefused("already_exists", "A second factor is in force; reset it first.")
        uri = totp.otpauth_uri(secret, issuer=self.issuer_name, account=user.username)
        return {"sub": user.sub, "secret": totp.base32(secret), "otpauth_uri": uri}

    def confirm_totp(self, request: ConfirmTotp) -> dict[str, Any]:
        """The recovery codes are in the answer and nowhere else. Sessions go on, as when users set
        it up themselves."""
        sub = self._sub(request)
        enrolment = self.factors.read(sub)
        if enrolment is None or enrolment.confirmed:
            raise CommandRefused("not_found", "There is no second factor to confirm.")
        recovery = self.factors.confirm(
            enrolment, request.code.get_secret_value(), now=self.now(), random=self.random
        )
        if recovery is None:
            raise CommandRefused("invalid_code", "The code is wrong, or too old.")
        count(Metric.SECOND_FACTOR_ENROLLED)
        return {"sub": sub, "recovery_codes": recovery}

    def reset_second_factor(self, request: OneUser, request_id: str) -> dict[str, Any]:
        """For somebody who has lost the phone and the recovery codes; that phone's session, and
        every other one, ends with it."""
        sub = self._sub(request)
        if not self.factors.remove(sub):
            raise CommandRefused("not_found", "There is no such user.")
        ended = self.sessions.end_all(sub, now=self.now(), request_id=request_id)
        return {"sub": sub, "second_factor": False, "revoked": ended}

    def link_identity(self, request: LinkIdentity) -> dict[str, Any]:
        """Let an identity of a provider open a user that exists."""
        provider = self._provider(request.provider)
        sub = self._sub(request)
        linked = self.federated.link(
            FederatedCredential(issuer=provider.issuer, subject=request.subject, sub=sub),
            self.now(),
        )
        if linked is Link.TAKEN:
            raise CommandRefused("already_exists", "That identity opens another user.")
        if linked is Link.NO_USER:
            raise CommandRefused("not_found", "There is no such user.")
        return {"sub": sub, "provider": provider.name, "subject": request.subject}

    def unlink_identity(self, request: LinkIdentity, request_id: str) -> dict[str, Any]:
        """From the first write on, no login by it; when this returns, no session. A session does
        not know which credential began it, so all of the user's end."""
        provider = self._provider(request.provider)
        sub = self._sub(request)
        credential = FederatedCredential(issuer=provider.issuer, subject=request.subject, sub=sub)
        if not self.federated.unlink(credential):
            raise CommandRefused("not_found", "That identity does not open that user.")
        ended = self.sessions.end_all(sub, now=self.now(), request_id=request_id)
        return {
            "sub": sub,
            "provider": provider.name,
            "subject": request.subject,
            "revoked": ended,
        }

    def put_provider(self, request: PutProvider) -> dict[str, Any]:
        """Add a provider, or replace the one of its name."""
        try:
            provider = request.provider()
        except (TypeError, ValueError) as error:
            raise CommandRefused("invalid_request", f"provider: {error}.") from None
        self.providers.put(provider)
        return provider.members()

    def list_providers(self, _: Nothing) -> dict[str, Any]:
        by_name = sorted(self.providers.read().by_name.items())
        return {"providers": [provider.members() for _, provider in by_name]}

    def remove_provider(self, request: NamedProvider) -> dict[str, Any]:
        """Within a minute nobody logs in by it any more; sessions that it began go on."""
        self.providers.remove(request.name)
        return {"name": request.name}

    def revoke_sessions(self, request: RevokeSessions, request_id: str) -> dict[str, Any]:
        sub = self._sub(request)
        if request.sid is None:
            ended = self.sessions.end_all(sub, now=self.now(), request_id=request_id)
        else:
            ended = int(self.sessions.end(sub, request.sid, request_id=request_id))
        return {"revoked": ended}

    def _set_status(self, user: OneUser, status: UserStatus) -> str:
        sub = self._sub(user)
        if not self.users.set_status(sub, status):
            raise CommandRefused("not_found", "There is no such user.")
        return sub

    def _provider(self, name: str) -> Provider:
        provider = self.providers.read().by_name.get(name)
        if provider is None:
            raise CommandRefused("not_found", "There is no provider of that name.")
        return provider

    def _sub(self, user: OneUser) -> str:
        if user.username is None:
            return user.sub or ""
        sub = self.users.sub_of(_canonical(user.username))
        if sub is None:
            raise CommandRefused("not_found", "There is no user of that name.")
        return sub

    def _user(self, user: OneUser) -> User:
        found = self.users.user(self._sub(user))
        if found is None:
            raise CommandRefused("not_found", "There is no such user.")
        return found

    def _has_password(self, user: User) -> bool:
        credential = self.users.password_credential(canonical_username(user.username))
        return credential is not None and credential.sub == user.sub


def _canonical(username: str, form: Callable[[str], str] = canonical_username) -> str:
    try:
        return form(username)
    except ValueError as error:
        raise CommandRefused("invalid_request", f"{error}.") from None


def _password(password: SecretStr) -> bytes:
    try:
        return normalise(password.get_secret_value())
    except UnicodeEncodeError:
        raise CommandRefused("invalid_request", "password: not Unicode text.") from None
    except ValueError as error:
        raise CommandRefused("invalid_request", f"{error}.") from None


def _refused(code: str, description: str) -> dict[str, Any]:
    logger.info("refused", extra={"error": code})
    return {"ok": False, "error": {"error": code, "error_description": description}}


def _where(error: ValidationError) -> str:
    """What is wrong and where, never what was sent."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the command"
    return f"{where}: {first['msg']}."
