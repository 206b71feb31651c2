"""What every command shares: its options, where its result goes, and how it fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, NoReturn

import boto3
import typer
from botocore import exceptions as aws
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from keyferry.config import DAY
from keyferry_cli.stack_functions import CommandFailed, StackFunctions

Stack = Annotated[
    str, typer.Option("--stack", envvar="KEYFERRY_STACK", help="CloudFormation stack.")
]
Profile = Annotated[str | None, typer.Option(help="AWS profile; else the usual AWS settings.")]
Region = Annotated[str | None, typer.Option(help="AWS region; else the usual AWS settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

OneUsername = Annotated[str | None, typer.Argument(help="Login name; or give --sub.")]
Sub = Annotated[
    str | None,
    typer.Option(
        "--sub", help="The user's `sub` in place of a name, as for one whom a provider brought."
    ),
]

DEFAULT_STACK = "keyferry-dev"
"""The stack name of samconfig.toml."""

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": DAY, "w": 7 * DAY}


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go. Notes and errors go to standard error, so that `--json` stays parseable."""

    as_json: bool

    def result(self, result: dict[str, Any], text: str | Table) -> None:
        if self.as_json:
            typer.echo(json.dumps(result, indent=2))
        elif isinstance(text, str):
            typer.echo(text)
        else:
            Console().print(text)


@contextmanager
def functions_of(
    context: typer.Context, stack: str, profile: str | None, region: str | None
) -> Iterator[StackFunctions]:
    """The stack's functions; failures in the block become one line and exit status 1.

    `context.obj` may bring another session, which is how tests replace AWS.
    """
    try:
        session: boto3.Session = context.obj or boto3.Session(
            profile_name=profile, region_name=region
        )
        yield StackFunctions(session, stack)
    except CommandFailed as failure:
        fail(str(failure))
    except (aws.ProfileNotFound, aws.ConfigParseError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    typer.echo(f"keyferry: {message}", err=True)
    raise typer.Exit(1)


def confirm(question: str, yes: bool) -> None:
    """Ask, unless ``yes``; whoever says no has changed nothing."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def note(message: str) -> None:
    typer.echo(message, err=True)


def table(*columns: Column, dense: bool = False) -> Table:
    """``dense`` is for many columns, to fit into a terminal."""
    padding = (0, 1, 0, 0) if dense else (0, 1)
    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)


def row(*cells: object) -> tuple[Text, ...]:
    """Cells of a table. Text, because a name in brackets would else be read as markup."""
    return tuple(Text(str(cell)) for cell in cells)


def utc(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"


def seconds(text: str) -> int:
    """A length of time such as 90s, 15m, 24h, 7d or 2w, in seconds."""
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is no length of time, such as 90s, 15m, 24h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def one_user(username: str | None, sub: str | None) -> dict[str, str]:
    """The arguments that name a user to the operator function."""
    if (username is None) == (sub is None):
        raise typer.BadParameter("give either a user name or --sub")
    return {"username": username} if username is not None else {"sub": str(sub)}
