"""docs/openapi.json says what the code does, no more and no less."""

from __future__ import annotations

import itertools
import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from keyferry.edge import endpoint as edge
from keyferry.edge.endpoint import Route
from keyferry.edge.fields import Malformed
from keyferry.edge.request import Request
from keyferry.errors import ERRORS
from keyferry.login.request import LoginRequest
from keyferry.sessions import encryption_key
from keyferry.vault import delivery
from keyferry.vault.access import Reason
from keyferry.vault.model import NAME
from keyferry_cli.openapi import document as openapi
from keyferry_cli.openapi.document import (
    GATEWAY_ERRORS,
    KEYED_GATEWAY_ERRORS,
    OPERATOR_GATEWAY_ERRORS,
)
from keyferry_cli.openapi.operations import ALL, KEY_NAME, OPERATIONS, Access
from keyferry_cli.openapi.requests import WAYS_IN
from tests.raised_errors import VARIABLE, errors_of, function_of
from tests.unit.test_cli_commands import FakeAws, run

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "docs" / "openapi.json"

Routes = Mapping[tuple[str, str], Route]


class Template(yaml.SafeLoader):
    """template.yaml with the short forms of CloudFormation's functions, which are left aside."""


Template.add_multi_constructor("!", lambda loader, suffix, node: None)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.load(text, Template)  # noqa: S506
    return found


@pytest.fixture(scope="module")
def handlers(template: dict[str, Any]) -> Routes:
    """The route tables of all handlers, read by running each as Lambda does, with settings of the
    template's names."""
    tables: dict[tuple[str, str], Route] = {}
    common = template["Globals"]["Function"]["Environment"]["Variables"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(edge, "endpoint", lambda routes, **_: tables.update(routes))
        patched.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        for resource in template["Resources"].values():
            if resource["Type"] != "AWS::Serverless::Function":
                continue
            own = resource["Properties"]["Environment"]["Variables"]
            with pytest.MonkeyPatch.context() as settings:
                for name in {**common, **own}:
                    settings.setenv(name, VALUES.get(name, "1"))
                settings.delenv("AWS_ENDPOINT_URL")
                code = ROOT / resource["Properties"]["CodeUri"] / "handler.py"
                runpy.run_path(str(code))
    return tables


VALUES = {"KEYFERRY_APP_CHECK": "off", "POWERTOOLS_LOG_LEVEL": "INFO"}
"""Of settings that are no number and no name."""

# ── the file ─────────────────────────────────────────────────────────────


def test_the_committed_document_is_what_the_code_gives() -> None:
    text = COMMITTED.read_text(encoding="utf-8")
    assert text == openapi.text(), "run `make openapi`"


def test_the_server_is_the_stack_that_was_asked_for() -> None:
    made = openapi.document("https://auth.example.com")
    assert made["servers"] == [{"url": "https://auth.example.com"}]
    assert {**made, "servers": 0} == {**openapi.document(), "servers": 0}


def test_the_command_prints_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEYFERRY_STACK", raising=False)
    of_any = run(FakeAws(), "openapi")
    assert of_any.output == COMMITTED.read_text(encoding="utf-8")
    url = "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev"
    fake = FakeAws(outputs=[{"OutputKey": "ApiUrl", "OutputValue": url}])
    of_one = run(fake, "openapi", "--stack", "keyferry-dev")
    assert json.loads(of_one.output) == openapi.document(url)


def test_a_stack_without_an_api_is_none_of_ours() -> None:
    refused = run(FakeAws(), "openapi", "--stack", "another")
    assert refused.exit_code == 1
    assert refused.stdout == ""
    assert "is it a Keyferry stack?" in refused.stderr


def test_the_functions_do_not_import_it() -> None:
    shipped = ROOT / "layers" / "keyferry" / "keyferry"
    for path in [*shipped.rglob("*.py"), *(ROOT / "functions").rglob("*.py")]:
        assert "keyferry_cli" not in path.read_text(encoding="utf-8"), path


# ── routes ───────────────────────────────────────────────────────────────


def test_the_routes_are_those_of_the_handlers(handlers: Routes) -> None:
    assert set(OPERATIONS) == set(handlers)


def test_the_routes_are_those_of_the_template(template: dict[str, Any]) -> None:
    needed = {}
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            for event in resource["Properties"].get("Events", {}).values():
                if event["Type"] == "Api":
                    properties = event["Properties"]
                    needed[properties["Method"], properties["Path"]] = properties.get("Auth", {})
    assert set(OPERATIONS) == set(needed)
    for route, auth in needed.items():
        keyed = "clientKey" in OPERATIONS[route].access.value
        assert auth.get("ApiKeyRequired", True) == keyed, route
        by_iam = auth.get("Authorizer") == "AWS_IAM"
        assert by_iam == (OPERATIONS[route].access is Access.OPERATOR), route


def test_what_is_protected_needs_an_access_token(handlers: Routes) -> None:
    for route, operation in OPERATIONS.items():
        assert operation.protected == handlers[route].protected, route
        assert operation.protected == ("accessToken" in operation.access.value), route


# ── errors ───────────────────────────────────────────────────────────────

NEVER: Mapping[tuple[str, str], tuple[frozenset[str], str]] = {
    ("GET", "/v1/keys"): (
        frozenset({*Reason, "not_found"}),
        "what is withheld is in the delivery here; only one key by itself is refused",
    ),
    ("POST", "/v1/proxy/{key}"): (
        frozenset({"proxy_only"}),
        "that is for keys asked for by delivery",
    ),
}
"""Codes that stand in the code of a route and are not for it, with the reason."""


def test_the_errors_of_a_route_are_those_that_its_code_can_give(handlers: Routes) -> None:
    for route, operation in OPERATIONS.items():
        function = function_of(handlers[route].answer) or function_of(
            type(handlers[route].answer).__call__
        )
        assert function is not None, route
        found = set(errors_of(function))
        if VARIABLE in found:  # "key withheld", with the decision's own word
            found = found - {VARIABLE} | {*Reason, "not_found"}
        found -= NEVER.get(route, (frozenset(), ""))[0]
        assert operation.errors | ALL == found | ALL, route


def test_the_errors_of_all_routes_are_those_of_the_edge() -> None:
    read = function_of(Request.from_event)
    assert read is not None
    # server_error and temporarily_unavailable are what `endpoint` makes of exceptions.
    assert {*errors_of(read), "server_error", "temporarily_unavailable"} == ALL


def test_what_is_left_out_has_a_reason_to_be() -> None:
    for route, (codes, reason) in NEVER.items():
        assert codes.isdisjoint(OPERATIONS[route].errors)
        assert reason


def test_every_error_is_of_some_route() -> None:
    described = {
        code
        for operation in OPERATIONS.values()
        for codes in openapi.errors(operation).values()
        for code in codes
    }
    assert described == {*ERRORS, "access_denied"}


def test_what_api_gateway_answers_by_itself(template: dict[str, Any]) -> None:
    """All gateway responses of the template, but those that a client of this document cannot meet."""
    elsewhere = {
        "RESOURCE_NOT_FOUND",  # another route
        "UNSUPPORTED_MEDIA_TYPE",  # no integration here is chosen by media type
    }
    defaults = {"DEFAULT_4XX": {400}, "DEFAULT_5XX": {500}}
    found: dict[str, set[int]] = {}
    for name, response in template["Resources"]["Api"]["Properties"]["GatewayResponses"].items():
        if name in elsewhere:
            continue
        code = json.loads(response["ResponseTemplates"]["application/json"])["error"]
        statuses = defaults.get(name) or {int(response["StatusCode"])}
        found.setdefault(code, set()).update(statuses)
    assert found == {
        code: set(statuses)
        for errors in (GATEWAY_ERRORS, KEYED_GATEWAY_ERRORS, OPERATOR_GATEWAY_ERRORS)
        for code, statuses in errors.items()
    }


# ── bodies ───────────────────────────────────────────────────────────────

KEY = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}
DEVICE = {"name": "phone", "platform": "ios", "app_version": "1", "encryption_key": KEY}
INVITATION = {"username": "ana", "code": "c"}
MEMBERS: dict[str, Any] = {
    "username": "ana",
    "password": "p",
    "auth_session": "s",
    "provider": "google",
    "id_token": "t",
    "nonce": "n",
    "invitation": INVITATION,
    "otp": "123456",
}


def validator(name: str) -> Any:
    made = openapi.document()
    schema = {"$ref": f"#/components/schemas/{name}", "components": made["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def test_a_login_is_described_for_every_choice_of_members() -> None:
    """Each member there, not there, or null: 6,561 bodies."""
    described = validator("LoginRequest")
    absent = object()
    accepted = 0
    for chosen in itertools.product((absent, None, 1), repeat=len(MEMBERS)):
        body = {"device": DEVICE} | {
            name: MEMBERS[name] if each == 1 else None
            for name, each in zip(MEMBERS, chosen, strict=True)
            if each is not absent
        }
        try:
            LoginRequest.from_members(body)
            right = True
        except Malformed:
            right = False
        assert described.is_valid(body) == right, body
        accepted += right
    assert accepted > 300


def test_the_examples_of_a_login_are_logins() -> None:
    schemas = openapi.document()["components"]["schemas"]
    for name, (needed, allowed, _) in WAYS_IN.items():
        (example,) = schemas[name]["examples"]
        assert validator("LoginRequest").is_valid(example)
        body = LoginRequest.from_members(example)
        key = encryption_key.read(body.device.encryption_key, allow_rsa=False)
        assert key.alg == "ECDH-ES"
        assert set(needed) <= set(example) <= {*needed, *allowed, "device"}


def test_each_way_in_has_members_of_the_model() -> None:
    named = {name for needed, allowed, _ in WAYS_IN.values() for name in (*needed, *allowed)}
    assert named | {"device"} == set(LoginRequest.__slots__)


def test_the_name_of_a_key() -> None:
    assert f"^{NAME.pattern}$" == KEY_NAME
    names = openapi.document()["paths"]["/v1/keys"]["get"]["parameters"][0]["schema"]["pattern"]
    assert re.fullmatch(names, "a," * 99 + "a")
    assert not re.fullmatch(names, "a," * 100 + "a")


def test_the_reasons_in_a_delivery() -> None:
    refused = openapi.document()["components"]["schemas"]["KeyDelivery"]["properties"]["refused"]
    words, others = refused["additionalProperties"]["anyOf"]
    assert words == {"$ref": "#/components/schemas/Reason"}
    assert set(others["enum"]) == {delivery.NOT_FOUND, delivery.UNAVAILABLE}


def test_every_body_is_described(template: dict[str, Any]) -> None:
    modelled = {
        (event["Properties"]["Method"], event["Properties"]["Path"])
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::Serverless::Function"
        for event in resource["Properties"].get("Events", {}).values()
        if "RequestModel" in event["Properties"]
    }
    assert modelled == {route for route, each in OPERATIONS.items() if each.body}


def test_success_of_every_route_is_described() -> None:
    for route, operation in OPERATIONS.items():
        assert operation.success, route
        assert (operation.access is Access.PUBLIC) == ("/.well-known/" in route[1]), route
