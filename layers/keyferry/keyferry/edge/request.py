"""A request as a REST API hands it to Lambda (the proxy event, payload format 1.0)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import parse_qsl

from keyferry.errors import RequestRefused
from keyferry.jose.strict_json import loads_object

MAX_BODY_BYTES: Final = 16 * 1024

JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"

_MAX_FORM_FIELDS: Final = 16


@dataclass(frozen=True, slots=True)
class Headers:
    """Header fields by lower-case name, each with every value that was sent."""

    values: Mapping[str, tuple[str, ...]] = field(repr=False)

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Self:
        several = event.get("multiValueHeaders")
        if several is None:
            several = {name: [value] for name, value in (event.get("headers") or {}).items()}
        values: dict[str, tuple[str, ...]] = {}
        for spelling, sent in several.items():
            name = spelling.lower()
            values[name] = (*values[name], *sent) if name in values else tuple(sent)
        return cls(values)

    def one(self, name: str) -> str | None:
        """The value of a header. Raise `RequestRefused` when it was sent more than once."""
        values = self.values.get(name, ())
        if len(values) > 1:
            raise RequestRefused("invalid_request", f"header {name} repeated")
        return values[0] if values else None


@dataclass(frozen=True, slots=True)
class Call:
    """What a DPoP proof must be about: method and URL as the client has them, and the headers."""

    method: str
    url: str
    headers: Headers


@dataclass(frozen=True, slots=True)
class Request:
    """A request to one of our own routes.

    ``invocation_id`` is Lambda's own. API Gateway's request id is for people to search for: a
    caller may choose it, so nothing is decided by it.
    """

    method: str
    resource: str
    path_parameters: Mapping[str, str]
    query: Mapping[str, tuple[str, ...]]
    headers: Headers
    body: bytes = field(repr=False)
    invocation_id: str
    client_key_id: str
    source_ip: str

    @classmethod
    def from_event(
        cls, event: Mapping[str, Any], *, invocation_id: str, max_body_bytes: int = MAX_BODY_BYTES
    ) -> Self:
        """Raise `RequestRefused` when the body is too large or not what its encoding says."""
        context = event["requestContext"]
        identity = context.get("identity") or {}
        return cls(
            method=event["httpMethod"],
            resource=event["resource"],
            path_parameters=event.get("pathParameters") or {},
            query=_query(event),
            headers=Headers.from_event(event),
            body=_body(event, max_body_bytes),
            invocation_id=invocation_id,
            client_key_id=identity.get("apiKeyId") or "",
            # API Gateway's own reading of the connection; a forwarded-for header is anybody's text.
            source_ip=identity.get("sourceIp") or "",
        )

    def call(self, issuer: str) -> Call:
        """This request as its proof must describe it. The URL is made of the issuer and the route,
        not of what a Host header says: what the client was told is what it must have signed."""
        path = self.resource
        for name, value in self.path_parameters.items():
            path = path.replace(f"{{{name}}}", value)
        return Call(self.method, issuer + path, self.headers)

    def parameter(self, name: str) -> str | None:
        """The one query parameter that a route knows; None when there is no query.

        Raise `RequestRefused` for any other parameter, and for this one sent more than once: a
        misspelt filter must not pass for none.
        """
        if not self.query:
            return None
        values = self.query.get(name, ())
        if len(self.query) != 1 or len(values) != 1:
            raise RequestRefused(
                "invalid_request", "query", description=f"The one parameter here is {name}."
            )
        return values[0]

    def fields(self, *accepted: str) -> dict[str, Any]:
        """The body's members, by its media type (RFC 9110 §8.3.1), one of ``accepted``.

        Raise `RequestRefused` for another media type, a body that is not what it says it is, and a
        repeated field (RFC 6749 §3.2).
        """
        media_type = (self.headers.one("content-type") or "").partition(";")[0].strip().lower()
        if media_type not in accepted:
            raise RequestRefused("unsupported_media_type", "content-type")
        try:
            return loads_object(self.body) if media_type == JSON else _form(self.body)
        except ValueError:
            raise RequestRefused("invalid_request", f"body is not {media_type}") from None


def _query(event: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    several = event.get("multiValueQueryStringParameters")
    if several is None:
        single = event.get("queryStringParameters") or {}
        several = {name: [value] for name, value in single.items()}
    return {name: tuple(values) for name, values in several.items()}


def _body(event: Mapping[str, Any], max_bytes: int) -> bytes:
    text = event.get("body") or ""
    # Four characters of base64 are three bytes, so this bounds what is about to be decoded too.
    if len(text) > max_bytes * 4 // 3 + 4:
        raise RequestRefused("payload_too_large", "body")
    if event.get("isBase64Encoded"):
        try:
            body = base64.b64decode(text, validate=True)
        except ValueError:
            raise RequestRefused("invalid_request", "body is not base64") from None
    else:
        body = text.encode("utf-8", "surrogatepass")
    if len(body) > max_bytes:
        raise RequestRefused("payload_too_large", "body")
    return body


def _form(body: bytes) -> dict[str, Any]:
    pairs = parse_qsl(
        body.decode("utf-8"),
        keep_blank_values=True,
        strict_parsing=bool(body),
        errors="strict",
        max_num_fields=_MAX_FORM_FIELDS,
    )
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("repeated field")
    return members
