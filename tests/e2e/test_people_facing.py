"""What people type: `make demo`, `make serve` and the lines that it prints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    folders = (ROOT / "layers" / "keyferry", ROOT / "docs" / "clients" / "python")
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "COLUMNS": "100"}


def alive(endpoint: str) -> bool:
    """Whether anything still listens where the emulator was."""
    host, port = endpoint.rsplit("/", 1)[1].split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_demonstration_holds_and_leaves_nothing_running() -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "keyferry_cli.local.demo"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stdout.count("✓") == 11
    assert "Everything held" in finished.stdout
    endpoint = re.search(r"ready at (http://[^/]+)", finished.stdout)
    assert endpoint is not None
    assert not alive(endpoint[1])
    told = re.search(r"To look at in a browser: file://(\S+)", finished.stdout)
    assert told is not None
    page = Path(told[1]).read_text(encoding="utf-8")
    assert page.count("<li>") == 11
    # Refresh tokens and the key are shown, but never whole.
    for shown in (finished.stdout, page):
        assert "kfr_…" in shown
        assert re.search(r"kfr_[A-Za-z0-9_-]{20}|AIza[A-Za-z0-9_-]{10}", shown) is None


def test_serve_ends_with_everything_it_started() -> None:
    # Shells let background processes ignore SIGINT, which would be inherited here.
    serve = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
            "from keyferry_cli.local.serve import main; raise SystemExit(main())",
        ],
        env=environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert serve.stdout is not None
        printed = ""
        for line in serve.stdout:
            printed += line
            if line.startswith("Ctrl-C"):
                break
        endpoint = re.search(r"AWS endpoint +(http://\S+)", printed)
        folder = re.search(r"^cd (\S+)$", printed, re.MULTILINE)
        assert endpoint is not None, printed
        assert folder is not None, printed
        assert alive(endpoint[1])
        interface = re.search(
            r"interface, to read +(http://127\.0\.0\.1:\d+)/$", printed, re.MULTILINE
        )
        assert interface is not None, printed
        assert alive(interface[1])
        serve.send_signal(signal.SIGINT)
        last, _ = serve.communicate(timeout=180)
    finally:
        serve.kill()
        serve.wait()
        if serve.stdout is not None:
            serve.stdout.close()
    assert serve.returncode == 0
    assert "nothing is left running" in last
    assert not alive(endpoint[1])
    assert not alive(interface[1])
    assert not Path(folder[1]).exists()


def test_lines_of_serve_work_as_they_are(stack: LocalStack, tmp_path: Path) -> None:
    from keyferry_cli.local.serve import curl_lines, prepare

    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    username, key = (f"{name}-{uuid.uuid4().hex[:8]}" for name in ("serve", "served"))
    prepare(stack, tmp_path, username=username, key=key)
    finished = subprocess.run(
        ["sh", "-eu"],
        input=curl_lines(stack, tmp_path, username=username),
        env=os.environ | {"no_proxy": "127.0.0.1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(rf"^{key}\tversion \d+\tAIza", finished.stdout, re.MULTILINE)
    assert "Revoked 1 session(s)." in finished.stdout
    assert '"access_token"' in (tmp_path / "session.json").read_text()
    private = (tmp_path / "keyferry-device.json").stat().st_mode & 0o077
    assert private == 0
