"""`keyferry users import`: people from another system, with the password hashes that it made.

The file is read twice: once to check every row by itself, here, and once to send the good ones, a
few at a time. So it may be long, and a file with a faulty row is known to be one before anything is
written. What a row holds is never shown, for columns get mixed up; its line is.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from keyferry.operator.user_import import MAX_BATCH, Outcome, RowRefused, checked
from keyferry.users import stored_hashes
from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    fail,
    functions_of,
    note,
)
from keyferry_cli.stack_functions import StackFunctions

COLUMNS = ("username", "password_hash", "password_salt", "roles", "disabled")
SHOWN_LINES = 20
"""Of refused rows, on a terminal; `--json` has them all."""

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FirebaseProject:
    """What the Firebase console shows as the password hash parameters of a project. The signer key
    stays on this machine (`keyferry.users.stored_hashes.firebase_scrypt`)."""

    signer_key: str = field(repr=False)
    salt_separator: str
    rounds: int
    mem_cost: int

    @classmethod
    def read(cls, file: Path) -> FirebaseProject:
        text = _text(file)

        def member(name: str) -> str:
            found = re.search(rf'\b{name}"?\s*[:=]\s*"?([A-Za-z0-9+/=_-]+)', text)
            if not found:
                raise typer.BadParameter(f"{file} has no {name}")
            return found[1]

        return cls(
            signer_key=member("base64_signer_key"),
            salt_separator=member("base64_salt_separator"),
            rounds=int(member("rounds")),
            mem_cost=int(member("mem_cost")),
        )

    def convert(self, row: Row) -> Row:
        """Raise `ValueError` for a row that is not of such a project."""
        others = {name: each for name, each in row.items() if name != "password_salt"}
        stored = stored_hashes.firebase_scrypt(
            password_hash=str(row.get("password_hash") or ""),
            salt=str(row.get("password_salt") or ""),
            signer_key=self.signer_key,
            salt_separator=self.salt_separator,
            rounds=self.rounds,
            mem_cost=self.mem_cost,
        )
        return {**others, "password_hash": stored}


@dataclass(slots=True)
class Report:
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, line: int, reason: str) -> None:
        self.outcomes[Outcome.REFUSED] += 1
        self.refused.append({"line": line, "reason": reason})

    def result(self, *, dry_run: bool) -> dict[str, Any]:
        return {
            "dry_run": dry_run,
            **{str(outcome): self.outcomes[outcome] for outcome in Outcome if outcome != "refused"},
            "refused": sorted(self.refused, key=lambda each: int(each["line"])),
        }


def import_users(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="A .csv file with a header, or a .jsonl file: one object a line.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")
    ] = False,
    firebase_parameters: Annotated[
        Path | None,
        typer.Option(
            help="File with a Firebase project's password hash parameters: the hashes are of that"
            " project, each with its password_salt."
        ),
    ] = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Import users with the password hashes of another system; never with passwords.

    Columns: username, password_hash, and if you like roles (separated by spaces; a list in .jsonl)
    and disabled. A hash is Argon2id, scrypt or Firebase's scrypt, PBKDF2-SHA256 as of Django, or
    bcrypt; the user's first login turns it into Argon2id. A user who is there already stays as
    they are, so the same file may be imported again. Exit status 1 if a row was refused.
    """
    project = FirebaseProject.read(firebase_parameters) if firebase_parameters else None
    report = Report()
    good = _check(file, project, report)
    with functions_of(context, stack, profile, region) as functions:
        _send(functions, _rows(file), good, project, report, dry_run=dry_run)
    result = report.result(dry_run=dry_run)
    if not as_json:
        for each in result["refused"][:SHOWN_LINES]:
            note(f"line {each['line']}: {each['reason']}")
        if len(result["refused"]) > SHOWN_LINES:
            note(f"… and {len(result['refused']) - SHOWN_LINES} more (--json names them all)")
    verb = "Would import" if dry_run else "Imported"
    Output(as_json).result(
        result,
        f"{verb} {result['imported']} user(s); {result['already_there']} already there;"
        f" {len(result['refused'])} refused.",
    )
    if result["refused"]:
        raise typer.Exit(1)


def _check(file: Path, project: FirebaseProject | None, report: Report) -> set[int]:
    """The lines of the rows that nothing is wrong with; the others go into the report."""
    good: set[int] = set()
    seen: dict[str, int] = {}
    for line, row in _rows(file):
        try:
            _, canonical = checked(_converted(row, project))
        except RowRefused as refused:
            report.refuse(line, str(refused))
            continue
        if canonical in seen:
            report.refuse(line, f"the same user name as in line {seen[canonical]}")
            continue
        seen[canonical] = line
        good.add(line)
    return good


def _send(
    functions: StackFunctions,
    rows: Iterator[tuple[int, Row | str]],
    good: set[int],
    project: FirebaseProject | None,
    report: Report,
    *,
    dry_run: bool,
) -> None:
    wanted = ((line, _converted(row, project)) for line, row in rows if line in good)
    progress = Progress(
        TextColumn("importing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with progress:
        task = progress.add_task("", total=len(good))
        while batch := list(islice(wanted, MAX_BATCH)):
            users = [row for _, row in batch]
            answer = functions.operate("users.import", users=users, dry_run=dry_run)
            for (line, _), result in zip(batch, answer["results"], strict=True):
                if result["outcome"] == Outcome.REFUSED:
                    report.refuse(line, result["reason"])
                else:
                    report.outcomes[result["outcome"]] += 1
            progress.advance(task, len(batch))


def _converted(row: Row | str, project: FirebaseProject | None) -> Row:
    """Raise `RowRefused`. A row that is a text is why it could not be read."""
    if isinstance(row, str):
        raise RowRefused(row)
    if project is None:
        return row
    try:
        return project.convert(row)
    except ValueError:
        raise RowRefused("password_hash or password_salt: not of this Firebase project") from None


def _rows(file: Path) -> Iterator[tuple[int, Row | str]]:
    """The rows with the number of the line each begins on."""
    readers = {".csv": _csv, ".jsonl": _jsonl}
    reader = readers.get(file.suffix.lower())
    if reader is None:
        raise typer.BadParameter("the file must be called .csv or .jsonl")
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with file.open(encoding="utf-8-sig", newline="") as opened:
            yield from reader(opened)
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None


def _csv(opened: TextIO) -> Iterator[tuple[int, Row | str]]:
    reader = csv.DictReader(opened, strict=True)
    _require_columns(reader.fieldnames or ())
    line = reader.line_num + 1
    while True:
        try:
            row: dict[Any, Any] = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fail(f"line {line}: not CSV; nothing was imported")
        if None in row or None in row.values():
            yield line, "not as many fields as the header has"
        else:
            yield line, _typed(row)
        line = reader.line_num + 1


def _require_columns(names: Any) -> None:
    if "password" in names:
        raise typer.BadParameter("passwords are not imported, only hashes (password_hash)")
    if not {"username", "password_hash"} <= set(names) <= set(COLUMNS):
        raise typer.BadParameter(f"the header must be of: {', '.join(COLUMNS)}")


def _typed(row: dict[str, str]) -> Row | str:
    """A CSV row, whose fields are all text, as JSON would have it."""
    typed: Row = {name: text for name, text in row.items() if name not in ("roles", "disabled")}
    if "roles" in row:
        typed["roles"] = row["roles"].split()
    if "disabled" in row:
        said = row["disabled"].strip().lower()
        if said not in ("", "true", "false"):
            return "disabled: neither true nor false"
        typed["disabled"] = said == "true"
    return typed


def _jsonl(opened: TextIO) -> Iterator[tuple[int, Row | str]]:
    for line, text in enumerate(opened, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError):
            yield line, "not JSON"
            continue
        if not isinstance(row, dict):
            yield line, "not a JSON object"
        elif "password" in row:
            yield line, "passwords are not imported, only hashes (password_hash)"
        else:
            yield line, row


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not UTF-8 text") from None
