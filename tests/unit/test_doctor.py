"""`keyferry doctor`: every check on a stack that is as it should be, and on one that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import exceptions as aws
from botocore.stub import Stubber
from typer.testing import CliRunner

from keyferry.config import DAY
from keyferry.keyring.model import Purpose, Standing
from keyferry_cli.app import app
from keyferry_cli.client_keys import ClientKey
from keyferry_cli.doctor.checks import Limits, Severity, examine
from keyferry_cli.doctor.command import FOUND, NOT_LOOKED, FailOn, exit_status
from keyferry_cli.doctor.facts import (
    EVERY,
    KINDS,
    Account,
    Alarm,
    ApiKey,
    Domain,
    Facts,
    Firewall,
    Function,
    KeyringKey,
    KmsKey,
    LogGroup,
    Method,
    Plan,
    Policy,
    Provider,
    Route,
    Schedule,
    Settings,
    Stack,
    Stage,
    Table,
    Topic,
    Unseen,
)
from keyferry_cli.doctor.facts import (
    SETTINGS as VARIABLES,
)
from keyferry_cli.doctor.look import Look
from keyferry_cli.doctor.policies import (
    denies_everybody_to_decrypt,
    is_about_no_context,
    is_about_others,
    lets_anybody_in,
)
from keyferry_cli.doctor.rules import CHECKS
from keyferry_cli.doctor.rules_of_keys import OPEN
from keyferry_cli.doctor.rules_of_state import EXPIRING, SHORT_LIVED
from keyferry_cli.stack_functions import StackFunctions
from tests.architecture.template import resources
from tests.unit.test_cli_commands import FakeAws, client_error

NOW = 1_800_000_000
LIMITS = Limits()
ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {
    "KEYFERRY_REQUIRE_DPOP": "true",
    "KEYFERRY_APP_CHECK": "enforce",
    "KEYFERRY_ALLOW_RSA_OAEP": "false",
    "KEYFERRY_SELF_REGISTRATION": "false",
    "KEYFERRY_MIN_PASSWORD_LENGTH": "15",
    "KEYFERRY_AUTHORIZER_CHECKS_SESSION": "true",
    "POWERTOOLS_LOGGER_LOG_EVENT": "false",
    "POWERTOOLS_TRACER_CAPTURE_RESPONSE": "false",
    "POWERTOOLS_TRACER_CAPTURE_ERROR": "false",
}
STAGE = Stage(
    methods={"*/*": Method(rate=2_000.0, logging_level="ERROR", data_trace=False)},
    access_log_format='{"client_key_id":"$context.identity.apiKeyId"}',
    cache=False,
    own_address=False,
)
PLAN = Plan(on_stage=True, rate=500.0, quota=10_000, routes=frozenset({"/v1/login/POST"}))
CLIENT_KEY = ClientKey(
    "k1",
    "ios",
    from_template=True,
    known=True,
    in_plan=True,
    exists=True,
    enabled=True,
    created=NOW - 364 * DAY,
)
FUNCTION = Function(differs=(), changing_over=False, reserved=50, public=False, tracing="Active")
TABLE = Table(
    point_in_time_recovery=True, deletion_protection=True, time_to_live=True, max_units=True
)
KMS_KEY = KmsKey("Enabled", rotates=True, needs_context=True, ours_only=True)
API_KEY = ApiKey(
    policy=Policy(
        roles=frozenset({"analyst"}), attested=True, second_factor=False, minimum_version=True
    ),
    current_since=NOW - 179 * DAY,
    pending_since=NOW - 29 * DAY,
    cache_seconds=3_600,
    proxied=False,
)
FOR_ALL = Policy(roles=frozenset({"*"}), attested=False, second_factor=False, minimum_version=True)


def settings(**changes: str) -> dict[str, Settings]:
    return {"live": Settings({key: frozenset({v}) for key, v in (SETTINGS | changes).items()})}


GOOD = Facts(
    now=NOW,
    prod=True,
    stack={"keyferry": Stack("UPDATE_COMPLETE", termination_protection=True)},
    settings=settings(),
    stages={"ApiStage": STAGE},
    routes={
        "POST /v1/login": Route(client_key=True, iam=False),
        "GET /openapi.json": Route(client_key=False, iam=True),
        "GET /.well-known/jwks.json": Route(client_key=False, iam=False),
    },
    domains={"CustomDomain": Domain("SecurityPolicy_TLS13_1_2_2021_06")},
    firewall={"ApiStage": Firewall(attached=True, blocking_rate_rules=2)},
    plans={"ios": PLAN},
    client_keys={"k1": CLIENT_KEY},
    functions={"LoginFunction": FUNCTION, "RefreshFunction": replace(FUNCTION, reserved=None)},
    account={"concurrency": Account(concurrency=1_000, watched=1_000)},
    tables={"SessionsTable": TABLE, "VaultTable": replace(TABLE, time_to_live=False)},
    kms_keys={"VaultKey": KMS_KEY, "AlarmKey": KmsKey("Enabled", rotates=True)},
    logs={"LoginLogs": LogGroup(exists=True, retention_days=365)},
    alarms={"a": Alarm(tells=True, state="OK")},
    topics={"AlarmTopic": Topic(confirmed=1, pending=0)},
    keyring={
        f"{purpose}-{standing}": KeyringKey(purpose, standing, NOW - 62 * DAY)
        for purpose in Purpose
        for standing in Standing
    },
    schedules={"Daily": Schedule(enabled=True)},
    keys={"gemini": API_KEY},
    providers={"google": Provider("closed")},
)


def changed(**changes: Any) -> Facts:
    return replace(GOOD, **changes)


def key(**changes: Any) -> dict[str, Any]:
    return {"keys": {"gemini": replace(API_KEY, **changes)}}


def stage(**changes: Any) -> dict[str, Any]:
    return {"stages": {"ApiStage": replace(STAGE, **changes)}}


def method(**changes: Any) -> dict[str, Any]:
    return stage(methods={"*/*": replace(STAGE.methods["*/*"], **changes)})


def function(**changes: Any) -> dict[str, Any]:
    return {"functions": {"LoginFunction": replace(FUNCTION, **changes)}}


def table(name: str = "SessionsTable", **changes: Any) -> dict[str, Any]:
    return {"tables": {name: replace(TABLE, **changes)}}


def kms_key(**changes: Any) -> dict[str, Any]:
    return {"kms_keys": {"VaultKey": replace(KMS_KEY, **changes)}}


def client_key(**changes: Any) -> dict[str, Any]:
    """One that works is beside it."""
    return {"client_keys": {"k1": replace(CLIENT_KEY, **changes), "k2": CLIENT_KEY}}


def plan(**changes: Any) -> dict[str, Any]:
    return {"plans": {"ios": replace(PLAN, **changes)}}


BAD: list[tuple[str, dict[str, Any]]] = [
    ("dpop-not-required", {"settings": settings(KEYFERRY_REQUIRE_DPOP="false")}),
    ("app-check-monitor", {"settings": settings(KEYFERRY_APP_CHECK="monitor")}),
    ("app-check-off", {"settings": settings(KEYFERRY_APP_CHECK="off"), "keys": {}}),
    ("rsa-oaep-allowed", {"settings": settings(KEYFERRY_ALLOW_RSA_OAEP="true")}),
    ("self-registration-open", {"settings": settings(KEYFERRY_SELF_REGISTRATION="true")}),
    ("short-passwords", {"settings": settings(KEYFERRY_MIN_PASSWORD_LENGTH="14")}),
    ("authorizer-trusts-token", {"settings": settings(KEYFERRY_AUTHORIZER_CHECKS_SESSION="false")}),
    *(
        ("bodies-in-logs", {"settings": settings(**{variable: value})})
        for variable in SETTINGS
        if variable.startswith("POWERTOOLS")
        for value in ("true", "1", "")
    ),
    ("stage-unthrottled", method(rate=None)),
    ("stage-unthrottled", method(rate=-1.0)),
    ("stage-unthrottled", method(rate=0.0)),
    ("bodies-in-api-logs", method(data_trace=True)),
    ("access-logs-off", stage(access_log_format=None)),
    ("secrets-in-access-log", stage(access_log_format="$context.identity.apiKey $context.path")),
    ("execution-errors-unlogged", method(logging_level="OFF")),
    ("api-cache-on", stage(cache=True)),
    ("route-open", {"routes": {"POST /v1/login": Route(client_key=False, iam=False)}}),
    ("own-address-open", stage(own_address=True)),
    ("no-domain", {"domains": {}}),
    ("old-tls", {"domains": {"CustomDomain": Domain("TLS_1_0")}}),
    ("old-tls", {"domains": {"CustomDomain": Domain("")}}),
    ("firewall-off", {"firewall": {"ApiStage": Firewall(attached=False)}}),
    ("firewall-without-limits", {"firewall": {"ApiStage": Firewall(attached=True)}}),
    ("plan-unthrottled", plan(rate=None)),
    ("plan-unthrottled", plan(routes=frozenset({"/v1/token/POST"}))),
    ("plan-without-quota", plan(quota=None)),
    ("plan-elsewhere", plan(on_stage=False)),
    ("platform-shut-out", {"client_keys": {}}),
    ("platform-shut-out", {"client_keys": {"k1": replace(CLIENT_KEY, platform="android")}}),
    ("client-key-old", client_key(created=NOW - 365 * DAY)),
    ("client-key-inconsistent", client_key(known=False)),
    ("client-key-inconsistent", client_key(in_plan=False)),
    ("client-key-inconsistent", client_key(enabled=False)),
    ("client-key-inconsistent", client_key(exists=False, created=None)),
    ("alias-behind", function(differs=("code", "layers"))),
    ("changing-over", function(changing_over=True)),
    ("changing-over", function(changing_over=True, differs=("code",))),
    ("login-unreserved", function(reserved=None)),
    ("function-public", function(public=True)),
    ("tracing-off", function(tracing="PassThrough")),
    ("concurrency-unwatched", {"account": {"concurrency": Account(500, watched=1_000)}}),
    ("key-without-policy", key(policy=None)),
    ("key-without-version", key(current_since=None)),
    ("key-for-everybody", key(policy=FOR_ALL)),
    (
        "key-for-strangers",
        {**key(policy=FOR_ALL), "providers": {"google": Provider(OPEN)}},
    ),
    ("attested-in-vain", {"settings": settings(KEYFERRY_APP_CHECK="off")}),
    ("key-old", key(current_since=NOW - 180 * DAY)),
    ("pending-for-long", key(pending_since=NOW - 30 * DAY)),
    ("cached-for-long", key(cache_seconds=3_601)),
    ("no-minimum-version", key(policy=replace(API_KEY.policy, minimum_version=False))),  # type: ignore[type-var]
    ("provider-open", {"providers": {"google": Provider(OPEN)}}),
    (
        "keyring-overdue",
        {
            "keyring": {
                **GOOD.keyring,
                "late": KeyringKey(Purpose.REFRESH_MAC, Standing.CURRENT, NOW - 63 * DAY),
            }
        },
    ),
    *(
        (
            "keyring-incomplete",
            {
                "keyring": {
                    kid: each
                    for kid, each in GOOD.keyring.items()
                    if kid != f"{purpose}-{standing}"
                }
            },
        )
        for purpose in Purpose
        for standing in (Standing.CURRENT, Standing.NEXT)
    ),
    ("keyring-schedule-off", {"schedules": {"Daily": Schedule(enabled=False)}}),
    ("stack-unsettled", {"stack": {"keyferry": Stack("UPDATE_ROLLBACK_COMPLETE", True)}}),
    ("stack-deletable", {"stack": {"keyferry": Stack("UPDATE_COMPLETE", False)}}),
    ("pitr-off", table(point_in_time_recovery=False)),
    ("table-deletable", table(deletion_protection=False)),
    *(("ttl-off", table(name, time_to_live=False)) for name in sorted(EXPIRING)),
    ("table-uncapped", table(max_units=False)),
    ("kms-key-unusable", kms_key(state="Disabled", rotates=False)),
    (
        "kms-key-unusable",
        kms_key(state="PendingDeletion", rotates=False, deleted_at="2027-01-31"),
    ),
    ("kms-rotation-off", kms_key(rotates=False)),
    ("kms-without-context", kms_key(needs_context=False)),
    ("kms-for-others", kms_key(ours_only=False)),
    ("log-group-missing", {"logs": {"LoginLogs": LogGroup(exists=False, retention_days=None)}}),
    ("logs-forever", {"logs": {"LoginLogs": LogGroup(exists=True, retention_days=None)}}),
    ("logs-short", {"logs": {"LoginLogs": LogGroup(exists=True, retention_days=89)}}),
    ("alarms-off", {"alarms": {}}),
    ("alarm-mute", {"alarms": {"a": Alarm(tells=False, state="OK")}}),
    ("alarm-ringing", {"alarms": {"a": Alarm(tells=True, state="ALARM")}}),
    ("alarm-unheard", {"topics": {"AlarmTopic": Topic(confirmed=0, pending=0)}}),
    ("alarm-unheard", {"topics": {"AlarmTopic": Topic(confirmed=0, pending=1)}}),
    ("alarm-unconfirmed", {"topics": {"AlarmTopic": Topic(confirmed=1, pending=1)}}),
]

# What comes with it, since the one is not without the other.
WITH = {
    "key-for-strangers": {"provider-open"},
    "attested-in-vain": {"app-check-off"},
}


def found(facts: Facts, **options: Any) -> set[str]:
    return {each.check.id for each in examine(facts, CHECKS, LIMITS, **options).findings}


def test_a_stack_that_is_as_it_should_be() -> None:
    report = examine(GOOD, CHECKS, LIMITS)
    assert (report.findings, report.accepted, report.not_looked) == ((), (), ())
    assert sorted(report.clean) == sorted(check.id for check in CHECKS)
    assert exit_status(report, FailOn.LOW) == 0


def test_every_check_has_a_stack_that_it_finds_wanting() -> None:
    assert {name for name, _ in BAD} == {check.id for check in CHECKS}
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    ("name", "changes"), BAD, ids=lambda each: each if isinstance(each, str) else ""
)
def test_what_is_off_is_found_and_nothing_else(name: str, changes: dict[str, Any]) -> None:
    facts = replace(GOOD, **changes)
    assert found(facts) == {name} | WITH.get(name, set())
    (check,) = [each for each in CHECKS if each.id == name]
    report = examine(facts, CHECKS, LIMITS)
    first = next(each for each in report.findings if each.check.id == name)
    assert first.severity is check.prod
    assert first.seen.endswith(".")
    assert first.subject in getattr(facts, check.of)
    assert name not in report.clean
    # In development it is what the check says of that, or nothing at all.
    development = examine(replace(facts, prod=False), CHECKS, LIMITS).findings
    assert {e.severity for e in development if e.check.id == name} == {check.dev} - {None}


@pytest.mark.parametrize("name", sorted(SHORT_LIVED))
def test_tables_of_passing_rows_may_be_lost(name: str) -> None:
    facts = changed(**table(name, point_in_time_recovery=False, deletion_protection=False))
    assert found(facts) == set()


def test_what_is_looked_at_in_the_tables_is_the_templates() -> None:
    tables = {
        name: each["Properties"]
        for name, each in resources().items()
        if each["Type"] == "AWS::DynamoDB::Table"
    }
    assert {n for n, each in tables.items() if "TimeToLiveSpecification" in each} == EXPIRING
    deleted = {n for n, e in resources().items() if n in tables and e["DeletionPolicy"] == "Delete"}
    assert deleted == SHORT_LIVED
    for each in tables.values():
        assert each["OnDemandThroughput"].keys() == {"MaxReadRequestUnits", "MaxWriteRequestUnits"}


def test_functions_that_disagree_are_judged_by_the_worst() -> None:
    values = {each: frozenset({value}) for each, value in SETTINGS.items()}
    values["KEYFERRY_REQUIRE_DPOP"] = frozenset({"true", "false"})
    assert found(replace(GOOD, settings={"live": Settings(values)})) == {"dpop-not-required"}
    values["KEYFERRY_REQUIRE_DPOP"] = frozenset({"true"})
    # Attested apps are not told from others by every function, but by one: not in vain.
    values["KEYFERRY_APP_CHECK"] = frozenset({"off", "enforce"})
    assert found(replace(GOOD, settings={"live": Settings(values)})) == {"app-check-off"}


def test_the_settings_that_are_looked_at_are_those_of_the_template() -> None:
    assert set(VARIABLES) == set(SETTINGS)
    template = (ROOT / "template.yaml").read_text(encoding="utf-8")
    assert all(f" {variable}: " in template for variable in VARIABLES)


def test_a_second_factor_or_an_attestation_is_enough_for_every_role() -> None:
    for enough in ({"second_factor": True}, {"attested": True}, {"roles": frozenset({"admin"})}):
        facts = changed(**key(policy=replace(FOR_ALL, **enough)))
        assert found(facts) == set(), enough
    opened = settings(KEYFERRY_SELF_REGISTRATION="true")
    facts = changed(settings=opened, **key(policy=FOR_ALL))
    assert found(facts) == {"self-registration-open", "key-for-strangers"}


def test_a_retired_client_key_is_as_it_should_be() -> None:
    retired = replace(CLIENT_KEY, known=False, enabled=False, created=NOW - 900 * DAY)
    assert found(replace(GOOD, client_keys={"old": retired, "k1": CLIENT_KEY})) == set()


def test_ages_are_what_the_caller_says() -> None:
    limits = Limits(client_key_days=30, key_days=7)
    report = examine(GOOD, CHECKS, limits)
    assert {each.check.id for each in report.findings} == {"client-key-old", "key-old"}
    assert "364 days old, and has never been rotated" in report.findings[0].seen
    added = replace(CLIENT_KEY, from_template=False)
    (other, _) = examine(replace(GOOD, client_keys={"k1": added}), CHECKS, limits).findings
    assert other.seen == "The client key of ios is 364 days old."


# ── what could not be looked at ──────────────────────────────────────────


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("whole", [True, False])
def test_what_is_not_seen_is_never_fine(kind: str, whole: bool) -> None:
    unseen = Unseen("service:Right", "AccessDenied")
    parts: dict[str, Any] = {EVERY: unseen} if whole else {**getattr(GOOD, kind), "x": unseen}
    report = examine(changed(**{kind: parts}), CHECKS, LIMITS)
    concerned = {check.id for check in CHECKS if kind == check.of or kind in check.also}
    assert concerned
    assert concerned.isdisjoint(report.clean)
    assert {check for blind in report.not_looked for check in blind.checks} == concerned
    assert {(blind.kind, blind.unseen) for blind in report.not_looked} == {(kind, unseen)}
    assert report.findings == ()
    assert exit_status(report, FailOn.HIGH) == NOT_LOOKED
    assert exit_status(report, FailOn.NEVER) == 0
    quiet = examine(changed(**{kind: parts}), CHECKS, LIMITS, accept=concerned)
    assert quiet.not_looked == ()


def test_what_is_seen_beside_it_is_still_found() -> None:
    facts = replace(
        GOOD,
        tables={
            "UsersTable": Unseen("dynamodb:DescribeTable", "AccessDenied"),
            "VaultTable": replace(TABLE, point_in_time_recovery=False),
        },
    )
    report = examine(facts, CHECKS, LIMITS)
    assert [(each.check.id, each.subject) for each in report.findings] == [
        ("pitr-off", "VaultTable")
    ]
    assert "pitr-off" in report.not_looked[0].checks
    assert exit_status(report, FailOn.HIGH) == FOUND


# ── severity, order, acceptance ──────────────────────────────────────────


def test_the_worst_comes_first_and_decides() -> None:
    facts = replace(
        GOOD,
        stack={"keyferry": Stack("UPDATE_COMPLETE", termination_protection=False)},
        firewall={"ApiStage": Firewall(attached=False)},
        plans={"ios": replace(PLAN, quota=None)},
    )
    report = examine(facts, CHECKS, LIMITS)
    assert [each.severity for each in report.findings] == [
        Severity.HIGH,
        Severity.MEDIUM,
        Severity.LOW,
    ]
    assert exit_status(report, FailOn.HIGH) == FOUND
    without = examine(facts, CHECKS, LIMITS, accept=["firewall-off"])
    assert [each.check.id for each in without.accepted] == ["firewall-off"]
    assert exit_status(without, FailOn.HIGH) == 0
    assert exit_status(without, FailOn.MEDIUM) == FOUND
    other = examine(facts, CHECKS, LIMITS, accept=["firewall-off=Elsewhere"])
    assert other.accepted == ()
    same = examine(facts, CHECKS, LIMITS, accept=["firewall-off=ApiStage"])
    assert same == without


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        ({"Effect": "Allow", "Principal": "*"}, True),
        ({"Effect": "Allow", "Principal": {"AWS": "*"}}, True),
        ({"Effect": "Allow", "Principal": {"AWS": ["arn:aws:iam::1:root", "*"]}}, True),
        (
            {
                "Effect": "Allow",
                "Principal": "*",
                "Condition": {"StringEquals": {"lambda:FunctionUrlAuthType": "NONE"}},
            },
            True,
        ),
        ({"Effect": "Deny", "Principal": "*"}, False),
        ({"Effect": "Allow", "Principal": {"Service": "apigateway.amazonaws.com"}}, False),
        ({"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::1:root"}}, False),
        (
            {
                "Effect": "Allow",
                "Principal": "*",
                "Condition": {"StringEquals": {"AWS:SourceAccount": "1"}},
            },
            False,
        ),
    ],
)
def test_who_may_invoke_a_function(statement: dict[str, Any], public: bool) -> None:
    assert lets_anybody_in(statement) is public


DENIAL: dict[str, Any] = {
    "Effect": "Deny",
    "Principal": {"AWS": "*"},
    "Action": ["kms:Encrypt", "kms:Decrypt"],
    "Resource": "*",
    "Condition": {"Null": {"kms:EncryptionContextKeys": "true"}},
}


@pytest.mark.parametrize(
    ("changes", "denies"),
    [
        ({}, True),
        ({"Principal": "*"}, True),
        ({"Action": "kms:Decrypt"}, True),
        ({"Effect": "Allow"}, False),
        ({"Principal": {"AWS": "arn:aws:iam::1:root"}}, False),
        ({"Action": ["kms:Encrypt"]}, False),
        ({"Condition": {}}, False),
    ],
)
def test_whom_the_policy_of_a_kms_key_keeps_off(changes: dict[str, Any], denies: bool) -> None:
    assert denies_everybody_to_decrypt(DENIAL | changes) is denies


OURS = "arn:aws:iam::1:role/keyferry-prod/*"


@pytest.mark.parametrize(
    ("condition", "ours_only"),
    [
        ({"ArnNotLike": {"aws:PrincipalArn": OURS}}, True),
        ({"ArnNotLike": {"aws:PrincipalArn": [OURS]}}, True),
        ({"ArnNotLike": {"aws:PrincipalArn": [OURS.replace("*", "proxy/*")]}}, True),
        ({"ArnNotLike": {"aws:PrincipalArn": OURS.replace("keyferry-prod", "other")}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": OURS.replace("keyferry-prod/", "")}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::1:role/*"}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": [OURS, "arn:aws:iam::1:user/eve"]}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": []}}, False),
        ({"ArnLike": {"aws:PrincipalArn": OURS}}, False),
        ({"ArnNotLike": {"aws:PrincipalArn": OURS}, "Bool": {"aws:x": "true"}}, False),
        (DENIAL["Condition"], False),
    ],
)
def test_whether_a_denial_spares_this_stack_alone(
    condition: dict[str, Any], ours_only: bool
) -> None:
    assert is_about_others(DENIAL | {"Condition": condition}, "keyferry-prod") is ours_only
    assert is_about_no_context(DENIAL | {"Condition": condition}) is (
        condition == DENIAL["Condition"]
    )


# ── looking, where the emulator has nothing to look at ───────────────────

SESSION = boto3.Session("test", "test", region_name="eu-central-1")
STACK_ID = "arn:aws:cloudformation:eu-central-1:123456789012:stack/keyferry-prod/1"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:alarms"
RESOURCES = {
    ("AWS::ApiGateway::RestApi", "Api"): "abc",
    ("AWS::ApiGateway::Stage", "ApiStage"): "prod",
    ("AWS::ApiGateway::DomainName", "CustomDomain"): "auth.example.com",
    ("AWS::SNS::Topic", "AlarmTopic"): TOPIC,
    ("AWS::CloudWatch::Alarm", "KmsUnavailableAlarm"): "one",
    ("AWS::CloudWatch::Alarm", "ApiFailingAlarm"): "two",
    ("AWS::CloudWatch::Alarm", "RefreshSlowAlarm"): "three",
    ("AWS::Lambda::Function", "LoginFunction"): "login",
    ("AWS::DynamoDB::Table", "UsersTable"): "users",
    ("AWS::KMS::Key", "VaultKey"): "1234",
    ("AWS::Logs::LogGroup", "LoginLogs"): "/aws/lambda/login",
    ("AWS::Events::Rule", "RotateKeyringFunctionDaily"): "daily",
}


@dataclass
class Account123(FakeAws):
    """An account whose answers botocore's Stubber holds against the models of the services."""

    clients: dict[str, Any] = field(default_factory=dict)
    stubs: dict[str, Stubber] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for service in ("cloudformation", "apigateway", "wafv2", "sns", "cloudwatch"):
            self.clients[service] = SESSION.client(service)
            self.stubs[service] = Stubber(self.clients[service])
            self.stubs[service].activate()
        stack = {
            "StackId": STACK_ID,
            "StackName": "keyferry-prod",
            "CreationTime": datetime(2026, 11, 1, tzinfo=UTC),
            "StackStatus": "UPDATE_COMPLETE",
            "Parameters": [{"ParameterKey": "Stage", "ParameterValue": "prod"}],
            "Outputs": [
                {"OutputKey": each, "OutputValue": each}
                for each in ("OperatorFunction", "KeyringFunction", "IosUsagePlanId")
            ],
        }
        # Once for itself, and once more for the outputs.
        self.say("cloudformation", "describe_stacks", {"Stacks": [stack]})
        summaries = [
            {
                "ResourceType": kind,
                "LogicalResourceId": name,
                "PhysicalResourceId": physical,
                "ResourceStatus": "CREATE_COMPLETE",
                "LastUpdatedTimestamp": datetime(2026, 11, 1, tzinfo=UTC),
            }
            for (kind, name), physical in RESOURCES.items()
        ]
        self.say("cloudformation", "list_stack_resources", {"StackResourceSummaries": summaries})
        self.say("cloudformation", "describe_stacks", {"Stacks": [stack]})

    def say(self, service: str, operation: str, reply: Mapping[str, Any]) -> None:
        self.stubs[service].add_response(operation, dict(reply))

    def client(self, service_name: str, **_: Any) -> Any:
        return self.clients.get(service_name, Refusing())


class Refusing:
    """A service of which the caller may do nothing."""

    exceptions = Exception

    def __getattr__(self, operation: str) -> Any:
        def refused(*_: Any, **__: Any) -> None:
            raise client_error(operation, "AccessDeniedException")

        return refused


@pytest.fixture
def account() -> Iterator[Account123]:
    made = Account123()
    gateway: tuple[tuple[str, dict[str, Any]], ...] = (
        ("get_domain_name", {"domainName": "auth.example.com", "securityPolicy": "TLS_1_2"}),
        (
            "get_stage",
            {
                "methodSettings": {"*/*": {"throttlingRateLimit": 5.0, "loggingLevel": "ERROR"}},
                "accessLogSettings": {"format": "$context.requestId"},
            },
        ),
        ("get_rest_api", {"disableExecuteApiEndpoint": True}),
    )
    for operation, reply in gateway:
        made.say("apigateway", operation, reply)
    yield made
    for stub in made.stubs.values():
        stub.deactivate()


def facts_of(account: Account123) -> Facts:
    functions = StackFunctions(account, "keyferry-prod", anonymous=True)  # type: ignore[arg-type]
    return Look(functions, now=lambda: NOW).facts()


RATE = {
    "Name": "r",
    "Priority": 1,
    "Statement": {"RateBasedStatement": {"Limit": 500, "AggregateKeyType": "IP"}},
    "VisibilityConfig": {
        "SampledRequestsEnabled": False,
        "CloudWatchMetricsEnabled": True,
        "MetricName": "r",
    },
}


def acl(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "WebACL": {
            "Name": "w",
            "Id": "1",
            "ARN": "arn:aws:wafv2:eu-central-1:123456789012:regional/webacl/w/1",
            "DefaultAction": {"Allow": {}},
            "VisibilityConfig": RATE["VisibilityConfig"],
            "Rules": list(rules),
        }
    }


@pytest.mark.parametrize(
    ("reply", "seen"),
    [
        ({}, Firewall(attached=False)),
        (acl(), Firewall(attached=True)),
        (acl({**RATE, "Action": {"Count": {}}}), Firewall(attached=True)),
        (acl({**RATE, "Action": {"Block": {}}}), Firewall(attached=True, blocking_rate_rules=1)),
    ],
)
def test_the_firewall_of_the_stage(
    account: Account123, reply: dict[str, Any], seen: Firewall
) -> None:
    arn = "arn:aws:apigateway:eu-central-1::/restapis/abc/stages/prod"
    account.stubs["wafv2"].add_response("get_web_acl_for_resource", reply, {"ResourceArn": arn})
    facts = facts_of(account)
    assert facts.firewall == {"ApiStage": seen}
    assert facts.domains == {"CustomDomain": Domain("TLS_1_2")}
    assert facts.stages["ApiStage"] == Stage(
        {"*/*": Method(5.0, "ERROR", data_trace=False)}, "$context.requestId", False, False
    )
    assert facts.prod


def test_alarms_and_who_hears_them(account: Account123) -> None:
    account.stubs["cloudwatch"].add_response(
        "describe_alarms",
        {
            "MetricAlarms": [
                {
                    "AlarmName": "one",
                    "ActionsEnabled": True,
                    "AlarmActions": [TOPIC],
                    "StateValue": "OK",
                },
                {
                    "AlarmName": "two",
                    "ActionsEnabled": False,
                    "AlarmActions": [TOPIC],
                    "StateValue": "ALARM",
                },
            ]
        },
        {"AlarmNames": ["one", "two", "three"]},
    )
    subscriptions = [
        {"SubscriptionArn": each, "Owner": "1", "Protocol": "email", "Endpoint": "a@b.example"}
        for each in (f"{TOPIC}:1", "PendingConfirmation", "Deleted")
    ]
    account.stubs["sns"].add_response(
        "list_subscriptions_by_topic", {"Subscriptions": subscriptions}, {"TopicArn": TOPIC}
    )
    facts = facts_of(account)
    assert facts.alarms == {
        "one": Alarm(tells=True, state="OK"),
        "two": Alarm(tells=False, state="ALARM"),
        "three": Alarm(tells=False, state="gone"),
    }
    assert facts.topics == {"AlarmTopic": Topic(confirmed=1, pending=1)}


def test_whoever_may_only_see_the_stack_is_told_so_of_everything_else(
    account: Account123,
) -> None:
    account.clients = {"cloudformation": account.clients["cloudformation"]}
    result = CliRunner().invoke(app, ["doctor", "--stack", "keyferry-prod", "--json"], obj=account)
    assert result.exit_code == NOT_LOOKED, result.output
    report = json.loads(result.stdout)
    assert {each["check"] for each in report["findings"]} == {"stack-deletable"}
    blind = {each["kind"] for each in report["not_looked"]}
    assert blind == set(KINDS) - {"stack"}
    assert all("denied" in each["reason"].lower() for each in report["not_looked"])
    # That is all that a description of the stack tells.
    assert set(report["clean"]) == {"stack-unsettled"}


# ── the command ──────────────────────────────────────────────────────────


def test_a_misspelt_acceptance_is_refused() -> None:
    result = CliRunner().invoke(app, ["doctor", "--accept", "firewal-off"], obj=FakeAws())
    assert result.exit_code == 2
    assert "names no check" in result.output


def test_a_stack_that_there_is_not() -> None:
    missing = client_error("DescribeStacks", "ValidationError", "Stack with id x does not exist")
    result = CliRunner().invoke(app, ["doctor"], obj=FakeAws(describe_error=missing))
    assert result.exit_code == 1
    assert "there is no stack keyferry-dev" in result.output
    nobody = FakeAws(describe_error=aws.NoCredentialsError())
    result = CliRunner().invoke(app, ["doctor"], obj=nobody)
    assert (result.exit_code, "no AWS credentials" in result.output) == (1, True)


# ── docs/doctor.md ───────────────────────────────────────────────────────


def test_every_check_is_described_with_its_severities() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    described = {row[0].strip("`"): (row[1], row[2]) for row in rows}
    assert list(described) == sorted(described)
    assert described == {
        check.id: (check.prod.name.lower(), check.dev.name.lower() if check.dev else "–")
        for check in CHECKS
    }
    assert f"from {LIMITS.client_key_days} days" in page
    assert f"from {LIMITS.key_days} days" in page
    for status in (FOUND, NOT_LOOKED):
        assert f"| {status} |" in page
