"""Names of keys for the completion of a shell: from the stack, or nothing."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr
from typing import Any

import boto3
import typer

from keyferry_cli.command_line import DEFAULT_STACK
from keyferry_cli.stack_functions import StackFunctions


def key_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names that begin with ``incomplete``. A shell that waits for them is never told why there
    are none."""
    given: dict[str, Any] = context.params
    # Under an option that stands behind the name, the parameter is not known yet.
    stack = given.get("stack") or os.environ.get("KEYFERRY_STACK") or DEFAULT_STACK
    with redirect_stderr(io.StringIO()):
        try:
            session = context.obj or boto3.Session(
                profile_name=given.get("profile"), region_name=given.get("region")
            )
            listed = StackFunctions(session, stack, in_passing=True).operate("keys.list")
            names = [str(entry["name"]) for entry in listed["keys"]]
        except Exception:  # noqa: BLE001 -- whatever it is, a shell has no place to show it
            return []
    return [name for name in names if name.startswith(incomplete)]
