"""What the documentation says of performance is what the benchmarks have found."""

from __future__ import annotations

import re

import pytest

from tests.bench import report

BENCH = report.load("bench")

TABLES = {
    (report.PERFORMANCE, "circumstances"): report.made_under(BENCH),
    (report.PERFORMANCE, "handlers"): report.handlers(BENCH["handlers"]),
    (report.PERFORMANCE, "starts"): report.starts(BENCH["starts"]),
    (report.VAULT, "measured"): report.deliveries(BENCH["handlers"]),
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
