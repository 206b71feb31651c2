"""`keyferry keys audit`: who was given a key, who was not, and who changed it.

The functions log one line for each of these (`keyferry.vault.audit`), and CloudWatch Logs Insights
finds those that name a key.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from keyferry.vault.audit import MESSAGE
from keyferry.vault.model import is_name
from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    functions_of,
    note,
    row,
    seconds,
    table,
)
from keyferry_cli.completion import key_names

MAX_LIMIT: Final = 10_000
"""Rows; a query of CloudWatch Logs Insights gives no more."""

_ID_COLUMNS: Final = 22
"""A ``sub`` or ``sid`` in one piece, to be copied."""

_CLOCK_SKEW_SECONDS: Final = 60
_WHO: Final = (
    *("operator", "sub", "sid", "client_id", "jkt"),
    *("platform", "app_version", "attested"),
)

Event = dict[str, Any]


def audit_key(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a key.", autocompletion=key_names)],
    since: Annotated[str, typer.Option(metavar="TIME", help="How far back: 30m, 24h, 7d.")] = "24h",
    limit: Annotated[
        int, typer.Option(min=1, max=MAX_LIMIT, help="At most so many, the newest.")
    ] = 100,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Show who was given a key or refused it, and who changed it; the newest first.

    From the functions' logs, so no further back than they are kept, and some seconds late.
    """
    if not is_name(name):
        raise typer.BadParameter(f"{name!r} is not the name of a key")
    now = int(time.time())
    with functions_of(context, stack, profile, region) as functions:
        lines = functions.log_lines(
            "AuditLogGroups",
            query_about(name, limit),
            since=now - seconds(since),
            until=now + _CLOCK_SKEW_SECONDS,
            limit=limit,
        )
        # Lines of one millisecond come in any order.
        events = sorted(events_about(name, lines), key=lambda each: str(each["time"]), reverse=True)
        result = {"name": name, "events": events}
        Output(as_json).result(
            result, _event_table(events) if events else f"Nothing about {name} in the last {since}."
        )
        if len(lines) == limit:
            note(f"there may be more: these are the newest {limit} (--limit)")


def query_about(name: str, limit: int) -> str:
    # As the name of a member of an object inside of a line, which `keys` and `refused` alone are, and
    # not of the line itself: a key may be called "service". A quote in a value would stand there
    # escaped. A name has no other character that means something in the pattern.
    escaped = name.replace(".", r"\.")
    member = rf':\s?\{{[^{{}}]*"{escaped}":'
    return (
        "fields @timestamp, @message"
        f" | filter @message like /{MESSAGE}/"
        f" | filter @message like /{member}/"
        " | sort @timestamp desc"
        f" | limit {limit}"
    )


def events_about(name: str, lines: Iterable[str]) -> Iterator[Event]:
    """What the lines say of this very key; lines about others are left out."""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict) or said.get("message") != MESSAGE:
            continue
        version = said.get("keys", {}).get(name)
        reason = said.get("refused", {}).get(name)
        if version is None and reason is None:
            continue
        yield {
            "time": said.get("timestamp"),
            "action": said.get("action"),
            "version": version,
            "reason": reason,
            "request_id": said.get("function_request_id"),
            **{part: said[part] for part in _WHO if part in said},
        }


def _event_table(events: Sequence[Event]) -> Table:
    shown = table(
        *(Column(name, no_wrap=True) for name in ("time, UTC", "action")),
        Column("version", overflow="fold"),
        Column("who", overflow="fold", min_width=_ID_COLUMNS),
        Column("reason", no_wrap=True),
        dense=True,
    )
    for event in events:
        refused = event["version"] is None and event["reason"] is not None
        cells = (
            _time(event["time"]),
            "refused" if refused else event["action"],
            event["version"] or "-",
            _who(event),
            event["reason"] or "-",
        )
        shown.add_row(*row(*map(_printable, cells)))
    return shown


def _who(event: Mapping[str, Any]) -> str:
    """The operator; or user, session and app, a line for each."""
    if "sub" not in event:
        return event.get("operator") or "an operator"
    parts = ("client_id", "platform", "app_version")
    app = " ".join(_one_line(event[part]) for part in parts if event.get(part))
    return "\n".join((str(event["sub"]), str(event.get("sid")), app))


def _time(timestamp: object) -> str:
    """To the second, in UTC."""
    try:
        written = datetime.strptime(str(timestamp), "%Y-%m-%d %H:%M:%S,%f%z")
    except ValueError:
        return str(timestamp)
    return f"{written.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _printable(text: object) -> str:
    """The version of an app is whatever that app sends; a terminal shall not obey it."""
    return "".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in str(text))
