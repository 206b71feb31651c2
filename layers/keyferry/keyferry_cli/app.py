"""The `keyferry` command: users, keys and sessions of a deployed stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import boto3
import typer
from botocore import exceptions as aws
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from keyferry_cli.operator_function import CommandFailed, OperatorFunction
from keyferry_cli.secret_input import read_secret

app = typer.Typer(
    name="keyferry",
    help="Operate a Keyferry stack: users, keys and sessions. Exit status: 0 done, 1 refused or"
    " failed, 2 wrong usage.",
    no_args_is_help=True,
    # A traceback could show the value of a secret.
    pretty_exceptions_enable=False,
    add_completion=False,
)
users = typer.Typer(help="People who may log in.", no_args_is_help=True)
keys = typer.Typer(help="API keys that are delivered to devices.", no_args_is_help=True)
sessions = typer.Typer(help="Logins on devices.", no_args_is_help=True)
app.add_typer(users, name="users")
app.add_typer(keys, name="keys")
app.add_typer(sessions, name="sessions")

Stack = Annotated[
    str, typer.Option("--stack", envvar="KEYFERRY_STACK", help="CloudFormation stack.")
]
Profile = Annotated[str | None, typer.Option(help="AWS profile; else the usual AWS settings.")]
Region = Annotated[str | None, typer.Option(help="AWS region; else the usual AWS settings.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

DEFAULT_STACK = "keyferry-dev"


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
def _operator(
    context: typer.Context, stack: str, profile: str | None, region: str | None
) -> Iterator[OperatorFunction]:
    """The stack's operator function; failures in the block become one line and exit status 1.

    `context.obj` may bring another session, which is how tests replace AWS.
    """
    try:
        session: boto3.Session = context.obj or boto3.Session(
            profile_name=profile, region_name=region
        )
        yield OperatorFunction(session, stack)
    except CommandFailed as failure:
        _fail(str(failure))
    except (aws.ProfileNotFound, aws.ConfigParseError) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    typer.echo(f"keyferry: {message}", err=True)
    raise typer.Exit(1)


@users.command("add")
def add_user(
    context: typer.Context,
    username: Annotated[str, typer.Argument(help="Login name.")],
    role: Annotated[list[str] | None, typer.Option(help="A role; may be repeated.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; `-` is standard input.")
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Create a user. The password comes from a file, standard input, or a prompt."""
    password = read_secret("password", password_file, confirm=True)
    with _operator(context, stack, profile, region) as operator:
        result = operator.run("users.add", username=username, password=password, roles=role or [])
        roles = ", ".join(result["roles"]) or "no roles"
        Output(as_json).result(
            result, f"Added user {result['username']} ({roles}), sub {result['sub']}."
        )


@keys.command("put")
def put_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name under which apps ask for the key.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="Users with this role may have it; may be repeated; '*' is everybody."),
    ] = None,
    platform: Annotated[
        list[str] | None,
        typer.Option(help="Platforms that may have it: ios, android, '*'; may be repeated."),
    ] = None,
    cache_seconds: Annotated[
        int | None,
        typer.Option(min=0, help="How long a device may keep it; else as before, or 300."),
    ] = None,
    value_file: Annotated[
        Path | None, typer.Option(help="File with the value; `-` is standard input.")
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Store a new version of a key. The value comes from a file, standard input, or a prompt.

    Without --role and --platform the key keeps the policy that it has; a new one has none, and
    without a policy no device receives it.
    """
    if bool(role) != bool(platform):
        # Guessing the missing half would widen access; leaving it empty would close it silently.
        raise typer.BadParameter("give --role and --platform together, '*' for any")
    value = read_secret("value", value_file)
    policy = {"roles": role, "platforms": platform} if role and platform else None
    with _operator(context, stack, profile, region) as operator:
        result = operator.run(
            "keys.put", name=name, value=value, policy=policy, cache_seconds=cache_seconds
        )
        Output(as_json).result(result, f"Stored {result['name']}, version {result['version']}.")
        if result["policy"] is None:
            typer.echo(
                f"warning: {result['name']} has no policy, so no device receives it;"
                " put it again with --role and --platform",
                err=True,
            )


@keys.command("list")
def list_keys(
    context: typer.Context,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List the keys with their versions and policies. Values never leave the vault this way."""
    with _operator(context, stack, profile, region) as operator:
        result = operator.run("keys.list")
        Output(as_json).result(result, _key_table(result["keys"]) if result["keys"] else "No keys.")


def _key_table(rows: list[dict[str, Any]]) -> Table:
    names = ("name", "version", "previous", "roles", "platforms", "cache", "updated, UTC")
    table = Table(
        *(Column(name, no_wrap=name != "roles") for name in names),
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for row in rows:
        policy = row["policy"]
        access = [", ".join(policy[part]) for part in ("roles", "platforms")] if policy else []
        cells = (
            row["name"],
            row["version"],
            row["previous"] if row["previous"] is not None else "-",
            *(access or ("nobody", "-")),
            f"{row['cache_seconds']} s",
            f"{datetime.fromtimestamp(row['updated_at'], UTC):%Y-%m-%d %H:%M}",
        )
        # Text, because a name in brackets would else be read as markup.
        table.add_row(*(Text(str(cell)) for cell in cells))
    return table


@keys.command("delete")
def delete_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Delete every version of a key. Devices keep it until its cache time has passed."""
    if not yes:
        question = f"Delete {name} with all its versions from {stack}? This cannot be undone"
        typer.confirm(question, abort=True, err=True)
    with _operator(context, stack, profile, region) as operator:
        result = operator.run("keys.delete", name=name)
        versions = ", ".join(str(version) for version in result["deleted_versions"])
        Output(as_json).result(result, f"Deleted {result['name']}, versions {versions}.")


@sessions.command("revoke")
def revoke_sessions(
    context: typer.Context,
    username: Annotated[str | None, typer.Argument(help="Login name; or give --sub.")] = None,
    sub: Annotated[str | None, typer.Option(help="The user's `sub` in place of a name.")] = None,
    session: Annotated[
        str | None, typer.Option(help="Only this session id; else all of the user's sessions.")
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """End a user's sessions at once: no refresh and no key from now on."""
    if (username is None) == (sub is None):
        raise typer.BadParameter("give either a user name or --sub")
    arguments = {"username": username} if username is not None else {"sub": sub}
    if session is not None:
        arguments["sid"] = session
    with _operator(context, stack, profile, region) as operator:
        result = operator.run("sessions.revoke", **arguments)
        Output(as_json).result(result, f"Revoked {result['revoked']} session(s).")


def main() -> None:
    """Entry point of the `keyferry` command."""
    app(prog_name="keyferry")
