"""The shipped functions in this process, on the emulator's DynamoDB and KMS.

Each request goes through the handler file that Lambda would run, as the event that API Gateway
would make of it. What a deployed stack does not let a test do is possible here: move the clock,
start a function cold, see every AWS call, and have one fail at a given moment.
"""

from __future__ import annotations

import json
import runpy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import boto3
import botocore.endpoint
import httpx
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import BotoCoreError

from keyferry import aws, clock
from keyferry.aws_json.client import DynamoDb, JsonClient, Kms
from keyferry.aws_json.connections import Answer, Connections, NoAnswer
from keyferry.config import DAY
from keyferry.edge import telemetry  # noqa: F401 -- before a test's own stdout is what it logs to
from keyferry.jose import base64url
from keyferry.keyring import unwrapped
from keyferry.keyring.lifecycle import maintain, schedules
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.store import session_from_item, session_to_item
from keyferry.tokens import refresh
from tests.conftest import ROOT
from tests.contract.conftest import DEPLOYMENT
from tests.e2e.conftest import PASSWORD, SECRETS
from tests.e2e.device import Device, new_key

if TYPE_CHECKING:
    from keyferry.sessions.model import Session
    from keyferry.tokens.refresh import RefreshToken
    from tests.contract.conftest import Cloud

ISSUER: Final = "https://api.example.com/test"
THEIRS: Final = "https://theirs.example.com/live"
"""An API of the team's own, behind the authorizer."""

START: Final = 20_700 * DAY + 8 * 3600
"""In the morning of a UTC day: the budget of a bearer client is one day's."""

IDLE: Final = 7 * DAY
ABSOLUTE: Final = 90 * DAY
CLIENTS: Final = {"ios-key": "ios", "android-key": "android"}

ROUTES: Final = {
    ("POST", "/v1/login"): "login",
    ("POST", "/v1/token"): "refresh",
    ("GET", "/v1/keys"): "deliver_key",
    ("GET", "/v1/keys/{name}"): "deliver_key",
    ("POST", "/v1/proxy/{key}"): "proxy",
    ("POST", "/v1/revoke"): "sessions",
    ("GET", "/v1/sessions"): "sessions",
    ("DELETE", "/v1/sessions"): "sessions",
    ("DELETE", "/v1/sessions/{id}"): "sessions",
    ("PUT", "/v1/device/encryption-key"): "sessions",
    ("POST", "/v1/invitations/redeem"): "account",
    ("POST", "/v1/password"): "account",
    ("POST", "/v1/mfa/totp"): "mfa",
    ("POST", "/v1/mfa/totp/confirm"): "mfa",
    ("POST", "/v1/mfa/totp/remove"): "mfa",
    ("GET", "/.well-known/jwks.json"): "discovery",
    ("GET", "/.well-known/openid-configuration"): "discovery",
    ("GET", "/openapi.json"): "open_api",
}


class Crash(BaseException):
    """The process ends here: nothing in the product gets to handle it."""


@dataclass(frozen=True)
class Reply:
    """What AWS, or something before it, answers instead of doing what it was asked."""

    status: int
    code: str = ""

    def body(self) -> bytes:
        return json.dumps({"__type": self.code, "message": ""}).encode() if self.code else b""

    def response(self, url: str) -> AWSResponse:
        raw: Any = SimpleNamespace(stream=lambda: iter([self.body()]))
        return AWSResponse(url, self.status, HTTPHeaders(), raw)


@dataclass
class Fault:
    """``operation`` ("kms:Decrypt", "dynamodb:*") fails, after ``spare`` calls that go well.

    With ``done`` it does what it was asked, and nobody hears of it. ``naming`` is what a request
    must have in it, such as a table's name.
    """

    operation: str
    failure: BaseException | Reply
    done: bool = False
    spare: int = 0
    naming: str = ""
    struck: int = 0

    def strikes(self, service: str, operation: str, body: bytes) -> bool:
        if self.operation not in (f"{service}:{operation}", f"{service}:*"):
            return False
        if self.naming.encode() not in body:
            return False
        if self.spare:
            self.spare -= 1
            return False
        self.struck += 1
        return True


@dataclass
class Aws:
    """Every call of the functions, and the fault that is to come."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    fault: Fault | None = None

    def operations(self) -> list[str]:
        return [operation for operation, _ in self.calls]

    def strikes(self, service: str, operation: str, body: bytes, *, done: bool) -> Fault | None:
        """The fault, if it is this call that it is for, and now."""
        fault = self.fault
        if fault is None or fault.done is not done or not fault.strikes(service, operation, body):
            return None
        return fault


class Clients:
    """The functions' own AWS clients, boto3's and Keyferry's own. To make one takes long, so they
    outlive the systems, and each system has them tell it what they do."""

    def __init__(self, endpoint_url: str) -> None:
        self.aws = Aws()
        self._connections: list[Connections] = []
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": endpoint_url}.items():
                patch.setenv(name, value)
            # Credentials that another test has found, or not, stay with the default session.
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            self.boto3_dynamodb, self.boto3_kms = aws.boto3_dynamodb(), aws.boto3_kms()
        environ = {**SETTINGS, "AWS_ENDPOINT_URL": endpoint_url}
        options: Any = {"user_agent": aws.user_agent(environ), "random": clock.random}
        self.dynamodb = DynamoDb.from_environ(environ, **options)
        self.kms = Kms.from_environ(environ, **options)
        for client, service in ((self.boto3_dynamodb, "dynamodb"), (self.boto3_kms, "kms")):
            events: Any = client.meta.events
            events.register(f"before-parameter-build.{service}", self._called)
            events.register(f"before-send.{service}", self._sent)
            events.register(f"response-received.{service}", self._received)
        for own in (self.dynamodb, self.kms):
            self._watch(own)

    def _called(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        self.aws.calls.append((f"{model.service_model.service_name}:{model.name}", params))

    def _sent(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        service, operation = event_name.split(".")[1:]
        fault = self.aws.strikes(service, operation, request.body, done=False)
        if fault is None:
            return None
        if isinstance(fault.failure, Reply):
            return fault.failure.response(request.url)
        raise fault.failure

    def _received(self, event_name: str, **_: Any) -> None:
        service, operation = event_name.split(".")[1:]
        fault = self.aws.strikes(service, operation, b"", done=True)
        if fault is not None:
            assert isinstance(fault.failure, BaseException)
            raise fault.failure

    def _watch(self, client: JsonClient) -> None:
        call, exchange, service = client.call, client.exchange, client.service
        self._connections.append(exchange.__self__)  # type: ignore[attr-defined]

        def watched_call(operation: str, request: Any) -> dict[str, Any]:
            self.aws.calls.append((f"{service}:{operation}", request))
            return call(operation, request)

        def watched_exchange(headers: Any, body: bytes) -> Answer:
            operation = headers["X-Amz-Target"].partition(".")[2]
            try:
                fault = self.aws.strikes(service, operation, body, done=False)
                if fault is not None:
                    if isinstance(fault.failure, Reply):
                        return Answer(fault.failure.status, {}, fault.failure.body())
                    raise fault.failure
                answer = exchange(headers, body)
                fault = self.aws.strikes(service, operation, body, done=True)
                if fault is not None:
                    assert isinstance(fault.failure, BaseException)
                    raise fault.failure
            except BotoCoreError as error:
                raise NoAnswer(type(error).__name__) from None
            return answer

        watched: Any = client
        watched.call, watched.exchange = watched_call, watched_exchange
        watched.sleep = lambda _: None  # the waiting is not what is tested here

    def close(self) -> None:
        self.boto3_dynamodb.close()
        self.boto3_kms.close()
        for connections in self._connections:
            connections.close()


@dataclass
class Phone(Device):
    """A phone whose clock is the system's. ``bound`` says whether it has a device key."""

    clock: Callable[[], int] = lambda: int(time.time())
    bound: bool = True

    def proof(self, method: str, path: str, *, header: Any = None, **claims: Any) -> str:
        iat = self.clock() + self.clock_offset
        return super().proof(method, path, header=header, **{"iat": iat, **claims})

    def refresh(
        self, token: str | None = None, *, keep: bool = True, **options: Any
    ) -> httpx.Response:
        if not self.bound:
            options["proof"] = None
        return super().refresh(token, keep=keep, **options)

    def resource(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        if self.bound:
            return super().resource(method, path, query=query, headers=headers, **options)
        sent = {"Authorization": f"Bearer {self.tokens['access_token']}", **(headers or {})}
        return self.call(method, path, query=query, headers=sent, proof=None, **options)

    def fresh_proof(self, method: str, path: str) -> str:
        """With a nonce of this moment, so that nobody has to ask for one."""
        return self.proof(method, path, nonce=self.keys().headers["dpop-nonce"])

    def stolen(self, *, with_key: bool = False) -> Phone:
        """A copy of all that this phone holds, with or without its device key."""
        signing = self.signing if with_key else new_key()
        return replace(self, signing=signing, tokens=dict(self.tokens))


@dataclass
class System:
    cloud: Cloud
    metrics: Callable[[], list[str]]
    """The names of the metrics that were counted since this was last asked."""

    now: int = START
    issuer: str = ISSUER
    """The address of the API, which the keyring names too."""
    source_ip: str = "192.0.2.1"
    """Where requests come from, as API Gateway says."""
    aws: Aws = field(default_factory=Aws)
    http: httpx.Client = field(init=False)
    warm: dict[str, Callable[..., Any]] = field(default_factory=dict)
    invocations: int = 0

    def __post_init__(self) -> None:
        self.http = httpx.Client(transport=httpx.MockTransport(self.answer))

    def create(self) -> None:
        """What a deployment and its operator do first."""
        planned = schedules(idle_seconds=IDLE)
        maintain(
            self.cloud.keyring,
            self.cloud.maker,
            planned,
            now=self.now,
            issuer=self.issuer,
            clients=CLIENTS,
        )
        policy = {"roles": ["*"]}
        self.operate("keys.put", name="maps", value=SECRETS["maps"], policy=policy, promote=True)

    # ---------------------------------------------------------------- time, and functions

    def sleep(self, seconds: int) -> None:
        self.now += seconds

    def start_cold(self) -> None:
        """As after a deployment: no function has anything in memory."""
        self.warm.clear()

    def invoke(self, function: str, event: dict[str, Any]) -> Any:
        if function not in self.warm:
            path = ROOT / "functions" / function / "handler.py"
            self.warm[function] = runpy.run_path(str(path))["lambda_handler"]
        self.invocations += 1
        context = SimpleNamespace(
            function_name=function,
            memory_limit_in_mb=128,
            invoked_function_arn=f"arn:aws:lambda:us-east-1:000000000000:function:{function}",
            aws_request_id=f"invocation {self.invocations}",
        )
        return self.warm[function](event, context)

    @contextmanager
    def failing(
        self,
        operation: str,
        failure: BaseException | Reply,
        *,
        done: bool = False,
        spare: int = 0,
        naming: str = "",
    ) -> Iterator[None]:
        """Have an AWS call fail while the block runs; it must have been made."""
        self.aws.fault = fault = Fault(operation, failure, done, spare, naming)
        try:
            yield
        finally:
            self.aws.fault = None
        assert fault.struck, f"{operation} was never called: nothing was tried"

    # ---------------------------------------------------------------- operator, keyring, phones

    def operate(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.invoke("operator", {"command": command, "arguments": arguments})
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def keyring(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.invoke("rotate_keyring", {"command": command, **arguments})
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def phone(self, username: str | None = None, *, bound: bool = True) -> Phone:
        """A phone that has just logged in, of a user of its own unless one is named."""
        if username is None:
            username = f"user-{self.invocations}"
            self.operate("users.add", username=username, password=PASSWORD, roles=["user"])
        phone = Phone(
            self.http,
            ISSUER,
            "ios-key",
            username=username,
            clock=lambda: self.now,
            bound=bound,
        )
        response = phone.login(username, PASSWORD, proof="" if bound else None)
        assert response.status_code == HTTPStatus.OK, response.text
        return phone

    def move(self, issuer: str) -> None:
        """What a deployment with another domain does, and warm functions after a minute."""
        planned = schedules(idle_seconds=IDLE)
        keyring, maker = self.cloud.keyring, self.cloud.maker
        maintain(keyring, maker, planned, now=self.now, issuer=issuer, clients=CLIENTS)
        self.issuer = issuer
        self.sleep(unwrapped.MAX_AGE_SECONDS)

    # ---------------------------------------------------------------- the session row

    def _key(self, phone: Phone) -> dict[str, Any]:
        token = self.parse(phone.tokens["refresh_token"])
        return {"sub": {"S": token.sub}, "sid": {"S": token.sid}}

    def parse(self, token: str) -> RefreshToken:
        """The fields of a refresh token; not whether it is good."""
        raw = base64url.decode(token.removeprefix(refresh.PREFIX))
        return refresh.RefreshToken(
            kid=base64url.encode(raw[1:9]),
            sub=base64url.encode(raw[9:25]),
            sid=base64url.encode(raw[25:41]),
            generation=int.from_bytes(raw[41:45], "big"),
            secret=raw[45:61],
        )

    def unwrapped(self) -> UnwrappedKeyring:
        """The keyring's keys in clear, for a test that must make what nobody else could."""
        keyring = UnwrappedKeyring(
            self.cloud.keyring, self.cloud.kms, self.cloud.key_arn, DEPLOYMENT, lambda: self.now
        )
        keyring.refresh()
        return keyring

    def item(self, phone: Phone) -> dict[str, Any]:
        found: dict[str, Any] = self.cloud.dynamodb.get_item(
            TableName=self.cloud.tables["SessionsTable"], Key=self._key(phone), ConsistentRead=True
        )["Item"]
        return found

    def row(self, phone: Phone) -> Session:
        return session_from_item(self.item(phone))

    def put(self, row: Session) -> None:
        table = self.cloud.tables["SessionsTable"]
        self.cloud.dynamodb.put_item(TableName=table, Item=session_to_item(row))

    def delete(self, phone: Phone) -> None:
        table = self.cloud.tables["SessionsTable"]
        self.cloud.dynamodb.delete_item(TableName=table, Key=self._key(phone))

    # ---------------------------------------------------------------- API Gateway

    def answer(self, request: httpx.Request) -> httpx.Response:
        url = str(request.url.copy_with(query=None))
        if url.startswith(THEIRS):
            return self._guarded(request, url.removeprefix(THEIRS))
        path = url.removeprefix(self.issuer)
        resource, parameters = _resource(request.method, path)
        answer = self.invoke(
            ROUTES[request.method, resource],
            {
                "httpMethod": request.method,
                "resource": resource,
                "path": path,
                "pathParameters": parameters or None,
                "multiValueHeaders": _headers(request),
                "multiValueQueryStringParameters": _query(request),
                "requestContext": {
                    "requestId": f"request {self.invocations}",
                    "identity": {
                        "apiKeyId": request.headers.get("x-api-key"),
                        "sourceIp": self.source_ip,
                    },
                },
                "body": request.content.decode() or None,
                "isBase64Encoded": False,
            },
        )
        return httpx.Response(
            answer["statusCode"], headers=answer["headers"], content=answer["body"].encode()
        )

    def _guarded(self, request: httpx.Request, path: str) -> httpx.Response:
        """An API that answers 200 to whomever the authorizer lets in."""
        arn = "arn:aws:execute-api:us-east-1:000000000000:theirs/live"
        event = {
            "type": "REQUEST",
            "methodArn": f"{arn}/{request.method}{path}",
            "resource": path,
            "path": path,
            "httpMethod": request.method,
            "multiValueHeaders": _headers(request),
            "requestContext": {"domainName": "theirs.example.com", "path": f"/live{path}"},
        }
        try:
            policy = self.invoke("authorizer", event)
        except Exception as error:  # noqa: BLE001 -- API Gateway's own reading of it
            unauthorized = str(error) == "Unauthorized"
            return httpx.Response(401 if unauthorized else 500)
        return httpx.Response(200, json=policy["context"])


def _resource(method: str, path: str) -> tuple[str, dict[str, str]]:
    if (method, path) in ROUTES:
        return path, {}
    folder, _, last = path.rpartition("/")
    name = {"/v1/keys": "name", "/v1/proxy": "key", "/v1/sessions": "id"}[folder]
    return f"{folder}/{{{name}}}", {name: last}


def _headers(request: httpx.Request) -> dict[str, list[str]]:
    return {name: request.headers.get_list(name) for name in request.headers}


def _query(request: httpx.Request) -> dict[str, list[str]] | None:
    return parse_qs(request.url.query.decode(), keep_blank_values=True) or None


SETTINGS: Final = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "KEYFERRY_APP": DEPLOYMENT.app,
    "KEYFERRY_STAGE": DEPLOYMENT.stage,
    "KEYFERRY_REQUIRE_DPOP": "true",
    "KEYFERRY_REFRESH_IDLE_DAYS": str(IDLE // DAY),
    "KEYFERRY_REFRESH_ABSOLUTE_DAYS": str(ABSOLUTE // DAY),
    "KEYFERRY_ACCESS_TOKEN_SECONDS": "900",
    "KEYFERRY_MAX_SESSIONS": "3",
    "KEYFERRY_ALLOW_RSA_OAEP": "false",
    "KEYFERRY_AUTHORIZER_CHECKS_SESSION": "true",
    "KEYFERRY_MIN_FETCH_SECONDS": "0",
    "KEYFERRY_APP_CHECK": "off",
    "KEYFERRY_SELF_REGISTRATION": "false",
    "KEYFERRY_MIN_PASSWORD_LENGTH": "15",
}


def _tables(cloud: Cloud) -> dict[str, str]:
    """KEYFERRY_SESSIONS_TABLE for SessionsTable, and so for each table of the template."""
    return {
        f"KEYFERRY_{resource.removesuffix('Table').upper()}_TABLE": name
        for resource, name in cloud.tables.items()
    }


def _keys(cloud: Cloud) -> dict[str, str]:
    return {f"KEYFERRY_{purpose}_KEY_ARN": cloud.key_arn for purpose in ("KEYRING", "VAULT")}


def settings(cloud: Cloud, *, require_dpop: bool = True) -> dict[str, str]:
    """The environment of every function, with the tables and the key that they are to use."""
    bound = "true" if require_dpop else "false"
    return SETTINGS | _tables(cloud) | _keys(cloud) | {"KEYFERRY_REQUIRE_DPOP": bound}


@contextmanager
def running(
    clients: Clients,
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    metrics: Callable[[], list[str]],
    *,
    require_dpop: bool = True,
) -> Iterator[System]:
    """The functions with the environment, the clock and the AWS clients that they are to have."""
    for name, value in settings(cloud, require_dpop=require_dpop).items():
        monkeypatch.setenv(name, value)
    # botocore waits before it tries again. The waiting is not what is tested here.
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    calls = Aws()
    monkeypatch.setattr(clients, "aws", calls)
    for name in ("dynamodb", "kms", "boto3_dynamodb", "boto3_kms"):
        client = getattr(clients, name)
        monkeypatch.setattr(aws, name, lambda client=client: client)
    system = System(cloud, metrics, aws=calls)
    monkeypatch.setattr(clock, "now", lambda: system.now)
    system.create()
    try:
        yield system
    finally:
        system.http.close()
