"""The evaluator that the roles are judged with: what it must see is tested on policies that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from tests.iam_policy import Request, Statement, UnsupportedPolicyError, Values, allowing, like

TABLE = "arn:aws:dynamodb:us-east-1:000000000000:table/sessions"
KEY = "arn:aws:kms:us-east-1:000000000000:key/1234"
CONTEXT = {"app": "keyferry", "stage": "dev", "purpose": "totp", "sub": "s"}

GET = {"Effect": "Allow", "Action": ["dynamodb:GetItem"], "Resource": TABLE}
DECRYPT: dict[str, Any] = {
    "Sid": "Unseal",
    "Effect": "Allow",
    "Action": ["kms:Decrypt"],
    "Resource": KEY,
    "Condition": {
        "StringEquals": {
            "kms:EncryptionContext:app": "keyferry",
            "kms:EncryptionContext:purpose": ["totp", "other"],
        },
        "ForAllValues:StringEquals": {
            "kms:EncryptionContextKeys": ["app", "stage", "purpose", "sub"]
        },
    },
}
BARE: dict[str, Any] = {
    "Sid": "NoUseWithoutEncryptionContext",
    "Effect": "Deny",
    "Principal": {"AWS": "*"},
    "Action": ["kms:Decrypt", "kms:GenerateDataKey*"],
    "Resource": "*",
    "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
}


def allowed(
    request: Request, *statements: dict[str, Any], conditions: dict[str, Any] | None = None
) -> bool:
    changed = [
        each if conditions is None else each | {"Condition": conditions} for each in statements
    ]
    return bool(allowing([Statement.parse(each) for each in changed], request))


def decrypt(context: dict[str, str], resource: str = KEY) -> Request:
    keys: dict[str, Values] = {f"kms:EncryptionContext:{name}": v for name, v in context.items()}
    if context:
        keys["kms:EncryptionContextKeys"] = tuple(context)
    return Request("kms:Decrypt", resource, keys)


class TestActionsAndResources:
    @pytest.mark.parametrize(
        ("action", "resource", "expected"),
        [
            ("dynamodb:GetItem", TABLE, True),
            ("dynamodb:getitem", TABLE, True),  # names of actions have no case
            ("dynamodb:GetItems", TABLE, False),
            ("dynamodb:BatchGetItem", TABLE, False),
            ("dynamodb:PutItem", TABLE, False),
            ("dynamodb:GetItem", TABLE + "2", False),
            ("dynamodb:GetItem", TABLE + "/index/by-user", False),
            ("dynamodb:GetItem", TABLE.upper(), False),
            ("dynamodb:GetItem", TABLE.replace("dynamodb", "dynamodbX"), False),
        ],
    )
    def test_one(self, action: str, resource: str, expected: bool) -> None:
        assert allowed(Request(action, resource), GET) is expected

    def test_nothing_is_allowed_by_nothing(self) -> None:
        assert not allowed(Request("dynamodb:GetItem", TABLE))

    def test_too_wide_a_policy_allows_what_it_says(self) -> None:
        wide = {"Effect": "Allow", "Action": "dynamodb:*Item", "Resource": "*"}
        assert allowed(Request("dynamodb:DeleteItem", TABLE), wide)
        assert not allowed(Request("dynamodb:Query", TABLE), wide)

    @pytest.mark.parametrize(
        ("pattern", "text", "expected"),
        [
            ("federated#*", "federated#", True),
            ("federated#*", "password#federated#", False),
            ("a?c", "abc", True),
            ("a?c", "ac", False),
            ("a.c", "abc", False),
            ("[ab]", "a", False),
            ("*", "two\nlines", True),
        ],
    )
    def test_wildcards(self, pattern: str, text: str, expected: bool) -> None:
        assert like(pattern, text) is expected


class TestConditions:
    def test_the_right_context(self) -> None:
        (statement,) = allowing([Statement.parse(DECRYPT)], decrypt(CONTEXT))
        assert statement.sid == "Unseal"

    @pytest.mark.parametrize(
        "context",
        [
            CONTEXT | {"app": "another"},
            CONTEXT | {"app": "Keyferry"},
            CONTEXT | {"purpose": "token-signing"},
            CONTEXT | {"extra": "1"},
            {"stage": "dev", "purpose": "totp", "sub": "s"},
            {"app": "keyferry", "stage": "dev", "sub": "s"},
            {},
        ],
    )
    def test_another_context(self, context: dict[str, str]) -> None:
        assert not allowed(decrypt(context), DECRYPT)

    def test_the_right_context_on_another_key(self) -> None:
        assert not allowed(decrypt(CONTEXT, KEY + "5"), DECRYPT)

    def test_a_missing_condition_allows_everything(self) -> None:
        without = {name: value for name, value in DECRYPT.items() if name != "Condition"}
        assert allowed(decrypt({}), without)

    def test_for_all_values_alone_is_true_of_no_context(self) -> None:
        alone = {"ForAllValues:StringEquals": {"kms:EncryptionContextKeys": ["app"]}}
        assert allowed(decrypt({}), DECRYPT, conditions=alone)
        assert not allowed(decrypt(CONTEXT), DECRYPT, conditions=alone)

    def test_all_rows_of_a_request_have_to_match(self) -> None:
        rows = {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": ["totp#*", "recovery#*"]}}
        for keys, expected in (
            (("totp#ana",), True),
            (("totp#ana", "recovery#ana"), True),
            (("totp#ana", "password#ana"), False),
            (("Totp#ana",), False),
        ):
            request = Request("dynamodb:GetItem", TABLE, {"dynamodb:LeadingKeys": keys})
            assert allowed(request, GET, conditions=rows) is expected

    def test_two_statements_do_not_add_up_for_one_request(self) -> None:
        statements = [
            GET | {"Condition": {"ForAllValues:StringLike": {"dynamodb:LeadingKeys": [prefix]}}}
            for prefix in ("password#*", "invitation#*")
        ]
        both = {"dynamodb:LeadingKeys": ("password#ana", "invitation#ana")}
        assert not allowed(Request("dynamodb:GetItem", TABLE, both), *statements)

    def test_names_of_context_keys_have_no_case(self) -> None:
        request = Request("kms:Decrypt", KEY, {"kms:encryptioncontext:APP": "keyferry"})
        wanted = {"StringEquals": {"kms:EncryptionContext:app": "keyferry"}}
        assert allowed(request, DECRYPT, conditions=wanted)

    @pytest.mark.parametrize(("value", "expected"), [("true", False), ("false", True)])
    def test_null(self, value: str, expected: bool) -> None:
        conditions = {"Null": {"kms:EncryptionContextKeys": value}}
        assert allowed(decrypt(CONTEXT), DECRYPT, conditions=conditions) is expected
        assert allowed(decrypt({}), DECRYPT, conditions=conditions) is not expected


ROLE = "arn:aws:iam::000000000000:role/stack/login/stack-LoginRole-1A2B3C"


class TestArnNotLike:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            (ROLE, False),
            ("arn:aws:iam::000000000000:role/stack/login/*", False),
            ("arn:aws:iam::000000000000:role/stack/*", False),
            (["arn:aws:iam::000000000000:role/x", "arn:aws:iam::*:role/stack/*"], False),
            ("arn:aws:iam::000000000000:role/stac/*", True),
            ("arn:aws:iam::111111111111:role/stack/*", True),
            ("arn:aws:*", True),  # a wildcard ends where its part of the ARN does
        ],
    )
    def test_one(self, wanted: str | list[str], expected: bool) -> None:
        request = Request("dynamodb:GetItem", TABLE, {"aws:PrincipalArn": ROLE})
        conditions = {"ArnNotLike": {"aws:PrincipalArn": wanted}}
        assert allowed(request, GET, conditions=conditions) is expected

    def test_it_is_true_of_nobody(self) -> None:
        conditions = {"ArnNotLike": {"aws:PrincipalArn": ROLE}}
        assert allowed(Request("dynamodb:GetItem", TABLE), GET, conditions=conditions)


class TestDeny:
    def test_deny_has_the_last_word(self) -> None:
        without = {name: value for name, value in DECRYPT.items() if name != "Condition"}
        for order in ([without, BARE], [BARE, without]):
            assert not allowed(decrypt({}), *order)
            assert allowed(decrypt(CONTEXT), *order)

    def test_deny_alone_allows_nothing(self) -> None:
        assert not allowed(decrypt(CONTEXT), BARE)


class TestWhatIsNotKnownIsNoPass:
    @pytest.mark.parametrize(
        "change",
        [
            {"NotAction": ["dynamodb:Scan"]},
            {"NotResource": TABLE},
            {"NotPrincipal": "*"},
            {"Effect": "Maybe"},
            {"Condition": {"StringNotEquals": {"aws:SourceVpce": "x"}}},
            {"Condition": {"StringEqualsIfExists": {"aws:SourceVpce": "x"}}},
            {"Condition": {"ForAnyValue:StringEquals": {"dynamodb:Attributes": "x"}}},
            {"Condition": {"ForAllValues:ArnNotLike": {"aws:PrincipalArn": ROLE}}},
            {"Condition": {"StringEquals": {"dynamodb:LeadingKeys": "${aws:userid}"}}},
            {"Resource": {"Fn::GetAtt": ["SessionsTable", "Arn"]}},
        ],
    )
    def test_one(self, change: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedPolicyError):
            Statement.parse(GET | change)

    def test_several_values_without_a_quantifier(self) -> None:
        request = Request("kms:Decrypt", KEY, {"kms:EncryptionContextKeys": ("app", "stage")})
        wanted = {"StringEquals": {"kms:EncryptionContextKeys": "app"}}
        with pytest.raises(UnsupportedPolicyError):
            allowed(request, DECRYPT, conditions=wanted)
