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
    second_factor: Annotated[
        bool,
        typer.Option("--second-factor", help="Only for sessions that began with a second factor."),
    ] = False,
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
    without a policy no device receives it. A policy is given as a whole: with them and without
    --second-factor, none is asked for any more.
    """
    if bool(role) != bool(platform):
        # Guessing the missing half would widen access; leaving it empty would close it silently.
        raise typer.BadParameter("give --role and --platform together, '*' for any")
    if second_factor and not role:
        raise typer.BadParameter("give --second-factor together with --role and --platform")
    value = read_secret("value", value_file)
    policy: dict[str, Any] | None = None
    if role and platform:
        policy = {"roles": role, "platforms": platform, "second_factor": second_factor}
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
    names = (
        *("name", "version", "previous", "roles", "platforms", "factors"),
        *("cache", "updated, UTC"),
    )
    shown = table(*(Column(name, no_wrap=name != "roles") for name in names))
    for entry in entries:
        policy = entry["policy"]
        access = [", ".join(policy[part]) for part in ("roles", "platforms")] if policy else []
        factors = "-"
        if policy:
            factors = "2" if policy["second_factor"] else "1"
        cells = (
            entry["name"],
            entry["version"],
            entry["previous"] if entry["previous"] is not None else "-",
            *(access or ("nobody", "-")),
            factors,
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
