"""What the server answers, taken apart.

Status 200 with something else in it is a captive portal: `Retryable`, as if nothing had come.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import httpx

from .connection import json_body
from .errors import Retryable, TamperedDelivery


@dataclass(frozen=True, slots=True)
class Session:
    """One login of this user on one device, for a screen like "your devices"."""

    id: str
    device: str
    platform: str
    app_version: str
    created_at: int
    """Seconds since the epoch, by the server's clock."""

    last_used_at: int
    current: bool
    """Whether it is the session of this very app."""


@dataclass(frozen=True, slots=True)
class ProxiedResponse:
    """What an upstream answered, whatever it was: a `status` of 500 is the upstream's own."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; the few that the server passes on."""

    body: bytes = field(repr=False)


def token_reply(response: httpx.Response) -> dict[str, Any]:
    """A token response (RFC 6749 §5.1)."""
    body = json_body(response) or {}
    match body:
        case {
            "access_token": str(),
            "refresh_token": str(),
            "expires_in": int() | float(),
            "token_type": str(kind),
        }:
            if kind.lower() != "dpop":
                # A bearer token would be good for every thief (RFC 9449 §5: the client must check
                # this).
                raise TamperedDelivery("the server gave a token that is not bound to this device")
            return body
        case _:
            raise Retryable("the reply was not a token response")


def session_list(response: httpx.Response) -> list[Session]:
    match json_body(response):
        case {"sessions": list(rows)}:
            pass
        case _:
            raise Retryable("the reply was not a list of sessions")
    try:
        # What a later server adds is left out.
        return [Session(**{each.name: row[each.name] for each in fields(Session)}) for row in rows]
    except (KeyError, TypeError) as error:
        raise Retryable("the reply was not a list of sessions") from error


def proxied_response(response: httpx.Response) -> ProxiedResponse:
    try:
        match json_body(response):
            case {"status": int(status), "headers": dict(headers), "body": str(text)}:
                return ProxiedResponse(status, headers, text.encode("utf-8"))
            case {"status": int(status), "headers": dict(headers), "body_base64": str(encoded)}:
                return ProxiedResponse(status, headers, base64.b64decode(encoded, validate=True))
    except ValueError:  # no text, or no Base64
        pass
    raise Retryable("the reply was not an upstream's answer")
