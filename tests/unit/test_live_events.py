"""Sample events made good for a stack: what is replaced, what stays, and who can read the result."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import stat
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import boto3
import jwt
import pytest
from botocore import exceptions as aws

from keyferry.edge.request import Request
from keyferry_cli import events as command
from keyferry_cli.live_events import (
    Api,
    Event,
    Phone,
    Replay,
    Replays,
    of_another_api,
    of_custom_resource,
    of_route,
)
from tests.unit.test_cli_commands import FakeAws, run
from tests.unit.test_events import EVENTS, ROOT

NOW = 1_795_339_800.0
TOKEN = "header.payload.signature"
API = Api(
    issuer="https://z9y8x7w6v5.execute-api.eu-west-1.amazonaws.com/prod",
    api_id="z9y8x7w6v5",
    stage="prod",
    account="210987654321",
    region="eu-west-1",
    client_key="the-client-key",
    client_key_id="abcde12345",
    client_key_ids={"ios": "abcde12345", "android": "fghij67890"},
    endpoint="",
    environments={"LoginFunction": {"KEYFERRY_STAGE": "prod"}},
)
OF_THE_API = {
    str(name): json.loads(path.read_text("utf-8"))
    for name, path in EVENTS.items()
    if "httpMethod" in path.read_text("utf-8") and name.parts[0] != "authorizer"
}


def phone() -> Phone:
    return Phone(API, nonce="the-nonce", tokens={"access_token": TOKEN})


def proof_of(event: Event) -> dict[str, Any]:
    header = jwt.get_unverified_header(event["headers"]["DPoP"])
    key = jwt.PyJWK(header["jwk"], algorithm="ES256").key
    claims: dict[str, Any] = jwt.decode(
        event["headers"]["DPoP"], key, algorithms=["ES256"], options={"verify_iat": False}
    )
    return claims


@pytest.mark.parametrize("name", sorted(OF_THE_API))
def test_an_event_of_the_api(name: str) -> None:
    sample = OF_THE_API[name]
    event = of_route(sample, API, Replay(phone()), now=NOW)
    assert event.keys() == sample.keys()
    assert event["headers"].keys() == sample["headers"].keys()
    assert event["multiValueHeaders"] == {n: [v] for n, v in event["headers"].items()}
    assert event["body"] == sample["body"]
    request = Request.from_event(event, invocation_id="i")
    call = request.call(API.issuer)
    if "DPoP" in event["headers"]:
        claims = proof_of(event)
        assert (claims["htm"], claims["htu"]) == (call.method, call.url)
        assert claims["nonce"] == "the-nonce"
        bound = "Authorization" in event["headers"]
        assert ("ath" in claims) == bound
        if bound:
            digest = hashlib.sha256(TOKEN.encode()).digest()
            assert claims["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            assert event["headers"]["Authorization"] == f"DPoP {TOKEN}"
    if "x-api-key" in sample["headers"]:
        assert event["headers"]["x-api-key"] == "the-client-key"
        assert request.client_key_id == "abcde12345"
    context = event["requestContext"]
    assert (context["apiId"], context["stage"]) == ("z9y8x7w6v5", "prod")
    assert context["path"] == f"/prod{event['path']}"
    assert context["requestTime"] == "22/Nov/2026:09:30:00 +0000"
    rest = json.dumps(event).replace(json.dumps(sample["body"]), "")
    for old in ("a1b2c3d4e5", "123456789012", "7lvik61vZpGucLSpYLjt89bjVZrl0s1ZANqIaRnX"):
        assert old not in rest


def test_the_sample_is_left_as_it_was() -> None:
    for name, sample in OF_THE_API.items():
        before = json.dumps(sample)
        of_route(sample, API, Replay(phone(), {"x": "y"}, {"name": "maps"}), now=NOW)
        assert json.dumps(sample) == before, name


def test_members_of_a_body_are_replaced_in_its_own_form() -> None:
    replay = Replay(phone(), {"refresh_token": "kfr_new", "username": "ben"})
    form = of_route(OF_THE_API["refresh/refresh.json"], API, replay, now=NOW)["body"]
    assert dict(parse_qsl(form))["refresh_token"] == "kfr_new"
    assert dict(parse_qsl(form))["grant_type"] == "refresh_token"
    packed = of_route(OF_THE_API["refresh/refresh_base64.json"], API, replay, now=NOW)["body"]
    assert base64.b64decode(packed).decode() == form
    login = json.loads(of_route(OF_THE_API["login/login.json"], API, replay, now=NOW)["body"])
    assert login["username"] == "ben"
    assert login["device"]["platform"] == "ios"


def test_parameters_of_a_path() -> None:
    replay = Replay(phone(), path={"name": "maps"})
    event = of_route(OF_THE_API["deliver_key/one_key.json"], API, replay, now=NOW)
    assert (event["path"], event["pathParameters"]) == ("/v1/keys/maps", {"name": "maps"})
    assert proof_of(event)["htu"] == f"{API.issuer}/v1/keys/maps"


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:4566"])
def test_the_authorizer_is_asked_about_the_samples_api(endpoint: str) -> None:
    from dataclasses import replace

    sample = json.loads((ROOT / "events" / "authorizer" / "greeting.json").read_text("utf-8"))
    event = of_another_api(sample, replace(API, endpoint=endpoint), phone(), now=NOW)
    assert event["methodArn"] == sample["methodArn"]
    url = proof_of(event)["htu"]
    if endpoint:
        assert url == f"{endpoint}/restapis/f6g7h8i9j0/live/_user_request_/greeting"
    else:
        assert url == "https://f6g7h8i9j0.execute-api.eu-central-1.amazonaws.com/live/greeting"


def test_the_custom_resource() -> None:
    path = ROOT / "events" / "rotate_keyring" / "custom_resource.json"
    properties = of_custom_resource(json.loads(path.read_text("utf-8")), API)["ResourceProperties"]
    assert properties["Issuer"] == API.issuer
    assert properties["Clients"] == {"ios": ["abcde12345"], "android": ["fghij67890"]}


def test_no_secret_is_in_a_repr() -> None:
    replay = Replay(phone(), {"password": "quiet harbour"})
    assert not {"quiet harbour", TOKEN, "the-client-key"} & set(repr(replay).split("'"))
    assert "PrivateKey" not in repr(replay)


# ── the command ──────────────────────────────────────────────────────────


@pytest.fixture
def without_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "of_stack", lambda functions: API)
    monkeypatch.setattr(Replays, "of", lambda self, method, resource: Replay(phone()))
    monkeypatch.setattr(Replays, "session", lambda self, suffix="main": phone())


@pytest.mark.usefixtures("without_aws")
def test_writes_every_event_for_its_owner_alone(tmp_path: Path) -> None:
    fake = FakeAws({"keys": []})
    samples, folder = str(ROOT / "events"), tmp_path / "live"
    arguments = ("events", "refresh", str(folder), "--samples", samples)
    done = run(fake, *arguments, "--yes")
    assert done.exit_code == 0, done.output
    assert run(fake, *arguments, "--yes").exit_code == 0, "and once more over the first"
    written = {path.relative_to(folder): path for path in folder.rglob("*.json")}
    assert written.keys() == EVENTS.keys() | {Path("env.json")}
    assert {stat.S_IMODE(path.stat().st_mode) for path in written.values()} == {0o600}
    assert json.loads(written[Path("env.json")].read_text()) == API.environments
    assert TOKEN not in done.output


@pytest.mark.usefixtures("without_aws")
def test_asks_before_it_makes_users(tmp_path: Path) -> None:
    fake = FakeAws({"keys": []})
    samples = str(ROOT / "events")
    said = run(fake, "events", "refresh", str(tmp_path), "--samples", samples, stdin="n\n")
    assert said.exit_code == 1
    assert "keyferry-dev" in said.output
    assert fake.events == []
    assert not list(tmp_path.iterdir())


def test_without_samples_it_is_used_wrongly(tmp_path: Path) -> None:
    said = run(FakeAws(), "events", "refresh", "--samples", str(tmp_path), "--yes")
    assert said.exit_code == 2


def test_another_stack_is_told_apart(tmp_path: Path) -> None:
    fake = FakeAws(describe_error=aws.NoCredentialsError())
    samples = str(ROOT / "events")
    said = run(fake, "events", "refresh", str(tmp_path), "--samples", samples, "--yes")
    assert said.exit_code == 1
    assert "no AWS credentials" in said.output


def test_the_folder_is_not_committed() -> None:
    default = command.refresh_events.__defaults__
    assert default is not None
    assert Path("events/live") in default
    assert "events/live/" in (ROOT / ".gitignore").read_text().split()


def test_an_empty_endpoint_is_that_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the template gives every function on AWS, so that an env.json can name another one."""
    found = re.findall(r"AWS_ENDPOINT_URL: (.*?) #", (ROOT / "template.yaml").read_text("utf-8"))
    assert found == ["!Ref EmulatorEndpoint"]
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    for given, used in (
        ("", "https://kms.eu-west-1.amazonaws.com"),
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566"),
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL", given)
        assert boto3.Session().client("kms").meta.endpoint_url == used
