"""Every sample event under Lambda's own runtime: the built artefacts, `awslambdaric` and the
emulator of the runtime interface that ships with the SAM command line, without Docker.

The events are made good for a local stack by `keyferry events refresh`, and each function gets the
settings of its `env.json`, as with `sam local invoke --env-vars`.
"""

from __future__ import annotations

import http.server
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from keyferry_cli.local.emulator import clean_environment
from keyferry_cli.local.environments import ROOT, make_environments
from tests.e2e.conftest import RULES, Operator
from tests.local_upstream import LocalUpstream

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="Lambda's runtime is a Linux program"),
    pytest.mark.xdist_group("runtime"),  # one stack for all
]

FOLDERS = sorted(path.parent.name for path in (ROOT / "functions").glob("*/handler.py"))
OTHER_WAYS_IN = ["authorizer", "operator", "rotate_keyring"]
STATUS = {"sessions/end_one": 204, "mfa/remove": 204}
"""Where it is not 200."""

FIRST = ("operator/users_add", "operator/keys_put")
"""Events that others of the same function build upon, in this order."""

START_SECONDS = 30.0

Invoke = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Live:
    """A stack, the artefacts that it runs, and events that are good for it."""

    stack: LocalStack
    built: Path
    events: Path
    environments: dict[str, dict[str, str]]
    functions: dict[str, dict[str, Any]]
    """Configurations by logical id."""

    def event(self, name: str) -> dict[str, Any]:
        event: dict[str, Any] = json.loads((self.events / f"{name}.json").read_text("utf-8"))
        return event


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A stack of its own, as the operator's events change users and keys."""
    from keyferry_cli.local.command import keyferry
    from keyferry_cli.local.sam import Sam
    from keyferry_cli.local.stack import LocalStack

    folder = tmp_path_factory.mktemp("runtime")
    with (
        LocalUpstream.start() as upstream,
        LocalStack.start(
            progress=lambda _: None,
            parameters={
                "SelfRegistration": "true",
                "ServeOpenApi": "true",
                "LocalUpstream": upstream.connect_to,
            },
        ) as stack,
    ):
        client = stack.boto3_client("lambda")
        operator = Operator(client, stack.outputs["OperatorFunction"])
        policy = {"roles": ["analyst"], "platforms": ["ios"]}
        for name in ("maps", "translate"):
            operator.do("keys.put", name=name, value="AIza-not-real", policy=policy, promote=True)
        rules = {**RULES, "path_prefix": "/v1beta/models/"}
        operator.do("keys.proxy", name="translate", upstream=rules)
        events, samples = str(folder / "events"), str(ROOT / "events")
        keyferry(stack, "events", "refresh", events, "--samples", samples, "--yes")
        resources = stack.boto3_client("cloudformation").list_stack_resources(
            StackName=stack.stack_name
        )["StackResourceSummaries"]
        yield Live(
            stack=stack,
            built=Sam(ROOT, folder / "sam.log", lambda _: None).build().parent,
            events=folder / "events",
            environments=json.loads((folder / "events" / "env.json").read_text("utf-8")),
            functions={
                each["LogicalResourceId"]: client.get_function_configuration(
                    FunctionName=each["PhysicalResourceId"]
                )
                for each in resources
                if each["ResourceType"] == "AWS::Lambda::Function"
            },
        )


@contextmanager
def runtime(live: Live, function: str, log: Path) -> Iterator[Invoke]:
    """The function under its runtime, on a port of 127.0.0.1, until the end of the block."""
    name = "".join(part.title() for part in function.split("_")) + "Function"
    deployed = live.functions[name]
    variables = deployed["Environment"]["Variables"]
    ours = {each for each in variables if each.startswith("KEYFERRY_")} | {"AWS_ENDPOINT_URL"}
    assert ours == live.environments[name].keys(), "env.json says all that is of the stack"
    python, sam = make_environments(("runtime", "sam"), root=ROOT, report=lambda _: None)
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    (emulator,) = sam.glob(f"lib/*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}")
    port, inner = free_port(), free_port()
    command = [
        *(str(emulator), "--runtime-interface-emulator-address", f"127.0.0.1:{port}"),
        *("--runtime-api-address", f"127.0.0.1:{inner}"),
        *(str(python / "bin" / "python"), "-m", "awslambdaric", "handler.lambda_handler"),
    ]
    environment = {
        **clean_environment(),
        **{each: value for each, value in variables.items() if each not in ours},
        **live.environments[name],
        "AWS_REGION": "us-east-1",
        "AWS_LAMBDA_FUNCTION_NAME": deployed["FunctionName"],
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(deployed["MemorySize"]),
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(deployed["Timeout"]),
        "LAMBDA_TASK_ROOT": str(live.built / name),
        # The layers and nothing else: on Lambda they are under /opt.
        "PYTHONPATH": os.pathsep.join(
            str(live.built / layer / "python") for layer in ("KeyferryLayer", "DepsLayer")
        ),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=live.built / name,
            start_new_session=True,  # the runtime, which it starts, is ended with it
        ) as process,
        httpx.Client(timeout=60, trust_env=False) as client,
    ):
        try:
            wait_until_open(port, process)
            url = f"http://127.0.0.1:{port}/2015-03-31/functions/function/invocations"
            yield lambda event: client.post(url, json=event).raise_for_status().json()
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the emulator of the runtime interface has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the emulator of the runtime interface does not listen")


def names(function: str) -> list[str]:
    found = [f"{function}/{path.stem}" for path in (ROOT / "events" / function).glob("*.json")]
    assert found
    return [name for name in FIRST if name in found] + sorted(set(found) - set(FIRST))


@pytest.mark.parametrize("function", [each for each in FOLDERS if each not in OTHER_WAYS_IN])
def test_a_function_of_the_api(live: Live, function: str, tmp_path: Path) -> None:
    with runtime(live, function, tmp_path / "runtime.log") as invoke:
        for name in names(function):
            answer = invoke(live.event(name))
            assert answer["statusCode"] == STATUS.get(name, 200), (name, answer)
            sent = {**answer.get("headers", {}), **answer.get("multiValueHeaders", {})}
            assert "cache-control" in {each.lower() for each in sent}, name
    log = (tmp_path / "runtime.log").read_text("utf-8")
    assert '"message":"refused"' not in log


def test_the_authorizer(live: Live, tmp_path: Path) -> None:
    event = live.event("authorizer/greeting")
    with runtime(live, "authorizer", tmp_path / "runtime.log") as invoke:
        policy = invoke(event)
        (statement,) = policy["policyDocument"]["Statement"]
        assert statement["Effect"] == "Allow"
        assert policy["context"]["client_id"] == "ios"
        # A proof is good once, in whatever function it is looked at.
        assert invoke(event)["errorMessage"] == "Unauthorized"


def test_the_operator(live: Live, tmp_path: Path) -> None:
    with runtime(live, "operator", tmp_path / "runtime.log") as invoke:
        answers = {name: invoke(live.event(name)) for name in names("operator")}
    refused = {
        name.removeprefix("operator/"): answer["error"]["error"]
        for name, answer in answers.items()
        if not answer["ok"]
    }
    assert refused == {
        # What `keys_put` has stored is pending and has another number, with nothing before it.
        "keys_promote": "conflict",
        "keys_rollback": "not_found",
        "keys_put_all": "conflict",
        # The import only tries, as its sample says, so nobody is called so; but may be invited.
        **dict.fromkeys(
            ("users_begin_totp", "users_confirm_totp", "users_set_roles", "users_show"),
            "not_found",
        ),
    }


def test_the_keyring(live: Live, tmp_path: Path) -> None:
    with runtime(live, "rotate_keyring", tmp_path / "runtime.log") as invoke:
        assert invoke(live.event("rotate_keyring/schedule"))["written"] is False
        shown = invoke(live.event("rotate_keyring/show"))
        assert shown["ok"]
        assert shown["result"]["issuer"] == live.stack.api_url
        # The first keys of the stack are minutes old: none has been announced for two days.
        assert invoke(live.event("rotate_keyring/rotate_now")) == shown
        unknown = invoke(live.event("rotate_keyring/revoke"))
        assert unknown["error"]["error"] == "not_found"
        with cloudformation() as (url, told):
            event = live.event("rotate_keyring/custom_resource") | {"ResponseURL": url}
            assert invoke(event)["written"] is False
        assert invoke(live.event("rotate_keyring/show")) == shown
    (answer,) = told
    assert answer["Status"] == "SUCCESS"


def test_client_keys(live: Live, tmp_path: Path) -> None:
    with runtime(live, "rotate_keyring", tmp_path / "runtime.log") as invoke:
        before = invoke(live.event("rotate_keyring/show"))["result"]["clients"]
        added = invoke(live.event("rotate_keyring/add_client"))["result"]["clients"]
        assert added == before | {"u1v2w3x4y5": "ios"}
        # The sample's key is none of this stack's: there is nothing to take out.
        assert invoke(live.event("rotate_keyring/retire_client"))["result"]["clients"] == added


def test_no_event_is_left_out() -> None:
    told = {*("schedule", "show", "rotate_now", "revoke", "custom_resource")}
    told |= {"add_client", "retire_client"}
    assert set(names("rotate_keyring")) == {f"rotate_keyring/{name}" for name in told}
    assert names("authorizer") == ["authorizer/greeting"]


@contextmanager
def cloudformation() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where a custom resource tells its answer, and what it has told."""
    told: list[dict[str, Any]] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/answer", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
