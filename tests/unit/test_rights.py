"""How a recorded call is held against a role: what must be seen is tried on roles that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from keyferry_cli.local.calls import Call
from tests.e2e.rights import NotAllowedError, Right, Rights
from tests.iam_policy import UnsupportedPolicyError

ARN = {"Fn::GetAtt": ["Users", "Arn"]}
CONTEXT = {"app": "keyferry", "purpose": "mac"}
USE_KEY = {
    "Sid": "UseKey",
    "Effect": "Allow",
    "Action": ["kms:Decrypt"],
    "Resource": {"Fn::GetAtt": ["Key", "Arn"]},
    "Condition": {
        "StringEquals": {
            "kms:EncryptionContext:app": {"Ref": "AppName"},
            "kms:EncryptionContext:purpose": ["mac", "nonce"],
        }
    },
}


def allow(*actions: str, sid: str = "A", **condition: Any) -> dict[str, Any]:
    statement = {
        "Sid": sid,
        "Effect": "Allow",
        "Action": [f"dynamodb:{action}" for action in actions],
        "Resource": ARN,
    }
    return statement | ({"Condition": condition["condition"]} if condition else {})


def rows(*prefixes: str) -> dict[str, Any]:
    return {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": list(prefixes)}}


def rights(*statements: dict[str, Any], **changes: Any) -> Rights:
    root = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
    key_policy = [
        {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": ["kms:Decrypt"],
            "Resource": "*",
            "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
        },
    ]
    variables = {"AWS_SDK_UA_APP_ID": "keyferry-login"}
    resources = {
        "Function": {
            "Type": "AWS::Lambda::Function",
            "Properties": {
                "Role": {"Fn::GetAtt": ["Role", "Arn"]},
                "Environment": {"Variables": variables},
            },
        },
        "Role": {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "Path": {"Fn::Sub": "/${AWS::StackName}/login/"},
                "Policies": [{"PolicyDocument": {"Statement": list(statements)}}],
            },
        },
        "Users": {
            "Type": "AWS::DynamoDB::Table",
            "Properties": {
                "KeySchema": [
                    {"AttributeName": "id", "KeyType": "HASH"},
                    {"AttributeName": "at", "KeyType": "RANGE"},
                ]
            },
        },
        "Key": {
            "Type": "AWS::KMS::Key",
            "Properties": {"KeyPolicy": {"Statement": changes.get("key_policy", key_policy)}},
        },
    }
    physical = {name: f"stack-{name}" for name in resources}
    parameters = {"AppName": "keyferry", "Stage": "prod", "AWS::StackName": "stack"}
    return Rights(resources, physical, {**parameters, **changes.get("parameters", {})})


def dynamodb(operation: str, **request: Any) -> Call:
    return Call("dynamodb", operation, "login", request=request)


def get(key: str) -> Call:
    return dynamodb("GetItem", TableName="stack-Users", Key={"id": {"S": key}, "at": {"N": "1"}})


def decrypt(context: dict[str, str] | None, key: str = "stack-Key") -> Call:
    arn = f"arn:aws:kms:us-east-1:000000000000:key/{key}"
    request = {"KeyId": arn} | ({} if context is None else {"EncryptionContext": context})
    return Call("kms", "Decrypt", "login", request=request)


def transaction(**writes: str) -> Call:
    members = [
        {
            kind: {
                "TableName": "stack-Users",
                ("Item" if kind == "Put" else "Key"): {"id": {"S": key}},
            }
        }
        for kind, key in writes.items()
    ]
    return dynamodb("TransactWriteItems", TransactItems=members)


def batch(*keys: str) -> Call:
    wanted = {"stack-Users": {"Keys": [{"id": {"S": key}} for key in keys]}}
    return dynamodb("BatchGetItem", RequestItems=wanted)


class TestAllowed:
    def test_by_name_of_the_template(self) -> None:
        assert rights(allow("GetItem")).used(get("x")) == {
            Right("login", "A", "dynamodb:GetItem", "Users")
        }

    def test_every_item_of_a_transaction(self) -> None:
        all_four = allow("PutItem", "UpdateItem", "DeleteItem", "ConditionCheckItem")
        call = transaction(Put="a", Update="b", Delete="c", ConditionCheck="d")
        assert {right.action for right in rights(all_four).used(call)} == {
            "dynamodb:PutItem",
            "dynamodb:UpdateItem",
            "dynamodb:DeleteItem",
            "dynamodb:ConditionCheckItem",
        }

    def test_each_item_by_a_statement_of_its_own(self) -> None:
        role = rights(
            allow("PutItem", sid="Names", condition=rows("name#*")),
            allow("DeleteItem", sid="Codes", condition=rows("code#*")),
        )
        used = role.used(transaction(Put="name#x", Delete="code#x"))
        assert {right.sid for right in used} == {"Names", "Codes"}
        with pytest.raises(NotAllowedError):
            role.used(transaction(Put="name#x", Delete="name#x"))

    def test_which_of_several_values(self) -> None:
        role = rights(USE_KEY)
        assert {right.where for right in role.everything()} == {"mac", "nonce"}
        (right,) = role.used(decrypt(CONTEXT))
        assert (right.where, right.resource) == ("mac", "Key")

    def test_a_query_by_its_partition(self) -> None:
        call = dynamodb(
            "Query",
            TableName="stack-Users",
            KeyConditionExpression="#id = :id",
            ExpressionAttributeNames={"#id": "id"},
            ExpressionAttributeValues={":id": {"S": "code#x"}},
        )
        assert rights(allow("Query", condition=rows("code#*"))).used(call)
        with pytest.raises(NotAllowedError):
            rights(allow("Query", condition=rows("name#*"))).used(call)


class TestNotAllowed:
    @pytest.mark.parametrize(
        ("role", "call"),
        [
            (rights(), get("x")),
            (rights(allow("PutItem", "BatchGetItem", "Query")), get("x")),
            (rights(allow("GetItem", condition=rows("code#*"))), get("name#x")),
            (rights(allow("BatchGetItem", condition=rows("code#*"))), batch("code#x", "name#x")),
            (
                rights(
                    allow("BatchGetItem", condition=rows("code#*")),
                    allow("BatchGetItem", condition=rows("name#*")),
                ),
                batch("code#x", "name#x"),
            ),
            (rights(allow("TransactWriteItems")), transaction(Put="x")),
            (rights(allow("PutItem")), transaction(Put="x", ConditionCheck="y")),
            (rights(USE_KEY), decrypt({**CONTEXT, "purpose": "signing"})),
            (rights(USE_KEY), decrypt({**CONTEXT, "app": "other"})),
            (rights(USE_KEY), decrypt(None)),
            (rights(USE_KEY | {"Condition": {}}), decrypt(None)),
        ],
    )
    def test_one(self, role: Rights, call: Call) -> None:
        with pytest.raises(NotAllowedError) as refused:
            role.used(call)
        assert "#x" not in str(refused.value), "a row's key is not for a log"

    def test_another_table_or_key_is_none_of_the_stack(self) -> None:
        role = rights(allow("GetItem"), USE_KEY)
        other = dynamodb("GetItem", TableName="another", Key={"id": {"S": "x"}})
        for call in (other, decrypt(CONTEXT, key="another")):
            with pytest.raises(KeyError):
                role.used(call)


class TestKeyPolicy:
    """What a key's own policy denies to a role that may do it by its own."""

    @staticmethod
    def only(path: str) -> list[dict[str, Any]]:
        arn = {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:role" + path}
        root = {"AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}}
        deny = {
            "Effect": "Deny",
            "Principal": {"AWS": "*"},
            "Action": ["kms:Decrypt"],
            "Resource": "*",
            "Condition": {"ArnNotLike": {"aws:PrincipalArn": arn}},
        }
        return [
            {"Effect": "Allow", "Principal": root, "Action": "kms:*", "Resource": "*"},
            {"Fn::If": ["IsProd", deny, {"Ref": "AWS::NoValue"}]},
        ]

    def test_who_is_named_may(self) -> None:
        role = rights(USE_KEY, key_policy=self.only("/${AWS::StackName}/login/*"))
        assert role.principals == {"login": "arn:aws:iam::000000000000:role/stack/login/stack-Role"}
        assert role.used(decrypt(CONTEXT))

    @pytest.mark.parametrize("path", ["/${AWS::StackName}/proxy/*", "/another/*", "/log*"])
    def test_who_is_not_may_not(self, path: str) -> None:
        with pytest.raises(NotAllowedError):
            rights(USE_KEY, key_policy=self.only(path)).used(decrypt(CONTEXT))

    def test_in_dev_anybody_may_who_may_by_a_role(self) -> None:
        role = rights(USE_KEY, key_policy=self.only("/another/*"), parameters={"Stage": "dev"})
        assert role.used(decrypt(CONTEXT))


class TestNotKnown:
    @pytest.mark.parametrize(
        "call",
        [
            dynamodb("Scan", TableName="stack-Users"),
            dynamodb("BatchWriteItem", RequestItems={}),
            Call("s3", "GetObject", "login"),
        ],
    )
    def test_a_call_that_nobody_has_thought_of(self, call: Call) -> None:
        wide = {"Effect": "Allow", "Action": ["*"], "Resource": "*"}
        with pytest.raises(UnsupportedPolicyError):
            rights(wide).used(call)

    def test_a_key_that_is_not_left_to_the_roles(self) -> None:
        with pytest.raises(AssertionError):
            rights(USE_KEY, key_policy=[{"Effect": "Allow", "Principal": "x"}]).used(
                decrypt(CONTEXT)
            )

    def test_a_function_in_a_policy(self) -> None:
        policy = allow("GetItem") | {"Resource": {"Fn::Join": ["", ["arn:x"]]}}
        with pytest.raises(UnsupportedPolicyError):
            rights(policy).used(get("x"))
