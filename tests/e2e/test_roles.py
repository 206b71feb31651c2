"""The roles at work: what a function that was taken over could do, asked of the enforced policies."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack

ROLES = (
    "Login",
    "Refresh",
    "DeliverKey",
    "Proxy",
    "Sessions",
    "Mfa",
    "Account",
    "Authorizer",
    "Discovery",
    "OpenApi",
    "RotateKeyring",
    "Operator",
)
TABLES = ("Sessions", "Users", "Credentials", "Vault", "Keyring", "Proofs", "Budgets")
KEYRING = {"app": "keyferry", "stage": "dev", "purpose": "token-signing", "kid": "k"}
VAULT = {"app": "keyferry", "stage": "dev", "key": "maps", "version": "1"}

Client = Callable[[str, str], Any]


@pytest.fixture(scope="module")
def as_function(stack: LocalStack) -> Client:
    """A client of a service with the rights of a function's role."""
    formation, tokens = stack.boto3_client("cloudformation"), stack.boto3_client("sts")
    sessions: dict[str, boto3.Session] = {}

    def client(role: str, service: str) -> Any:
        if role not in sessions:
            resource = formation.describe_stack_resource(
                StackName=stack.stack_name, LogicalResourceId=f"{role}Role"
            )["StackResourceDetail"]
            named = stack.boto3_client("iam").get_role(RoleName=resource["PhysicalResourceId"])
            arn = named["Role"]["Arn"]
            given = tokens.assume_role(RoleArn=arn, RoleSessionName="test-of-roles")["Credentials"]
            sessions[role] = boto3.Session(
                given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], "us-east-1"
            )
        return sessions[role].client(service, endpoint_url=stack.endpoint_url)  # type: ignore[call-overload]

    return client


def allowed(call: Callable[..., Any], **arguments: Any) -> bool:
    try:
        call(**arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] == "AccessDeniedException":
            return False
    return True  # an answer of the service itself, even an error, means that IAM let it through


def key_of(stack: LocalStack, table: str) -> dict[str, Any]:
    described = stack.boto3_client("dynamodb").describe_table(TableName=stack.outputs[table])
    return {key["AttributeName"]: {"S": "none"} for key in described["Table"]["KeySchema"]}


def who_may(
    stack: LocalStack, as_function: Client, operation: str, table: str, **arguments: Any
) -> set[str]:
    name = stack.outputs[f"{table}Table"]
    return {
        role
        for role in ROLES
        if allowed(getattr(as_function(role, "dynamodb"), operation), TableName=name, **arguments)
    }


@pytest.mark.parametrize("table", TABLES)
def test_nobody_reads_a_whole_table(stack: LocalStack, as_function: Client, table: str) -> None:
    assert who_may(stack, as_function, "scan", table) == set()


@pytest.mark.parametrize(
    ("table", "readers"),
    [
        ("Vault", {"DeliverKey", "Proxy", "Operator"}),
        ("Credentials", {"Login", "Operator"}),
        ("Keyring", set(ROLES) - {"Operator"}),
    ],
)
def test_who_reads_secrets_at_rest(
    stack: LocalStack, as_function: Client, table: str, readers: set[str]
) -> None:
    key = key_of(stack, f"{table}Table")
    batch = {stack.outputs[f"{table}Table"]: {"Keys": [key]}}
    in_batches = {
        role
        for role in ROLES
        if allowed(as_function(role, "dynamodb").batch_get_item, RequestItems=batch)
        # Limited to their own rows by a condition that the emulator applies to single rows only.
        and (role, table) not in {("Mfa", "Credentials"), ("Account", "Credentials")}
    }
    assert who_may(stack, as_function, "get_item", table, Key=key) | in_batches == readers


@pytest.mark.parametrize(
    ("table", "writers"),
    [("Vault", {"Operator"}), ("Keyring", {"RotateKeyring"}), ("Credentials", {"Operator"})],
)
def test_who_writes_them(
    stack: LocalStack, as_function: Client, table: str, writers: set[str]
) -> None:
    item = key_of(stack, f"{table}Table")
    name = stack.outputs[f"{table}Table"]
    assert who_may(stack, as_function, "put_item", table, Item=item) == writers
    stack.boto3_client("dynamodb").delete_item(TableName=name, Key=item)


@pytest.mark.parametrize(
    ("operation", "rows"),
    [
        ("get_item", set()),
        ("delete_item", {"invitation#x"}),
        ("put_item", {"password#x"}),
        ("update_item", {"password#x"}),
    ],
)
def test_accounts_are_passwords_and_invitations(
    stack: LocalStack, as_function: Client, operation: str, rows: set[str]
) -> None:
    table = stack.outputs["CredentialsTable"]
    call = getattr(as_function("Account", "dynamodb"), operation)
    member = "Item" if operation == "put_item" else "Key"
    names = ("password#x", "invitation#x", "totp#x", "federated#x", "x")
    may = {
        name for name in names if allowed(call, TableName=table, **{member: {"id": {"S": name}}})
    }
    for name in names:
        stack.boto3_client("dynamodb").delete_item(TableName=table, Key={"id": {"S": name}})
    assert may == rows


def test_login_writes_identities_and_names_and_spends_invitations(
    stack: LocalStack, as_function: Client
) -> None:
    table = stack.outputs["CredentialsTable"]
    names = ("password#x", "invitation#x", "totp#x", "federated#x", "x")
    for operation, member, rows in (
        ("put_item", "Item", {"federated#x"}),
        ("delete_item", "Key", {"invitation#x"}),
    ):
        call = getattr(as_function("Login", "dynamodb"), operation)
        may = {
            name
            for name in names
            if allowed(call, TableName=table, **{member: {"id": {"S": name}}})
        }
        for name in names:
            stack.boto3_client("dynamodb").delete_item(TableName=table, Key={"id": {"S": name}})
        assert may == rows, operation


def test_who_charges_budgets(stack: LocalStack, as_function: Client) -> None:
    """And nobody sets one back."""
    key = key_of(stack, "BudgetsTable")
    assert who_may(stack, as_function, "update_item", "Budgets", Key=key) == {"Proxy"}
    for operation in ("get_item", "delete_item"):
        assert who_may(stack, as_function, operation, "Budgets", Key=key) == set()
    assert who_may(stack, as_function, "put_item", "Budgets", Item=key) == set()
    table = stack.outputs["BudgetsTable"]
    stack.boto3_client("dynamodb").delete_item(TableName=table, Key=key)


def test_who_says_that_something_was_used(stack: LocalStack, as_function: Client) -> None:
    item = key_of(stack, "ProofsTable")
    writers = who_may(stack, as_function, "put_item", "Proofs", Item=item)
    assert writers == {"Authorizer", "Login", "Account", "Proxy"}
    assert who_may(stack, as_function, "delete_item", "Proofs", Key=item) == set()
    assert who_may(stack, as_function, "update_item", "Proofs", Key=item) == set()
    table = stack.outputs["ProofsTable"]
    stack.boto3_client("dynamodb").delete_item(TableName=table, Key=item)


def test_what_was_refused_is_in_the_audit_log(stack: LocalStack, as_function: Client) -> None:
    """So that a refusal which a function got over is seen all the same."""
    mark = stack.audit_log.latest()
    scan = as_function("Discovery", "dynamodb").scan
    assert not allowed(scan, TableName=stack.outputs["VaultTable"])
    (call,) = (call for call in stack.audit_log.since(mark) if call.operation == "Scan")
    assert (call.service, call.table) == ("dynamodb", stack.outputs["VaultTable"])


class TestKeys:
    @pytest.fixture
    def decryptable(self, stack: LocalStack) -> Callable[[str, dict[str, str]], dict[str, Any]]:
        """The arguments of a Decrypt that KMS itself would answer."""

        def make(output: str, context: dict[str, str]) -> dict[str, Any]:
            arn = stack.outputs[output]
            sealed = stack.boto3_client("kms").generate_data_key_without_plaintext(
                KeyId=arn, KeySpec="AES_256", EncryptionContext=context
            )
            return {
                "KeyId": arn,
                "CiphertextBlob": sealed["CiphertextBlob"],
                "EncryptionContext": context,
            }

        return make

    @pytest.mark.parametrize(
        ("purpose", "unwrappers"),
        [
            ("token-signing", {"Login", "Refresh", "DeliverKey"}),
            (
                "dpop-nonce",
                set(ROLES) - {"Discovery", "OpenApi", "RotateKeyring", "Operator"},
            ),
            ("refresh-mac", {"Login", "Refresh", "Sessions"}),
            ("another", set()),
        ],
    )
    def test_who_unwraps_the_keyring(
        self,
        as_function: Client,
        decryptable: Callable[[str, dict[str, str]], dict[str, Any]],
        purpose: str,
        unwrappers: set[str],
    ) -> None:
        arguments = decryptable("KeyringKeyArn", {**KEYRING, "purpose": purpose})
        assert unwrappers == {
            role for role in ROLES if allowed(as_function(role, "kms").decrypt, **arguments)
        }

    @pytest.mark.parametrize(
        ("operation", "roles"),
        [("encrypt", {"Mfa", "Operator"}), ("decrypt", {"Login", "Mfa", "Operator"})],
    )
    def test_who_seals_and_opens_second_factors(
        self,
        stack: LocalStack,
        as_function: Client,
        decryptable: Callable[[str, dict[str, str]], dict[str, Any]],
        operation: str,
        roles: set[str],
    ) -> None:
        context = {"app": "keyferry", "stage": "dev", "purpose": "totp", "sub": "s"}

        def may(role: str, context: dict[str, str]) -> bool:
            arguments = decryptable("KeyringKeyArn", context)
            if operation == "encrypt":
                del arguments["CiphertextBlob"]
                arguments["Plaintext"] = b"x"
            return allowed(getattr(as_function(role, "kms"), operation), **arguments)

        assert {role for role in ROLES if may(role, context)} == roles
        for other in ({**context, "stage": "prod"}, {**context, "extra": "1"}):
            assert not any(may(role, other) for role in roles)

    def test_who_opens_the_vault(
        self,
        as_function: Client,
        decryptable: Callable[[str, dict[str, str]], dict[str, Any]],
    ) -> None:
        arguments = decryptable("VaultKeyArn", VAULT)
        assert {"DeliverKey", "Proxy"} == {
            role for role in ROLES if allowed(as_function(role, "kms").decrypt, **arguments)
        }

    def test_who_seals_into_the_vault(self, stack: LocalStack, as_function: Client) -> None:
        arguments = {
            "KeyId": stack.outputs["VaultKeyArn"],
            "KeySpec": "AES_256",
            "EncryptionContext": VAULT,
        }
        assert {"Operator"} == {
            role
            for role in ROLES
            if allowed(as_function(role, "kms").generate_data_key, **arguments)
        }

    @pytest.mark.parametrize(
        "context",
        [
            {**VAULT, "app": "another"},
            {**VAULT, "stage": "prod"},
            {**VAULT, "extra": "1"},
            {name: value for name, value in VAULT.items() if name != "app"},
        ],
    )
    def test_another_context_opens_nothing(
        self,
        as_function: Client,
        decryptable: Callable[[str, dict[str, str]], dict[str, Any]],
        context: dict[str, str],
    ) -> None:
        arguments = decryptable("VaultKeyArn", context)
        for role in ("DeliverKey", "Proxy"):
            assert not allowed(as_function(role, "kms").decrypt, **arguments)

    def test_no_context_opens_nothing(
        self,
        as_function: Client,
        decryptable: Callable[[str, dict[str, str]], dict[str, Any]],
    ) -> None:
        arguments = decryptable("VaultKeyArn", VAULT)
        del arguments["EncryptionContext"]
        assert not allowed(as_function("DeliverKey", "kms").decrypt, **arguments)

    @pytest.mark.parametrize("key", ["KeyringKeyArn", "VaultKeyArn"])
    def test_an_administrator_uses_the_keys_of_dev_and_none_of_production(
        self, stack: LocalStack, bearer_stack: LocalStack, key: str
    ) -> None:
        """Whom IAM allows everything the keys' own policies deny it: docs/threat-model.md."""
        may = {}
        for name, each in (("dev", stack), ("prod", bearer_stack)):
            kms = as_administrator(each, "kms")
            arn = each.outputs[key]
            used = {"KeyId": arn, "EncryptionContext": {**VAULT, "stage": name}}
            may[name] = {
                "decrypt": allowed(kms.decrypt, CiphertextBlob=b"x", **used),
                "encrypt": allowed(kms.encrypt, Plaintext=b"x", **used),
                "generate_data_key": allowed(kms.generate_data_key, KeySpec="AES_256", **used),
                "describe_key": allowed(kms.describe_key, KeyId=arn),
            }
            kms.close()
        assert set(may["dev"].values()) == {True}
        assert {name for name, so in may["prod"].items() if so} == {"describe_key"}


def as_administrator(stack: LocalStack, service: str) -> Any:
    """A client with a role of the account, and not of the stack, that may do everything."""
    iam, tokens = stack.boto3_client("iam"), stack.boto3_client("sts")
    name = f"administrator-{uuid.uuid4().hex[:8]}"
    everybody = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=policy_of(everybody))["Role"]
    iam.put_role_policy(RoleName=name, PolicyName="all", PolicyDocument=policy_of(everything))
    given = tokens.assume_role(RoleArn=role["Arn"], RoleSessionName="test-of-keys")["Credentials"]
    session = boto3.Session(
        given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], "us-east-1"
    )
    return session.client(service, endpoint_url=stack.endpoint_url)  # type: ignore[call-overload]


def policy_of(statement: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})
