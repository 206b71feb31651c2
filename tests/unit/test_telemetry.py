"""Log lines: those of Powertools' own formatter, but for the place in the code, made in less time."""

from __future__ import annotations

import json
import logging
import uuid
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import MetricUnit, single_metric

from keyferry.edge.telemetry import NAMESPACE, LineFormatter, Metric, count

CONTEXT = SimpleNamespace(
    function_name="keyferry-refresh",
    memory_limit_in_mb=512,
    invoked_function_arn="arn:aws:lambda:eu-central-1:000000000000:function:keyferry-refresh:live",
    aws_request_id="0f8a2f6e-7c3b-4d57-9b2f-3f1f5a3a4c11",
)


def lines(
    name: str, *, formatter: LineFormatter | None, extra: dict[str, Any], times: int = 2
) -> list[dict[str, Any]]:
    """What a handler writes that logs one line with ``extra``; one line for each invocation."""
    told = StringIO()
    logger = (
        Logger(service=name, stream=told, logger_formatter=formatter)
        if formatter
        else Logger(service=name, stream=told, location=None, utc=True)
    )

    @logger.inject_lambda_context
    def handler(event: dict[str, str], _: Any) -> None:
        logger.append_keys(api_request_id=event["id"])
        logger.info("refused", extra=extra)

    for number in range(times):
        handler({"id": f"request-{number}"}, CONTEXT)
    return [json.loads(line) for line in told.getvalue().rstrip("\n").split("\n")]


@pytest.mark.parametrize(
    "extra",
    [
        {"error": "invalid_grant", "reason": "refresh token: MAC"},
        {"keys": {"maps": "1"}, "refused": {}, "attested": False, "count": 3},
        {"at": ["a.py:1 f", "b.py:2 g"], "text": "ü\n\"'\\\u2028"},
        {},
    ],
)
@pytest.mark.parametrize(
    "trace", [None, "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f;Sampled=1"]
)
def test_lines_are_those_of_powertools(
    monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], trace: str | None
) -> None:
    if trace is not None:
        monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
    name = f"lines-{uuid.uuid4().hex}"
    ours = lines(name, formatter=LineFormatter(), extra=extra)
    theirs = lines(f"{name}-powertools", formatter=None, extra=extra)
    for line in (*ours, *theirs):
        assert line.pop("service").startswith(name)
        assert line.pop("timestamp").endswith("+0000")
        line.pop("cold_start")  # of the process, so of the first line of all tests
    assert ours == theirs
    assert [line["api_request_id"] for line in ours] == ["request-0", "request-1"]


def test_time_is_utc_to_the_millisecond() -> None:
    record = logging.makeLogRecord({"created": 1_795_000_000.0425, "msecs": 42.5, "msg": "word"})
    line = json.loads(LineFormatter().format(record))
    assert line["timestamp"] == "2026-11-18 11:06:40,042+0000"
    assert (line["level"], line["message"]) == (record.levelname, "word")


def test_a_key_goes_with_none() -> None:
    formatter = LineFormatter()
    formatter.append_keys(one=1, two=None)
    record = logging.makeLogRecord({"msg": "word"})
    assert json.loads(formatter.format(record))["one"] == 1
    assert "two" not in json.loads(formatter.format(record))
    formatter.append_keys(one=None)
    assert "one" not in json.loads(formatter.format(record))
    formatter.append_keys(three=3)
    formatter.clear_state()
    assert "three" not in json.loads(formatter.format(record))


@pytest.mark.parametrize("service", ["refresh", None])
@pytest.mark.parametrize("times", [1, 3])
def test_metrics_are_those_of_powertools(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str | None,
    times: int,
) -> None:
    if service:
        monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", service)
    count(Metric.REFRESH_ROTATED, times)
    with single_metric(
        name=Metric.REFRESH_ROTATED, unit=MetricUnit.Count, value=times, namespace=NAMESPACE
    ):
        pass
    ours, theirs = map(json.loads, capsys.readouterr().out.splitlines())
    assert 0 <= theirs["_aws"].pop("Timestamp") - ours["_aws"].pop("Timestamp") < 60_000
    assert ours == theirs
