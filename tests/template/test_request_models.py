"""The models that API Gateway checks bodies against say what the functions' own models say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from keyferry.proxy.proxy import ProxyRequest
from keyferry.sessions.management import EncryptionKeyRequest, RevocationRequest
from keyferry.users.accounts import PasswordRequest, RedeemRequest, RegisterRequest
from keyferry.users.enrolment import CodeRequest
from keyferry_cli.openapi.bodies import LoginRequest, RefreshRequest
from tests.template.test_template import operations as of_resources

BODIES: dict[str, type[BaseModel]] = {
    "POST /v1/login": LoginRequest,
    "POST /v1/token": RefreshRequest,
    "POST /v1/revoke": RevocationRequest,
    "POST /v1/proxy/{key}": ProxyRequest,
    "POST /v1/invitations/redeem": RedeemRequest,
    "POST /v1/register": RegisterRequest,
    "POST /v1/password": PasswordRequest,
    "POST /v1/mfa/totp/confirm": CodeRequest,
    "POST /v1/mfa/totp/remove": CodeRequest,
    "PUT /v1/device/encryption-key": EncryptionKeyRequest,
}
WITHOUT_BODY = {
    "GET /v1/keys",
    "GET /v1/keys/{name}",
    "GET /v1/sessions",
    "DELETE /v1/sessions",
    "DELETE /v1/sessions/{id}",
    "POST /v1/mfa/totp",
    "GET /.well-known/openid-configuration",
    "GET /.well-known/oauth-authorization-server",
    "GET /.well-known/jwks.json",
    "GET /openapi.json",
}
"""Nothing to validate: their headers and parameters are the functions', which answer with a nonce."""

ANNOTATIONS = {"title", "description", "default", "format", "writeOnly"}
NAMES_OF_PROPERTIES = {"properties"}


def draft_04(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model as API Gateway can read it: without references, annotations and
    null. What may be null loses its type, as ``anyOf`` and null are not for API Gateway's models; it
    then refuses no body that the function accepts."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return plain(definitions[node["$ref"].removeprefix("#/$defs/")])
        if "anyOf" in node:
            one, null = node["anyOf"]
            assert null == {"type": "null"}
            return {name: each for name, each in plain(one).items() if name != "type"}
        return {
            name: {key: plain(each) for key, each in value.items()}
            if name in NAMES_OF_PROPERTIES
            else plain(value)
            for name, value in node.items()
            if name not in ANNOTATIONS
        }

    result: dict[str, Any] = plain(schema)
    return result


@pytest.fixture(scope="session")
def body(resources: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = resources["Api"]["Properties"]["Body"]
    return found


def operations(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    return of_resources({"Api": {"Properties": {"Body": body}}})


def test_every_route_has_a_model_or_no_body(body: dict[str, Any]) -> None:
    assert {route for route, _ in operations(body)} == {*BODIES, *WITHOUT_BODY}
    for route, operation in operations(body):
        assert ("requestBody" in operation) == (route in BODIES), route


@pytest.mark.parametrize("route", sorted(BODIES))
def test_the_model_is_the_functions(body: dict[str, Any], route: str) -> None:
    operation = dict(operations(body))[route]
    wanted = operation["requestBody"]
    assert wanted["required"] is True
    (media_type,) = wanted["content"]  # a form is not JSON, so it passes unread
    assert media_type == "application/json"
    name = wanted["content"][media_type]["schema"]["$ref"].removeprefix("#/components/schemas/")
    assert name == BODIES[route].__name__.lower()
    assert body["components"]["schemas"][name] == draft_04(BODIES[route])


@pytest.mark.parametrize("route", sorted(BODIES))
def test_the_model_is_enforced(body: dict[str, Any], route: str) -> None:
    name = dict(operations(body))[route]["x-amazon-apigateway-request-validator"]
    assert body["x-amazon-apigateway-request-validators"][name] == {
        "validateRequestBody": True,
        "validateRequestParameters": True,
    }


def test_no_model_uses_what_api_gateway_does_not_know(body: dict[str, Any]) -> None:
    text = json.dumps(body["components"]["schemas"])
    for keyword in ("$defs", "anyOf", "oneOf", "null", "nullable", "const", "prefixItems"):
        assert f'"{keyword}"' not in text


def test_every_model_is_used(body: dict[str, Any]) -> None:
    assert set(body["components"]["schemas"]) == {each.__name__.lower() for each in BODIES.values()}
