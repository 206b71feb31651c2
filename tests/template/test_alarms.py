"""Alarms: on metrics that are really emitted, by the dimensions they are emitted with, and each
with a paragraph for whoever it wakes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from keyferry.edge import telemetry
from keyferry.edge.telemetry import Metric, count
from tests.template.test_template import FUNCTIONS, TABLES, of_type

ROOT = Path(__file__).resolve().parents[2]

Resources = dict[str, dict[str, Any]]

OURS = {"Fn::Sub": "Keyferry/${AWS::StackName}"}
LOGGED_ONLY = {"RotateKeyring"}
"""Functions of which no request fails in the sense of `Metric.REQUEST_FAILED`."""
MOST_METRICS = 10
"""That CloudWatch takes in the expression of one alarm."""


class Watched(NamedTuple):
    namespace: Any
    name: str
    dimensions: dict[str, Any]


def alarms(resources: Resources) -> dict[str, dict[str, Any]]:
    return {
        name.removesuffix("Alarm"): each["Properties"]
        for name, each in of_type(resources, "AWS::CloudWatch::Alarm").items()
    }


def watched(alarm: dict[str, Any]) -> Iterator[Watched]:
    metrics = [
        each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each
    ]
    for metric in metrics or [alarm]:
        dimensions = {each["Name"]: each["Value"] for each in metric.get("Dimensions", [])}
        yield Watched(metric["Namespace"], metric["MetricName"], dimensions)


def emitters() -> dict[str, set[str]]:
    """Metric → functions, by the table of docs/events.md, which a test holds against the code."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "docs" / "events.md").read_text(encoding="utf-8").splitlines():
        row = re.match(r"\| `([A-Z][A-Za-z]+)` \| ([^|]*) \|", line)
        if row:
            found[row[1]] = set(re.findall(r"`(\w+)`", row[2]))
    return found


def test_a_metric_has_the_one_dimension_that_alarms_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "refresh")
    monkeypatch.setattr(telemetry, "NAMESPACE", "Keyferry/stack")
    count(Metric.REFRESH_FORGED)
    line = json.loads(capsys.readouterr().out)
    (emitted,) = line["_aws"]["CloudWatchMetrics"]
    assert emitted["Namespace"] == "Keyferry/stack"
    assert emitted["Dimensions"] == [["service"]]
    assert [each["Name"] for each in emitted["Metrics"]] == ["RefreshForged"]
    assert line["service"] == "refresh"


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_each_stack_counts_in_a_namespace_of_its_own(resources: Resources, name: str) -> None:
    variables = resources[f"{name}Function"]["Properties"]["Environment"]["Variables"]
    assert variables["POWERTOOLS_METRICS_NAMESPACE"] == OURS


def test_what_is_watched_is_emitted(resources: Resources) -> None:
    services = {
        resources[f"{name}Function"]["Properties"]["Environment"]["Variables"][
            "POWERTOOLS_SERVICE_NAME"
        ]
        for name in FUNCTIONS
    }
    described = emitters()
    for name, alarm in alarms(resources).items():
        for metric in watched(alarm):
            if metric.namespace != OURS:
                continue
            assert set(metric.dimensions) == {"service"}, name
            service = metric.dimensions["service"]
            assert service in services, name
            assert metric.name in set(Metric), name
            if metric.name not in {"RequestFailed", "KmsUnavailable"}:  # "those of the API"
                assert service in described[metric.name] or not described[metric.name], name


def test_what_is_watched_of_aws(resources: Resources) -> None:
    for name, alarm in alarms(resources).items():
        for metric in watched(alarm):
            match metric.namespace:
                case "AWS/Lambda" if metric.name == "ClaimedAccountConcurrency":
                    assert metric.dimensions == {}
                case "AWS/Lambda" if metric.name == "Throttles":
                    assert set(metric.dimensions) == {"FunctionName"}, name
                case "AWS/Lambda":
                    function = metric.dimensions["FunctionName"]["Ref"]
                    live = {"Fn::Sub": f"${{{function}}}:live"}
                    assert metric.dimensions == {
                        "FunctionName": {"Ref": function},
                        "Resource": live,
                    }
                case "AWS/DynamoDB":
                    assert metric.dimensions["TableName"]["Ref"] in TABLES
                case "AWS/ApiGateway":  # by the API's name, not by its id
                    assert metric.dimensions["ApiName"] == {"Ref": "AWS::StackName"}
                    assert metric.dimensions["Stage"] == {"Ref": "Stage"}
                case _:
                    assert metric.namespace == OURS


def test_every_function_and_table_is_watched(resources: Resources) -> None:
    found = alarms(resources)
    for name in FUNCTIONS:
        metrics = {each.name for each in watched(found[f"{name}Failing"])}
        assert metrics == ({"Errors"} if name in LOGGED_ONLY else {"Errors", "RequestFailed"})
    throttled = {
        each.dimensions["FunctionName"]["Ref"] for each in watched(found["FunctionsThrottled"])
    }
    seldom = {"RotateKeyring", "Operator", "OpenApi"}
    assert throttled == {f"{name}Function" for name in FUNCTIONS - seldom}
    for alarm in ("TableReadsThrottled", "TableWritesThrottled"):
        assert {each.dimensions["TableName"]["Ref"] for each in watched(found[alarm])} == TABLES


def test_what_says_look_has_an_alarm(resources: Resources) -> None:
    page = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    marked = {
        metric
        for line in page.splitlines()
        if "**Look**" in line or "**the MAC key**" in line
        for metric in re.findall(r"`([A-Z][A-Za-z]+)`", line)
        if metric in set(Metric)
    }
    assert {"RefreshReuseDetected", "RefreshForged", "VaultUndecipherable"} <= marked
    seen = {metric.name for alarm in alarms(resources).values() for metric in watched(alarm)}
    assert marked | {"SessionFollowed"} <= seen


def test_alarms_tell_somebody(resources: Resources) -> None:
    for name, alarm in alarms(resources).items():
        condition = "WatchesOpenApi" if name == "OpenApiFailing" else "HasAlarms"
        assert resources[f"{name}Alarm"]["Condition"] == condition
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}], name
        assert alarm["AlarmDescription"], name
        assert sum(1 for _ in watched(alarm)) <= MOST_METRICS, name


def test_only_the_heartbeat_is_missed_when_it_is_missing(resources: Resources) -> None:
    found = alarms(resources)
    breaching = {name for name, each in found.items() if each["TreatMissingData"] == "breaching"}
    assert breaching == {"KeyringNotRotated"}
    heartbeat = found["KeyringNotRotated"]
    assert (heartbeat["ComparisonOperator"], heartbeat["Threshold"]) == ("LessThanThreshold", 1)
    (event,) = of_type(resources, "AWS::Events::Rule").values()
    assert event["Properties"]["ScheduleExpression"] == "rate(1 day)"
    assert heartbeat["Period"] == 24 * 60 * 60
    for name, alarm in found.items():
        if name != "KeyringNotRotated":
            assert alarm["TreatMissingData"] == "notBreaching", name


def test_every_alarm_has_a_paragraph_and_every_paragraph_an_alarm(resources: Resources) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("\n## Alarms\n")[1].split("\n## ")[0]
    entries = re.split(r"\n### ", section)[1:]
    described: list[str] = []
    for entry in entries:
        heading, _, text = entry.partition("\n")
        described += heading.split(", ")
        assert "**Means**" in text, heading
        assert "**Do**" in text, heading
    assert sorted(described) == sorted(alarms(resources))


class TestTopic:
    def test_it_is_encrypted_with_a_key_that_cloudwatch_may_use(self, resources: Resources) -> None:
        assert resources["AlarmTopic"]["Properties"]["KmsMasterKeyId"] == {"Ref": "AlarmKey"}
        _, cloudwatch = resources["AlarmKey"]["Properties"]["KeyPolicy"]["Statement"]
        assert cloudwatch["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
        assert set(cloudwatch["Action"]) == {"kms:Decrypt", "kms:GenerateDataKey"}
        account = {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        assert cloudwatch["Condition"] == account

    def test_nothing_is_published_without_tls(self, resources: Resources) -> None:
        statements = resources["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
        (deny,) = [each for each in statements if each["Effect"] == "Deny"]
        assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        (allow,) = [each for each in statements if each["Effect"] == "Allow"]
        assert allow["Principal"] == {"Service": "cloudwatch.amazonaws.com"}


def test_the_dashboard_shows_what_is_emitted(resources: Resources) -> None:
    (dashboard,) = of_type(resources, "AWS::CloudWatch::Dashboard").values()
    body = json.loads(dashboard["Properties"]["DashboardBody"]["Fn::Sub"])
    described = emitters()
    shown = [metric for widget in body["widgets"] for metric in widget["properties"]["metrics"]]
    ours = [metric for metric in shown if metric[0] == OURS["Fn::Sub"]]
    assert len(ours) > 20
    for _, name, _, service in ours:
        assert name in set(Metric)
        assert service in described[name] or name in {
            "RequestFailed",
            "Unavailable",
            "KmsUnavailable",
        }
    for metric in shown:
        for logical in re.findall(r"\$\{(\w+)\}", json.dumps(metric)):
            assert logical in resources or logical == "Stage"
