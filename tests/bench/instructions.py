"""Instructions of a refresh and of a delivery, by the product and by the floor: what no other process
and no clock has a say in.

    python -m tests.bench.instructions [--no-write]

Counted by valgrind's callgrind, which runs a program on a processor of its own making, some fifty times
slower. Each subject is run twice, with a few requests and with more; the difference is what a request
takes, without the start. The product runs from the built layers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization as form

from keyferry_cli.local.emulator import clean_environment
from tests.bench import report
from tests.bench.deployment import Deployment, Event, store
from tests.bench.measure import log_to_nowhere
from tests.bench.startup import artefacts
from tests.conftest import ROOT

FEW: Final = 1
MORE: Final = 6

CHILD: Final = """import json, sys
from types import SimpleNamespace
given = json.load(open(sys.argv[1]))
sys.path[:0] = given["paths"]
if given["floor"] is None:
    from handler import lambda_handler as call
else:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key as private
    from cryptography.hazmat.primitives.serialization import load_pem_public_key as public
    from tests.bench.floor import Aws, Floor
    held = given["floor"]
    kid, key = held["signing"]
    floor = Floor(
        **held["plain"],
        aws=Aws(**held["aws"]),
        signing=(kid, private(key.encode(), None)),
        public={kid: public(key.encode()) for kid, key in held["public"].items()},
        mac_keys={kid: bytes.fromhex(key) for kid, key in held["mac_keys"].items()},
        nonce_key=bytes.fromhex(held["nonce_key"]),
    )
    call = getattr(floor, held["method"])
context = SimpleNamespace(
    function_name="f", memory_limit_in_mb=1024, invoked_function_arn="arn", aws_request_id=""
)
answers = []
for number, event in enumerate(given["events"]):
    context.aws_request_id = f"{sys.argv[2]} {number}"
    answers.append(call(event, context))
json.dump(answers, open(sys.argv[2], "w"))
"""


@dataclass(frozen=True)
class Subject:
    name: str
    function: str
    floor: str | None
    """The method of `tests.bench.floor.Floor`, or None for the product."""


SUBJECTS: Final = (
    Subject("refresh", "Refresh", None),
    Subject("refresh, floor", "Refresh", "refresh"),
    Subject("delivery, 1 key", "DeliverKey", None),
    Subject("delivery, floor", "DeliverKey", "deliver"),
)


def run(progress: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    valgrind = shutil.which("valgrind")
    assert valgrind is not None, "valgrind is not installed"
    with tempfile.TemporaryDirectory(prefix="keyferry-") as scratch, store() as endpoint:
        folder = Path(scratch)
        built = artefacts(folder / "sam.log")
        with Deployment.create(endpoint, keys=1) as deployment:

            def counted(subject: Subject) -> int:
                progress(f"instructions: {subject.name}")
                few, more = (
                    _instructions(valgrind, folder, built, deployment, subject, count)
                    for count in (FEW, MORE)
                )
                return round((more - few) / (MORE - FEW))

            found = [counted(each) for each in SUBJECTS]
    return {
        "requests": MORE - FEW,
        "instructions": {each.name: n for each, n in zip(SUBJECTS, found, strict=True)},
    }


def _instructions(
    valgrind: str,
    folder: Path,
    built: Path,
    deployment: Deployment,
    subject: Subject,
    count: int,
) -> int:
    phones = deployment.phones(count)
    for phone in phones:
        # A nonce of now, which is good for five minutes: a run takes longer than an `iat` is.
        event = deployment.refresh_event(phone)
        deployment.check_tokens(phone, deployment.invoke("refresh", event))
    refreshing = subject.function == "Refresh"
    make: Callable[..., Event] = deployment.refresh_event if refreshing else deployment.keys_event
    events = [make(phone) for phone in phones]
    layers = [built / layer / "python" for layer in ("KeyferryLayer", "DepsLayer")]
    paths = [built / f"{subject.function}Function", *layers]
    given = {
        "paths": [str(path) for path in ([ROOT, *layers[1:]] if subject.floor else paths)],
        "events": events,
        "floor": _held(deployment, subject.floor) if subject.floor else None,
    }
    source, answers = folder / "given.json", folder / "answers.json"
    source.write_text(json.dumps(given), encoding="utf-8")
    command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={folder / 'out'}"]
    command += [sys.executable, "-I", "-S", "-B", "-c", CHILD, str(source), str(answers)]
    done = subprocess.run(
        command,
        env={**clean_environment(), **deployment.environment, "PYTHONHASHSEED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _check(deployment, phones, events, json.loads(answers.read_text("utf-8")), refreshing)
    (collected,) = re.findall(r"Collected : (\d+)", done.stderr)
    return int(collected)


def _check(
    deployment: Deployment,
    phones: Sequence[Any],
    events: Sequence[Event],
    answers: Sequence[Any],
    refreshing: bool,
) -> None:
    for phone, event, answer in zip(phones, events, answers, strict=True):
        if refreshing:
            deployment.check_tokens(phone, answer)
        else:
            deployment.check_keys(phone, event, answer)


def _held(deployment: Deployment, method: str) -> dict[str, Any]:
    """What the floor has in memory, as JSON."""
    floor = deployment.floor()
    kid, key = floor.signing
    pem = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return {
        "method": method,
        "plain": {
            "issuer": floor.issuer,
            "clients": floor.clients,
            "mac_kid": floor.mac_kid,
            "tables": floor.tables,
            "values": floor.values,
        },
        "aws": {
            name: getattr(floor.aws, name) for name in ("host", "port", "access_key", "secret_key")
        },
        "signing": [kid, pem.decode()],
        "public": {
            name: each.public_bytes(
                form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
            ).decode()
            for name, each in floor.public.items()
        },
        "mac_keys": {name: each.hex() for name, each in floor.mac_keys.items()},
        "nonce_key": floor.nonce_key.hex(),
    }


def table(result: Mapping[str, Any]) -> str:
    found = result["instructions"]
    lines = ["| | instructions | by the floor |", "|---|--:|--:|"]
    for name, count in found.items():
        floor = found["refresh, floor" if name.startswith("refresh") else "delivery, floor"]
        by = f"**{count / floor:.2f}**" if count != floor else ""
        lines.append(f"| {name} | {count:,} | {by} |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--no-write", action="store_true", help="only print")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        parser.error("valgrind is not installed: nothing on this machine counts instructions")

    def progress(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    result: dict[str, Any] = {"circumstances": report.circumstances()}
    with log_to_nowhere():
        result |= run(progress)
    print(table(result), end="")  # noqa: T201
    if not arguments.no_write:
        report.save("instructions", result)
        report.write(report.PERFORMANCE, "instructions", table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
