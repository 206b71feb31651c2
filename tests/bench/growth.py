"""Does it grow? With the number of sessions, with the number of keys, and with time.

    python -m tests.bench.growth [--minutes 5] [--sessions 1000000] [--rounds 15] [--check] [--no-write]

Sessions are rows in the emulator's tables, put there without a call for each; all of them share what
they have in common. Over time: the local stack of `make serve`, on which one phone refreshes and
fetches its keys at a steady rate. It talks to 127.0.0.1 alone, and ends by itself.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx

from keyferry_cli.local.stack import LocalStack
from tests.bench import report
from tests.bench.cases import Delivery, OneKey, Refresh
from tests.bench.deployment import PASSWORD, POLICY, Deployment, counts, load, store
from tests.bench.measure import Spread, log_to_nowhere, processor_ms, ratio
from tests.bench.peers.servers import peak_mib
from tests.e2e.conftest import Operator
from tests.e2e.device import Device

VAULTS: Final = (1, 10, 100, 1000)
FUNCTIONS: Final = ("refresh", "deliver_key")
PAUSE_SECONDS: Final = 0.5
"""Between two rounds, so that no throttle of the usage plan has a say."""
ONE_PROCESS: Final = 3_600
"""Refreshes."""

SAMPLES: Final = 12
"""Of each function's memory over the run, and as many pieces of its latency."""

FLAT: Final = {"sessions": 1.15, "one key": 1.5, "memory": 1.05, "process": 1.01, "latency": 1.5}
"""The highest that pass: the most rows by the fewest, the largest vault by the smallest for one key, and of
a run's last third by its first. Latency has room for what else the machine does meanwhile."""

FEWEST_ROUNDS_TO_CHECK: Final = 15


def of_sessions(sizes: Sequence[int], rounds: int, batch: int = 4) -> dict[str, Any]:
    with ExitStack() as stack:
        endpoint = stack.enter_context(store())
        cases: list[Refresh | Delivery] = []
        for size in sizes:
            deployment = stack.enter_context(Deployment.create(endpoint, keys=1))
            for kind in (Refresh, Delivery):
                case = kind(deployment, batch)
                case.name = f"{kind.__name__.lower()}, {size:,} sessions"
                cases.append(case)
            row = as_sent(deployment.session(cases[-1].phones[0]))
            load(endpoint, deployment.cloud.tables["SessionsTable"], row, size)
        times = processor_ms(cases, rounds)
        peak = peak_mib(counts(endpoint)["process"])
    names = list(times)
    return {
        "cpu_ms": {name: Spread.of(each).members(3) for name, each in times.items()},
        "ratios": {
            kind: ratio(times[names[-2 + place]], times[names[place]]).members(3)
            for place, kind in enumerate(("refresh", "delivery"))
        },
        "store_mib": round(peak),
    }


def as_sent(row: Mapping[str, Any]) -> dict[str, Any]:
    """boto3 has decoded what is bytes; the store keeps it as JSON has it."""
    return {
        name: {kind: base64.b64encode(held).decode() if kind == "B" else held}
        for name, typed in row.items()
        for kind, held in typed.items()
    }


def of_keys(sizes: Sequence[int], rounds: int, batch: int = 3) -> dict[str, Any]:
    with ExitStack() as stack:
        endpoint = stack.enter_context(store())
        made = [stack.enter_context(Deployment.create(endpoint, keys=size)) for size in sizes]
        times = processor_ms(
            [kind(each, batch) for each in made for kind in (Delivery, OneKey)], rounds
        )
    names = list(times)
    return {
        "cpu_ms": {name: Spread.of(each).members(3) for name, each in times.items()},
        "ratios": {
            "all keys": ratio(times[names[-2]], times[names[0]]).members(3),
            "one key": ratio(times[names[-1]], times[names[1]]).members(3),
        },
    }


def in_one_process(requests: int = ONE_PROCESS) -> dict[str, Any]:
    """Memory of this process, in which the handler alone answers, refresh after refresh."""
    pieces = []
    with ExitStack() as stack:
        deployment = stack.enter_context(Deployment.create(stack.enter_context(store()), keys=1))
        case = Refresh(deployment, 1)
        for _ in range(SAMPLES):
            for _ in range(requests // SAMPLES):
                case.answered()
            status = Path("/proc/self/status").read_text()
            (resident,) = (line.split()[1] for line in status.splitlines() if "VmRSS" in line)
            pieces.append(round(int(resident) / 1024, 2))
    return {
        "requests": requests // SAMPLES * SAMPLES,
        "memory_mib": pieces,
        "ratio": round(last_by_first(pieces), 3),
    }


def over_time(minutes: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """Memory of the functions' processes and latency of the requests, piece by piece."""
    with (
        # So that the phone is not told to wait between its fetches.
        LocalStack.start(progress=progress, parameters={"MinFetchSeconds": "0"}) as stack,
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        operator = Operator(stack.boto3_client("lambda"), stack.outputs["OperatorFunction"])
        operator.do("users.add", username="ana", password=PASSWORD, roles=["user"])
        operator.do("keys.put", name="maps", value="AIza-not-real", policy=POLICY, promote=True)
        phone = Device(client, stack.api_url, stack.client_keys["ios"], username="ana")
        assert phone.login("ana", PASSWORD).status_code == 200
        for _ in range(5):
            one_round(phone)
        progress(f"steady load: {minutes:g} minutes")
        pieces: list[dict[str, Any]] = []
        requests = 0
        for _ in range(SAMPLES):
            ends = time.monotonic() + minutes * 60 / SAMPLES
            spent: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
            while True:
                for name, seconds in one_round(phone).items():
                    spent[name].append(seconds * 1000)
                    requests += 1
                if time.monotonic() >= ends:
                    break
                time.sleep(PAUSE_SECONDS)
            pieces.append(
                {
                    "latency_ms": {
                        name: round(statistics.median(each), 2) for name, each in spent.items()
                    },
                    "memory_mib": {
                        name: round(resident_mib(name, stack.endpoint_url), 2) for name in FUNCTIONS
                    },
                }
            )
        return {
            "minutes": minutes,
            "requests": requests,
            "pieces": pieces,
            "ratios": {
                f"{what}, {name}": round(
                    last_by_first([each[f"{what}_{unit}"][name] for each in pieces]), 3
                )
                for what, unit in (("memory", "mib"), ("latency", "ms"))
                for name in FUNCTIONS
            },
        }


def one_round(phone: Device) -> dict[str, float]:
    """A refresh and a delivery, each checked: the seconds that they took."""
    started = time.perf_counter()
    token = phone.tokens["refresh_token"]
    assert phone.refresh().status_code == 200
    assert phone.tokens["refresh_token"] != token
    between = time.perf_counter()
    answer = phone.keys()
    ended = time.perf_counter()
    assert answer.status_code == 200, answer.text
    assert answer.text.count(".") == 4
    return {"refresh": between - started, "deliver_key": ended - between}


def last_by_first(figures: Sequence[float]) -> float:
    """The median of the last third by that of the first."""
    third = max(len(figures) // 3, 1)
    return statistics.median(figures[-third:]) / statistics.median(figures[:third])


def resident_mib(function: str, endpoint: str) -> float:
    """Of all processes that run this function of this stack."""
    wanted = {
        f"POWERTOOLS_SERVICE_NAME={function}".encode(),
        f"AWS_ENDPOINT_URL={endpoint}".encode(),
    }
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if not wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                continue
            status = (folder / "status").read_text()
        except OSError:
            continue
        found += [int(line.split()[1]) / 1024 for line in status.splitlines() if "VmRSS" in line]
    assert found, f"no process runs {function}"
    return sum(found)


# ---------------------------------------------------------------- the page


def table(result: Mapping[str, Any]) -> str:
    sessions, keys, load_ = result["sessions"], result["keys"], result["time"]
    lines = ["| sessions | refresh, CPU ms | delivery, CPU ms |", "|--:|--:|--:|"]
    names = list(sessions["cpu_ms"])
    for refresh, delivery in zip(names[::2], names[1::2], strict=True):
        count = refresh.removeprefix("refresh, ").removesuffix(" sessions")
        cells = [f"{sessions['cpu_ms'][each]['median']:.2f}" for each in (refresh, delivery)]
        lines.append(f"| {count} | {cells[0]} | {cells[1]} |")
    most = [f"**{sessions['ratios'][each]['median']:.2f}**" for each in ("refresh", "delivery")]
    lines.append(f"| the most by the fewest (≤ {FLAT['sessions']}) | {most[0]} | {most[1]} |")
    lines += [
        "",
        "| keys in the vault | all of them, CPU ms | one of them, CPU ms |",
        "|--:|--:|--:|",
    ]
    names = list(keys["cpu_ms"])
    for size, (every, one) in zip(
        result["vaults"], zip(names[::2], names[1::2], strict=True), strict=True
    ):
        cells = [f"{keys['cpu_ms'][each]['median']:.2f}" for each in (every, one)]
        lines.append(f"| {size:,} | {cells[0]} | {cells[1]} |")
    most = [f"**{keys['ratios'][each]['median']:.2f}**" for each in ("all keys", "one key")]
    lines.append(
        f"| the most by the fewest (one key ≤ {FLAT['one key']}) | {most[0]} | {most[1]} |"
    )
    head = " | ".join(f"{name} | {name}, ms" for name in FUNCTIONS)
    lines += [
        "",
        f"{load_['minutes']:g} minutes, {load_['requests']:,} requests; memory of the function's process in MiB, and the median"
        " latency of its requests.",
        "",
        f"| piece | {head} |",
        "|--:|--:|--:|--:|--:|",
    ]
    for number, piece in enumerate(load_["pieces"], start=1):
        cells = [
            f"{piece['memory_mib'][name]:.1f} | {piece['latency_ms'][name]:.1f}"
            for name in FUNCTIONS
        ]
        lines.append(f"| {number} | {' | '.join(cells)} |")
    cells = [
        f"**{load_['ratios'][f'memory, {name}']:.2f}** | **{load_['ratios'][f'latency, {name}']:.2f}**"
        for name in FUNCTIONS
    ]
    limits = f"memory ≤ {FLAT['memory']}, latency ≤ {FLAT['latency']}"
    lines.append(f"| last third by first ({limits}) | {' | '.join(cells)} |")
    alone = result["process"]
    lines += [
        "",
        f"The same handler without the emulator's worker around it: {alone['requests']:,} refreshes in one process, whose memory is"
        f" {alone['memory_mib'][0]:.1f} MiB after the first twelfth of them and {alone['memory_mib'][-1]:.1f} MiB at the end;"
        f" last third by first **{alone['ratio']:.3f}** (≤ {FLAT['process']}).",
    ]
    return "\n".join([*lines, ""])


def grown(result: Mapping[str, Any]) -> list[str]:
    """What is above its limit, in words."""
    found = {
        ("sessions", name): each["median"] for name, each in result["sessions"]["ratios"].items()
    }
    found["process", "refresh"] = result["process"]["ratio"]
    found["one key", "by its name"] = result["keys"]["ratios"]["one key"]["median"]
    for name, value in result["time"]["ratios"].items():
        limit, _, function = name.partition(", ")
        found[limit, function] = value
    return [
        f"{limit}, {name}: {value:.2f} is above {FLAT[limit]}"
        for (limit, name), value in found.items()
        if not value <= FLAT[limit]
    ]


def page(result: Mapping[str, Any]) -> str:
    return report.made_under(result) + "\n" + table(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS_TO_CHECK)
    parser.add_argument("--check", action="store_true", help="fail when something grows")
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args()
    if not 0.1 <= arguments.minutes <= 60 or not 1 <= arguments.sessions <= 2_000_000:
        parser.error("--minutes from 0.1 to 60, --sessions from 1 to 2,000,000")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.check and arguments.rounds < FEWEST_ROUNDS_TO_CHECK:
        parser.error(f"--check takes at least {FEWEST_ROUNDS_TO_CHECK} rounds")

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    sizes = sorted({1, min(1_000, arguments.sessions), arguments.sessions})
    result: dict[str, Any] = {"circumstances": report.circumstances(), "vaults": list(VAULTS)}
    with log_to_nowhere():
        progress(f"sessions: {', '.join(f'{each:,}' for each in sizes)}")
        result["sessions"] = of_sessions(sizes, arguments.rounds)
        progress(f"keys: {', '.join(f'{each:,}' for each in VAULTS)}")
        result["keys"] = of_keys(VAULTS, arguments.rounds)
        progress(f"one process: {ONE_PROCESS:,} refreshes")
        result["process"] = in_one_process()
        result["time"] = over_time(arguments.minutes, progress)
    print(page(result), end="")  # noqa: T201
    if not arguments.no_write:
        report.save("growth", result)
        report.write(report.PERFORMANCE, "growth", page(result))
    above = grown(result)
    for line in above:
        print(f"not flat: {line}", file=sys.stderr)  # noqa: T201
    return 1 if arguments.check and above else 0


if __name__ == "__main__":
    sys.exit(main())
