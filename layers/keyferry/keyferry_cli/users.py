"""`keyferry users`: people who may log in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    OneUsername,
    Output,
    Profile,
    Region,
    Stack,
    Sub,
    Yes,
    functions_of,
    one_user,
    row,
    utc,
)
from keyferry_cli.secret_input import read_secret

users = typer.Typer(help="People who may log in.", no_args_is_help=True)

Username = Annotated[str, typer.Argument(help="Login name.")]
ProviderName = Annotated[
    str, typer.Option("--provider", help="Name of a provider; see `providers list`.")
]
Subject = Annotated[
    str, typer.Option("--subject", help="The user's `sub` at that provider; not an address.")
]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File with the password; `-` is standard input.")
]


@users.command("add")
def add_user(
    context: typer.Context,
    username: Username,
    role: Annotated[list[str] | None, typer.Option(help="A role; may be repeated.")] = None,
    password_file: PasswordFile = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Create a user. The password comes from a file, standard input, or a prompt."""
    password = read_secret("password", password_file, confirm=True)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "users.add", username=username, password=password, roles=role or []
        )
        roles = ", ".join(result["roles"]) or "no roles"
        Output(as_json).result(
            result, f"Added user {result['username']} ({roles}), sub {result['sub']}."
        )


@users.command("invite")
def invite_user(
    context: typer.Context,
    username: Username,
    role: Annotated[list[str] | None, typer.Option(help="A role; may be repeated.")] = None,
    days: Annotated[int, typer.Option(min=1, max=30, help="How long the code is good.")] = 7,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let somebody become a user and choose a password, with a code that is good once.

    The code is shown here and never again. Inviting the same name again makes the old code void.
    """
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "users.invite", username=username, roles=role or [], expires_in=days * 86_400
        )
        Output(as_json).result(
            result,
            f"Code for {result['username']}, good once until {utc(result['expires_at'])} UTC:\n"
            f"{result['code']}",
        )


@users.command("set-password")
def set_password(
    context: typer.Context,
    username: Username,
    password_file: PasswordFile = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Give a user another password, and end the user's sessions: whoever knew the old one is out.

    The password comes from a file, standard input, or a prompt.
    """
    password = read_secret("password", password_file, confirm=True)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.set_password", username=username, password=password)
        Output(as_json).result(
            result, f"Set the password of {username}; ended {result['revoked']} session(s)."
        )


@users.command("disable")
def disable_user(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let a user log in no more, and end the user's sessions: no refresh and no key from now on."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.disable", **one_user(username, sub))
        Output(as_json).result(
            result, f"Disabled {username or sub}; ended {result['revoked']} session(s)."
        )


@users.command("enable")
def enable_user(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let a disabled user log in again. Sessions that have ended stay ended."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.enable", **one_user(username, sub))
        Output(as_json).result(result, f"Enabled {username or sub}.")


@users.command("show")
def show_user(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show a user: status, roles, ways in, and how many sessions are alive."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.show", **one_user(username, sub))
        shown = Table.grid(padding=(0, 2))
        for name, value in (
            ("user name", result["username"]),
            ("sub", result["sub"]),
            ("status", result["status"]),
            ("roles", ", ".join(result["roles"]) or "none"),
            ("password", "yes" if result["password"] else "no"),
            ("second factor", "yes" if result["second_factor"] else "no"),
            ("created", f"{utc(result['created_at'])} UTC"),
            ("sessions", result["sessions"]),
        ):
            shown.add_row(*row(name, value))
        Output(as_json).result(result, shown)


@users.command("roles")
def set_roles(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    role: Annotated[
        list[str] | None, typer.Option(help="A role; may be repeated. The user keeps no other.")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Take all roles away.")] = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Give a user these roles in the place of the old ones.

    Deliveries go by them at once. Access tokens that were issued before name the old ones until
    they expire, in 15 minutes at most; sessions go on.
    """
    if none == bool(role):
        raise typer.BadParameter("give either --role, as often as needed, or --none")
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.set_roles", **one_user(username, sub), roles=role or [])
        roles = ", ".join(result["roles"]) or "none"
        Output(as_json).result(
            result, f"Roles of {username or sub}: {roles}; told {result['sessions']} session(s)."
        )


@users.command("link")
def link_identity(
    context: typer.Context,
    provider: ProviderName,
    subject: Subject,
    username: OneUsername = None,
    sub: Sub = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let whoever signs in as SUBJECT at a provider log in as this user."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "users.link", **one_user(username, sub), provider=provider, subject=subject
        )
        Output(as_json).result(
            result, f"{result['subject']} at {result['provider']} now logs in as {username or sub}."
        )


@users.command("unlink")
def unlink_identity(
    context: typer.Context,
    provider: ProviderName,
    subject: Subject,
    username: OneUsername = None,
    sub: Sub = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let SUBJECT at a provider log in as this user no more, and end the user's sessions."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "users.unlink", **one_user(username, sub), provider=provider, subject=subject
        )
        Output(as_json).result(
            result,
            f"{result['subject']} at {result['provider']} no longer logs in as {username or sub};"
            f" ended {result['revoked']} session(s).",
        )


@users.command("reset-second-factor")
def reset_second_factor(
    context: typer.Context,
    username: OneUsername = None,
    sub: Sub = None,
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Take a user's second factor away, for a lost phone without recovery codes, and end the user's
    sessions. From then on the first factor alone logs in, until the user sets up another one.
    """
    user = one_user(username, sub)
    if not yes:
        question = (
            f"Reset the second factor of {username or sub} in {stack}? This ends all sessions of the user,"
            " and the password or the provider alone then opens the account"
        )
        typer.confirm(question, abort=True, err=True)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("users.reset_second_factor", **user)
        Output(as_json).result(
            result,
            f"Reset the second factor of {username or sub}; ended {result['revoked']} session(s).",
        )
