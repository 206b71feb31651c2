"""Secrets from a file, from standard input, or from a prompt that does not echo; never from
arguments.

Every user of a machine can list the arguments of its processes, and shells write them into their
history.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

MAX_BYTES = 64 * 1024


def read_secret(what: str, file: Path | None, *, confirm: bool = False) -> str:
    """The secret, less one trailing newline. `-` as a file is standard input, like no file in a
    pipe.
    """
    if file is None and sys.stdin.isatty():
        prompted: str = typer.prompt(
            what.capitalize(), hide_input=True, confirmation_prompt=confirm, err=True
        )
        return prompted
    if file is None or str(file) == "-":
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with file.open("rb") as opened:
                data = opened.read(MAX_BYTES + 1)
        except OSError as error:
            raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise typer.BadParameter(f"the {what} is longer than {MAX_BYTES} bytes")
    try:
        # Without the trailing newline that editors and `echo` add; a second one is part of the
        # secret.
        secret = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"the {what} is not UTF-8 text") from None
    if not secret:
        raise typer.BadParameter(f"the {what} is empty")
    return secret
