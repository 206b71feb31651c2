"""docs/costs.md is the counts of docs/calls.md times its own prices: `KEYFERRY_WRITE_DOCS=1` writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.test_documentation import page, table, template

PATH = Path(__file__).resolve().parents[2] / "docs" / "costs.md"
WRITE = "KEYFERRY_WRITE_DOCS" in os.environ

HASHES = ("login with a password", "login, wrong", "login, unknown", "login, a code")
ACCOUNT = ("redemption", "registration", "password change")
MILLION = 1_000_000
MEGABYTES_PER_GB = 1024


def prices() -> dict[str, float]:
    return {row["price"]: float(row["USD"]) for row in table(page("costs.md"), "price")}


def assumptions() -> dict[str, float]:
    rows = table(page("costs.md"), "assumption")
    return {row["assumption"]: float(row["value"]) for row in rows}


def calls() -> dict[str, dict[str, str]]:
    rows = table(page("calls.md"), "request")
    found = {row["request"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def million(request: str, row: dict[str, str]) -> list[float]:
    """API, Lambda, DynamoDB, KMS and logs for a million of these, in USD."""
    price, assumed = prices(), assumptions()
    hashes = request.startswith((*HASHES, *ACCOUNT)) and row["answer"] != "404"
    kind = " where a password is hashed" if hashes else ""
    if request == "proxied request":
        kind = " of a proxied request"
    seconds = assumed[f"billed duration{kind}, ms"] / 1000
    large = request.startswith(("login", "the first one", "and the code", *ACCOUNT))
    gigabytes = (1769 if large else 1024) / MEGABYTES_PER_GB
    return [
        price["API Gateway, REST API"],
        price["Lambda, request"] + seconds * gigabytes * price["Lambda, arm64"],
        int(row["read units"]) * price["DynamoDB, read unit"]
        + int(row["write units"]) * price["DynamoDB, write unit"],
        int(row["KMS"]) * price["KMS, request"],
        assumed["log bytes of a request"] * MILLION / 2**30 * price["CloudWatch, logs in"],
    ]


def per_million() -> str:
    lines = [
        "| request | answer | API | Lambda | DynamoDB | KMS | logs | together |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for request, row in calls().items():
        parts = million(request, row)
        shown = " | ".join(f"{part:.2f}" for part in (*parts, sum(parts)))
        lines.append(f"| {request} | {row['answer']} | {shown} |")
    return "\n".join([*lines, ""])


MONTH = {
    "login with a password": 1,
    "refresh": 360,
    "delivery of all keys": 30,
    "delivery, nothing new": 30,
}
RULES = 8


def of_users(users: int) -> float:
    """Keyferry's month, in USD."""
    price, rows = prices(), calls()
    one = sum(
        times * (sum(million(request, rows[request])) + price["WAF, request"]) / MILLION
        for request, times in MONTH.items()
    )
    fixed = 2 * price["KMS, key"] + price["WAF, web ACL"] + RULES * price["WAF, rule"]
    return users * one + fixed


def compared() -> str:
    price = prices()
    lines = [
        "| users in a month | Keyferry | Cognito Lite | Cognito Essentials | Cognito Plus |",
        "|--:|--:|--:|--:|--:|",
    ]
    for users in (1_000, 10_000, 50_000, 100_000):
        beyond = max(users - 10_000, 0)
        month = (
            of_users(users),
            beyond * price["Cognito Lite"],
            beyond * price["Cognito Essentials"],
            users * price["Cognito Plus"],
        )
        lines.append(f"| {users:,} | " + " | ".join(f"{each:,.0f}" for each in month) + " |")
    return "\n".join([*lines, ""])


@pytest.mark.parametrize(("part", "make"), [("computed", per_million), ("compared", compared)])
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


def test_memory_and_month_are_as_the_page_says() -> None:
    assert set(re.findall(r"MemorySize: (\d+)", template())) == {"1024", "1769"}
    text = re.sub(r"\s+", " ", page("costs.md"))
    assert MONTH["delivery of all keys"] == MONTH["delivery, nothing new"]
    deliveries = 2 * MONTH["delivery of all keys"]
    assert f"{MONTH['refresh']} refreshes (twelve a day) and {deliveries} deliveries" in text
    assert RULES == 8
    assert "with eight rules" in text


def test_every_path_that_hashes_is_told_from_those_that_do_not() -> None:
    for prefix in (*HASHES, *ACCOUNT):
        assert any(request.startswith(prefix) for request in calls()), prefix
