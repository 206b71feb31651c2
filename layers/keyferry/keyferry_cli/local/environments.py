"""The virtual environments of the project, each made once from its lock under `.cache/env/`.

Standard library only: the Makefile runs this file with whatever `python3` there is, before anything is installed.

    python3 layers/keyferry/keyferry_cli/local/environments.py dev emulator sam runtime

An environment's folder is named after a digest of its lock and of the interpreter, so a changed lock makes a new one
and nothing is ever updated in place. It is marked as ready only after its last package is in: one that was interrupted
half way has no mark and is made again. `sam`, the emulator, the scanner and everything else have one each, because
`sam` pins a boto3 of its own, and the scanner old versions of much else; `runtime` has nothing but Lambda's runtime
client, so that a function finds there what it finds on Lambda.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).resolve().parents[4]
NAMES = ("dev", "emulator", "sam", "runtime", "scan", "peers")
_READY_MARK = "ready"
_SECONDS_BETWEEN_REPORTS = 5.0


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message says why and what to do."""


def environment_folder(name: str, root: Path = ROOT) -> Path:
    """Where the environment of the current lock lives, made or not."""
    interpreter = f"{sys.base_prefix} {platform.python_version()} {sysconfig.get_platform()}"
    digest = hashlib.sha256(
        interpreter.encode() + b"\0" + _lock(name, root).read_bytes()
    ).hexdigest()
    return root / ".cache" / "env" / f"{name}-{digest[:16]}"


def environment_program(name: str, program: str, root: Path = ROOT) -> Path:
    """A program of a ready environment."""
    found = environment_folder(name, root) / "bin" / program
    if not found.exists():
        raise EnvironmentFailedError(
            f"the environment {name!r} is not there yet: run `make environments`"
        )
    return found


def make_environments(
    names: Sequence[str], root: Path = ROOT, report: Callable[[str], None] = print
) -> list[Path]:
    """Make what is missing, side by side; return the folders in the order asked for."""
    missing = [name for name in names if not _is_ready(environment_folder(name, root))]
    if missing:
        _check_interpreter()
        with ThreadPoolExecutor(max_workers=len(missing)) as pool:
            for made in [pool.submit(_make, name, root, report) for name in missing]:
                made.result()
    return [environment_folder(name, root) for name in names]


def _lock(name: str, root: Path) -> Path:
    return root / "tests" / "env" / f"{name}.txt"


def _is_ready(folder: Path) -> bool:
    return (folder / _READY_MARK).exists()


def _check_interpreter() -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise EnvironmentFailedError(
                f"{sys.executable} has no module {module!r}, which makes virtual environments.\n"
                "On Debian and Ubuntu: apt-get install python3-venv"
            )


def _make(name: str, root: Path, report: Callable[[str], None]) -> None:
    folder = environment_folder(name, root)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent / f"{name}.lock"):
        if _is_ready(folder):  # made by another process while this one waited
            return
        started = time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        report(f"environment {name}: making it (once)")
        try:
            _run(
                [sys.executable, "-m", "venv", str(folder)],
                f"environment {name}: python -m venv failed",
            )
            _install(name, folder, root, report)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / _READY_MARK).touch()
        report(f"environment {name}: ready after {time.monotonic() - started:.0f} s")


def _install(name: str, folder: Path, root: Path, report: Callable[[str], None]) -> None:
    lock = _lock(name, root)
    packages = len(re.findall(r"^[a-z0-9][^ ]*==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    command = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += ["--no-deps", "--require-hashes", "--requirement", str(lock)]
    started = reported = time.monotonic()
    fetched = 0
    output: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PIP_USER": "0"},
    ) as pip:
        try:
            for line in pip.stdout or ():
                output.append(line)
                fetched += line.startswith(("Collecting ", "Processing "))
                if time.monotonic() - reported >= _SECONDS_BETWEEN_REPORTS:
                    reported = time.monotonic()
                    report(
                        f"environment {name}: {fetched} of {packages} packages ({reported - started:.0f} s)"
                    )
                elif line.startswith("Installing collected packages"):
                    report(f"environment {name}: fetched {fetched} packages, installing them")
        except BaseException:
            pip.terminate()
            raise
    if pip.returncode:
        tail = "".join(output[-15:])
        raise EnvironmentFailedError(f"environment {name}: pip install failed\n{tail}")


def _run(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentFailedError(f"{failure}\n{done.stdout}{done.stderr}")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; a second process that makes the same thing waits and then finds it made."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the named environments; print the folder of the first one, progress goes to standard error."""
    parser = argparse.ArgumentParser(description="Make the project's virtual environments.")
    parser.add_argument("names", nargs="+", choices=NAMES)
    names = parser.parse_args(arguments).names

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        folders = make_environments(names, report=report)
    except EnvironmentFailedError as failure:
        report(f"error: {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    print(folders[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
