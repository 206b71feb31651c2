"""schemathesis, by docs/openapi.json, against a stack of its own: no 5xx, no status, body or header that
is not described, nothing accepted that the document forbids.

Cases are the same at every run. `make fuzz` tries more, and others each time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyferry_cli.openapi.operations import OPERATIONS
from tests.conftest import ROOT
from tests.e2e.conftest import PASSWORD, PROXIED, RULES, SECRETS, Operator
from tests.local_upstream import LocalUpstream

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack

CASES = 2_000
"""At least."""

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "110"))
"""Of each route, beside those that schemathesis derives from the document."""

SEED = os.environ.get("FUZZ_SEED")
"""Without one the cases are the same each time."""

LOGIN = "/v1/login"
"""Its three ways in give so many cases beside each other that listing them takes minutes; it is tried
by more examples instead, and for every choice of members in tests/unit/test_openapi.py."""

INVITATIONS = 12
SECONDS = 4 * 3600
"""Only so that what hangs comes to an end."""


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[LocalStack]:
    """Of its own: it is for production, where the throttles of API Gateway let more through, and its
    limits on guessing are used up all the time."""
    from keyferry_cli.local.stack import LocalStack

    with LocalUpstream.start() as upstream:
        parameters = {
            "Stage": "prod",
            "SelfRegistration": "true",
            "AllowRsaOaep": "true",
            "MinFetchSeconds": "0",
            "ServeOpenApi": "true",
            "LocalUpstream": upstream.connect_to,
        }
        with LocalStack.start(progress=lambda _: None, parameters=parameters) as started:
            yield started


@pytest.fixture(scope="module")
def settings(fuzzed: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    client = fuzzed.boto3_client("lambda")
    operator = Operator(client, fuzzed.outputs["OperatorFunction"])
    policy = {"roles": ["user"], "platforms": ["*"]}
    for name in ("maps", "gemini"):
        wanted = policy if name == "maps" else {**policy, "second_factor": True}
        operator.do("keys.put", name=name, value=SECRETS[name], policy=wanted, promote=True)
    operator.do("keys.put", name="proxied", value=PROXIED, policy=policy, promote=True)
    operator.do("keys.proxy", name="proxied", upstream=RULES)
    users = {f"{method} {path}": f"fuzz-{n}" for n, (method, path) in enumerate(OPERATIONS)}
    for name in users.values():
        operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
    invitations = []
    for _ in range(INVITATIONS):
        name = f"invited-{uuid.uuid4()}"
        made = operator.do("users.invite", username=name, roles=["user"])
        invitations.append({"username": name, "code": made["code"]})
    client.close()
    file = tmp_path_factory.mktemp("fuzz") / "settings.json"
    file.write_text(
        json.dumps(
            {
                "api_url": fuzzed.api_url,
                "client_key": fuzzed.client_keys["ios"],
                "endpoint_url": fuzzed.endpoint_url,
                "guesses_table": fuzzed.outputs["GuessesTable"],
                "password": PASSWORD,
                "users": users,
                "invitations": invitations,
                "proxied": "proxied",
                "seed": SEED or "",
            }
        ),
        "utf-8",
    )
    return file


def start(
    stack: LocalStack, settings: Path, tally: Path, *arguments: str
) -> subprocess.Popen[bytes]:
    chosen = [f"--seed={SEED}"] if SEED else ["--generation-deterministic"]
    with tally.with_suffix(".txt").open("w") as report:
        return subprocess.Popen(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
                "run",
                str(ROOT / "docs" / "openapi.json"),
                f"--url={stack.api_url}",
                *chosen,
                *arguments,
            ],
            cwd=tally.parent,
            env={
                **os.environ,
                **stack.environment,
                "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
                "FUZZ_SETTINGS": str(settings),
                "FUZZ_TALLY": str(tally),
            },
            stdout=report,
            stderr=subprocess.STDOUT,
        )


def test_nothing_is_found(fuzzed: LocalStack, settings: Path, tmp_path: Path) -> None:
    tallies = tmp_path / "logins.json", tmp_path / "others.json"
    logins = (f"--include-path={LOGIN}", "--phases=examples,fuzzing", f"-n{2 * EXAMPLES}")
    others = (f"--exclude-path={LOGIN}", f"-n{EXAMPLES}")
    answered: dict[str, dict[str, int]] = {}
    with (
        start(fuzzed, settings, tallies[0], *logins) as one,
        start(fuzzed, settings, tallies[1], *others) as another,
    ):
        for process, tally in zip((one, another), tallies, strict=True):
            status = process.wait(timeout=SECONDS)
            assert status == 0, tally.with_suffix(".txt").read_text("utf-8")[-20_000:]
            answered |= json.loads(tally.read_text("utf-8"))
    total = sum(sum(statuses.values()) for statuses in answered.values())
    assert total >= CASES, answered
    for (method, path), operation in OPERATIONS.items():
        statuses = answered[f"{method} {path}"]
        for status in operation.success:
            assert str(status) in statuses, f"{method} {path} never answered {status}: {statuses}"
