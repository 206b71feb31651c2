"""The `keyferry` command against a local stack, run as an operator runs it: as a process of its
own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack


def keyferry(stack: LocalStack, *arguments: str, secret: str | None = None) -> dict[str, Any]:
    """Run one command with `--json` and return its result; the secret goes through a pipe."""
    finished = subprocess.run(
        [sys.executable, "-m", "keyferry_cli", *arguments, "--stack", stack.stack_name, "--json"],
        input=secret or "",
        capture_output=True,
        text=True,
        env=os.environ | stack.environment,
        timeout=120,
        check=False,
    )
    if finished.returncode != 0:
        raise RuntimeError(f"keyferry {' '.join(arguments[:2])}: {finished.stderr.strip()}")
    result: dict[str, Any] = json.loads(finished.stdout)
    return result
