"""`keyferry keys audit` against CloudWatch Logs that stand in for AWS's."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from keyferry_cli import stack_functions
from tests.unit.test_cli_commands import FakeAws, client_error, run

GROUPS = "/aws/lambda/kf-deliver_key,/aws/lambda/kf-operator"

OF_DEVICE = {
    "level": "INFO",
    "message": "key audit",
    "timestamp": "2026-11-22 09:00:01,123+0100",
    "service": "deliver_key",
    "function_request_id": "r-2",
    "action": "delivered",
    "keys": {"gemini": "2", "maps": "1"},
    "refused": {"admin": "mfa_required"},
    "sub": "s-1",
    "sid": "sid-1",
    "client_id": "ios-app",
    "jkt": "thumbprint",
    "platform": "ios",
    "app_version": "2.0.1",
    "attested": True,
}
OF_OPERATOR = {
    "message": "key audit",
    "timestamp": "2026-11-22 08:00:00,000+0000",
    "function_request_id": "r-1",
    "action": "promoted",
    "keys": {"gemini": "current=2 previous=1"},
    "operator": "arn:aws:iam::123456789012:user/ben",
}


@dataclass
class Logs(FakeAws):
    """A stack with logs, whose lines a query finds all."""

    outputs: list[dict[str, str]] = field(
        default_factory=lambda: [{"OutputKey": "AuditLogGroups", "OutputValue": GROUPS}]
    )
    lines: list[str] = field(default_factory=list)
    statuses: list[str] = field(default_factory=lambda: ["Complete"])
    query_error: Exception | None = None
    queries: list[dict[str, Any]] = field(default_factory=list)
    stopped: int = 0

    def client(self, service_name: str, **_: Any) -> Any:
        assert service_name in ("cloudformation", "logs")
        return self

    def start_query(self, **query: Any) -> dict[str, Any]:
        if self.query_error is not None:
            raise self.query_error
        self.queries.append(query)
        return {"queryId": "q"}

    def get_query_results(self, *, queryId: str) -> dict[str, Any]:  # noqa: N803
        assert queryId == "q"
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        rows = [
            [{"field": "@ptr", "value": "p"}, {"field": "@message", "value": line}]
            for line in self.lines
        ]
        return {"status": status, "results": rows if status == "Complete" else []}

    def stop_query(self, *, queryId: str) -> None:  # noqa: N803
        assert queryId == "q"
        self.stopped += 1


def lines(*said: dict[str, Any]) -> list[str]:
    return [json.dumps(each, separators=(",", ":")) for each in said]


def test_the_newest_first_with_who_it_was() -> None:
    fake = Logs(lines=lines(OF_OPERATOR, OF_DEVICE))
    result = run(fake, "keys", "audit", "gemini", COLUMNS="120")
    assert result.exit_code == 0
    header, _, *shown = [re.split(r"  +", line.strip()) for line in result.stdout.splitlines()[1:]]
    assert header == ["time, UTC", "action", "version", "who", "reason"]
    assert shown[:4] == [
        ["2026-11-22 08:00:01", "delivered", "2", "s-1", "-"],
        ["sid-1"],
        ["ios-app ios 2.0.1"],
        [
            "2026-11-22 08:00:00",
            "promoted",
            "current=2 previous=1",
            "arn:aws:iam::123456789012:user/ben",
            "-",
        ],
    ]
    assert result.stderr == ""


def test_json_has_everything_and_nothing_about_other_keys() -> None:
    fake = Logs(lines=lines(OF_DEVICE, OF_OPERATOR))
    shown = json.loads(run(fake, "keys", "audit", "admin", "--json").stdout)
    assert shown == {
        "name": "admin",
        "events": [
            {
                "time": OF_DEVICE["timestamp"],
                "action": "delivered",
                "version": None,
                "reason": "mfa_required",
                "request_id": "r-2",
                **{
                    part: OF_DEVICE[part]
                    for part in ("sub", "sid", "client_id", "jkt", "platform", "app_version")
                },
                "attested": True,
            }
        ],
    }
    refused = run(Logs(lines=lines(OF_DEVICE)), "keys", "audit", "admin", COLUMNS="140").stdout
    assert re.search(r"refused +- .*mfa_required", refused)


def test_only_the_very_name() -> None:
    other = OF_OPERATOR | {"keys": {"gemini.2": "current=1"}}
    elsewhere = OF_OPERATOR | {"message": "operator", "keys": {"gemini": "current=9"}}
    in_a_value = OF_DEVICE | {"keys": {}, "refused": {}, "app_version": '"gemini":'}
    fake = Logs(lines=[*lines(other, elsewhere, in_a_value), "no JSON", "[]", "null"])
    result = run(fake, "keys", "audit", "gemini", "--since", "30m")
    assert result.stdout == "Nothing about gemini in the last 30m.\n"


def test_what_is_asked_of_the_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_000_000.5)
    fake = Logs(lines=lines(OF_OPERATOR))
    result = run(fake, "keys", "audit", "a.b-c_d", "--since", "2h", "--limit", "1")
    (query,) = fake.queries
    assert query["logGroupNames"] == GROUPS.split(",")
    assert query["startTime"] == 1_000_000 - 7200
    assert query["endTime"] >= 1_000_000
    assert query["limit"] == 1
    (pattern,) = re.findall(r"like /(:.*?)/ ", query["queryString"])
    assert not {"/", "|"} & {*pattern}, "it would end there"
    assert re.search(pattern, '{"keys":{"a.b-c_d":"1"}}')
    assert not re.search(pattern, '{"keys":{"aXb-c_d":"1"}}')
    for line in (
        OF_DEVICE | {"keys": {"x": "1", "a.b-c_d": "2"}},
        OF_OPERATOR | {"refused": {"a.b-c_d": "no"}},
    ):
        assert all(re.search(pattern, each) for each in (*lines(line), json.dumps(line)))
    escaped = json.dumps({"app_version": '"keys":{"a.b-c_d":'}, separators=(",", ":"))
    assert not re.search(pattern, escaped), "an app cannot write itself into the query's answer"
    assert "the newest 1" in result.stderr


@pytest.mark.parametrize("name", sorted({*OF_DEVICE, *OF_OPERATOR}))
def test_a_key_that_is_called_like_a_member_of_every_line(name: str) -> None:
    """Lines about others would else fill the answer, up to its limit."""
    fake = Logs(lines=[])
    run(fake, "keys", "audit", name)
    (pattern,) = re.findall(r"like /(:.*?)/ ", fake.queries[0]["queryString"])
    assert not any(re.search(pattern, line) for line in lines(OF_DEVICE, OF_OPERATOR))
    (about,) = lines(OF_OPERATOR | {"keys": {"gemini": "current=1", name: "current=2"}})
    assert re.search(pattern, about)


@pytest.mark.parametrize(
    "arguments",
    [
        ("gemini/ or true",),
        ("",),
        ("gemini", "--since", "yesterday"),
        ("gemini", "--limit", "0"),
        ("gemini", "--limit", "10001"),
    ],
)
def test_what_means_nothing_is_asked_of_nobody(arguments: tuple[str, ...]) -> None:
    fake = Logs()
    assert run(fake, "keys", "audit", *arguments).exit_code == 2
    assert fake.queries == []


def test_what_an_app_says_of_itself_does_not_reach_the_terminal() -> None:
    said = OF_DEVICE | {"app_version": "1.0\x1b]0;owned\x07\u202e\nx"}
    shown = run(Logs(lines=lines(said)), "keys", "audit", "gemini", COLUMNS="200").stdout
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "1.0\ufffd]0;owned\ufffd\ufffd x" in shown


def test_a_query_that_takes_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    fake = Logs(lines=lines(OF_OPERATOR), statuses=["Scheduled", "Running", "Complete"])
    assert "promoted" in run(fake, "keys", "audit", "gemini").stdout
    assert len(slept) == 2


def test_a_query_that_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr(stack_functions, "_QUERY_SECONDS", 0)
    fake = Logs(statuses=["Running"])
    result = run(fake, "keys", "audit", "gemini")
    assert result.exit_code == 1
    assert "ask for less time" in result.stderr
    assert fake.stopped == 1


@pytest.mark.parametrize(
    ("fake", "says"),
    [
        (Logs(statuses=["Failed"]), "the query is Failed"),
        (Logs(outputs=[]), "no output AuditLogGroups"),
        (
            Logs(query_error=client_error("StartQuery", "AccessDeniedException")),
            "may not do StartQuery",
        ),
        (
            Logs(query_error=client_error("StartQuery", "ResourceNotFoundException")),
            "a log group of stack keyferry-dev is gone",
        ),
    ],
)
def test_logs_that_cannot_be_read(fake: Logs, says: str) -> None:
    result = run(fake, "keys", "audit", "gemini")
    assert result.exit_code == 1
    assert says in result.stderr
