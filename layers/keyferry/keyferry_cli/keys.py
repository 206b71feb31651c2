"""`keyferry keys`: API keys that are delivered to devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    Yes,
    functions_of,
    note,
    row,
    table,
    utc,
)
from keyferry_cli.secret_input import read_secret

keys = typer.Typer(help="API keys that are delivered to devices.", no_args_is_help=True)


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
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "keys.put", name=name, value=value, policy=policy, cache_seconds=cache_seconds
        )
        Output(as_json).result(result, f"Stored {result['name']}, version {result['version']}.")
        if result["policy"] is None:
            note(
                f"warning: {result['name']} has no policy, so no device receives it;"
                " put it again with --role and --platform"
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
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("keys.list")
        Output(as_json).result(result, _key_table(result["keys"]) if result["keys"] else "No keys.")


def _key_table(entries: list[dict[str, Any]]) -> Table:
    names = ("name", "version", "previous", "roles", "platforms", "cache", "updated, UTC")
    shown = table(*(Column(name, no_wrap=name != "roles") for name in names))
    for entry in entries:
        policy = entry["policy"]
        access = [", ".join(policy[part]) for part in ("roles", "platforms")] if policy else []
        cells = (
            entry["name"],
            entry["version"],
            entry["previous"] if entry["previous"] is not None else "-",
            *(access or ("nobody", "-")),
            f"{entry['cache_seconds']} s",
            utc(entry["updated_at"]),
        )
        shown.add_row(*row(*cells))
    return shown


@keys.command("delete")
def delete_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Delete every version of a key. Devices keep it until its cache time has passed."""
    if not yes:
        question = f"Delete {name} with all its versions from {stack}? This cannot be undone"
        typer.confirm(question, abort=True, err=True)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("keys.delete", name=name)
        versions = ", ".join(str(version) for version in result["deleted_versions"])
        Output(as_json).result(result, f"Deleted {result['name']}, versions {versions}.")
