"""Every function under its role, where moto says what a role may do.

Two emulators enforce roles here, and neither does all of it. The local stack (test_roles.py of the
end-to-end tests) reads actions, resources and conditions, for the shipped functions as they are
deployed; the rules of that reading are partly this project's own (ministack_amended.py). moto's are
nobody's here, and it refuses whatever it is not told to allow. But it is **actions only** that it
can be asked about for DynamoDB and KMS: it takes every resource for ``*`` and reads no condition
of these, so the roles are given to it without both. It takes a transaction for an action of its own, which
IAM has not: every role may do that one here. And it lacks GenerateDataKeyPairWithoutPlaintext, so
that call is answered by the test and allowed to whoever makes it.

Resources and conditions are what test_least_privilege.py holds against every recorded call.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from moto import mock_aws
from moto.core import disable_iam_authentication, enable_iam_authentication

from keyferry import aws, clock
from keyferry.aws_json.connections import Answer, Connections
from keyferry.config import DAY
from keyferry.users import totp
from tests.contract.conftest import Cloud, make_cloud
from tests.e2e.conftest import PASSWORD, PROXIED, RULES, SECRETS
from tests.scenarios.system import SETTINGS, THEIRS, System, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.local_upstream import LocalUpstream

Statements = Mapping[str, list[dict[str, Any]]]
"""Of each function's role, by the name of the function's folder."""

PAIR = "before-call.kms.GenerateDataKeyPairWithoutPlaintext"


@dataclass
class Enforced(System):
    """The functions, each with the credentials of its own role, as Lambda gives them."""

    credentials: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)

    def invoke(self, function: str, event: dict[str, Any]) -> Any:
        self.ran.add(function)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.credentials.get(function, {}).items():
                patch.setenv(name, value)
            patch.setattr(boto3, "DEFAULT_SESSION", None)
            return super().invoke(function, event)


@pytest.fixture(scope="session")
def statements(resources: dict[str, Any]) -> Statements:
    found = {}
    for resource in resources.values():
        if resource["Type"] == "AWS::Lambda::Function":
            properties = resource["Properties"]
            name = properties["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
            role = resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]
            found[name] = [
                statement
                for policy in role["Policies"]
                for statement in policy["PolicyDocument"]["Statement"]
            ]
    return found


def make_roles(statements: Statements) -> dict[str, dict[str, str]]:
    """The roles, and credentials of each as the variables that an SDK reads."""
    iam = boto3.client("iam", region_name="us-east-1")
    sts = boto3.client("sts", region_name="us-east-1")
    made = {}
    for function, allowed in statements.items():
        assert {statement["Effect"] for statement in allowed} == {"Allow"}
        trust = {"Version": "2012-10-17", "Statement": []}
        role = iam.create_role(RoleName=function, AssumeRolePolicyDocument=json.dumps(trust))
        actions = sorted({action for statement in allowed for action in statement["Action"]})
        actions.append("dynamodb:TransactWriteItems")
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}],
        }
        iam.put_role_policy(RoleName=function, PolicyName="x", PolicyDocument=json.dumps(policy))
        given = sts.assume_role(RoleArn=role["Role"]["Arn"], RoleSessionName=function)
        made[function] = {
            "AWS_ACCESS_KEY_ID": given["Credentials"]["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": given["Credentials"]["SecretAccessKey"],
            "AWS_SESSION_TOKEN": given["Credentials"]["SessionToken"],
        }
    return made


def answer_key_pairs(client: Any, owner: Any) -> None:
    """Have a KMS client get its key pairs from here, wrapped by a call of the account's owner."""

    def answer(params: dict[str, Any], **_: Any) -> tuple[Any, dict[str, Any]]:
        asked = json.loads(params["body"])
        pair = ec.generate_private_key(ec.SECP256R1())
        private = pair.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        with disable_iam_authentication():
            wrapped = owner.encrypt(
                KeyId=asked["KeyId"],
                Plaintext=private,
                EncryptionContext=asked["EncryptionContext"],
            )
        public = pair.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return SimpleNamespace(status_code=200), {
            "PublicKey": public,
            "PrivateKeyCiphertextBlob": wrapped["CiphertextBlob"],
        }

    client.meta.events.register(PAIR, answer)


def over_requests(self: Connections, headers: Mapping[str, str], body: bytes) -> Answer:
    """The functions' own client opens sockets, where moto sees nothing. It does see this library."""
    url = f"https://{self.endpoint.authority}/"
    answer = requests.post(url, data=body, headers=dict(headers), timeout=10)
    received = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status_code, received, answer.content)


@pytest.fixture
def enforced(
    statements: Statements,
    monkeypatch: pytest.MonkeyPatch,
    metrics: Callable[[], list[str]],
    upstream: LocalUpstream,
) -> Iterator[Enforced]:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        cloud = make_cloud(None)
        answer_key_pairs(owner := cloud.kms, owner)
        kms = aws.boto3_kms

        def with_key_pairs() -> Any:
            answer_key_pairs(client := kms(), owner)
            return client

        monkeypatch.setattr(aws, "boto3_kms", with_key_pairs)
        monkeypatch.setattr(Connections, "exchange", over_requests)
        for name, value in settings(cloud).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("KEYFERRY_PROXY_CONNECT_TO", upstream.connect_to)
        system = Enforced(cloud, metrics, credentials=make_roles(statements))
        monkeypatch.setattr(clock, "now", lambda: system.now)
        system.create()
        with enable_iam_authentication():
            yield system
        system.http.close()


def test_every_function_does_its_work(enforced: Enforced) -> None:
    """Login, refresh, delivery, proxy, sessions, second factor, accounts, operator, authorizer, rotation."""
    system = enforced
    system.start_cold()
    first = system.phone()
    phones = [first, *(system.phone(first.username) for _ in range(3))]
    phone = phones[-1]
    assert phone.login(phone.username, "wrong").status_code == 400
    old = phone.tokens["refresh_token"]
    assert phone.refresh().status_code == 200
    assert phone.refresh(old).status_code == 200
    assert phone.open(phone.keys())["keys"]["maps"]["value"] == SECRETS["maps"]
    assert replace(phone, api_url=THEIRS).resource("GET", "/x").status_code == 200
    proxied = {"name": "proxied", "value": PROXIED}
    system.operate("keys.put", policy={"roles": ["*"]}, promote=True, **proxied)
    system.operate("keys.proxy", name="proxied", upstream=RULES)
    assert phone.proxy("proxied", "GET", "/v1/x").status_code == 200
    assert len(phone.resource("GET", "/v1/sessions").json()["sessions"]) == 3
    ended = phone.resource("DELETE", "/v1/sessions", query="?except=current").json()
    assert ended == {"ended": 2}

    system.sleep(1)
    begun = phone.resource("POST", "/v1/mfa/totp").json()
    code = {"code": totp.code_at(base64.b32decode(begun["secret"]), system.now // 30)}
    assert phone.resource("POST", "/v1/mfa/totp/confirm", json=code).status_code == 200
    asked = phone.login(phone.username, PASSWORD)
    assert asked.json()["error"] == "mfa_required"
    system.operate("users.reset_second_factor", username=phone.username)

    invitation = system.operate("users.invite", username="guest")["code"]
    body = {"username": "guest", "code": invitation, "password": PASSWORD}
    redeemed = phone.call("POST", "/v1/invitations/redeem", json=body, proof=None)
    assert redeemed.status_code == 200
    guest = system.phone("guest")
    changed = {"current_password": PASSWORD, "new_password": f"{PASSWORD} indeed"}
    assert guest.resource("POST", "/v1/password", json=changed).json() == {"ended": 0}

    assert system.operate("keys.list")["keys"]
    system.operate("sessions.revoke", username="guest")
    assert guest.keys().json()["error"] == "invalid_token"

    before = guest.call("GET", "/.well-known/jwks.json", proof=None).json()["keys"]
    system.sleep(60 * DAY)
    system.invoke("rotate_keyring", {})
    system.start_cold()
    after = guest.call("GET", "/.well-known/jwks.json", proof=None).json()["keys"]
    assert {key["kid"] for key in after} - {key["kid"] for key in before}
    assert guest.call("GET", "/openapi.json", proof=None).status_code == 200
    assert system.ran == set(system.credentials)


FORBIDDEN = {
    "login": "kms:GenerateDataKey",
    "refresh": "dynamodb:PutItem",
    "deliver_key": "dynamodb:UpdateItem",
    "proxy": "kms:GenerateDataKey",
    "sessions": "dynamodb:BatchGetItem",
    "mfa": "dynamodb:Query",
    "account": "kms:Encrypt",
    "authorizer": "dynamodb:UpdateItem",
    "discovery": "kms:Decrypt",
    "open_api": "kms:Decrypt",
    "rotate_keyring": "kms:Decrypt",
    "operator": "dynamodb:BatchGetItem",
}
"""One thing for each function that a neighbour of it may do."""


def ask(cloud: Cloud, client: Any, action: str) -> None:
    key = {"id": {"S": "x"}}
    table, vault = cloud.tables["CredentialsTable"], cloud.tables["VaultTable"]
    context = {"KeyId": cloud.key_arn, "EncryptionContext": {"app": "keyferry"}}
    match action.split(":")[1]:
        case "GenerateDataKey":
            client.generate_data_key(KeySpec="AES_256", **context)
        case "Encrypt":
            client.encrypt(Plaintext=b"x", **context)
        case "Decrypt":
            client.decrypt(CiphertextBlob=b"x", **context)
        case "BatchGetItem":
            client.batch_get_item(RequestItems={vault: {"Keys": [key]}})
        case "Query":
            values = {":id": {"S": "x"}}
            client.query(
                TableName=table,
                KeyConditionExpression="id = :id",
                ExpressionAttributeValues=values,
            )
        case "Scan":
            client.scan(TableName=table)
        case "PutItem":
            client.put_item(TableName=table, Item=key)
        case "UpdateItem":
            client.update_item(TableName=table, Key=key)
        case unknown:
            raise AssertionError(unknown)


def test_every_function_is_refused_what_is_not_its_work(
    enforced: Enforced, statements: Statements
) -> None:
    assert set(FORBIDDEN) == set(statements)
    for function, forbidden in FORBIDDEN.items():
        for action in (forbidden, "dynamodb:Scan"):
            with pytest.MonkeyPatch.context() as patch:
                for name, value in enforced.credentials[function].items():
                    patch.setenv(name, value)
                client = boto3.Session(region_name=os.environ["AWS_DEFAULT_REGION"]).client(  # type: ignore[call-overload]
                    action.split(":")[0]
                )
                with pytest.raises(ClientError) as refused:
                    ask(enforced.cloud, client, action)
                assert f"/{function} is not authorized to perform: {action}<" in str(refused.value)
