"""A deployment to measure: the shipped handlers in this process, DynamoDB and KMS in another one.

Clocks, randomness and AWS clients are the product's own. The environment is what each function sees
when it is loaded, as on Lambda.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx
import jwt
from joserfc import jwe
from joserfc.jwe import JWERegistry
from joserfc.jwk import ECKey

from keyferry.aws_json.connections import Connections
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.keyring.lifecycle import maintain, schedules
from keyferry.keyring.model import Purpose
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry_cli.local.emulator import clean_environment
from keyferry_cli.local.environments import environment_program
from tests.bench.floor import Aws, Floor
from tests.conftest import ROOT
from tests.contract.conftest import DEPLOYMENT, Cloud, make_cloud
from tests.e2e.device import Device, ath, jwk_of
from tests.scenarios.system import CLIENTS, IDLE, ISSUER, SETTINGS, THEIRS, settings

PASSWORD: Final = "correct horse battery staple"
POLICY: Final = {"roles": ["user"], "platforms": ["ios", "android"]}

DEVICES: Final = int(SETTINGS["KEYFERRY_MAX_SESSIONS"])
"""Of one user: one more would end the oldest session."""

_AT_ONCE: Final = 50
"""Keys in one command of the operator."""

Event = dict[str, Any]
Answer = dict[str, Any]


@contextmanager
def store() -> Iterator[str]:
    """A running `tests.bench.store`: its URL."""
    python = environment_program("emulator", "python")
    environment = {**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("PYTHONPATH", None)
    with subprocess.Popen(
        [str(python), str(Path(__file__).with_name("store.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, "the store did not start"
        # Credentials are read at a function's first call, so they stay where it looks for them.
        with variables({}):
            yield f"http://127.0.0.1:{port}"
        process.communicate()  # the end of its input is its end


def counts(endpoint: str) -> dict[str, Any]:
    """The calls that the store has had since this was last asked, and their bytes."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"{endpoint}/counts") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def load(endpoint: str, table: str, row: dict[str, Any], rows: int) -> None:
    """Put ``rows`` rows like this one into a table of the store, each under a key of its own."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    body = json.dumps({"table": table, "row": row, "rows": rows}).encode()
    with direct.open(urllib.request.Request(f"{endpoint}/load", body), timeout=600):
        pass


@dataclass
class Phone(Device):
    """Keeps the last nonce that it was given and puts it into the next proof, as a client does."""

    nonce: str = ""
    username: str = ""

    def proof(self, method: str, path: str, *, header: Any = None, **claims: Any) -> str:
        nonce = {"nonce": self.nonce} if self.nonce else {}
        return super().proof(method, path, header=header, **{**nonce, **claims})

    @property
    def jkt(self) -> str:
        members = jwk_of(self.signing)
        return EcJwk(members["x"], members["y"]).thumbprint()

    def hear(self, answer: Answer) -> None:
        self.nonce = answer["headers"]["DPoP-Nonce"]


@dataclass
class Deployment:
    endpoint: str
    cloud: Cloud
    environment: Mapping[str, str]
    keys: Mapping[str, str]
    """The values of the vault, by name."""
    handlers: dict[str, Any] = field(default_factory=dict)
    invocations: int = 0
    jwks: dict[str, Any] = field(default_factory=dict)
    http: httpx.Client = field(default_factory=httpx.Client)
    """Never used: nothing here goes over the network, but to the store."""

    floors: dict[bool, Floor] = field(default_factory=dict)
    connections: list[Connections] = field(default_factory=list)
    """Of the functions: on Lambda they end with the process."""

    @classmethod
    @contextmanager
    def create(cls, endpoint: str, *, keys: int) -> Iterator[Deployment]:
        """With a keyring, and a vault of ``keys`` keys that every user may have."""
        cloud = make_cloud(endpoint)
        environment = {
            **settings(cloud),
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": cloud.dynamodb.meta.region_name,
        }
        values = {f"SERVICE_{n}_API_KEY": f"AIza-not-real-{n:04d}-{'x' * 20}" for n in range(keys)}
        made = cls(endpoint, cloud, environment, values)
        now = int(time.time())
        planned = schedules(idle_seconds=IDLE)
        maintain(cloud.keyring, cloud.maker, planned, now=now, issuer=ISSUER, clients=CLIENTS)
        entries = [{"name": name, "value": v, "policy": POLICY} for name, v in values.items()]
        for start in range(0, keys, _AT_ONCE):
            made.operate("keys.put_all", keys=entries[start : start + _AT_ONCE], promote=True)
        event = gateway_event("GET", "/.well-known/jwks.json", {})
        for members in json.loads(made.invoke("discovery", event)["body"])["keys"]:
            made.jwks[members["kid"]] = jwt.PyJWK(members).key
        try:
            yield made
        finally:
            made.http.close()
            for each in made.connections:
                each.close()
            cloud.dynamodb.close()
            cloud.kms.close()
            for floor in made.floors.values():
                floor.aws.close()

    # ---------------------------------------------------------------- functions

    def load(self, function: str) -> Any:
        """A fresh instance of a function, before its first call; modules are those of this process."""
        path = ROOT / "functions" / function / "handler.py"
        with variables(self.environment), kept_in(self.connections):
            return runpy.run_path(str(path))["lambda_handler"]

    def handler(self, function: str) -> Any:
        """The instance that serves every request here."""
        if function not in self.handlers:
            self.handlers[function] = self.load(function)
        return self.handlers[function]

    def context(self, function: str) -> Any:
        self.invocations += 1
        return SimpleNamespace(
            function_name=function,
            memory_limit_in_mb=1024,
            invoked_function_arn=f"arn:aws:lambda:us-east-1:000000000000:function:{function}",
            aws_request_id=f"invocation {self.invocations}",
        )

    def invoke(self, function: str, event: Event) -> Any:
        return self.handler(function)(event, self.context(function))

    def operate(self, command: str, **arguments: Any) -> dict[str, Any]:
        answer = self.invoke("operator", {"command": command, "arguments": arguments})
        assert answer["ok"], answer
        result: dict[str, Any] = answer["result"]
        return result

    def floor(self, *, bare: bool = False) -> Floor:
        """With the same keys in memory as a warm function of this deployment."""
        if bare not in self.floors:
            self.floors[bare] = self._floor(bare=bare)
        return self.floors[bare]

    def _floor(self, *, bare: bool) -> Floor:
        cloud = self.cloud
        keyring = UnwrappedKeyring(
            cloud.keyring, cloud.kms, cloud.key_arn, DEPLOYMENT, lambda: int(time.time())
        )
        keyring.refresh()
        held = cloud.keyring.read()
        assert held is not None
        (nonce,) = (each for each in held.of(Purpose.DPOP_NONCE) if each.standing == "current")
        mac_kids = [each.kid for each in held.of(Purpose.REFRESH_MAC)]
        mac_keys = {kid: keyring.refresh_mac_key(kid) for kid in mac_kids}
        url = urlsplit(self.endpoint)
        tables = {"sessions": "SessionsTable", "users": "UsersTable", "vault": "VaultTable"}
        return Floor(
            aws=Aws(
                url.hostname or "",
                url.port or 0,
                self.environment["AWS_ACCESS_KEY_ID"],
                self.environment["AWS_SECRET_ACCESS_KEY"],
                bare=bare,
            ),
            issuer=ISSUER,
            clients=dict(CLIENTS),
            signing=keyring.signing_key(),
            public=dict(keyring.verification_keys()),
            mac_kid=keyring.current_refresh_kid(),
            mac_keys={kid: key for kid, key in mac_keys.items() if key is not None},
            nonce_key=keyring._secret(nonce),
            tables={name: cloud.tables[table] for name, table in tables.items()},
            values=dict(self.keys),
        )

    # ---------------------------------------------------------------- phones

    def phones(self, count: int) -> list[Phone]:
        """Each on a device of its own, logged in, with tokens; up to `DEVICES` of one user."""
        made: list[Phone] = []
        username = ""
        for number in range(count):
            if number % DEVICES == 0:
                username = f"user-{self.invocations}"
                self.operate("users.add", username=username, password=PASSWORD, roles=["user"])
            phone = Phone(self.http, ISSUER, "ios-key", username=username)
            self.check_tokens(phone, self.invoke("login", self.login_event(phone)))
            made.append(phone)
        return made

    def login_event(self, phone: Phone) -> Event:
        device = {
            "name": "Phone",
            "platform": "ios",
            "app_version": "1.2.3",
            "encryption_key": jwk_of(phone.encryption),
        }
        body = {"username": phone.username, "password": PASSWORD, "device": device}
        sent = {"content-type": "application/json", "dpop": phone.proof("POST", "/v1/login")}
        return gateway_event("POST", "/v1/login", sent, json.dumps(body))

    def refresh_event(self, phone: Phone, token: str | None = None) -> Event:
        token = token or phone.tokens["refresh_token"]
        form = urlencode({"grant_type": "refresh_token", "refresh_token": token})
        sent = {
            "content-type": "application/x-www-form-urlencoded",
            "dpop": phone.proof("POST", "/v1/token"),
        }
        return gateway_event("POST", "/v1/token", sent, form)

    def keys_event(self, phone: Phone, **headers: str) -> Event:
        token = phone.tokens["access_token"]
        proof = phone.proof("GET", "/v1/keys", ath=ath(token))
        sent = {"authorization": f"DPoP {token}", "dpop": proof, **headers}
        return gateway_event("GET", "/v1/keys", sent)

    def key_event(self, phone: Phone, name: str) -> Event:
        token, path = phone.tokens["access_token"], f"/v1/keys/{name}"
        proof = phone.proof("GET", path, ath=ath(token))
        sent = {"authorization": f"DPoP {token}", "dpop": proof}
        event = gateway_event("GET", "/v1/keys/{name}", sent)
        return event | {"path": path, "pathParameters": {"name": name}}

    def authorizer_event(self, phone: Phone) -> Event:
        token = phone.tokens["access_token"]
        claims = {"htu": f"{THEIRS}/greeting", "ath": ath(token)}
        proof = phone.proof("GET", "/greeting", **claims)
        arn = "arn:aws:execute-api:us-east-1:000000000000:theirs/live/GET/greeting"
        sent = {"authorization": f"DPoP {token}", "dpop": proof}
        return gateway_event("GET", "/greeting", sent) | {
            "type": "REQUEST",
            "methodArn": arn,
            "requestContext": {"domainName": "theirs.example.com", "path": "/live/greeting"},
        }

    # ---------------------------------------------------------------- answers

    def check_tokens(self, phone: Phone, answer: Answer) -> dict[str, Any]:
        """That a token response is what it should be; then the phone keeps it."""
        assert answer["statusCode"] == 200, answer
        tokens: dict[str, Any] = json.loads(answer["body"])
        claims = self.verified(tokens["access_token"], audience=ISSUER)
        assert claims["cnf"] == {"jkt": phone.jkt}
        assert claims["sid"] == tokens["session_id"]
        assert tokens["refresh_token"].startswith("kfr_")
        assert tokens["refresh_token"] != phone.tokens.get("refresh_token")
        phone.tokens = tokens
        phone.hear(answer)
        return tokens

    def check_keys(
        self,
        phone: Phone,
        event: Event,
        answer: Answer,
        *,
        expected: Mapping[str, str] | None = None,
    ) -> None:
        """That a delivery opens with the phone's key alone, is signed, answers this very proof, and
        has every key of the vault in it, or those that are ``expected``."""
        assert answer["statusCode"] == 200, answer
        key = ECKey.import_key(phone.private_encryption_jwk())
        opened = jwe.decrypt_compact(answer["body"], key, registry=large_messages())
        claims = self.verified((opened.plaintext or b"").decode(), audience="ios")
        (proof,) = event["multiValueHeaders"]["dpop"]
        sent = jwt.decode(proof, options={"verify_signature": False})
        assert claims["proof_jti"] == sent["jti"]
        values = {name: each["value"] for name, each in claims["keys"].items()}
        assert values == (self.keys if expected is None else expected)
        phone.hear(answer)

    def verified(self, token: str, *, audience: str) -> dict[str, Any]:
        key = self.jwks[jwt.get_unverified_header(token)["kid"]]
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=["ES256"], audience=audience, issuer=ISSUER
        )
        return claims

    # ---------------------------------------------------------------- rows

    def session_key(self, phone: Phone) -> dict[str, Any]:
        claims = self.verified(phone.tokens["access_token"], audience=ISSUER)
        return {"sub": {"S": claims["sub"]}, "sid": {"S": claims["sid"]}}

    def session(self, phone: Phone) -> dict[str, Any]:
        found: dict[str, Any] = self.cloud.dynamodb.get_item(
            TableName=self.cloud.tables["SessionsTable"],
            Key=self.session_key(phone),
            ConsistentRead=True,
        )["Item"]
        return found

    def put_session(self, row: dict[str, Any]) -> None:
        self.cloud.dynamodb.put_item(TableName=self.cloud.tables["SessionsTable"], Item=row)


def gateway_event(method: str, resource: str, headers: Mapping[str, str], body: str = "") -> Event:
    """The proxy event of API Gateway (payload format 1.0)."""
    return {
        "httpMethod": method,
        "resource": resource,
        "path": resource,
        "pathParameters": None,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "multiValueQueryStringParameters": None,
        "requestContext": {
            "requestId": "request",
            "identity": {"apiKeyId": "ios-key", "sourceIp": "192.0.2.1"},
        },
        "body": body or None,
        "isBase64Encoded": False,
    }


def large_messages() -> JWERegistry:
    """joserfc opens up to 64 KB unless it is told otherwise; a thousand keys are more."""
    registry = JWERegistry(algorithms=["ECDH-ES", "A256GCM"])
    registry.max_ciphertext_length = 2**22
    return registry


@contextmanager
def kept_in(made: list[Connections]) -> Iterator[None]:
    """Note the connections of the functions that are loaded meanwhile."""
    original = Connections.to

    def noting(*arguments: Any, **options: Any) -> Connections:
        connections = original(*arguments, **options)
        made.append(connections)
        return connections

    Connections.to = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Connections.to = original  # type: ignore[method-assign]


@contextmanager
def variables(environment: Mapping[str, str]) -> Iterator[None]:
    """The environment of a function, and none of this process's AWS settings."""
    kept, wanted = dict(os.environ), {**clean_environment(), **environment}
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)
