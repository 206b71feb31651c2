"""`keyferry doctor` against the local stack, run as an operator runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from keyferry_cli.doctor.look import Look
from keyferry_cli.doctor.rules_of_state import EXPIRING, SHORT_LIVED
from keyferry_cli.stack_functions import CommandFailed, StackFunctions
from tests.conftest import ROOT

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator, PutKey

UNKNOWN_TO_THE_EMULATOR = {"firewall"}
"""And in production alarms and their topic, as it has no CloudWatch alarms and no SNS."""


def doctor(
    stack: LocalStack, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keyferry_cli", "doctor", "--stack", stack.stack_name, *options],
        capture_output=True,
        text=True,
        env=os.environ | stack.environment | {"COLUMNS": "200"} | environment,
        timeout=120,
        check=False,
    )


def report(stack: LocalStack, *options: str, **environment: str) -> dict[str, Any]:
    finished = doctor(stack, "--json", *options, **environment)
    assert finished.returncode in (0, 3, 4), finished.stderr
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def subjects(found: dict[str, Any], check: str) -> set[str]:
    return {each["subject"] for each in found["findings"] if each["check"] == check}


def tables(stack: LocalStack) -> set[str]:
    return {name for name in stack.outputs if name.endswith("Table")}


def test_a_stack_for_development(stack: LocalStack, operator: Operator) -> None:
    found = report(stack)
    assert found["stage"] == "dev"
    # What the emulator leaves out of the template is not there, and so it is found.
    assert subjects(found, "pitr-off") == tables(stack) - SHORT_LIVED
    assert subjects(found, "ttl-off") == EXPIRING
    assert subjects(found, "table-uncapped") == tables(stack)
    assert subjects(found, "access-logs-off") == {"ApiStage"}
    # What dev has by default.
    assert subjects(found, "app-check-off") == {"live"}
    assert subjects(found, "authorizer-trusts-token") == {"live"}
    assert subjects(found, "alarms-off") == {stack.stack_name}
    # The keys of these tests.
    assert "no-policy" in subjects(found, "key-without-policy")
    assert "gemini" in subjects(found, "key-for-everybody")
    assert "maps" not in subjects(found, "key-for-everybody")
    assert {
        "alias-behind",
        "dpop-not-required",
        "function-public",
        "keyring-incomplete",
        "keyring-overdue",
        "keyring-schedule-off",
        "kms-key-unusable",
        "kms-rotation-off",
        "kms-without-context",
        "plan-unthrottled",
        "platform-shut-out",
        "route-open",
        "stage-unthrottled",
    } <= set(found["clean"])
    assert {each["kind"] for each in found["not_looked"]} == UNKNOWN_TO_THE_EMULATOR
    assert {check for each in found["not_looked"] for check in each["checks"]} == {
        "firewall-off",
        "firewall-without-limits",
    }


def test_what_somebody_changes_by_hand_is_found(stack: LocalStack, operator: Operator) -> None:
    table = stack.outputs["GuessesTable"]
    dynamodb = stack.boto3_client("dynamodb")
    recovery = {"PointInTimeRecoveryEnabled": True}
    dynamodb.update_continuous_backups(TableName=table, PointInTimeRecoverySpecification=recovery)
    events = stack.boto3_client("events")
    (rule,) = [each["Name"] for each in events.list_rules()["Rules"]]
    gateway = stack.boto3_client("apigateway")
    api = stack.api_url.split("/restapis/")[1].split("/")[0]

    def trace(value: str) -> None:
        patch = {"op": "replace", "path": "/*/*/logging/dataTrace", "value": value}
        gateway.update_stage(restApiId=api, stageName="dev", patchOperations=[patch])

    try:
        events.disable_rule(Name=rule)
        trace("true")
        found = report(stack)
        assert "GuessesTable" not in subjects(found, "pitr-off")
        assert subjects(found, "keyring-schedule-off") == {"RotateKeyringFunctionDaily"}
        assert subjects(found, "bodies-in-api-logs") == {"ApiStage"}
        accepting = ("--accept", "keyring-schedule-off", "--accept", "bodies-in-api-logs")
        assert doctor(stack).returncode == 3
        assert doctor(stack, *accepting).returncode == 4
        everything = (*accepting, "--accept", "firewall-off", "--accept", "firewall-without-limits")
        assert doctor(stack, *everything).returncode == 0
        assert doctor(stack, *everything, "--fail-on", "low").returncode == 3
    finally:
        events.enable_rule(Name=rule)
        trace("false")
        recovery = {"PointInTimeRecoveryEnabled": False}
        dynamodb.update_continuous_backups(
            TableName=table, PointInTimeRecoverySpecification=recovery
        )
    found = report(stack)
    assert {"keyring-schedule-off", "bodies-in-api-logs"} <= set(found["clean"])


def test_a_deployment_that_did_not_reach_the_alias_is_found(stack: LocalStack) -> None:
    functions = stack.boto3_client("lambda")
    name = stack.outputs["KeyringFunction"].removesuffix(":live").rpartition(":")[2]
    before = functions.get_function_configuration(FunctionName=name)["Timeout"]
    try:
        functions.update_function_configuration(FunctionName=name, Timeout=before + 1)
        found = report(stack)
        assert subjects(found, "alias-behind") == {"RotateKeyringFunction"}
        (one,) = [each for each in found["findings"] if each["check"] == "alias-behind"]
        assert one["found"].endswith("deployed last: timeout.")
    finally:
        functions.update_function_configuration(FunctionName=name, Timeout=before)
    assert "alias-behind" in report(stack)["clean"]


def test_a_stack_for_production_that_is_lax(bearer_stack: LocalStack) -> None:
    found = report(bearer_stack)
    assert found["stage"] == "prod"
    severities = {each["check"]: each["severity"] for each in found["findings"]}
    assert severities["dpop-not-required"] == "high"
    assert severities["self-registration-open"] == "medium"
    assert severities["rsa-oaep-allowed"] == "low"
    assert severities["app-check-off"] == "medium"
    assert "authorizer-trusts-token" in found["clean"]
    assert {"kms-for-others", "table-deletable"} <= set(found["clean"])
    assert "logs-short" in found["clean"]
    blind = {each["kind"] for each in found["not_looked"]}
    assert blind == UNKNOWN_TO_THE_EMULATOR | {"alarms", "topics"}


def test_people_read_what_it_means_and_what_to_do(stack: LocalStack, put_key: PutKey) -> None:
    name = put_key({"roles": ["*"]})
    finished = doctor(stack)
    shown = finished.stdout
    assert f"· {name}: The policy asks for no role, no attestation and no second factor." in shown
    assert "One stolen password, of any user, opens it." in shown
    assert "→ keyferry keys policy with a role" in shown
    assert "could not look, so nothing is known" in shown
    assert "takes wafv2:GetWebACLForResource; not checked: firewall-off" in shown
    assert "places could not be looked at" in shown
    assert finished.stderr == ""


def documented_policy(stack: LocalStack) -> dict[str, Any]:
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    block = text.partition("```json\n")[2].partition("```")[0]
    for name, value in {
        "REGION": stack.environment["AWS_REGION"],
        "ACCOUNT": stack.boto3_client("sts").get_caller_identity()["Account"],
        "keyferry-dev": stack.stack_name,
        "the stack's output OperatorFunction": stack.outputs["OperatorFunction"],
        "the stack's output KeyringFunction": stack.outputs["KeyringFunction"],
    }.items():
        assert name in block
        block = block.replace(name, value)
    policy: dict[str, Any] = json.loads(block)
    return policy


MISTAKEN = {
    "Effect": "Allow",
    "Action": ["lambda:ListAliases", "lambda:PutFunctionConcurrency"],
    "Resource": "*",
}
"""What the emulator asks for in the place of GetAlias and GetFunctionConcurrency."""

LEFT_OUT = {
    "lambda:InvokeFunction": {"client_keys", "keyring", "keys", "providers"},
    "lambda:GetPolicy": {"functions", "settings"},
    "dynamodb:DescribeTable": {"tables"},
    "kms:DescribeKey": {"kms_keys"},
    "apigateway:GET": {"stages", "routes", "plans", "client_keys"},
    "events:DescribeRule": {"schedules", "logs"},
}
"""A right of each statement, and what cannot be looked at without that statement. The emulator lets
everybody ask for the settings of the account."""


def test_the_documented_rights_are_enough_and_each_is_needed(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam = stack.boto3_client("iam")
    iam.create_user(UserName="doctor")
    made = iam.create_access_key(UserName="doctor")["AccessKey"]
    policy = documented_policy(stack)
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, stack.environment[name])
    session = boto3.Session(made["AccessKeyId"], made["SecretAccessKey"])

    def unseen(statements: list[dict[str, Any]]) -> dict[str, str]:
        """Kinds that cannot be looked at with these rights, and why."""
        document = json.dumps({**policy, "Statement": [*statements, MISTAKEN]})
        iam.put_user_policy(UserName="doctor", PolicyName="p", PolicyDocument=document)
        facts = Look(StackFunctions(session, stack.stack_name, anonymous=True)).facts()
        return {kind: blind.reason for kind, _, blind in facts.unseen()}

    assert unseen(policy["Statement"]).keys() == UNKNOWN_TO_THE_EMULATOR
    first, *others = policy["Statement"]
    assert "cloudformation:DescribeStacks" in first["Action"]
    with pytest.raises(CommandFailed, match="may not do DescribeStacks"):
        unseen(others)
    for right, kinds in LEFT_OUT.items():
        kept = [each for each in policy["Statement"] if right not in each["Action"]]
        assert len(kept) == len(policy["Statement"]) - 1
        found = unseen(kept)
        assert found.keys() == UNKNOWN_TO_THE_EMULATOR | kinds, right
        assert all("denied" in found[kind].lower() for kind in kinds)
    assert len(LEFT_OUT) == len(others)
