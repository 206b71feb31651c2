"""Responses, and how an error becomes one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from keyferry.errors import ERRORS, RequestRefused, Unavailable

NO_STORE: Final[Mapping[str, str]] = {"Cache-Control": "no-store", "Pragma": "no-cache"}
"""RFC 6749 §5.1; on every response, errors included, unless it is public by design."""

_JSON: Final = json.JSONEncoder(separators=(",", ":"))

DPOP_ALGS: Final = "ES256 EdDSA"


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: str = field(default="", repr=False)
    content_type: str | None = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_proxy(self, extra: Mapping[str, str]) -> dict[str, Any]:
        """What a Lambda proxy integration returns; ``extra`` headers give way to the response's."""
        headers = {"X-Content-Type-Options": "nosniff", **NO_STORE, **extra, **self.headers}
        if self.content_type is not None:
            headers["Content-Type"] = self.content_type
        if headers["Cache-Control"] != NO_STORE["Cache-Control"]:
            headers.pop("Pragma", None)
        return {
            "statusCode": self.status,
            "headers": headers,
            "body": self.body,
            "isBase64Encoded": False,
        }


def of_json(members: Mapping[str, Any], *, headers: Mapping[str, str] | None = None) -> Response:
    """200 exactly: RFC 6749 §5.1 has no other success."""
    return Response(200, _JSON.encode(members), headers=headers or {})


def of_refusal(refused: RequestRefused, *, request_id: str, protected: bool) -> Response:
    """``protected`` says that the route is a protected resource: there a DPoP error is 401
    (RFC 9449 §7.1 and §9), at the token endpoint it is 400 (§5 and §8)."""
    status = refused.kind.status
    headers: dict[str, str] = {}
    if protected and refused.code in ("invalid_dpop_proof", "use_dpop_nonce"):
        status = 401
    if protected and status == 401:
        # REST APIs rename this header, so a client must be able to do without it.
        headers["WWW-Authenticate"] = f'DPoP error="{refused.code}", algs="{DPOP_ALGS}"'
    if refused.retry_after is not None:
        headers["Retry-After"] = str(refused.retry_after)
    members = dict(refused.members)
    return _error(refused.code, refused.description, status, request_id, headers, members)


def of_unavailable(unavailable: Unavailable, *, request_id: str) -> Response:
    status, description = ERRORS["temporarily_unavailable"]
    headers = {"Retry-After": str(unavailable.retry_after)}
    return _error("temporarily_unavailable", description, status, request_id, headers)


def of_failure(*, request_id: str) -> Response:
    status, description = ERRORS["server_error"]
    return _error("server_error", description, status, request_id, {})


def _error(
    code: str,
    description: str,
    status: int,
    request_id: str,
    headers: Mapping[str, str],
    members: Mapping[str, str] = MappingProxyType({}),
) -> Response:
    body = {"error": code, "error_description": description, "request_id": request_id, **members}
    return Response(status, json.dumps(body), headers=headers)
