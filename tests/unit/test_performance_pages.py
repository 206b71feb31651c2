"""What the documentation says of performance is what the benchmarks have found."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from keyferry_cli import bill
from tests.bench import __main__ as bench
from tests.bench import argon2, report
from tests.bench.peers import __main__ as peers

BENCH = report.load("bench")
PEERS = report.load("peers")

TABLES = bench.every_page()


@pytest.mark.parametrize(
    ("path", "marker", "text"),
    [(path, marker, text) for (path, marker), text in TABLES.items()],
    ids=[f"{path.stem}-{marker}" for path, marker in TABLES],
)
def test_a_table_is_that_of_the_results(path: Path, marker: str, text: str) -> None:
    assert report.between(path.read_text(encoding="utf-8"), marker) == text


def test_the_plot_is_that_of_the_results() -> None:
    assert report.PLOT.read_text(encoding="utf-8") == report.plot(report.bars(BENCH))


@pytest.mark.parametrize("path", sorted(report.RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_name_no_machine_and_no_place(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert socket.gethostname() not in text
    assert not re.search(r"(?<![\w<])/(home|root|tmp|work|Users|usr|var)\b", text)


def test_the_memory_of_login_is_where_the_hash_is_fastest_for_its_price() -> None:
    cpu = BENCH["argon2"]["cpu_ms"][str(bench.CHOSEN)]["median"]
    prices = {memory: argon2.usd_a_million(cpu, memory) for memory in argon2.MEMORIES_MB}
    cheapest = [each for each in prices if prices[each] <= min(prices.values()) * 1.001]
    fastest = min(cheapest, key=lambda memory: argon2.time_ms(cpu, memory))
    assert fastest == bill.PASSWORD_MEMORY_MB


def test_the_parameters_ask_most_memory_of_a_guesser_for_their_price() -> None:
    """Of what OWASP holds for equally strong, without what costs twice as much as the cheapest."""
    cpu = {each: BENCH["argon2"]["cpu_ms"][str(each)]["median"] for each in argon2.OWASP}
    cheap = [each for each in cpu if cpu[each] < 2 * min(cpu.values())]
    assert max(cheap) == bench.CHOSEN


MARKED = re.compile(r"<!-- (\w+): begin -->\n.*?<!-- \1: end -->", re.DOTALL)
MEASURED = re.compile(r"[\d.,]*\d ?(?:ms|µs|MiB|×)(?!\w)|\bx faster\b")
HELD_ELSEWHERE = {"40 MiB"}
"""By tests/template/test_artifacts.py."""


@pytest.mark.parametrize("path", [report.README, report.PERFORMANCE, report.VAULT], ids=str)
def test_no_figure_of_performance_stands_outside_of_the_tables(path: Path) -> None:
    prose = MARKED.sub("", path.read_text(encoding="utf-8"))
    assert set(MEASURED.findall(prose)) <= HELD_ELSEWHERE


def test_the_markers_of_the_tables_are_all_held_by_something() -> None:
    text = report.PERFORMANCE.read_text(encoding="utf-8")
    ours = {marker for path, marker in TABLES if path == report.PERFORMANCE}
    others = {"clients", "layers"}  # of tests/bench/aws_clients.py and tests/bench/layer_weight.py
    assert set(re.findall(r"<!-- (\w+): begin -->", text)) == ours | others


def test_what_is_compared_was_measured_often_enough() -> None:
    assert BENCH["handlers"]["rounds"] >= bench.FEWEST_ROUNDS_TO_CHECK
    assert BENCH["starts"]["rounds"] >= bench.FEWEST_ROUNDS_TO_CHECK
    assert PEERS["rounds"] >= peers.FEWEST_ROUNDS_TO_CHECK
