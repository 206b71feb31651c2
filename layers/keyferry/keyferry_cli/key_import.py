"""`keyferry keys import`: the keys that a team has in a `.env` or JSON file, in one go.

The whole file is checked before the first key is stored. What a row holds is never shown, nor the
name of one that is refused: in a file that was cut in the wrong place, what looks like a name may be
a part of a secret. Its line is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from keyferry.operator.key_commands import MAX_DRAFTS
from keyferry.vault.model import MAX_VALUE_BYTES, is_name
from keyferry.vault.store import MAX_WRITES
from keyferry_cli import dotenv
from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    functions_of,
    note,
    seconds,
)
from keyferry_cli.key_policy import (
    Attested,
    From,
    MinAppVersion,
    Platform,
    Role,
    Rollout,
    SecondFactor,
    Until,
    policy_of,
)
from keyferry_cli.keys import CacheSeconds, Entry, KeepPrevious, Promote, ReplacePending
from keyferry_cli.placeholder import placeholder_in
from keyferry_cli.stack_functions import CommandFailed, StackFunctions

MAX_FILE_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """``where`` is a line of a `.env` file or a member of a JSON object."""

    where: str
    name: str
    value: str = field(repr=False)


@dataclass(slots=True)
class Report:
    """``left`` are names that were not reached, because storing the ``failed`` ones did not work."""

    stored: list[dict[str, Any]] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failure: str | None = None

    def refuse(self, where: str, reason: str) -> None:
        self.refused.append({"where": where, "reason": reason})

    def result(self, *, dry_run: bool) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            "stored": self.stored,
            "refused": sorted(self.refused, key=lambda each: int(each["where"].split()[1])),
            "failed": self.failed,
            "left": self.left,
            "failure": self.failure,
        }


def import_keys(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(help="A .env file, or a .json file {name: value}; `-` is standard input."),
    ],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this name, or names like MAPS_*; may be repeated."),
    ] = None,
    but: Annotated[
        list[str] | None,
        typer.Option("--except", metavar="NAME", help="Not this name, or names like it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    with_placeholders: Annotated[
        bool,
        typer.Option("--with-placeholders", help="Store values that look like placeholders, too."),
    ] = False,
    role: Role = None,
    platform: Platform = None,
    min_app_version: MinAppVersion = None,
    attested: Attested = False,
    second_factor: SecondFactor = False,
    not_before: From = None,
    not_after: Until = None,
    rollout: Rollout = None,
    cache_seconds: CacheSeconds = None,
    promote: Promote = False,
    replace_pending: ReplacePending = False,
    keep_previous: KeepPrevious = "7d",
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Store the keys of a .env or .json file, each as a new version that is pending until it is
    promoted. A policy is for all of them.

    A row that cannot be taken is refused, and the others are stored: up to 50 at a time, all of
    those or none. A key that is there already gets a new version and loses none that devices have;
    one that has a pending version is refused without --replace-pending. Exit status 1 if a row was
    refused.
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
    settings = {
        "promote": promote,
        "replace_pending": replace_pending,
        "previous_seconds": seconds(keep_previous),
    }
    report = Report()
    rows = [row for row in _read(file, report, only or [], but or []) if not _refused(row, report)]
    if not with_placeholders:
        rows = [row for row in rows if not _left_out(row, report)]
    with functions_of(context, stack, profile, region) as functions:
        there = {entry["name"]: entry for entry in functions.operate("keys.list")["keys"]}
        if not promote and not replace_pending:
            rows = [row for row in rows if not _pending(row, there, report)]
        chunks = list(_chunks(rows, there, settings))
        if dry_run:
            report.stored = [{"name": row.name, "new": row.name not in there} for row in rows]
        else:
            more = {"policy": policy, "cache_seconds": cache_seconds}
            _store(functions, chunks, more, settings, there, report)
    result = report.result(dry_run=dry_run)
    Output(as_json).result(result, _told(report, dry_run=dry_run))
    if not as_json:
        for each in result["refused"]:
            note(f"{each['where']}: {each['reason']}")
    if report.failure is not None:
        _tell_failure(report)
    if not dry_run and report.stored:
        _tell_what_next(report, promote=promote)
    if report.refused or report.failure is not None:
        raise typer.Exit(1)


# ── reading ──────────────────────────────────────────────────────────────


def _read(file: Path, report: Report, only: Sequence[str], but: Sequence[str]) -> Iterator[Row]:
    """The rows with a name that is wanted, each name once."""
    text = _text(file)
    is_json = file.suffix.lower() == ".json" or text.lstrip().startswith("{")
    wanted = [
        (row, refused)
        for row, refused in (_json(text) if is_json else _dotenv(text))
        if any(fnmatchcase(row.name, pattern) for pattern in only or ["*"])
        and not any(fnmatchcase(row.name, pattern) for pattern in but)
    ]
    for pattern in only:
        if not any(fnmatchcase(row.name, pattern) for row, _ in wanted):
            note(f"warning: --only {pattern}: no row that is wanted has such a name")
    first: dict[str, Row] = {}
    twice: set[str] = set()
    for row, _ in wanted:
        if first.setdefault(row.name, row) is not row:
            twice.add(row.name)
    for row, refused in wanted:
        if row.name in twice:
            # Neither is stored: which one is meant cannot be known.
            where = "more than once" if first[row.name] is row else f"as in {first[row.name].where}"
            report.refuse(row.where, f"the same name {where}")
        elif refused:
            report.refuse(row.where, refused)
        else:
            yield row


def _text(file: Path) -> str:
    try:
        if str(file) == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with file.open("rb") as opened:
                data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise typer.BadParameter(f"{file} is longer than {MAX_FILE_BYTES} bytes")
        return data.decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None


def _dotenv(text: str) -> list[tuple[Row, str]]:
    """Rows, and why one is refused if it is."""
    try:
        return [
            (Row(f"line {each.line}", each.name, each.value), each.refused)
            for each in dotenv.parse(text)
        ]
    except dotenv.DotenvError as error:
        raise typer.BadParameter(f"{error}; nothing was stored") from None


def _json(text: str) -> list[tuple[Row, str]]:
    try:
        # A list of pairs, for `dict` keeps only the last of two members of one name.
        members = json.loads(text, object_pairs_hook=_Members)
    except (ValueError, RecursionError):
        raise typer.BadParameter("the file is not JSON; nothing was stored") from None
    if not isinstance(members, _Members):
        raise typer.BadParameter("the file is not a JSON object {name: value}; nothing was stored")
    return [
        (Row(f"member {n}", name, value), "")
        if isinstance(value, str)
        else (Row(f"member {n}", name, ""), "not a string")
        for n, (name, value) in enumerate(members, start=1)
    ]


class _Members(list[tuple[str, Any]]):
    """The members of a JSON object."""


# ── checking ─────────────────────────────────────────────────────────────


def _refused(row: Row, report: Report) -> bool:
    reason = None
    if not is_name(row.name):
        reason = "not a name for a key: up to 64 letters, digits, '.', '-' and '_'"
    elif not row.value:
        reason = "empty"
    elif not _is_unicode(row.value):
        reason = "not Unicode text"
    elif len(row.value.encode("utf-8")) > MAX_VALUE_BYTES:
        reason = f"longer than {MAX_VALUE_BYTES} bytes"
    if reason is not None:
        report.refuse(row.where, reason)
    return reason is not None


def _is_unicode(text: str) -> bool:
    """JSON can name half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _left_out(row: Row, report: Report) -> bool:
    reason = placeholder_in(row.value, row.name)
    if reason is not None:
        report.refuse(row.where, f"looks like a placeholder: {reason} (--with-placeholders)")
    return reason is not None


def _pending(row: Row, there: Mapping[str, Entry], report: Report) -> bool:
    """Storing one of these would be refused, and all that are sent with it."""
    pending = there[row.name]["pending"] if row.name in there else None
    if pending is not None:
        report.refuse(
            row.where, f"version {pending['number']} of this key is pending (--replace-pending)"
        )
    return pending is not None


# ── storing ──────────────────────────────────────────────────────────────


def _chunks(
    rows: Iterable[Row], there: Mapping[str, Entry], settings: Mapping[str, Any]
) -> Iterator[list[Row]]:
    """As many at a time as go into one transaction, with the values that they replace."""
    chunk: list[Row] = []
    writes = 0
    for row in rows:
        replaced = there.get(row.name, {}).get("previous" if settings["promote"] else "pending")
        cost = 1 + (1 + len(replaced["variants"]) if replaced is not None else 0)
        if chunk and (len(chunk) == MAX_DRAFTS or writes + cost > MAX_WRITES):
            yield chunk
            chunk, writes = [], 0
        chunk.append(row)
        writes += cost
    if chunk:
        yield chunk


def _store(
    functions: StackFunctions,
    chunks: Sequence[Sequence[Row]],
    more: Mapping[str, Any],
    settings: Mapping[str, Any],
    there: Mapping[str, Entry],
    report: Report,
) -> None:
    for n, chunk in enumerate(chunks):
        keys = [{"name": row.name, "value": row.value, **more} for row in chunk]
        try:
            answer = functions.operate("keys.put_all", keys=keys, **settings)
        except CommandFailed as failure:
            report.failure = str(failure)
            report.failed = [row.name for row in chunk]
            report.left = [row.name for later in chunks[n + 1 :] for row in later]
            return
        part = "current" if settings["promote"] else "pending"
        report.stored += [
            {
                "name": entry["name"],
                "version": entry[part]["number"],
                "new": entry["name"] not in there,
                "policy": entry["policy"],
            }
            for entry in answer["keys"]
        ]


# ── telling ──────────────────────────────────────────────────────────────


def _told(report: Report, *, dry_run: bool) -> str:
    new = sum(each["new"] for each in report.stored)
    verb = "Would store" if dry_run else "Stored"
    lines = [
        f"{verb} {len(report.stored)} key(s): {new} new,"
        f" {len(report.stored) - new} with a new version; {len(report.refused)} row(s) refused."
    ]
    lines += [
        f"  {each['name']}" + (f", version {each['version']}" if "version" in each else "")
        for each in report.stored
    ]
    return "\n".join(lines)


def _tell_failure(report: Report) -> None:
    names = report.failed + report.left
    note(f"keyferry: {report.failure}")
    note(
        f"{len(names)} key(s) were not stored, or not as far as is known; see `keyferry keys list`,"
        " and import them again with: " + " ".join(f"--only {name}" for name in names)
    )


def _tell_what_next(report: Report, *, promote: bool) -> None:
    if not promote:
        note("devices do not get them yet; when they shall: keyferry keys promote NAME")
    without = [each["name"] for each in report.stored if each["policy"] is None]
    if without:
        note(
            "warning: without a policy no device receives "
            + ", ".join(without)
            + "; give them one: keyferry keys policy NAME --role … --platform …"
        )
