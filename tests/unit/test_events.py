"""events/: a sample for each way into each function, as the functions read it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from keyferry.authorizer.authorize import Authorizer
from keyferry.edge.request import FORM, JSON, Headers, Request
from keyferry.keyring.rotate import CustomResourceRequest, KeyringCommand, KeyringProperties
from keyferry.operator.commands import Invocation, Operator
from keyferry.operator.key_commands import KEY_COMMANDS, ProxyRules
from keyferry.proxy.forward import check
from keyferry.proxy.proxy import ProxyRequest
from keyferry.sessions import encryption_key
from keyferry.sessions.management import EncryptionKeyRequest, RevocationRequest
from keyferry.sessions.refresh import RefreshRequest
from keyferry.users.accounts import PasswordRequest, RedeemRequest, RegisterRequest

ROOT = Path(__file__).resolve().parents[2]
EVENTS = {
    path.relative_to(ROOT / "events"): path
    for path in (ROOT / "events").glob("*/*.json")
    if path.parent.name != "live"  # what `keyferry events refresh` has written
}
ISSUER = "https://a1b2c3d4e5.execute-api.eu-central-1.amazonaws.com/dev"

Route = tuple[str, str, str]


class Template(yaml.SafeLoader):
    """template.yaml with the short forms of CloudFormation's functions, which are left aside."""


Template.add_multi_constructor("!", lambda loader, suffix, node: None)


def read(path: Path) -> dict[str, Any]:
    event: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return event


def resources() -> dict[str, dict[str, Any]]:
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.load(text, Template)["Resources"]  # noqa: S506
    return found


def functions() -> dict[str, dict[str, Any]]:
    return {
        resource["Properties"]["CodeUri"].removeprefix("functions/"): resource["Properties"]
        for resource in resources().values()
        if resource["Type"] == "AWS::Serverless::Function"
    }


def routes() -> set[Route]:
    return {
        (function, event["Properties"]["Method"], event["Properties"]["Path"])
        for function, properties in functions().items()
        for event in properties.get("Events", {}).values()
        if event["Type"] == "Api"
    }


def of(*folders: str) -> list[Any]:
    """The events of some functions, or without an argument those of the API."""
    wanted = folders or {function for function, _, _ in routes()}
    return [
        pytest.param(path, id=str(name))
        for name, path in sorted(EVENTS.items())
        if name.parts[0] in wanted
    ]


def claims(token: str) -> dict[str, Any]:
    part = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def proof_is_about(headers: Headers, method: str, url: str) -> None:
    proof = claims(headers.one("dpop") or "")
    assert (proof["htm"], proof["htu"]) == (method, url)
    scheme, _, token = (headers.one("authorization") or "").partition(" ")
    if token:
        assert scheme == "DPoP"
        digest = hashlib.sha256(token.encode()).digest()
        assert proof["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def test_every_route_has_an_event() -> None:
    covered = {
        (name.parts[0], event["httpMethod"], event["resource"])
        for name, path in EVENTS.items()
        if "httpMethod" in (event := read(path)) and "type" not in event
    }
    assert covered == routes()


def test_every_function_has_an_event() -> None:
    assert {name.parts[0] for name in EVENTS} == set(functions())


@pytest.mark.parametrize("path", of())
def test_the_functions_of_the_api_can_read_theirs(path: Path) -> None:
    event = read(path)
    request = Request.from_event(event, invocation_id="i")
    assert (request.method, request.resource) == (event["httpMethod"], event["resource"])
    assert request.source_ip == "203.0.113.24"
    assert event["requestContext"]["path"] == "/dev" + event["path"]
    assert set(event["headers"]) == set(event["multiValueHeaders"])
    public = request.resource.startswith("/.well-known/") or request.resource == "/openapi.json"
    assert bool(request.client_key_id) != public
    assert (request.headers.one("x-api-key") is None) == public
    if request.headers.one("dpop"):
        call = request.call(ISSUER)
        assert call.url == ISSUER + event["path"]
        proof_is_about(call.headers, call.method, call.url)
    else:
        without_a_proof = {"/v1/revoke", "/v1/invitations/redeem", "/v1/register"}
        assert public or request.resource in without_a_proof


@pytest.mark.parametrize("path", of("refresh"))
def test_the_body_of_a_refresh(path: Path) -> None:
    fields = Request.from_event(read(path), invocation_id="i").fields(FORM, JSON)
    token = RefreshRequest.from_members(fields).refresh_token
    assert re.fullmatch(r"kfr_[A-Za-z0-9_-]{124}", token)


@pytest.mark.parametrize("path", of("login"))
def test_the_body_of_a_login(path: Path) -> None:
    from keyferry.login.request import LoginRequest

    fields = Request.from_event(read(path), invocation_id="i").fields(JSON)
    assert LoginRequest.from_members(fields).device.platform == "ios"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("redeem", RedeemRequest),
        ("register", RegisterRequest),
        ("change_password", PasswordRequest),
    ],
)
def test_the_bodies_about_accounts(name: str, kind: type[BaseModel]) -> None:
    event = read(ROOT / "events" / "account" / f"{name}.json")
    kind.model_validate(Request.from_event(event, invocation_id="i").fields(JSON))


@pytest.mark.parametrize("path", of("proxy"))
def test_the_body_of_a_proxied_request(path: Path) -> None:
    fields = Request.from_event(read(path), invocation_id="i").fields(JSON)
    wanted = ProxyRequest.model_validate(fields).wanted()
    arguments = read(ROOT / "events" / "operator" / "keys_proxy.json")["arguments"]
    check(wanted, ProxyRules.model_validate(arguments["upstream"]).upstream())


def test_the_body_of_a_revocation() -> None:
    event = read(ROOT / "events" / "sessions" / "revoke.json")
    fields = Request.from_event(event, invocation_id="i").fields(FORM, JSON)
    assert re.fullmatch(r"kfr_[A-Za-z0-9_-]{124}", RevocationRequest.model_validate(fields).token)


def test_the_body_of_a_replacement_is_a_key() -> None:
    event = read(ROOT / "events" / "sessions" / "replace_encryption_key.json")
    fields = Request.from_event(event, invocation_id="i").fields(JSON)
    members = EncryptionKeyRequest.model_validate(fields).encryption_key
    assert encryption_key.read(members, allow_rsa=False).alg == "ECDH-ES"


@pytest.mark.parametrize("path", of("authorizer"))
def test_the_authorizer_is_asked_about_another_api(path: Path) -> None:
    event = read(path)
    asked = object.__new__(Authorizer)
    object.__setattr__(asked, "base_url", "")
    url = asked._url(event)
    assert url.startswith("https://f6g7h8i9j0.")
    proof_is_about(Headers.from_event(event), event["httpMethod"], url)
    _, _, resource = event["methodArn"].partition(":execute-api:")
    assert resource.endswith(f"/live/{event['httpMethod']}{event['path']}")


@pytest.mark.parametrize("path", of("operator"))
def test_the_operator_knows_the_command(path: Path) -> None:
    invocation = Invocation.model_validate(read(path))
    assert invocation.command in {*object.__new__(Operator)._commands(), *KEY_COMMANDS}


@pytest.mark.parametrize("path", of("rotate_keyring"))
def test_the_keyring_knows_what_it_is_told(path: Path) -> None:
    event = read(path)
    if "command" in event:
        KeyringCommand.model_validate(event)
    elif "ResponseURL" in event:
        request = CustomResourceRequest.model_validate(event)
        assert KeyringProperties.model_validate(request.ResourceProperties).issuer == ISSUER
    else:
        assert event["source"] == "aws.events"


def test_env_json_names_every_table_and_key_of_the_template() -> None:
    named = read(ROOT / "events" / "env.json")["Parameters"]
    text = (ROOT / "template.yaml").read_text(encoding="utf-8")
    used = set(re.findall(r"^ +(KEYFERRY_\w+_(?:TABLE|KEY_ARN)):", text, re.MULTILINE))
    assert set(named) == used
    outputs = set(re.findall(r"^  (\w+):$", text.partition("\nOutputs:")[2], re.MULTILINE))
    for name in used:
        words = name.removeprefix("KEYFERRY_").title().replace("_", "")
        assert words in outputs, "events/README.md says so"
