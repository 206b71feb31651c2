"""`keyferry cost`, and docs/costs.md, which is its prices and figures: `KEYFERRY_WRITE_DOCS=1` writes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from keyferry.edge.telemetry import Metric
from keyferry_cli import bill
from keyferry_cli.app import app
from keyferry_cli.bill import Assumptions, Kind, Stack, Units
from keyferry_cli.prices import MILLION, PRICES
from tests.bench.report import load
from tests.unit.test_documentation import page, table, template
from tests.unit.test_events import resources

PATH = Path(__file__).resolve().parents[2] / "docs" / "costs.md"
WRITE = "KEYFERRY_WRITE_DOCS" in os.environ
BENCH = load("bench")

HASHES = ("login with a password", "login, wrong", "login, unknown", "login, a code")
ACCOUNT = ("redemption", "registration", "password change")
ASSUMED = Assumptions()
PRICE_HEAD = "| price | USD | for | page of AWS | as transcribed by, and when |"


def calls() -> dict[str, dict[str, str]]:
    rows = table(page("calls.md"), "request")
    found = {row["request"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def units(row: dict[str, str]) -> Units:
    columns = ("DynamoDB", "read units", "write units", "KMS")
    return Units(*(int(row[column]) for column in columns))


def kind(request: str, answer: str) -> Kind:
    large = request.startswith(("login", "the first one", "and the code", *ACCOUNT))
    hashes = request.startswith((*HASHES, *ACCOUNT)) and answer != "404"
    return Kind(
        memory_mb=bill.PASSWORD_MEMORY_MB if large else bill.MEMORY_MB,
        cpu_ms=bill.PASSWORD_CPU_MS if hashes else bill.CPU_MS,
        waits_ms=ASSUMED.upstream_ms if request == "proxied request" else 0.0,
    )


def price_table() -> str:
    lines = [PRICE_HEAD, "|---|--:|---|---|---|"]
    for name, each in PRICES.items():
        usd = f"{each.usd:.4f}".rstrip("0")
        whole, _, part = usd.partition(".")
        quantity = f"{each.per:,} {each.unit}" if each.per > 1 else each.unit
        link = f"[{each.service}](https://aws.amazon.com/{each.page})"
        lines.append(f"| {name} | {whole}.{part:0<2} | {quantity} | {link} | {each.source} |")
    return "\n".join([*lines, ""])


def assumed() -> str:
    rows = {
        "processor time of a request, at most, ms": f"{bill.CPU_MS:g}",
        "where a password is hashed, ms": f"{bill.PASSWORD_CPU_MS:g}",
        "memory, MB": f"{bill.MEMORY_MB:,}",
        "where passwords are hashed, MB": f"{bill.PASSWORD_MEMORY_MB:,}",
        "memory that comes with one processor, MB": f"{bill.FULL_CPU_MB:,}",
        "wait for a call of AWS, ms": f"{ASSUMED.call_ms:g}",
        "wait for the upstream of a proxied request, ms": f"{ASSUMED.upstream_ms:g}",
        "log bytes of a request": f"{ASSUMED.log_bytes:,}",
        "cold starts, of all requests": f"{100 * ASSUMED.starts:g} %",
        "processor time of a cold start, ms": f"{ASSUMED.start_cpu_ms:g}",
        "KMS calls of a cold start": f"{ASSUMED.start_decrypts}",
    }
    lines = ["| | value |", "|---|--:|", *(f"| {name} | {each} |" for name, each in rows.items())]
    return "\n".join([*lines, ""])


def per_million() -> str:
    lines = [
        "| request | answer | API | Lambda | DynamoDB | KMS | logs | together |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for request, row in calls().items():
        one = bill.request_cost(units(row), kind(request, row["answer"]), ASSUMED)
        parts = (one.api, one.compute, one.dynamodb, one.kms, one.logs, one.together)
        shown = " | ".join(f"{part * MILLION:.2f}" for part in parts)
        lines.append(f"| {request} | {row['answer']} | {shown} |")
    return "\n".join([*lines, ""])


def compared() -> str:
    lines = [
        "| users in a month | Keyferry | Cognito Lite | Cognito Essentials | Cognito Plus |",
        "|--:|--:|--:|--:|--:|",
    ]
    for users in (1_000, 10_000, 50_000, 100_000):
        told = told_by_the_command("--mau", str(users))
        figures = (told["together"], *told["cognito"].values())
        lines.append(f"| {users:,} | " + " | ".join(f"{each:,.0f}" for each in figures) + " |")
    return "\n".join([*lines, ""])


def told_by_the_command(*arguments: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["cost", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize(
    ("part", "make"),
    [
        ("prices", price_table),
        ("assumed", assumed),
        ("computed", per_million),
        ("compared", compared),
    ],
)
def test_the_figures_are_the_counts_times_the_prices(part: str, make: Callable[[], str]) -> None:
    begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"
    before, rest = page("costs.md").split(begin)
    written, after = rest.split(end)
    if WRITE:
        PATH.write_text(before + begin + make() + end + after, encoding="utf-8")
    else:
        assert written == make()


def test_every_price_has_a_page_and_a_source() -> None:
    rows = table(page("costs.md"), "price")
    assert rows
    for row in rows:
        assert re.search(r"\(https://aws\.amazon\.com/[a-z/-]+pricing/", row["page of AWS"]), row
        assert row["as transcribed by, and when"], row


def test_the_bill_counts_what_was_counted() -> None:
    rows = calls()
    assert {name: units(rows[name]) for name in bill.COUNTED} == bill.COUNTED
    unchanged = units(rows["delivery, nothing new"])
    assert unchanged == bill.COUNTED[bill.DELIVERY], "so a delivery may be either"


def test_the_bill_takes_the_time_that_was_measured() -> None:
    """Rounded up, with something left for a machine that is busier or slower."""
    measured = {name: each["median"] for name, each in BENCH["handlers"]["cpu_ms"].items()}
    for name in ("refresh", "delivery, 1 key", "delivery, 10 keys"):
        assert 0.1 * bill.CPU_MS < measured[name] <= bill.CPU_MS, name
    assert 0.3 * bill.PASSWORD_CPU_MS < measured["login"] <= bill.PASSWORD_CPU_MS
    started = max(
        BENCH["starts"]["starts"][name]["cpu_ms"]["median"]
        for name in ("login", "refresh", "deliver_key")
    )
    assert started <= ASSUMED.start_cpu_ms


def test_the_bill_is_of_this_stack() -> None:
    assert set(map(int, re.findall(r"MemorySize: (\d+)", template()))) == {
        bill.MEMORY_MB,
        bill.PASSWORD_MEMORY_MB,
    }
    stack, made = Stack(), resources()
    kinds = [each["Type"] for each in made.values()]
    assert kinds.count("AWS::KMS::Key") == stack.kms_keys
    assert kinds.count("AWS::CloudWatch::Dashboard") == stack.dashboards
    assert len(made["WebAcl"]["Properties"]["Rules"]) == stack.waf_rules
    alarms = kinds.count("AWS::CloudWatch::Alarm")
    assert alarms == stack.alarms
    assert len(Metric) <= stack.custom_metrics <= len(Metric) + 5


def test_a_bill_adds_up() -> None:
    told = told_by_the_command("--mau", "100000", "--refreshes", "8", "--deliveries", "4")
    assert told["requests"] == {
        bill.LOGIN: 100_000,
        bill.REFRESH: 24_000_000,
        bill.DELIVERY: 12_000_000,
    }
    assert abs(sum(told["usd"].values()) - told["together"]) < 0.05
    assert told["usd"]["API Gateway"] == pytest.approx(36.1 * 3.5, abs=0.01)
    assert told["usd"]["WAF"] == pytest.approx(5 + 6 + 36.1 * 0.6, abs=0.01)
    writes, reads = 24.0 + 1.1, 0.5 + 36.0
    assert told["usd"]["DynamoDB"] == pytest.approx(writes * 0.625 + reads * 0.125, abs=0.02)
    assert told["cognito"]["Cognito Essentials"] == 1350
    assert set(told["prices"]) == set(PRICES)


def test_more_costs_more() -> None:
    base = told_by_the_command("--mau", "1000")["together"]
    for more in (
        ["--refreshes", "13"],
        ["--deliveries", "3"],
        ["--logins", "2"],
        ["--traced", "1"],
    ):
        assert told_by_the_command("--mau", "1000", *more)["together"] > base
    for less in (["--no-waf"], ["--days", "20"], ["--traced", "0"]):
        assert told_by_the_command("--mau", "1000", *less)["together"] < base


def test_a_bill_for_people() -> None:
    done = CliRunner().invoke(app, ["cost", "--mau", "5000"])
    assert done.exit_code == 0
    assert re.search(r"API Gateway +[0-9.]+", done.stdout)
    assert re.search(r"Cognito Plus +100\.00", done.stdout)
    assert "An estimate" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--mau", "0"],
        ["--mau", "-3"],
        ["--mau", "many"],
        ["--mau", "1.5"],
        ["--mau", "10000000000"],
        ["--mau", "1000", "--refreshes", "-1"],
        ["--mau", "1000", "--refreshes", "nan"],
        ["--mau", "1000", "--deliveries", "inf"],
        ["--mau", "1000", "--days", "32"],
        ["--mau", "1000", "--traced", "1.1"],
        ["--mau", "1000", "extra"],
    ],
)
def test_a_usage_that_can_not_be_is_refused(arguments: list[str]) -> None:
    done = CliRunner().invoke(app, ["cost", *arguments])
    assert done.exit_code == 2
    assert "Error" in done.stderr
    assert "Traceback" not in done.output


def test_what_the_readme_says_of_a_million_refreshes() -> None:
    one = bill.request_cost(bill.COUNTED[bill.REFRESH], bill.OTHER, ASSUMED)
    words = {4: "four", 5: "five", 6: "six"}
    said = f"a million refreshes are about {words[round(one.together * MILLION)]} dollars"
    readme = re.sub(r"\s+", " ", (PATH.parents[1] / "README.md").read_text(encoding="utf-8"))
    assert said in readme
    assert one.api > one.together / 2, "most of it API Gateway's"


def test_every_path_that_hashes_is_told_from_those_that_do_not() -> None:
    for prefix in (*HASHES, *ACCOUNT):
        assert any(request.startswith(prefix) for request in calls()), prefix
