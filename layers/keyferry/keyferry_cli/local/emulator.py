"""Start and stop ministack, an emulator of AWS in one process, on a free port of 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keyferry_cli.local.environments import environment_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType
    from typing import Self

REGION = "us-east-1"
ACCESS_KEY_ID = "test"
SECRET_ACCESS_KEY = "test"  # what the emulator expects from its owner
SERVICES = (
    "apigateway",
    "cloudformation",
    "cloudtrail",
    "dynamodb",
    "events",
    "iam",
    "kms",
    "lambda",
    "logs",
    "s3",
    "sts",
)
_START_SECONDS = 60.0


class EmulatorError(Exception):
    """The emulator did not start or did not stop."""


def clean_environment() -> dict[str, str]:
    """This process's environment without its AWS settings: a local run must never reach a real account."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_"))
    }
    local = "127.0.0.1,localhost"
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": ",".join(filter(None, (kept.get("NO_PROXY"), local))),
        "no_proxy": ",".join(filter(None, (kept.get("no_proxy"), local))),
    }


class Emulator:
    """A running emulator; ends with `stop`, with the `with` block, and at the latest with this process."""

    def __init__(self, port: int, log: Path, supervisor: subprocess.Popen[bytes]) -> None:
        self.port = port
        self.log = log
        self._supervisor = supervisor

    @classmethod
    def start(cls, log: Path) -> Self:
        """Start it and wait until it answers."""
        log.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(
            3
        ):  # another process may take the free port between the question and the answer
            emulator = cls._spawn(_free_port(), log)
            try:
                if emulator._wait_until_ready():
                    return emulator
            except BaseException:
                emulator.stop()
                raise
            emulator.stop()
        raise EmulatorError(f"the emulator did not start:\n{_tail(log)}")

    @classmethod
    def _spawn(cls, port: int, log: Path) -> Self:
        scratch = tempfile.mkdtemp(prefix="keyferry-")
        environment = {
            **clean_environment(),
            "BIND_HOST": "127.0.0.1",
            "MINISTACK_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(port),
            "SERVICES": ",".join(SERVICES),
            "AUTH": "true",  # the policies of the functions' roles are enforced
            "CLOUDTRAIL_RECORDING": "1",
            "CLOUDTRAIL_MAX_EVENTS": "200000",
            "TMPDIR": scratch,  # unpacked functions and layers; removed by the supervisor
            "PYTHONUNBUFFERED": "1",
        }
        environment.pop(
            "PYTHONPATH", None
        )  # the functions see their layers, as on Lambda, and not this repository
        python = environment_program("emulator", "python")
        try:
            with log.open("ab") as output:
                supervisor = subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name("supervise.py")), scratch]
                    + [str(python), str(Path(__file__).with_name("ministack_amended.py"))],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    cwd=scratch,
                    start_new_session=True,
                )
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return cls(port, log, supervisor)

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + _START_SECONDS
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if self._supervisor.poll() is not None:
                return False
            with (
                suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                direct.open(f"{self.endpoint_url}/_ministack/health", timeout=2),
            ):
                return True
            time.sleep(0.05)
        raise EmulatorError(
            f"the emulator did not answer within {_START_SECONDS:.0f} s:\n{_tail(self.log)}"
        )

    def stop(self) -> None:
        """End the emulator and every worker of it, and wait until they are gone."""
        with suppress(OSError):
            if self._supervisor.stdin is not None:
                self._supervisor.stdin.close()
        try:
            self._supervisor.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
            raise EmulatorError("the emulator did not stop in time; it was killed") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


@contextmanager
def termination_as_exit() -> Iterator[None]:
    """Turn SIGTERM into SystemExit inside the block, so that `with` blocks end in order (main thread only)."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(log: Path, lines: int = 20) -> str:
    return (
        "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
        if log.exists()
        else ""
    )
