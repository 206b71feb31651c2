"""`keyferry clients`: the client keys that apps identify themselves with (docs/clients.md)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from keyferry.keyring.unwrapped import MAX_AGE_SECONDS
from keyferry_cli.client_keys import ClientKey, ClientKeys, Usage
from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    Yes,
    confirm,
    fail,
    functions_of,
    note,
    row,
    table,
)
from keyferry_cli.stack_functions import CommandFailed

clients = typer.Typer(
    help="Client keys: the `x-api-key` of each platform's app.", no_args_is_help=True
)

Platform = Annotated[str, typer.Argument(help="Platform of the app: ios, android.")]
KeyId = Annotated[str, typer.Argument(help="Key id, from `clients list`.")]

_RETIRING_DAYS: Final = 7
"""Over how many days `retire` looks at the use of a key."""


@clients.command("list")
def list_clients(
    context: typer.Context,
    days: Annotated[
        int, typer.Option(min=1, max=90, help="Count the requests of this many days.")
    ] = _RETIRING_DAYS,
    show_value: Annotated[
        str | None,
        typer.Option(metavar="KEY_ID", help="Print the value of this key, and nothing else."),
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List the client keys with their use. Values are shown one at a time, with --show-value."""
    with functions_of(context, stack, profile, region) as functions:
        keys = ClientKeys.of(functions)
        if show_value is not None:
            value = keys.value(keys.find(show_value).key_id)
            Output(as_json).result({"key_id": show_value, "value": value}, value)
            return
        found = [(key, _usage(keys, key, days)) for key in keys.read()]
        result = {"days": days, "clients": [_as_json(key, usage) for key, usage in found]}
        Output(as_json).result(result, _table(found, days))


@clients.command("add")
def add_client(
    context: typer.Context,
    platform: Platform,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Make another client key for a platform, beside those that it has."""
    with functions_of(context, stack, profile, region) as functions:
        key_id = _add(ClientKeys.of(functions), platform)
        result = {"key_id": key_id, "platform": platform}
        Output(as_json).result(result, _added(key_id, platform))


@clients.command("rotate")
def rotate_client(
    context: typer.Context,
    platform: Platform,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Begin to replace a platform's client key: make a new one, and say what comes next.

    The old one goes on working until it is retired, as apps that have it are still in use.
    """
    with functions_of(context, stack, profile, region) as functions:
        keys = ClientKeys.of(functions)
        keys.plan(platform)
        old = [key.key_id for key in keys.read() if key.platform == platform and key.works]
        key_id = _add(keys, platform)
        result = {"key_id": key_id, "platform": platform, "replaces": old}
        steps = [
            f"1. Put the new key into the next release of the app: keyferry clients list --show-value {key_id}",
            "2. Wait until apps with an old one make no more requests: keyferry clients list",
            *(f"3. Then retire it: keyferry clients retire {each}" for each in old),
        ]
        Output(as_json).result(result, "\n".join([_added(key_id, platform), *steps]))


@clients.command("retire")
def retire_client(
    context: typer.Context,
    key_id: KeyId,
    delete: Annotated[
        bool,
        typer.Option("--delete", help="Delete it as well, for good; else it can be restored."),
    ] = False,
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Disable a client key, and take it out of the keyring. Asks if it is still in use.

    Apps that have it are shut out: no login, no refresh, no delivery. Nobody is logged out by that.
    """
    with functions_of(context, stack, profile, region) as functions:
        keys = ClientKeys.of(functions)
        every = keys.read()
        key = next((each for each in every if each.key_id == key_id), None) or keys.find(key_id)
        if delete and key.from_template:
            fail(f"{key_id} belongs to the stack, which deletes it; retire it without --delete")
        used: Usage | None = Usage(0, None)
        if key.in_plan or (key.known and key.enabled):
            used = _usage(keys, key, _RETIRING_DAYS)
        last = key.works and not any(
            each.works and each.platform == key.platform for each in every if each != key
        )
        if used is None or used.requests:
            note(_use(key, used))
        if last:
            note(f"It is the only key of {key.platform} that works: no {key.platform} app gets in.")
        if used is None or used.requests or last:
            confirm(f"Retire {key_id} in {stack}?", yes)
        if key.exists:
            keys.disable(key_id)
        keys.forget(key_id)
        if delete and key.exists:
            keys.delete(key_id)
        result = {"key_id": key_id, "platform": key.platform, "deleted": delete}
        done = "Retired and deleted" if delete else "Retired"
        Output(as_json).result(
            result | {"requests": used.requests if used else None},
            f"{done} {key_id} ({key.platform}).",
        )


@clients.command("restore")
def restore_client(
    context: typer.Context,
    key_id: KeyId,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let a retired client key in again, if it was not deleted."""
    with functions_of(context, stack, profile, region) as functions:
        keys = ClientKeys.of(functions)
        key = keys.find(key_id)
        if not key.exists:
            fail(f"{key_id} is deleted")
        keys.admit(key_id, key.platform)
        keys.enable(key_id)
        result = {"key_id": key_id, "platform": key.platform}
        Output(as_json).result(
            result,
            f"Restored {key_id} ({key.platform})."
            f" Every function knows it within {MAX_AGE_SECONDS} seconds.",
        )


def _add(keys: ClientKeys, platform: str) -> str:
    keys.plan(platform)
    key_id = keys.create(platform, today=_today())
    try:
        keys.admit(key_id, platform)
    except CommandFailed:
        note(
            f"{key_id} was made and is not ready; take it away: keyferry clients retire {key_id} --delete"
        )
        raise
    return key_id


def _added(key_id: str, platform: str) -> str:
    return f"Added {key_id} ({platform}). Every function knows it within {MAX_AGE_SECONDS} seconds."


def _today() -> date:
    return datetime.now(UTC).date()


def _usage(keys: ClientKeys, key: ClientKey, days: int) -> Usage | None:
    """The use of a key, or None, and a note why, when it cannot be known."""
    try:
        return keys.usage(key, days=days, today=_today()) if key.in_plan else None
    except CommandFailed as failure:
        note(f"use of {key.key_id}: {failure}")
        return None


def _use(key: ClientKey, usage: Usage | None) -> str:
    if usage is None:
        return f"How much {key.key_id} ({key.platform}) is used is not known."
    return (
        f"{key.key_id} ({key.platform}) made {usage.requests} requests in the last"
        f" {_RETIRING_DAYS} days, the last on {usage.last_used}."
    )


def _as_json(key: ClientKey, usage: Usage | None) -> dict[str, Any]:
    last = usage.last_used.isoformat() if usage and usage.last_used else None
    return {**asdict(key), "requests": usage.requests if usage else None, "last_used": last}


def _table(found: list[tuple[ClientKey, Usage | None]], days: int) -> Table:
    names = ("platform", "key id", "name", "made by", "gateway", "keyring", "created")
    columns = [*names, f"requests, {days} d", "last used"]
    shown = table(*(Column(name, no_wrap=name != "name") for name in columns))
    for key, usage in found:
        cells = (
            key.platform,
            key.key_id,
            key.name,
            "template" if key.from_template else "operator",
            _at_the_gateway(key),
            "known" if key.known else "retired",
            f"{datetime.fromtimestamp(key.created, UTC):%Y-%m-%d}" if key.created else "-",
            usage.requests if usage else "?",
            (usage.last_used or "-") if usage else "?",
        )
        shown.add_row(*row(*cells))
    return shown


def _at_the_gateway(key: ClientKey) -> str:
    if not key.exists:
        return "gone"
    if not key.enabled:
        return "disabled"
    return "enabled" if key.in_plan else "no plan"
