"""One deployed stack for all end-to-end tests, with a few users and keys of an operator's making."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyferry.federation.providers import FirstLogin
from tests.conftest import needs
from tests.e2e.device import Device
from tests.local_issuer import LocalIssuer
from tests.local_upstream import HOST, LocalUpstream
from tests.template.conftest import transformed

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from keyferry_cli.local.stack import LocalStack

PASSWORD = "correct horse battery staple"
"""Of every user in these tests; searched for in tables and logs afterwards."""

OUR_APP, OTHER_APP = "our-app", "other-app"
APPS = {OUR_APP: "RS256", OTHER_APP: "RS256"}
"""That the local issuer knows, and how it signs for them."""

SECRETS = {
    "maps": "AIza-test-maps-8f1c2d9b7e",
    "gemini": "test-gemini-51d0c4aa93",
    "admin-only": "test-admin-77ab02fe10",
    "android-only": "test-android-0c9d8e7f6a",
    "no-policy": "test-nobody-3b2a1908f7",
}

PROXIED = "sk-proxied/9f1c2d+7e51d0c4aa93="
"""The value of every key that is for the upstream alone."""

MONTH = 31 * 86_400  # a window whose end no test sees
RULES: dict[str, Any] = {
    "host": HOST,
    "path_prefix": "/v1/",
    "methods": ["GET", "POST"],
    "inject": "header",
    "parameter": "x-api-key",
    "headers": ["x-extra"],
    "max_request_bytes": 262_144,
    "max_response_bytes": 300_000,
    "timeout_seconds": 2,
    "budget": 1_000,
    "budget_seconds": MONTH,
}

PutKey = Callable[..., str]


@pytest.fixture(scope="session")
def upstream() -> Iterator[LocalUpstream]:
    with LocalUpstream.start() as started:
        yield started


@pytest.fixture(scope="session")
def stack(upstream: LocalUpstream) -> Iterator[LocalStack]:
    from keyferry_cli.local.stack import LocalStack

    parameters = {"LocalUpstream": upstream.connect_to, "ServeOpenApi": "true"}
    with LocalStack.start(progress=lambda _: None, parameters=parameters) as started:
        yield started


@pytest.fixture(scope="session")
def bearer_stack() -> Iterator[LocalStack]:
    """Another stack, with what is off by default: it admits clients without a device key and RSA
    encryption keys, its authorizer reads sessions, and it is one for production, with a domain."""
    from keyferry_cli.local.stack import LocalStack

    parameters = {
        "RequireDPoP": "false",
        "AuthorizerChecksSession": "true",
        "SelfRegistration": "true",
        "AllowRsaOaep": "true",
        "Stage": "prod",
        "AlarmEmail": "operations@example.com",
        "DomainName": "auth.example.com",
        "CertificateArn": "arn:aws:acm:us-east-1:000000000000:certificate/0a1b2c3d",
    }
    with LocalStack.start(progress=lambda _: None, parameters=parameters) as started:
        yield started


@dataclass(frozen=True)
class Operator:
    """The operator function, invoked as the `keyferry` command invokes it."""

    client: Any
    function: str

    def invoke(self, command: str, **arguments: Any) -> dict[str, Any]:
        response = self.client.invoke(
            FunctionName=self.function,
            Payload=json.dumps({"command": command, "arguments": arguments}).encode(),
        )
        assert "FunctionError" not in response
        answer: dict[str, Any] = json.loads(response["Payload"].read())
        return answer

    def do(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.invoke(command, **arguments)
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result


@pytest.fixture(scope="session")
def operator(stack: LocalStack) -> Iterator[Operator]:
    client = stack.boto3_client("lambda")
    operator = Operator(client, stack.outputs["OperatorFunction"])
    policies: dict[str, dict[str, list[str]] | None] = {
        "maps": {"roles": ["user"], "platforms": ["*"]},
        "gemini": {"roles": ["*"], "platforms": ["ios"]},
        "admin-only": {"roles": ["admin"], "platforms": ["*"]},
        "android-only": {"roles": ["*"], "platforms": ["android"]},
        "no-policy": None,
    }
    for name, policy in policies.items():
        operator.do(
            "keys.put",
            name=name,
            value=SECRETS[name],
            policy=policy,
            cache_seconds=60,
            promote=True,
        )
    yield operator
    client.close()


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture
def username(operator: Operator) -> str:
    """A new user with the role ``user``."""
    name = f"user-{uuid.uuid4().hex[:12]}"
    operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
    return name


@pytest.fixture
def new_device(stack: LocalStack, operator: Operator, http: httpx.Client) -> Callable[..., Device]:
    def make(platform: str = "ios", **options: Any) -> Device:
        return Device(http, stack.api_url, stack.client_keys[platform], **options)

    return make


@pytest.fixture
def device(new_device: Callable[..., Device], username: str) -> Device:
    """A phone that has just logged in."""
    device = new_device()
    response = device.login(username, PASSWORD)
    assert response.status_code == 200, response.text
    return device


@pytest.fixture(scope="session")
def bearer_operator(bearer_stack: LocalStack) -> Iterator[Operator]:
    client = bearer_stack.boto3_client("lambda")
    operator = Operator(client, bearer_stack.outputs["OperatorFunction"])
    operator.do(
        "keys.put", name="maps", value=SECRETS["maps"], policy={"roles": ["*"]}, promote=True
    )
    yield operator
    client.close()


@pytest.fixture
def checked_device(
    bearer_stack: LocalStack, bearer_operator: Operator, http: httpx.Client
) -> Device:
    """A phone with a device key, signed in to the stack that does not insist on one."""
    return _signed_in(bearer_stack, bearer_operator, http, proof="")


@pytest.fixture
def bearer_device(
    bearer_stack: LocalStack, bearer_operator: Operator, http: httpx.Client
) -> Device:
    """A phone without a device key."""
    return _signed_in(bearer_stack, bearer_operator, http, proof=None)


def _signed_in(
    stack: LocalStack, operator: Operator, http: httpx.Client, *, proof: str | None
) -> Device:
    name = f"user-{uuid.uuid4().hex[:12]}"
    operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
    device = Device(http, stack.api_url, stack.client_keys["ios"], username=name)
    response = device.login(name, PASSWORD, proof=proof)
    assert response.status_code == 200, response.text
    return device


@pytest.fixture
def put_key(operator: Operator) -> Iterator[PutKey]:
    """Store a key that is for its upstream only; forget it afterwards."""
    stored: list[str] = []

    def put(policy: dict[str, Any] | None = None, **rules: Any) -> str:
        name = f"proxied-{uuid.uuid4().hex[:12]}"
        stored.append(name)
        policy = {"roles": ["user"], "platforms": ["*"], **(policy or {})}
        operator.do("keys.put", name=name, value=PROXIED, policy=policy, promote=True)
        operator.do("keys.proxy", name=name, upstream={**RULES, **rules})
        return name

    yield put
    for name in stored:
        operator.do("keys.delete", name=name)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests that use the stack run in one worker, which starts it once; first those that look at
    a stack as it was deployed, and last the one that is about all the others."""
    for item in items:
        if {"stack", "bearer_stack"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group("stack"))
    places = {"test_doctor.py": -1, "test_least_privilege.py": 1}
    items.sort(key=lambda item: places.get(item.path.name, 0))


_NOT_PASSED = pytest.StashKey[list[str]]()


def not_passed(config: pytest.Config) -> list[str]:
    """End-to-end tests that this process should have run, and that did not pass."""
    return config.stash.setdefault(_NOT_PASSED, [])


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            not_passed(item.config).append(item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not report.passed:
        not_passed(item.config).append(item.nodeid)
    return report


@pytest.fixture(scope="session")
def resources() -> dict[str, Any]:
    """Of the template after the SAM transform."""
    found: dict[str, Any] = transformed({"dev": {"parameters": {}, "artifacts": {}}})["dev"][
        "Resources"
    ]
    return found


@dataclass(frozen=True)
class At:
    """An issuer, and the provider that it is here."""

    issuer: LocalIssuer
    provider: str


def configure(operator: Operator, issuer: LocalIssuer, name: str, first_login: FirstLogin) -> At:
    metadata = issuer.metadata
    settings = {
        "name": name,
        "issuer": metadata["issuer"],
        "client_ids": [OUR_APP],
        "jwks_uri": metadata["jwks_uri"],
        "first_login": first_login,
        "roles": ["user"],
    }
    operator.do("providers.put", kind="oidc", settings=settings)
    return At(issuer, name)


@pytest.fixture(scope="session")
def configured(node_modules: Path, operator: Operator) -> Iterator[tuple[At, At, At]]:
    """All providers before anybody logs in: a warm function keeps what it has read for a minute."""
    node = needs("node")
    with (
        LocalIssuer.start(node, node_modules, APPS) as one,
        LocalIssuer.start(node, node_modules, APPS) as another,
        LocalIssuer.start(node, node_modules, APPS) as third,
    ):
        yield (
            configure(operator, one, "closed", FirstLogin.CLOSED),
            configure(operator, another, "anybody", FirstLogin.OPEN),
            configure(operator, third, "invited", FirstLogin.INVITATION),
        )
