"""`keyferry sessions`: logins on devices."""

from __future__ import annotations

from typing import Annotated

import typer

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
    one_user,
)

sessions = typer.Typer(help="Logins on devices.", no_args_is_help=True)


@sessions.command("revoke")
def revoke_sessions(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    session: Annotated[
        str | None, typer.Option(help="Only this session id; else all of the user's sessions.")
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """End a user's sessions at once: no refresh and no key from now on."""
    arguments = one_user(username, sub)
    if session is not None:
        arguments["sid"] = session
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("sessions.revoke", **arguments)
        Output(as_json).result(result, f"Revoked {result['revoked']} session(s).")
