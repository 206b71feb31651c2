"""What a delivery costs with 1, 10 and 100 keys: processor time of the handler, AWS calls, bytes.

    python -m tests.bench.delivery [--rounds 200] [--write docs/vault.md]

The shipped handler in this process, on the emulator's DynamoDB and KMS, which run in another one and
are not measured. The sizes take turns, so that a busy machine is equally busy for each; medians.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from keyferry_cli.local.emulator import Emulator
from tests.contract.conftest import Cloud, make_cloud, table_schemas
from tests.e2e.device import ath
from tests.scenarios.system import Clients, Phone, System, running

if TYPE_CHECKING:
    from collections.abc import Sequence

SIZES = (1, 10, 100)
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"


@dataclass(frozen=True)
class Vault:
    """A system whose vault holds ``keys`` keys, and a phone that may have all of them."""

    keys: int
    system: System
    phone: Phone
    clients: Clients

    def event(self, **headers: str) -> dict[str, Any]:
        """A request for all keys. It may be sent again: a delivery keeps no record of proofs."""
        token = self.phone.tokens["access_token"]
        proof = self.phone.proof("GET", "/v1/keys", ath=ath(token))
        sent = {"x-api-key": "ios-key", "authorization": f"DPoP {token}", "dpop": proof, **headers}
        return {
            "httpMethod": "GET",
            "resource": "/v1/keys",
            "path": "/v1/keys",
            "multiValueHeaders": {name: [value] for name, value in sent.items()},
            "requestContext": {
                "requestId": "r",
                "identity": {"apiKeyId": "ios-key", "sourceIp": "192.0.2.1"},
            },
        }

    def deliver(self, event: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = self.system.invoke("deliver_key", event)
        return answer

    def calls_of(self, event: dict[str, Any]) -> dict[str, int]:
        before = len(self.clients.aws.calls)
        self.deliver(event)
        made = self.clients.aws.operations()[before:]
        return {operation: made.count(operation) for operation in sorted(set(made))}

    def read_units(self) -> int:
        """Of the rows of a warm delivery: each is read consistently, and paid for by 4 KB."""
        dynamodb, tables = self.system.cloud.dynamodb, self.system.cloud.tables
        manifest = {"id": {"S": "MANIFEST"}}
        session = self.system.item(self.phone)
        rows = [
            session,
            dynamodb.get_item(TableName=tables["UsersTable"], Key={"sub": session["sub"]})["Item"],
            dynamodb.get_item(TableName=tables["VaultTable"], Key=manifest)["Item"],
        ]
        return sum(math.ceil(_size(row) / 4096) for row in rows)


def _size(row: dict[str, Any]) -> int:
    """About what DynamoDB counts: names and values (Developer Guide, "DynamoDB item sizes")."""

    def value(typed: dict[str, Any]) -> int:
        ((kind, held),) = typed.items()
        match kind:
            case "M":
                return 3 + sum(len(name) + 1 + value(each) for name, each in held.items())
            case "L":
                return 3 + sum(1 + value(each) for each in held)
            case "BOOL" | "NULL":
                return 1
            case "N":
                return len(held) // 2 + 2
            case "SS":
                return sum(map(len, held))
        return len(held)

    return sum(len(name) + value(typed) for name, typed in row.items())


def fresh(first: Cloud) -> Cloud:
    """Tables that nobody else uses."""
    schemas = table_schemas()
    tables = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in schemas}
    for name, table in tables.items():
        first.dynamodb.create_table(TableName=table, BillingMode="PAY_PER_REQUEST", **schemas[name])
    return replace(first, tables=tables)


@contextlib.contextmanager
def vaults(clients: Clients, first: Cloud, sizes: Sequence[int]) -> Iterator[list[Vault]]:
    with contextlib.ExitStack() as stack:
        made = []
        for size in sizes:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            system = stack.enter_context(running(clients, fresh(first), patch, list))
            system.operate("keys.delete", name="maps")
            fill(system, size)
            vault = Vault(size, system, system.phone(), clients)
            # Loads the function with this system's environment, and opens every value.
            vault.deliver(vault.event())
            made.append(vault)
        yield made


def fill(system: System, size: int) -> None:
    keys = [
        {
            "name": f"SERVICE_{n}_API_KEY",
            "value": f"AIza{uuid.uuid4().hex}{n:04d}",
            "policy": {"roles": ["user"], "platforms": ["ios", "android"]},
        }
        for n in range(size)
    ]
    for start in range(0, size, 50):
        system.operate("keys.put_all", keys=keys[start : start + 50], promote=True)


def processor_ms(send: Callable[[], object]) -> float:
    started = time.process_time()
    send()
    return (time.process_time() - started) * 1000


def measure(made: Sequence[Vault], rounds: int) -> list[list[str]]:
    events = [vault.event() for vault in made]
    answers = [vault.deliver(event) for vault, event in zip(made, events, strict=True)]
    same = [
        vault.event(**{"if-none-match": answer["headers"]["ETag"]})
        for vault, answer in zip(made, answers, strict=True)
    ]
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in made]
    for _ in range(rounds):
        for vault, event, unchanged, (full, none) in zip(made, events, same, times, strict=True):
            full.append(processor_ms(lambda v=vault, e=event: v.deliver(e)))  # type: ignore[misc]
            none.append(processor_ms(lambda v=vault, e=unchanged: v.deliver(e)))  # type: ignore[misc]
    base = statistics.median(times[0][0])
    rows = []
    for vault, event, answer, (full, none) in zip(made, events, answers, times, strict=True):
        calls = vault.calls_of(event)
        rows.append(
            [
                str(vault.keys),
                ", ".join(f"{n} {name.partition(':')[2]}" for name, n in calls.items()),
                str(vault.read_units()),
                f"{len(answer['body']):,}",
                f"{statistics.median(full) / base:.2f}",
                f"{statistics.median(none) / base:.2f}",
            ]
        )
    return rows


@contextlib.contextmanager
def no_log() -> Iterator[None]:
    """Standard output goes nowhere: it is the log of the functions."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def table(rows: Sequence[Sequence[str]]) -> str:
    head = [
        "| keys | AWS calls, warm | read units | bytes of the answer | processor time | of a 304 |",
        "|--:|---|--:|--:|--:|--:|",
    ]
    return "\n".join([*head, *(f"| {' | '.join(row)} |" for row in rows), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--write", type=Path, help="page with the markers of the table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Emulator.start(Path(folder) / "log") as emulator:
        clients = Clients(emulator.endpoint_url)
        with no_log(), vaults(clients, make_cloud(emulator.endpoint_url), SIZES) as made:
            text = table(measure(made, arguments.rounds))
        clients.close()
    print(text, end="")  # noqa: T201
    if arguments.write:
        page = arguments.write.read_text(encoding="utf-8")
        before, rest = page.split(BEGIN)
        _, after = rest.split(END)
        arguments.write.write_text(before + BEGIN + text + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
