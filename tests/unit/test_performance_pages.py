"""What the documentation says of performance is what the benchmarks have found."""

from __future__ import annotations

import re

import pytest

from keyferry_cli import bill
from tests.bench import __main__ as bench
from tests.bench import argon2, report
from tests.bench.peers import __main__ as peers

BENCH = report.load("bench")
PEERS = report.load("peers")

TABLES = {
    **bench.pages(BENCH),
    (report.PERFORMANCE, "peers"): peers.page(PEERS),
}


@pytest.mark.parametrize(("page", "marker"), TABLES, ids=str)
def test_a_table_is_that_of_the_results(page: object, marker: str) -> None:
    for (path, name), text in TABLES.items():
        if (path, name) == (page, marker):
            assert report.between(path.read_text(encoding="utf-8"), marker) == text


def test_the_plot_is_that_of_the_results() -> None:
    assert report.PLOT.read_text(encoding="utf-8") == report.plot(report.bars(BENCH))


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_machine_and_no_place(path: object) -> None:
    text = str(report.load(getattr(path, "stem", "")))
    assert not re.search(r"(?<![\w<])/(home|root|tmp|work|Users|usr|var)\b", text)


def test_the_memory_of_login_is_where_the_hash_is_fastest_for_its_price() -> None:
    cpu = BENCH["argon2"]["cpu_ms"][str(bench.CHOSEN)]["median"]
    prices = {memory: argon2.usd_a_million(cpu, memory) for memory in argon2.MEMORIES_MB}
    cheapest = [each for each in prices if prices[each] <= min(prices.values()) * 1.001]
    fastest = min(cheapest, key=lambda memory: argon2.time_ms(cpu, memory))
    assert fastest == bill.PASSWORD_MEMORY_MB


def test_the_parameters_ask_most_memory_of_a_guesser_for_their_price() -> None:
    """Of what OWASP holds for equally strong, among those that cost hardly more than the cheapest."""
    cpu = {each: BENCH["argon2"]["cpu_ms"][str(each)]["median"] for each in argon2.OWASP}
    cheap = [each for each in cpu if cpu[each] <= 1.35 * min(cpu.values())]
    assert max(cheap) == bench.CHOSEN
