"""What it takes to start a function: fresh processes, from the built artefact, in turn.

Layers and functions as `sam build` makes them, with byte code, for this machine. Beside them start
a handler that does nothing and a hello-world: Powertools' Logger and a boto3 client for DynamoDB,
once from the same layer and once from packages as they are installed, which is what the runtime of
Lambda has. The figure is processor time from the first line to the last of loading the handler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aws_lambda_powertools

from keyferry_cli.local.environments import ROOT
from keyferry_cli.local.sam import Sam
from tests.bench.measure import Spread, ratio

BARE: Final = "a handler that does nothing"
HELLO: Final = "hello-world, from the same layer"
HELLO_RUNTIME: Final = "hello-world, packages as installed by pip"

TARGETS: Final = {"login": 0.9, "refresh": 0.9, "deliver_key": 0.9}
"""Times the hello-world: the one from the same layer, which is the cheaper one, if boto3 is in it."""

_BARE: Final = "def lambda_handler(event, context):\n    return {}\n"
_HELLO: Final = """import boto3
from aws_lambda_powertools import Logger

logger = Logger()
dynamodb = boto3.client("dynamodb")


@logger.inject_lambda_context
def lambda_handler(event, context):
    logger.info("hello")
    return {}
"""

_PROGRAM: Final = """import sys, time
started = time.process_time()
import importlib
sys.path[:0] = sys.argv[1:]
handler = importlib.import_module("handler").lambda_handler
spent = time.process_time() - started
modules = len(sys.modules)
assert callable(handler)
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
import json
print(json.dumps({"cpu_ms": spent * 1000, "modules": modules, "rss_mib": int(peak[0]) / 1024}))
"""


def artefacts(log: Path) -> Path:
    """The folder of a build for this machine; one of the same sources is used again."""
    return Sam(ROOT, log, lambda _: None).build().parent


def functions(built: Path) -> dict[str, Path]:
    """By the names of `functions/`."""
    names = sorted(path.parent.name for path in (ROOT / "functions").glob("*/handler.py"))
    return {name: built / f"{''.join(map(str.title, name.split('_')))}Function" for name in names}


def start(paths: Sequence[Path], environment: Mapping[str, str]) -> dict[str, float]:
    """One fresh process. Raise `AssertionError` when the handler does not load."""
    done = subprocess.run(
        # -I -S: nothing of this machine's packages, nothing of this repository.
        [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, *map(str, paths)],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def run(
    environment: Mapping[str, str],
    *,
    rounds: int,
    progress: Callable[[str], object] = lambda _: None,
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="keyferry-") as scratch:
        folder = Path(scratch)
        progress("the starts: building")
        built = artefacts(folder / "sam.log")
        layers = [built / layer / "python" for layer in ("KeyferryLayer", "DepsLayer")]
        handlers: dict[str, list[Path]] = {}
        installed = Path(aws_lambda_powertools.__file__).parents[1]
        beside = [(BARE, _BARE, layers), (HELLO_RUNTIME, _HELLO, [installed])]
        if (layers[1] / "boto3").exists():
            beside.append((HELLO, _HELLO, layers))
        for title, source, packages in beside:
            place = folder / str(len(handlers))
            place.mkdir()
            (place / "handler.py").write_text(source, encoding="utf-8")
            handlers[title] = [place, *packages]
        handlers |= {name: [place, *layers] for name, place in functions(built).items()}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in handlers}
        progress(f"the starts: {rounds} rounds of {len(handlers)} processes")
        for number in range(rounds + 1):
            names = list(handlers)
            turn = number % len(names)
            for name in [*names[turn:], *names[:turn]]:
                measured = start(handlers[name], environment)
                if number:  # the first ones only bring the files into memory
                    found[name].append(measured)
    cpu = {name: [each["cpu_ms"] for each in many] for name, many in found.items()}
    hello = HELLO if HELLO in cpu else HELLO_RUNTIME
    return {
        "rounds": rounds,
        "starts": {
            name: {
                "cpu_ms": Spread.of(cpu[name]).members(1),
                "modules": int(many[0]["modules"]),
                "rss_mib": round(Spread.of([each["rss_mib"] for each in many]).median, 1),
            }
            for name, many in found.items()
        },
        "hello": hello,
        "ratios": {name: ratio(cpu[name], cpu[hello]).members(3) for name in cpu},
    }
