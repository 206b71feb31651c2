"""The bodies of login and refresh as pydantic models: what the functions accept, told a second time.

The functions check these two by hand (`keyferry.edge.fields`), as pydantic would cost every cold start. The
models here are what the interface's document is made from, and what the tests hold the template's request
models and the functions against.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, model_validator

STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class DeviceRequest(BaseModel):
    model_config = STRICT

    name: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    platform: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    app_version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,64}$")]
    encryption_key: dict[str, Any]


class InvitationRequest(BaseModel):
    """What the operator gave to somebody who is to become a user."""

    model_config = STRICT

    username: Annotated[str, StringConstraints(min_length=1, max_length=254)]
    code: Annotated[SecretStr, Field(min_length=1, max_length=64)]


class LoginRequest(BaseModel):
    """One of three ways in, each with the device."""

    model_config = STRICT

    username: Annotated[str, StringConstraints(min_length=1, max_length=254)] | None = None
    password: Annotated[SecretStr, Field(min_length=1, max_length=1024)] | None = None
    auth_session: Annotated[str | None, Field(max_length=2048, repr=False)] = None
    provider: Annotated[str | None, Field(max_length=64)] = None
    id_token: Annotated[str | None, Field(max_length=16_384, repr=False)] = None
    nonce: Annotated[str | None, Field(max_length=256, repr=False)] = None
    invitation: InvitationRequest | None = None
    otp: Annotated[str, StringConstraints(min_length=6, max_length=32)] | None = None
    device: DeviceRequest

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        ways = [
            (self.username, self.password),
            (self.auth_session, self.auth_session and self.otp),
            (self.provider, self.id_token),
        ]
        begun = [way for way in ways if any(each is not None for each in way)]
        if len(begun) != 1 or None in begun[0]:
            raise ValueError("one way in, and all of it")
        if self.id_token is None and (self.nonce is not None or self.invitation is not None):
            raise ValueError("nonce and invitation go with an id_token")
        return self


class RefreshRequest(BaseModel):
    """The body of ``POST /v1/token``, form or JSON."""

    model_config = STRICT

    grant_type: str
    refresh_token: str = Field(repr=False)
    client_id: str | None = None
