"""The body of ``POST /v1/login``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from keyferry.edge.fields import (
    Malformed,
    object_,
    optional_object,
    optional_text,
    require_known,
    text,
)
from keyferry.edge.request import JSON, Request
from keyferry.errors import RequestRefused
from keyferry.federation.id_token import MAX_LENGTH as MAX_ID_TOKEN_LENGTH
from keyferry.users.invitation import MAX_CODE_LENGTH
from keyferry.users.model import MAX_USERNAME_LENGTH
from keyferry.users.passwords import MAX_PASSWORD_BYTES

_PLATFORM: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_APP_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    name: str
    platform: str
    app_version: str
    encryption_key: Mapping[str, Any]

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, at: str) -> Self:
        require_known(members, ("name", "platform", "app_version", "encryption_key"), at=at)
        return cls(
            name=text(members, "name", least=1, most=128, at=at),
            platform=text(members, "platform", form=_PLATFORM, at=at),
            app_version=text(members, "app_version", form=_APP_VERSION, at=at),
            encryption_key=object_(members, "encryption_key", at=at),
        )


@dataclass(frozen=True, slots=True)
class InvitationRequest:
    """What the operator gave to somebody who is to become a user."""

    username: str
    code: str = field(repr=False)

    @classmethod
    def from_members(cls, members: Mapping[str, Any], *, at: str) -> Self:
        require_known(members, ("username", "code"), at=at)
        return cls(
            username=text(members, "username", least=1, most=MAX_USERNAME_LENGTH, at=at),
            code=text(members, "code", least=1, most=MAX_CODE_LENGTH, at=at),
        )


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """One of three ways in, each with or without a code (``otp``): user name and password; the
    ``auth_session`` that ``mfa_required`` gave; an ``id_token`` of a configured provider, which may
    come with an ``invitation`` the first time."""

    username: str | None
    password: str | None = field(repr=False)
    auth_session: str | None = field(repr=False)
    provider: str | None
    id_token: str | None = field(repr=False)
    nonce: str | None = field(repr=False)
    invitation: InvitationRequest | None
    otp: str | None = field(repr=False)
    device: DeviceRequest

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        """Raise `Malformed`."""
        require_known(members, cls.__slots__)
        invitation = optional_object(members, "invitation")
        body = cls(
            username=optional_text(members, "username", least=1, most=MAX_USERNAME_LENGTH),
            password=optional_text(members, "password", least=1, most=MAX_PASSWORD_BYTES),
            auth_session=optional_text(members, "auth_session", most=2048),
            provider=optional_text(members, "provider", most=64),
            id_token=optional_text(members, "id_token", most=MAX_ID_TOKEN_LENGTH),
            nonce=optional_text(members, "nonce", most=256),
            invitation=(
                InvitationRequest.from_members(invitation, at="invitation.")
                if invitation is not None
                else None
            ),
            otp=optional_text(members, "otp", least=6, most=32),
            device=DeviceRequest.from_members(object_(members, "device"), at="device."),
        )
        body._require_one_way_in()
        return body

    def _require_one_way_in(self) -> None:
        pairs = (
            (self.username, self.password),
            (self.auth_session, self.otp if self.auth_session is not None else None),
            (self.provider, self.id_token),
        )
        whole = sum(None not in pair for pair in pairs)
        parts = sum(pair != (None, None) for pair in pairs)
        if whole != 1 or parts != 1:
            raise Malformed("")  # one way in, and all of it
        # A nonce goes with an ID token, and so does an invitation, or it goes to its own route.
        if self.id_token is None and (self.nonce, self.invitation) != (None, None):
            raise Malformed("")


def read(request: Request) -> LoginRequest:
    """Raise `RequestRefused` (``invalid_request``), saying where the body is wrong and never what
    it says there."""
    try:
        return LoginRequest.from_members(request.fields(JSON))
    except Malformed as error:
        raise RequestRefused(
            "invalid_request", "body is not a login request", description=_at(error.where)
        ) from None


def _at(where: str) -> str:
    known = where if len(where) <= 64 and where.replace("_", "").replace(".", "").isalpha() else ""
    return f"The request is malformed{f' at {known}' if known else ''}."
