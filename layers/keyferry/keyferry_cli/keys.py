"""`keyferry keys`: API keys that are delivered to devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from keyferry.config import DAY
from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    Yes,
    confirm,
    functions_of,
    note,
    row,
    seconds,
    table,
    utc,
)
from keyferry_cli.completion import key_names
from keyferry_cli.key_policy import (
    Attested,
    From,
    MinAppVersion,
    Platform,
    Role,
    Rollout,
    SecondFactor,
    Until,
    conditions_of,
    policy_of,
    policy_words,
)
from keyferry_cli.placeholder import placeholder_in
from keyferry_cli.secret_input import read_secret

keys = typer.Typer(help="API keys that are delivered to devices.", no_args_is_help=True)

NewName = Annotated[
    str,
    typer.Argument(help="Name under which apps ask for the key.", autocompletion=key_names),
]
Name = Annotated[str, typer.Argument(help="Name of a key.", autocompletion=key_names)]
CacheSeconds = Annotated[
    int | None,
    typer.Option(min=0, max=DAY, help="How long a device may keep it; else as before, or 300."),
]
Promote = Annotated[
    bool, typer.Option("--promote", help="Devices get it at once; else after `keys promote`.")
]
ReplacePending = Annotated[
    bool,
    typer.Option("--replace-pending", help="In place of the version that is pending, if one is."),
]
KeepPrevious = Annotated[
    str,
    typer.Option(
        metavar="TIME", help="How long devices can still ask for the version before: 0s, 24h, 7d."
    ),
]

_NAME_COLUMNS: Final = 26
"""Of a terminal; a longer name goes on in the next line."""

Entry = Mapping[str, Any]
"""What the operator function shows of a key."""


@keys.command("put")
def put_key(
    context: typer.Context,
    name: NewName,
    role: Role = None,
    platform: Platform = None,
    min_app_version: MinAppVersion = None,
    attested: Attested = False,
    second_factor: SecondFactor = False,
    not_before: From = None,
    not_after: Until = None,
    rollout: Rollout = None,
    cache_seconds: CacheSeconds = None,
    value_file: Annotated[
        Path | None, typer.Option(help="File with the value; `-` is standard input.")
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITIONS:FILE",
            help="Another value, from a file, for whom the conditions fit, such as"
            " 'platform=ios,min-app-version=2.0:ios.key'; may be repeated, the first that fits"
            " decides.",
        ),
    ] = None,
    promote: Promote = False,
    replace_pending: ReplacePending = False,
    keep_previous: KeepPrevious = "7d",
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Store a new version of a key, which is pending until it is promoted. The value comes from a
    file, standard input, or a prompt.

    Without --role and --platform the key keeps the policy that it has; a new one has none, and
    without a policy no device receives it. A policy is given as a whole, and holds at once: what
    of it is not given is not asked for any more.
    """
    policy = policy_of(
        role=role,
        platform=platform,
        min_app_version=min_app_version,
        attested=attested,
        second_factor=second_factor,
        not_before=not_before,
        not_after=not_after,
        rollout=rollout,
    )
    kept = seconds(keep_previous)
    variants = [_variant(each) for each in variant or ()]
    value = read_secret("value", value_file)
    for what, each in _values(value, variants):
        reason = placeholder_in(each, name)
        if reason is not None:
            note(f"warning: {what} looks like a placeholder: {reason}")
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "keys.put",
            name=name,
            value=value,
            variants=variants,
            policy=policy,
            cache_seconds=cache_seconds,
            promote=promote,
            replace_pending=replace_pending,
            previous_seconds=kept,
        )
        version = result["current" if promote else "pending"]["number"]
        said = "current now" if promote else "pending"
        Output(as_json).result(result, f"Stored {result['name']}, version {version}: {said}.")
        if not promote:
            note(
                "devices do not get it yet; when they shall:"
                f" keyferry keys promote {result['name']} --version {version}"
            )
        elif result["pending"] is not None:
            note(f"version {result['pending']['number']} is still pending")
        if result["policy"] is None:
            note(
                f"warning: {result['name']} has no policy, so no device receives it;"
                f" give it one: keyferry keys policy {result['name']} --role … --platform …"
            )


def _variant(text: str) -> dict[str, Any]:
    conditions, colon, file = text.rpartition(":")
    if not colon or not conditions or not file:
        raise typer.BadParameter("--variant is CONDITIONS:FILE, where the file's name has no colon")
    return {**conditions_of(conditions), "value": read_secret("value", Path(file))}


def _values(value: str, variants: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """With what to call each."""
    named = [("the value", value)]
    return named + [(f"variant {n}", each["value"]) for n, each in enumerate(variants, start=1)]


@keys.command("get")
def get_key(
    context: typer.Context,
    name: Name,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Show what is known of the key beside its values.")
    ] = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show a key's versions and policy, with --metadata. Values cannot be read back."""
    if not metadata:
        raise typer.BadParameter(
            "values cannot be read back, by design: what operators invoke can encrypt keys and not"
            " decrypt them, so neither they nor a thief of their credentials can collect them here."
            " Add --metadata for all else. For the value, look where it was issued; or issue a new"
            f" one there, and `keyferry keys put {name}`"
        )
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("keys.get", name=name)
        Output(as_json).result(result, _described(result))


def _described(entry: Entry) -> str:
    previous = _version(entry["previous"])
    if entry["previous"] is not None:
        previous += f"; can be asked for until {utc(entry['previous_until'])}"
    lines = {
        "current": _version(entry["current"]),
        "pending": _version(entry["pending"]),
        "previous": previous,
        "minimum": entry["min_version"] or "-",
        "policy": policy_words(entry["policy"]),
        "used": _use(entry),
        "updated": f"{utc(entry['updated_at'])} UTC",
    }
    return "\n".join([entry["name"], *(f"  {name:<10}{text}" for name, text in lines.items())])


def _use(entry: Entry) -> str:
    upstream = entry["upstream"]
    if upstream is not None:
        return f"at {upstream['host']}{upstream['path_prefix']}, by the proxy alone"
    return f"by devices, which may keep it for {entry['cache_seconds']} s"


def _version(version: Mapping[str, Any] | None) -> str:
    if version is None:
        return "-"
    words = f"{version['number']}, of {utc(version['created_at'])}"
    for number, conditions in enumerate(version["variants"], start=1):
        words += f"; variant {number}: {policy_words(conditions)}"
    return words


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


def _key_table(entries: Sequence[Entry]) -> Table:
    names = ("name", "current", "pending", "prev. (until)")
    shown = table(
        *(Column(name, no_wrap=True) for name in names),
        Column("policy", overflow="fold"),
        *(Column(name, no_wrap=True) for name in ("cache", "updated")),
        dense=True,
    )
    for entry in entries:
        previous = _number(entry["previous"])
        if entry["previous"] is not None:
            previous += f" ({_date(entry['previous_until'])})"
        cells = (
            "\n".join(wrap(entry["name"], _NAME_COLUMNS)),
            _number(entry["current"]),
            _number(entry["pending"]),
            previous,
            policy_words(entry["policy"]),
            f"{entry['cache_seconds']} s" if entry["upstream"] is None else "proxy",
            _date(entry["updated_at"]),
        )
        shown.add_row(*row(*cells))
    return shown


def _date(since: int) -> str:
    return utc(since).partition(" ")[0]


def _number(version: Mapping[str, Any] | None) -> str:
    return str(version["number"]) if version is not None else "-"


@keys.command("promote")
def promote_key(
    context: typer.Context,
    name: Name,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="The pending version that you mean; refused if it is another."),
    ] = None,
    minimum: Annotated[
        bool,
        typer.Option("--minimum", help="Destroy the older versions, as when one has leaked."),
    ] = False,
    keep_previous: KeepPrevious = "7d",
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let devices get the pending version of a key from now on.

    The version before it can still be asked for, by its number, for a time; with --minimum it
    cannot, and no rollback brings it back.
    """
    kept = seconds(keep_previous)
    if minimum:
        confirm(
            f"Promote {name} in {stack} and destroy its older versions? This cannot be undone", yes
        )
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "keys.promote", name=name, version=version, minimum=minimum, previous_seconds=kept
        )
        text = f"{name}: version {_number(result['current'])} is current now."
        if result["previous"] is not None:
            text += (
                f" Version {_number(result['previous'])} can be asked for until"
                f" {utc(result['previous_until'])} UTC."
            )
        Output(as_json).result(result, text)


@keys.command("rollback")
def roll_back_key(
    context: typer.Context,
    name: Name,
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let devices get the previous version of a key again.

    What was current is pending then, and can be promoted again; unless there is a pending version
    already, which stays, and what was current is destroyed.
    """
    with functions_of(context, stack, profile, region) as functions:
        before = functions.operate("keys.get", name=name)
        if before["pending"] is not None and before["previous"] is not None:
            confirm(
                f"Roll {name} in {stack} back to version {_number(before['previous'])} and destroy"
                f" version {_number(before['current'])}, as version {_number(before['pending'])}"
                " is pending? This cannot be undone",
                yes,
            )
        known = {
            part: before[part]["number"] if before[part] is not None else None
            for part in ("current", "pending")
        }
        result = functions.operate("keys.rollback", name=name, **known)
        Output(as_json).result(
            result,
            f"{name}: version {_number(result['current'])} is current again, and version"
            f" {_number(result['pending'])} pending.",
        )


@keys.command("minimum")
def set_minimum(
    context: typer.Context,
    name: Name,
    version: Annotated[int, typer.Argument(min=1, help="The oldest version to give out.")],
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Give out no version of a key below VERSION any more, and destroy those that there are."""
    with functions_of(context, stack, profile, region) as functions:
        before = functions.operate("keys.get", name=name)
        # Of a version that is not there nothing is destroyed: the function refuses it.
        if before["current"] is not None and before["current"]["number"] >= version:
            lost = [
                _number(each)
                for each in (before["previous"], before["pending"])
                if each is not None and each["number"] < version
            ]
            if lost:
                confirm(
                    f"Destroy version {' and '.join(lost)} of {name} in {stack}?"
                    " This cannot be undone",
                    yes,
                )
        result = functions.operate("keys.minimum", name=name, version=version)
        Output(as_json).result(result, f"{name}: no version below {version} is given out.")


@keys.command("policy")
def set_policy(
    context: typer.Context,
    name: Name,
    role: Role = None,
    platform: Platform = None,
    min_app_version: MinAppVersion = None,
    attested: Attested = False,
    second_factor: SecondFactor = False,
    not_before: From = None,
    not_after: Until = None,
    rollout: Rollout = None,
    nobody: Annotated[
        bool, typer.Option("--nobody", help="Take the policy away: no device receives the key.")
    ] = False,
    cache_seconds: CacheSeconds = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Say who may have a key. The policy is replaced as a whole, and the new one holds at once."""
    policy = policy_of(
        role=role,
        platform=platform,
        min_app_version=min_app_version,
        attested=attested,
        second_factor=second_factor,
        not_before=not_before,
        not_after=not_after,
        rollout=rollout,
    )
    if (policy is None) != nobody:
        raise typer.BadParameter("give either --role and --platform, or --nobody")
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate(
            "keys.policy", name=name, policy=policy, cache_seconds=cache_seconds
        )
        Output(as_json).result(result, f"{name} is for: {policy_words(result['policy'])}.")


@keys.command("delete")
def delete_key(
    context: typer.Context,
    name: Name,
    pending: Annotated[
        bool, typer.Option("--pending", help="Only the pending version; devices notice nothing.")
    ] = False,
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Delete every version of a key. Devices keep it until its cache time has passed."""
    what = f"the pending version of {name}" if pending else f"{name} with all its versions"
    confirm(f"Delete {what} from {stack}? This cannot be undone", yes)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("keys.delete", name=name, pending_only=pending)
        kept = (result["previous"], result["current"], result["pending"])
        numbers = sorted(each["number"] for each in kept if each is not None)
        versions = ", ".join(map(str, numbers)) or "none"
        Output(as_json).result(
            result,
            f"Deleted the pending version of {name}."
            if pending
            else f"Deleted {name}, versions {versions}.",
        )
