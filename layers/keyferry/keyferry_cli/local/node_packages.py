"""The npm packages that the project uses for tests and for the page of `make serve`, from their locks."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from keyferry_cli.local.environments import ROOT, EnvironmentFailedError, exclusive

PROJECT = ROOT / "tests" / "env" / "node"


def make_node_packages(project: Path = PROJECT) -> Path:
    """Install what a project has locked, once for each state of the lock, and return the folder that
    has `node_modules`.

    No script of a package is run. Raise `EnvironmentFailedError` without npm, or when it fails.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise EnvironmentFailedError("npm is not installed")
    lock = (project / "package-lock.json").read_bytes()
    folder = ROOT / ".cache" / "env" / f"node-{hashlib.sha256(lock).hexdigest()[:16]}"
    ready = folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_name("node.lock")):
        if not ready.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copy(project / name, folder)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts"],
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            if done.returncode:
                raise EnvironmentFailedError(f"npm ci failed\n{done.stderr[-2000:]}")
            ready.touch()
    return folder
