"""The document, put together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from keyferry import __version__
from keyferry.edge.request import JSON
from keyferry.edge.response import of_refusal
from keyferry.errors import ERRORS, RequestRefused
from keyferry_cli.openapi import requests, responses
from keyferry_cli.openapi.operations import ALL, OPERATIONS, TAGS, Access, Operation, Success

GATEWAY_ERRORS: Final[Mapping[str, frozenset[int]]] = {
    "invalid_request": frozenset({400}),
    "access_denied": frozenset({403}),
    "payload_too_large": frozenset({413}),
    "temporarily_unavailable": frozenset({429, 503}),
    "server_error": frozenset({500}),
}
"""What API Gateway and the firewall may answer in the place of any function, with its statuses."""

KEYED_GATEWAY_ERRORS: Final[Mapping[str, frozenset[int]]] = {"invalid_client": frozenset({403})}
"""The same for routes with a client key."""

OPERATOR_GATEWAY_ERRORS: Final[Mapping[str, frozenset[int]]] = {"not_found": frozenset({404})}
"""The same where IAM stands: without a signature, and where the operator has not switched it on."""

ACCESS_DENIED: Final = "The firewall took the request for an attack. This is not a logout."

_WAITS: Final = {429, 503}

_DESCRIPTION: Final = """\
Delivers third-party API keys to mobile apps, encrypted to the device.

Made from the code; `docs/protocol.md` of the repository says why things are as they are.

* **Client key.** `x-api-key` names the app's build and throttles it. It authenticates nobody.
* **Proofs.** Every request to a route with `proof` carries a fresh JWT in the header `DPoP` (RFC 9449), signed by the device key.
* **Nonces.** Responses of functions carry a `DPoP-Nonce`. Put the newest into the next proof; on `use_dpop_nonce` repeat the request with \
the one of that reply.
* **Errors.** Every error has the members of `ErrorBody`. Branch on `error`. Only `invalid_grant` at `/v1/token` means that the user has \
to log in; a timeout, a 429 and every 5xx do not.
* **Members that a client does not know** are to be ignored. The server refuses members that it does not know.
* A stack with `RequireDPoP=false` also serves clients without a device key: `Authorization: Bearer`, and no proof."""

_SECURITY_SCHEMES: Final[Mapping[str, Any]] = {
    "clientKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-api-key",
        "description": "The client key of the platform. It identifies and throttles; it never authenticates.",
    },
    "accessToken": {
        "type": "http",
        "scheme": "DPoP",
        "description": "`Authorization: DPoP <access token>` (RFC 9449 §7.1), with a proof that has its hash as `ath`.",
    },
    "proof": {
        "type": "apiKey",
        "in": "header",
        "name": "DPoP",
        "description": (
            "A proof of possession of the device key (RFC 9449 §4.2), made for this one request: a JWT with `typ` `dpop+jwt`,"
            " `alg` `ES256` or `EdDSA` and the public key as `jwk`; claims `htm`, `htu` (this server's URL and the path, without"
            " query), `jti`, `iat`, `nonce` (the newest `DPoP-Nonce`), `ath` with an access token, and `encryption_kid` where the"
            " body has an encryption key."
        ),
    },
    "operator": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "AWS Signature Version 4, of somebody who may do `execute-api:Invoke` on this route.",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
}

_HEADERS: Final[Mapping[str, Any]] = {
    "CacheControl": {
        "description": "Answers are for their caller alone, but for the public documents.",
        "required": True,
        "schema": {"type": "string"},
    },
    "ContentTypeOptions": {
        "description": "The media type is as it says.",
        "required": True,
        "schema": {"const": "nosniff"},
    },
    "DPoPNonce": {
        "description": "For the next proof (RFC 9449 §8.2). Not on what API Gateway answers by itself.",
        "schema": {"type": "string"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the next attempt.",
        "required": True,
        "schema": {"type": "integer", "minimum": 0},
    },
    "ETag": {
        "description": "For `If-None-Match`. Missing where a key could not be opened just now.",
        "schema": {"type": "string", "pattern": '^W/"[A-Za-z0-9_-]{22}"$'},
    },
    "Vary": {
        "description": "The form of a delivery depends on `Accept`.",
        "required": True,
        "schema": {"const": "Accept"},
    },
    "WWWAuthenticate": {
        "description": "RFC 9449 §7.1, under the name that API Gateway gives it. Nothing has to be read from it.",
        "schema": {"type": "string"},
    },
}
_HEADER_NAMES: Final[Mapping[str, str]] = {
    "CacheControl": "Cache-Control",
    "ContentTypeOptions": "X-Content-Type-Options",
    "DPoPNonce": "DPoP-Nonce",
    "RetryAfter": "Retry-After",
    "ETag": "ETag",
    "Vary": "Vary",
    "WWWAuthenticate": "x-amzn-Remapped-WWW-Authenticate",
}

ANY_STACK: Final[Mapping[str, Any]] = {
    "url": "https://{api}.execute-api.{region}.amazonaws.com/{stage}",
    "description": "The stack's output `ApiUrl`, which is the issuer.",
    "variables": {
        "api": {"default": "abcdefghij", "description": "Id of the REST API."},
        "region": {"default": "eu-central-1"},
        "stage": {"default": "dev", "enum": ["dev", "prod"]},
    },
}


def document(server: str | None = None) -> dict[str, Any]:
    """For the stack at the URL ``server``; without one, for any."""
    paths: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method.lower()] = _operation(operation, shared)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Keyferry",
            "version": __version__,
            "summary": "Login, refresh with rotation, and encrypted delivery of API keys.",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server} if server is not None else dict(ANY_STACK)],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items()],
        "paths": paths,
        "components": {
            "securitySchemes": dict(_SECURITY_SCHEMES),
            "headers": dict(_HEADERS),
            "responses": dict(sorted(shared.items())),
            "schemas": dict(sorted(_schemas().items())),
        },
    }


def text(server: str | None = None) -> str:
    """As it is written to a file."""
    return json.dumps(document(server), indent=2, ensure_ascii=False) + "\n"


def errors(operation: Operation) -> dict[int, frozenset[str]]:
    """Every error that a client can meet on a route, by status."""
    found: dict[int, set[str]] = {}
    for code in ALL | operation.errors:
        refused = RequestRefused(code, "")
        status = of_refusal(refused, request_id="", protected=operation.protected).status
        found.setdefault(status, set()).add(code)
    gateway = dict(GATEWAY_ERRORS)
    if "clientKey" in operation.access.value:
        gateway |= KEYED_GATEWAY_ERRORS
    if operation.access is Access.OPERATOR:
        gateway |= OPERATOR_GATEWAY_ERRORS
    for code, statuses in gateway.items():
        for status in statuses:
            found.setdefault(status, set()).add(code)
    return {status: frozenset(codes) for status, codes in sorted(found.items())}


def _operation(operation: Operation, shared: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "security": [{name: [] for name in operation.access.value}]
        if operation.access is not Access.PUBLIC
        else [],
    }
    if operation.parameters:
        described["parameters"] = [dict(each) for each in operation.parameters]
    if operation.body:
        described["requestBody"] = {
            "required": True,
            "content": {kind: {"schema": _ref(name)} for kind, name in operation.body.items()},
        }
    answers = {
        str(status): _success(success, operation) for status, success in operation.success.items()
    }
    for status, codes in errors(operation).items():
        answers[str(status)] = _error(status, codes, operation)
        if len(codes) == 1 and "clientKey" in operation.access.value:
            # The same on every route that has it.
            name = "".join(word.capitalize() for word in next(iter(codes)).split("_"))
            if shared.setdefault(name, answers[str(status)]) == answers[str(status)]:
                answers[str(status)] = {"$ref": f"#/components/responses/{name}"}
    described["responses"] = answers
    return described


def _success(success: Success, operation: Operation) -> dict[str, Any]:
    names = ["CacheControl", "ContentTypeOptions", *success.headers]
    headers: dict[str, Any] = {_HEADER_NAMES[name]: _header(name) for name in names}
    if "clientKey" in operation.access.value:
        headers[_HEADER_NAMES["DPoPNonce"]] = {**_HEADERS["DPoPNonce"], "required": True}
    answer: dict[str, Any] = {"description": success.description, "headers": headers}
    if success.content:
        answer["content"] = {
            kind: {"schema": _ref(schema.__name__) if isinstance(schema, type) else dict(schema)}
            for kind, schema in success.content.items()
        }
    return answer


def _error(status: int, codes: frozenset[str], operation: Operation) -> dict[str, Any]:
    names = ["CacheControl", "ContentTypeOptions"]
    if status in _WAITS:
        names.append("RetryAfter")
    if "clientKey" in operation.access.value:
        names.append("DPoPNonce")
    if status == HTTPStatus.UNAUTHORIZED:
        names.append("WWWAuthenticate")
    lines = [f"* `{code}`: {_meaning(code)}" for code in sorted(codes)]
    return {
        "description": "\n".join([f"{HTTPStatus(status).phrase}.", "", *lines]),
        "headers": {_HEADER_NAMES[name]: _header(name) for name in names},
        "content": {
            JSON: {
                "schema": {
                    "allOf": [
                        _ref("ErrorBody"),
                        {"type": "object", "properties": {"error": {"enum": sorted(codes)}}},
                    ]
                }
            }
        },
    }


def _meaning(code: str) -> str:
    return ERRORS[code].description if code in ERRORS else ACCESS_DENIED


def _schemas() -> dict[str, Any]:
    _, made = models_json_schema(
        [(model, "serialization") for model in responses.MODELS], ref_template=requests.REF
    )
    answers = {name: _open(requests.plain(each)) for name, each in made["$defs"].items()}
    bodies = requests.schemas()
    if not bodies.keys().isdisjoint(answers):
        raise ValueError("two schemas of one name")
    return bodies | answers


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """Of an answer: what is null is left out, and there may be members one day that there are not."""
    result = {name: each for name, each in schema.items() if name != "additionalProperties"}
    if "properties" in result:
        required = set(result.get("required", ()))
        result["properties"] = {
            name: each if name in required else requests.without_null(each)
            for name, each in result["properties"].items()
        }
    return result


def _ref(name: str) -> dict[str, str]:
    return {"$ref": requests.REF.format(model=name)}


def _header(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/headers/{name}"}


def model_of(success: Success, media_type: str) -> type[BaseModel] | None:
    """The model that a real answer is held against; None where its body is no JSON."""
    model = success.content.get(media_type)
    return model if isinstance(model, type) else None
