"""The body of ``POST /v1/login``."""

from __future__ import annotations

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

from keyferry.edge.request import JSON, Request
from keyferry.errors import RequestRefused
from keyferry.federation.id_token import MAX_LENGTH as MAX_ID_TOKEN_LENGTH
from keyferry.users.invitation import MAX_CODE_LENGTH
from keyferry.users.model import MAX_USERNAME_LENGTH
from keyferry.users.passwords import MAX_PASSWORD_BYTES

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

ShortText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class DeviceRequest(BaseModel):
    model_config = _STRICT

    name: ShortText
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    app_version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,64}$")]
    encryption_key: dict[str, Any]


class InvitationRequest(BaseModel):
    """What the operator gave to somebody who is to become a user."""

    model_config = _STRICT

    username: Annotated[str, StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH)]
    code: Annotated[SecretStr, Field(min_length=1, max_length=MAX_CODE_LENGTH)]


class LoginRequest(BaseModel):
    """One of three ways in, each with or without a code (``otp``): user name and password; the
    ``auth_session`` that ``mfa_required`` gave; an ``id_token`` of a configured provider, which may
    come with an ``invitation`` the first time."""

    model_config = _STRICT

    username: (
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_USERNAME_LENGTH)] | None
    ) = None
    password: Annotated[SecretStr, Field(min_length=1, max_length=MAX_PASSWORD_BYTES)] | None = None
    auth_session: Annotated[str | None, Field(max_length=2048, repr=False)] = None
    provider: Annotated[str | None, Field(max_length=64)] = None
    id_token: Annotated[str | None, Field(max_length=MAX_ID_TOKEN_LENGTH, repr=False)] = None
    nonce: Annotated[str | None, Field(max_length=256, repr=False)] = None
    invitation: InvitationRequest | None = None
    otp: Annotated[str, StringConstraints(min_length=6, max_length=32)] | None = None
    device: DeviceRequest

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        pairs = (
            (self.username, self.password),
            (self.auth_session, self.otp if self.auth_session is not None else None),
            (self.provider, self.id_token),
        )
        whole = sum(None not in pair for pair in pairs)
        parts = sum(pair != (None, None) for pair in pairs)
        if whole != 1 or parts != 1:
            raise ValueError("one way in, and all of it")
        if self.nonce is not None and self.id_token is None:
            raise ValueError("a nonce goes with an id_token")
        if self.invitation is not None and self.id_token is None:
            raise ValueError("an invitation goes with an id_token, or to its own route")
        return self


def read(request: Request) -> LoginRequest:
    """Raise `RequestRefused` (``invalid_request``), saying where the body is wrong and never what
    it says there."""
    fields = request.fields(JSON)
    try:
        return LoginRequest.model_validate(fields)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise RequestRefused(
            "invalid_request", "body is not a login request", description=_at(where)
        ) from None


def _at(where: str) -> str:
    known = where if len(where) <= 64 and where.replace("_", "").replace(".", "").isalpha() else ""
    return f"The request is malformed{f' at {known}' if known else ''}."
