"""Argon2id: how long a check takes at each memory size of Lambda, and what a million of them cost.

Measured is processor time on this machine. Lambda gives a function processor time in proportion to its
memory, one processor at 1,769 MB, and the hash has one thread: so below that size it takes longer by as
much as the memory is cheaper, and above it no less time at a higher price.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keyferry_cli.bill import FULL_CPU_MB
from keyferry_cli.prices import MILLION, PRICES
from tests.bench.measure import Spread

MEMORIES_MB: Final = (512, 1024, FULL_CPU_MB, 3008)


class Parameters(NamedTuple):
    memory_kib: int
    iterations: int
    lanes: int = 1

    def __str__(self) -> str:
        return f"m={self.memory_kib}, t={self.iterations}, p={self.lanes}"


# The first five are what OWASP's Password Storage Cheat Sheet holds for equally strong; the last one is
# the second recommendation of RFC 9106 §4, with one lane in place of four.
CANDIDATES: Final = (
    Parameters(47_104, 1),
    Parameters(19_456, 2),
    Parameters(12_288, 3),
    Parameters(9_216, 4),
    Parameters(7_168, 5),
    Parameters(65_536, 3),
)
OWASP: Final = CANDIDATES[:5]


def run(*, rounds: int, progress: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    progress(f"Argon2id: {len(CANDIDATES)} sets of parameters")
    found: dict[Parameters, list[float]] = {each: [] for each in CANDIDATES}
    for number in range(rounds + 1):
        start = number % len(CANDIDATES)
        for each in (*CANDIDATES[start:], *CANDIDATES[:start]):
            spent = processor_ms(each)
            if number:
                found[each].append(spent)
    return {
        "rounds": rounds,
        "cpu_ms": {str(each): Spread.of(many).members(1) for each, many in found.items()},
    }


def processor_ms(parameters: Parameters) -> float:
    """Of one check of a right password, which has to pass, and of a wrong one, which must not."""
    memory, iterations, lanes = parameters
    options: dict[str, Any] = {"iterations": iterations, "lanes": lanes, "memory_cost": memory}
    stored = Argon2id(salt=b"s" * 16, length=32, **options).derive_phc_encoded(b"password")
    started = time.process_time()
    Argon2id.verify_phc_encoded(b"password", stored)
    spent = (time.process_time() - started) * 1000
    try:
        Argon2id.verify_phc_encoded(b"another", stored)
    except Exception:  # noqa: BLE001 -- whatever it says to a wrong password
        return spent
    raise AssertionError("a wrong password has passed")


def time_ms(cpu_ms: float, memory_mb: int) -> float:
    return cpu_ms / min(memory_mb / FULL_CPU_MB, 1.0)


def usd_a_million(cpu_ms: float, memory_mb: int) -> float:
    """Of the hash alone, without what a request costs anyway."""
    seconds = time_ms(cpu_ms, memory_mb) / 1000
    return seconds * memory_mb / 1024 * PRICES["Lambda, arm64"].each * MILLION


def table(result: Mapping[str, Any], chosen: Parameters, memory_mb: int) -> str:
    lines: Sequence[str] = [
        f"{result['rounds']} rounds; time of one check, and USD for a million.",
        "",
        f"| parameters | CPU, ms | {' | '.join(f'{each:,} MB' for each in MEMORIES_MB)} |",
        f"|---|--:|{'--:|' * len(MEMORIES_MB)}",
    ]
    for each in CANDIDATES:
        cpu = result["cpu_ms"][str(each)]["median"]
        cells = []
        for memory in MEMORIES_MB:
            text = f"{time_ms(cpu, memory):.0f} ms, ${usd_a_million(cpu, memory):.2f}"
            cells.append(f"**{text}**" if (each, memory) == (chosen, memory_mb) else text)
        lines = [*lines, f"| {each} | {cpu:.0f} | {' | '.join(cells)} |"]
    return "\n".join([*lines, ""])
