"""`keyferry keys proxy` against a session that stands in for AWS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyferry.operator.key_commands import SetUpstream
from tests.unit.test_cli_commands import FakeAws, run

RULES = ("--host", "api.example.com", "--path-prefix", "/v1/", "--method", "POST")
STORED: dict[str, Any] = {
    "name": "gemini",
    "policy": {"roles": ["*"]},
    "upstream": {
        "host": "api.example.com",
        "port": 443,
        "path_prefix": "/v1/",
        "methods": ["POST"],
        "budget": 60,
        "budget_seconds": 60,
    },
}


def sent(fake: FakeAws) -> SetUpstream:
    """The one command, as the operator function reads it."""
    ((command, arguments),) = [(each["command"], each["arguments"]) for each in fake.events]
    assert command == "keys.proxy"
    return SetUpstream.model_validate(arguments)


def test_the_defaults_are_those_of_the_help() -> None:
    fake = FakeAws(STORED)
    result = run(fake, "keys", "proxy", "gemini", *RULES, "--header", "X-Goog-Api-Key")
    assert result.exit_code == 0
    assert result.stdout == (
        "gemini is used at https://api.example.com/v1/ (POST) and never delivered;"
        " 60 requests of each user every 60 s.\n"
    )
    assert "still has it" in result.stderr
    assert "no policy" not in result.stderr
    rules = sent(fake).upstream
    assert rules is not None
    upstream = rules.upstream()
    assert (upstream.inject, upstream.parameter) == ("header", "X-Goog-Api-Key")
    assert (upstream.port, upstream.template, upstream.headers) == (443, "{key}", ())
    help_text = run(FakeAws(), "keys", "proxy", "--help", COLUMNS="300").stdout
    for default in (
        *(upstream.budget, upstream.budget_seconds, upstream.timeout_seconds, upstream.port),
        *(upstream.max_request_bytes, upstream.max_response_bytes),
    ):
        assert f"lse {default}." in help_text


def test_every_option() -> None:
    fake = FakeAws(STORED)
    options = (
        *("--query", "key", "--template", "k:{key}", "--port", "8443", "--method", "GET"),
        *("--pass-header", "X-A", "--pass-header", "x-b", "--budget", "5", "--window", "3600"),
        *("--timeout", "9", "--max-request-bytes", "10", "--max-response-bytes", "20"),
    )
    assert run(fake, "keys", "proxy", "gemini", *RULES, *options).exit_code == 0
    rules = sent(fake).upstream
    assert rules is not None
    upstream = rules.upstream()
    assert (upstream.inject, upstream.parameter, upstream.template) == ("query", "key", "k:{key}")
    assert (upstream.port, upstream.methods, upstream.headers) == (
        8443,
        ("POST", "GET"),
        ("x-a", "x-b"),
    )
    assert (upstream.budget, upstream.budget_seconds, upstream.timeout_seconds) == (5, 3600, 9)
    assert (upstream.max_request_bytes, upstream.max_response_bytes) == (10, 20)


@pytest.mark.parametrize(
    "options",
    [
        (),
        RULES,
        (*RULES[2:], "--header", "x"),
        (*RULES[:4], "--header", "x"),
        (*RULES, "--header", "x", "--query", "y"),
        ("--off", "--yes", *RULES, "--header", "x"),
        ("--off", "--yes", "--budget", "0"),
        ("--off", "--yes", "--pass-header", "x-a"),
    ],
)
def test_wrong_usage(options: tuple[str, ...]) -> None:
    fake = FakeAws()
    assert run(fake, "keys", "proxy", "gemini", *options).exit_code == 2
    assert fake.events == []


def test_off_is_asked_about() -> None:
    fake = FakeAws({**STORED, "upstream": None})
    assert run(fake, "keys", "proxy", "gemini", "--off", stdin="n\n").exit_code == 1
    assert fake.events == []
    result = run(fake, "keys", "proxy", "gemini", "--off", stdin="y\n")
    assert result.stdout.endswith("gemini is delivered to devices again.\n")
    assert sent(fake).upstream is None


def test_json_and_a_key_that_nobody_may_use() -> None:
    fake = FakeAws({**STORED, "policy": None})
    result = run(fake, "keys", "proxy", "gemini", *RULES, "--query", "key", "--json")
    assert json.loads(result.stdout) == fake.result
    assert "nobody may use it" in result.stderr
