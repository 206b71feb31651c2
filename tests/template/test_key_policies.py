"""Who may use the KMS keys in production, whatever IAM allows them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.rights import ACCOUNT, Rights
from tests.iam_policy import Request, Statement, allowing

Resources = dict[str, dict[str, Any]]

STACK = "keyferry-prod"
ADMINISTRATOR = Statement.parse({"Effect": "Allow", "Action": "kms:*", "Resource": "*"})
KEYRING = {"app": "keyferry", "stage": "prod", "purpose": "refresh-mac", "kid": "k"}
VAULT = {"app": "keyferry", "stage": "prod", "key": "maps", "version": "1"}
OPENS = ("kms:Decrypt", "kms:ReEncryptFrom")
SEALS = ("kms:Encrypt", "kms:GenerateDataKey", "kms:GenerateDataKeyWithoutPlaintext")

OTHERS = [
    f"arn:aws:iam::{ACCOUNT}:root",
    f"arn:aws:iam::{ACCOUNT}:user/administrator",
    f"arn:aws:iam::{ACCOUNT}:role/Administrator",
    f"arn:aws:iam::{ACCOUNT}:role/{STACK}-DeliverKeyRole-1A2B3C",
    f"arn:aws:iam::{ACCOUNT}:role/{STACK}-2/deliver_key/x",
    f"arn:aws:iam::{ACCOUNT}:role/x/{STACK}/deliver_key/x",
    f"arn:aws:iam::{ACCOUNT}:user/{STACK}/deliver_key/x",
    f"arn:aws:iam::111111111111:role/{STACK}/deliver_key/x",
    f"arn:aws:sts::{ACCOUNT}:assumed-role/deliver_key/x",
]


def rights(resources: Resources, stage: str) -> Rights:
    physical = {name: f"{STACK}-{name}-1A2B3C" for name in resources}
    return Rights(resources, physical, {"Stage": stage, "AWS::StackName": STACK})


def may(rights: Rights, key: str, action: str, principal: str, context: dict[str, str]) -> bool:
    """Of somebody to whom IAM allows everything."""
    asked: dict[str, Any] = {f"kms:EncryptionContext:{name}": v for name, v in context.items()}
    if context:
        asked["kms:EncryptionContextKeys"] = tuple(context)
    asked["aws:PrincipalArn"] = principal
    arn = f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{key}"
    return bool(allowing((ADMINISTRATOR, *rights.guard(key)), Request(action, arn, asked)))


def functions_that_may(resources: Resources, key: str, action: str) -> set[str]:
    prod = rights(resources, "prod")
    context = VAULT if key == "VaultKey" else KEYRING
    return {
        function
        for function, principal in prod.principals.items()
        if may(prod, key, action, principal, context)
    }


@pytest.mark.parametrize("action", OPENS)
def test_the_vault_is_opened_by_two_functions(resources: Resources, action: str) -> None:
    assert functions_that_may(resources, "VaultKey", action) == {"deliver_key", "proxy"}


@pytest.mark.parametrize("action", SEALS)
def test_the_vault_is_sealed_by_one(resources: Resources, action: str) -> None:
    assert functions_that_may(resources, "VaultKey", action) == {"operator"}


@pytest.mark.parametrize("action", [*OPENS, *SEALS, "kms:GenerateDataKeyPairWithoutPlaintext"])
def test_the_keyring_is_for_the_functions_of_the_stack(resources: Resources, action: str) -> None:
    """Which of them and for what is in their roles."""
    everyone = set(rights(resources, "prod").principals)
    assert functions_that_may(resources, "KeyringKey", action) == everyone


@pytest.mark.parametrize("principal", OTHERS)
@pytest.mark.parametrize(("key", "context"), [("KeyringKey", KEYRING), ("VaultKey", VAULT)])
@pytest.mark.parametrize("action", [*OPENS, *SEALS])
def test_nobody_else_uses_them(
    resources: Resources, principal: str, key: str, context: dict[str, str], action: str
) -> None:
    assert not may(rights(resources, "prod"), key, action, principal, context)


@pytest.mark.parametrize("key", ["KeyringKey", "VaultKey"])
@pytest.mark.parametrize(
    "action", ["kms:PutKeyPolicy", "kms:DescribeKey", "kms:ScheduleKeyDeletion", "kms:EnableKey"]
)
def test_administrators_administer_them(resources: Resources, key: str, action: str) -> None:
    """Or nobody could ever change the policy, and the deployment least of all."""
    prod = rights(resources, "prod")
    assert may(prod, key, action, f"arn:aws:iam::{ACCOUNT}:role/Administrator", {})


@pytest.mark.parametrize(("key", "context"), [("KeyringKey", KEYRING), ("VaultKey", VAULT)])
def test_in_dev_a_developer_may_run_a_function_with_their_own_credentials(
    resources: Resources, key: str, context: dict[str, str]
) -> None:
    dev, developer = rights(resources, "dev"), f"arn:aws:iam::{ACCOUNT}:user/developer"
    assert may(dev, key, "kms:Decrypt", developer, context)
    assert not may(dev, key, "kms:Decrypt", developer, {}), "but not bare"
