"""Names of keys for the completion of a shell: from the stack, or nothing."""

from __future__ import annotations

import os
from contextlib import redirect_stderr, suppress
from io import StringIO
from threading import Thread
from typing import Any, Final

import boto3
import typer

from keyferry_cli.command_line import DEFAULT_STACK
from keyferry_cli.stack_functions import StackFunctions

_WAIT_SECONDS: Final = 4


def key_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names that begin with ``incomplete``; none when they cannot be had, or not soon. Whoever
    presses the tab key is in the middle of a line, and is not told why."""
    names: list[str] = []

    def look() -> None:
        with suppress(Exception):
            names.extend(_names(context))

    # A thread, as credentials can take their time too; it dies with the process.
    looking = Thread(target=look, daemon=True)
    with redirect_stderr(StringIO()):
        looking.start()
        looking.join(_WAIT_SECONDS)
    return [name for name in names if name.startswith(incomplete)]


def _names(context: typer.Context) -> list[str]:
    given: dict[str, Any] = context.params
    stack = given.get("stack") or os.environ.get("KEYFERRY_STACK") or DEFAULT_STACK
    session: boto3.Session = context.obj or boto3.Session(
        profile_name=given.get("profile"), region_name=given.get("region")
    )
    listed = StackFunctions(session, stack, anonymous=True).operate("keys.list")
    return [str(entry["name"]) for entry in listed["keys"]]
