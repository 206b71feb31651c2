"""`keyferry users totp`: a second factor for a user who sits beside the operator, by QR code."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import segno
import typer
from rich.console import Console
from rich.text import Text

from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    OneUsername,
    Output,
    Profile,
    Region,
    Stack,
    Sub,
    functions_of,
    note,
    one_user,
)


def enrol_totp(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    code: Annotated[
        str | None, typer.Option(help="A code of the app: confirms the secret that was shown last.")
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Set up TOTP for a user: draw a QR code for the authenticator app, ask for a code of it, and
    show the recovery codes, once. Nothing is in force before that code.

    With --json the secret is printed instead, nothing is asked, and --code is a second run.
    """
    user = one_user(username, sub)
    if code is None and not as_json and not _at_a_terminal():
        raise typer.BadParameter("the QR code is for a terminal; use --json, and then --code")
    with functions_of(context, stack, profile, region) as functions:
        if code is None:
            begun = functions.operate("users.begin_totp", **user)
            if as_json:
                Output(as_json).result(begun, "")
                return
            _show(begun["otpauth_uri"], begun["secret"])
            code = typer.prompt("Code of the app", err=True).strip()
        # An argument may hold a code, as no secret may: it is used up by this.
        confirmed = functions.operate("users.confirm_totp", **user, code=code)
        Output(as_json).result(
            confirmed,
            f"Second factor of {username or sub} in force. Recovery codes, each good once, never"
            " shown again:\n" + "\n".join(confirmed["recovery_codes"]),
        )


def _at_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _show(uri: str, secret: str) -> None:
    """To standard error, which is a terminal: standard output may be a file."""
    drawn = io.StringIO()
    segno.make_qr(uri).terminal(drawn, compact=True)
    # Colours of its own: scanners want dark on light, and terminals come in both.
    picture = Text(drawn.getvalue(), style="bright_white on black")
    Console(stderr=True).print(picture, soft_wrap=True)
    note(f"Scan this with an authenticator app, or type the secret: {secret}")
