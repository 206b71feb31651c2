"""The same refreshes at Keyferry and at other servers, side by side: processor time of each server.

python -m tests.bench.peers [--rounds 21] [--requests 40] [--check] [--no-write]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from keyferry_cli.local.environments import make_environments
from keyferry_cli.local.node_packages import make_node_packages
from tests.bench import report
from tests.bench.measure import Spread, log_to_nowhere, ratio
from tests.bench.peers.servers import (
    SERVERS,
    Peer,
    front_alone,
    keyferry,
    oidc_provider,
    peak_mib,
    processor_seconds,
    toolkit,
)
from tests.bench.suite import missed
from tests.conftest import NODE_PROJECT, ROOT

TARGETS: Final = {"oidc-provider, DPoP": 0.6, "django-oauth-toolkit": 0.15}
"""The highest that Keyferry may take of what the other one takes."""

WARM_UP: Final = 300
"""Requests before the first round: what compiles as it runs has then compiled."""
FEWEST_ROUNDS_TO_CHECK: Final = 15


def run(
    *,
    rounds: int,
    requests: int,
    warm_up: int = WARM_UP,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    node = shutil.which("node")
    assert node is not None, "node is not installed"
    with tempfile.TemporaryDirectory(prefix="keyferry-") as scratch, ExitStack() as stack:
        folder = Path(scratch)
        progress("the servers: starting")
        own, store = stack.enter_context(keyferry(folder))
        bound, bearer = stack.enter_context(oidc_provider(node, make_node_packages(NODE_PROJECT)))
        other = stack.enter_context(toolkit(folder))
        alone = stack.enter_context(front_alone(folder))
        each = (own, bound, bearer, other, alone)
        peers: dict[str, Peer] = dict(zip(SERVERS, each, strict=True))
        for peer in peers.values():
            for _ in range(warm_up):
                peer.refresh()
            peer.seconds.clear()
        cpu: dict[str, list[float]] = {name: [] for name in peers}
        of_store: list[float] = []
        progress(f"the servers: {rounds} rounds of {requests} refreshes each")
        for number in range(rounds):
            names = list(peers)
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                peer = peers[name]
                before, store_before = processor_seconds(peer.process), processor_seconds(store)
                for _ in range(requests):
                    peer.refresh()
                cpu[name].append((processor_seconds(peer.process) - before) * 1000 / requests)
                if peer is own:
                    spent = processor_seconds(store) - store_before
                    of_store.append(spent * 1000 / requests)
        for peer in peers.values():
            peer.finish()
        return {
            "rounds": rounds,
            "requests": requests,
            "servers": {
                name: {
                    "cpu_ms": Spread.of(cpu[name]).members(3),
                    "p50_ms": round(statistics.median(peer.seconds) * 1000, 2),
                    "p99_ms": round(statistics.quantiles(peer.seconds, n=100)[98] * 1000, 2),
                    "peak_mib": round(peak_mib(peer.process)),
                }
                for name, peer in peers.items()
            },
            "store_cpu_ms": Spread.of(of_store).members(3),
            "ratios": {
                name: ratio(cpu["Keyferry"], cpu[name]).members(3)
                for name in peers
                if name != "Keyferry"
            },
            "versions": versions(node),
        }


def versions(node: str) -> dict[str, str]:
    """Of the servers, by the locks that they were installed from."""
    python = (ROOT / "tests" / "env" / "peers.txt").read_text(encoding="utf-8")
    locked = dict(re.findall(r"^([a-z-]+)==(\S+)", python, re.MULTILINE))
    packages = json.loads((NODE_PROJECT / "package-lock.json").read_text("utf-8"))["packages"]
    # More than one Django is locked, by the version of Python.
    (django,) = environment_versions("django")
    return {
        "node": subprocess.run(
            [node, "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "oidc-provider": packages["node_modules/oidc-provider"]["version"],
        "django": django,
        "django-oauth-toolkit": locked["django-oauth-toolkit"],
        "granian": locked["granian"],
    }


def environment_versions(*names: str) -> list[str]:
    (folder,) = make_environments(("peers",), report=lambda _: None)
    program = f"from importlib.metadata import version as v; print(*map(v, {list(names)!r}))"
    done = subprocess.run(
        [folder / "bin" / "python", "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def table(result: Mapping[str, Any]) -> str:
    found = result["versions"]
    lines = [
        f"{result['rounds']} rounds of {result['requests']} refreshes at each server, in turn."
        f" node {found['node']}, oidc-provider {found['oidc-provider']},"
        f" django-oauth-toolkit {found['django-oauth-toolkit']} on Django {found['django']},"
        f" granian {found['granian']}.",
        "",
        "| server | a refresh there | CPU, ms | quartiles | Keyferry's by it | target | p50, ms | p99, ms | memory, MiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, each in result["servers"].items():
        cpu = each["cpu_ms"]
        by = result["ratios"].get(name)
        target = f"≤ {TARGETS[name]}" if name in TARGETS else ""
        lines.append(
            f"| {name} | {SERVERS[name]} | {cpu['median']:.2f} | {cpu['lower']:.2f}–{cpu['upper']:.2f} |"
            f" {'**{:.2f}**'.format(by['median']) if by else ''} | {target} |"
            f" {each['p50_ms']:.1f} | {each['p99_ms']:.1f} | {each['peak_mib']} |"
        )
    lines += [
        "",
        f"The emulator's own share of Keyferry's write, in another process:"
        f" {result['store_cpu_ms']['median']:.2f} ms. On AWS that is DynamoDB's.",
        "",
    ]
    return "\n".join(lines)


def page(result: Mapping[str, Any]) -> str:
    return report.made_under(result) + "\n" + table(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args()
    if arguments.rounds < 2 or arguments.requests < 3:
        parser.error("at least 2 rounds of 3 requests")
    if arguments.check and arguments.rounds < FEWEST_ROUNDS_TO_CHECK:
        parser.error(f"--check takes at least {FEWEST_ROUNDS_TO_CHECK} rounds")

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    result: dict[str, Any] = {"circumstances": report.circumstances()}
    with log_to_nowhere():
        result |= run(rounds=arguments.rounds, requests=arguments.requests, progress=progress)
    text = page(result)
    print(text, end="")  # noqa: T201
    if not arguments.no_write:
        report.save("peers", result)
        report.write(report.PERFORMANCE, "peers", text)
        report.write(report.README, "performance", report.headline())
    above = missed(result["ratios"], TARGETS)
    for line in above:
        print(f"target missed: {line}", file=sys.stderr)  # noqa: T201
    return 1 if arguments.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
