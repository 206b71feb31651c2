"""Measure the shipped handlers and their starts; write what was found into the documentation.

python -m tests.bench [--rounds 21] [--check] [--no-write] [--kept]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from keyferry.users import passwords
from keyferry_cli import bill
from tests.bench import argon2, growth, instructions, report, startup, suite
from tests.bench.measure import log_to_nowhere
from tests.bench.peers import __main__ as peers
from tests.contract.conftest import Cloud, table_schemas
from tests.scenarios.system import settings

FEWEST_ROUNDS_TO_CHECK = 15


CHOSEN = argon2.Parameters(passwords.MEMORY_KIB, passwords.ITERATIONS, passwords.LANES)


def pages(result: report.Result) -> dict[tuple[Path, str], str]:
    """What goes between which markers of which page."""
    return {
        (report.PERFORMANCE, "circumstances"): report.made_under(result),
        (report.PERFORMANCE, "handlers"): report.handlers(result["handlers"]),
        (report.PERFORMANCE, "starts"): report.starts(result["starts"]),
        (report.VAULT, "measured"): report.deliveries(result["handlers"]),
        (report.OPERATIONS, "argon2"): argon2.table(
            result["argon2"], CHOSEN, bill.PASSWORD_MEMORY_MB
        ),
    }


def every_page() -> dict[tuple[Path, str], str]:
    """The same for all that is kept under `report.RESULTS`."""
    return {
        **pages(report.load("bench")),
        (report.PERFORMANCE, "instructions"): instructions.table(report.load("instructions")),
        (report.PERFORMANCE, "peers"): peers.page(report.load("peers")),
        (report.PERFORMANCE, "growth"): growth.page(report.load("growth")),
        (report.README, "performance"): report.headline(),
    }


def write_pages() -> None:
    for (path, marker), text in every_page().items():
        report.write(path, marker, text)
    report.PLOT.write_text(report.plot(report.bars(report.load("bench"))), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    parser.add_argument("--no-write", action="store_true", help="only print")
    parser.add_argument("--kept", action="store_true", help="measure nothing: write the pages anew")
    arguments = parser.parse_args()
    if arguments.kept:
        write_pages()
        return 0
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.check and arguments.rounds < FEWEST_ROUNDS_TO_CHECK:
        parser.error(f"--check takes at least {FEWEST_ROUNDS_TO_CHECK} rounds")

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    result: dict[str, Any] = {"circumstances": report.circumstances()}
    with log_to_nowhere():
        result["handlers"] = suite.run(rounds=arguments.rounds, progress=progress)
    result["argon2"] = argon2.run(rounds=arguments.rounds, progress=progress)
    nowhere = Cloud(None, None, {name: name for name in table_schemas()}, "arn:aws:kms:key")
    result["starts"] = startup.run(settings(nowhere), rounds=arguments.rounds, progress=progress)

    print("\n".join(pages(result).values()))  # noqa: T201
    if not arguments.no_write:
        report.save("bench", result)
        write_pages()
    missed = [
        *suite.missed(result["handlers"]["ratios"], suite.TARGETS),
        *suite.missed(result["starts"]["ratios"], startup.TARGETS),
    ]
    for line in missed:
        print(f"target missed: {line}", file=sys.stderr)  # noqa: T201
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
