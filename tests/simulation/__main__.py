"""Run the simulation: `make simulate`, or `python -m tests.simulation --help`.

The tables go to standard output, the plot to ``--out``. Exits with 1 if an honest phone with a
device key was logged out by Keyferry's rule.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.simulation.phones import Happened, Logouts, run_phones
from tests.simulation.report import Run, plot, tables
from tests.simulation.rules import KEYFERRY, RULES
from tests.simulation.thieves import THEFTS, THIEVES, Result, run_thefts

_SHARE = 500
"""Phones in one piece of work."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--devices", type=_positive, default=100_000, help="honest phones")
    parser.add_argument("--thefts", type=_positive, default=200, help="of each kind")
    parser.add_argument("--days", type=_positive, default=30, help="at least 4")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=_positive, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="where the plot goes (SVG); none by default")
    options = parser.parse_args(arguments)
    if options.days < 4:
        parser.error("a theft happens on the second day and needs two more to play out")
    run = simulate(
        options.devices,
        options.thefts,
        days=options.days,
        seed=options.seed,
        processes=options.processes,
    )
    sys.stdout.write(tables(run))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(plot(run), encoding="utf-8")
    return 1 if run.logouts[KEYFERRY].events else 0


def simulate(devices: int, thefts: int, *, days: int, seed: int, processes: int) -> Run:
    """Whatever the number of processes, the same seed gives the same run."""
    shares = [range(first, min(first + _SHARE, devices)) for first in range(0, devices, _SHARE)]
    logouts = dict.fromkeys(RULES, Logouts())
    happened = Happened()
    results: dict[tuple[str, str], list[Result]] = {}
    with ProcessPoolExecutor(processes) as pool:
        stealing = {
            (thief, theft): pool.submit(
                run_thefts, thief, theft, range(thefts), days=days, seed=seed
            )
            for thief in THIEVES
            for theft in THEFTS
        }
        for some, what in pool.map(partial(run_phones, days=days, seed=seed), shares):
            happened += what
            for name, count in some.items():
                logouts[name] += count
        results = {kind: future.result() for kind, future in stealing.items()}
    return Run(devices, thefts, days, seed, happened, logouts, results)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
