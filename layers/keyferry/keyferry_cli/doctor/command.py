"""`keyferry doctor`: the command."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Profile,
    Region,
    Stack,
    functions_of,
)
from keyferry_cli.doctor.checks import Finding, Limits, NotLooked, Report, Severity, examine
from keyferry_cli.doctor.look import Look
from keyferry_cli.doctor.rules import CHECKS

FOUND: Final = 3
NOT_LOOKED: Final = 4
"""Exit statuses beside those that every command has."""

DEFAULT_LIMITS: Final = Limits()
_COLOURS: Final = {Severity.HIGH: "bold red", Severity.MEDIUM: "yellow", Severity.LOW: "cyan"}


class FailOn(StrEnum):
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    NEVER = "never"


def doctor(
    fail_on: Annotated[
        FailOn, typer.Option(help="The least severity of a finding that makes the status 3.")
    ] = FailOn.HIGH,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHECK", help="A finding that is meant: CHECK, or CHECK=SUBJECT. Repeatable."
        ),
    ] = None,
    client_key_days: Annotated[
        int, typer.Option(min=1, help="Age from which a client key is old.")
    ] = DEFAULT_LIMITS.client_key_days,
    key_days: Annotated[
        int, typer.Option(min=1, help="Age from which the value of a key is old.")
    ] = DEFAULT_LIMITS.key_days,
    *,
    context: typer.Context,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Say what of a deployed stack is not as it should be, what that means, and what to do.

    Changes nothing. Exit status: 0 nothing found; 3 found something of --fail-on or worse; 4 nothing
    found, but not everything could be looked at; 1 there is no such stack, or nobody who may ask.
    """
    accepted = _known(accept or [])
    with functions_of(context, stack, profile, region) as functions:
        facts = Look(replace(functions, anonymous=True)).facts()
    limits = Limits(client_key_days=client_key_days, key_days=key_days)
    report = examine(facts, CHECKS, limits, accept=accepted)
    if as_json:
        typer.echo(_json(report, stack, prod=facts.prod))
    else:
        _show(Console(), report, stack, prod=facts.prod)
    raise typer.Exit(exit_status(report, fail_on))


def exit_status(report: Report, fail_on: FailOn) -> int:
    worst = report.worst()
    if fail_on is FailOn.NEVER:
        return 0
    if worst is not None and worst >= Severity[fail_on.name]:
        return FOUND
    return NOT_LOOKED if report.not_looked else 0


def _known(accept: list[str]) -> list[str]:
    """A name that is misspelt would accept nothing, and nobody would notice."""
    names = {check.id for check in CHECKS}
    for each in accept:
        if each.partition("=")[0] not in names:
            raise typer.BadParameter(f"{each!r} names no check", param_hint="--accept")
    return accept


def _json(report: Report, stack: str, *, prod: bool) -> str:
    return json.dumps(
        {
            "stack": stack,
            "stage": "prod" if prod else "dev",
            "findings": [_finding(each) for each in report.findings],
            "accepted": [_finding(each) for each in report.accepted],
            "not_looked": [_not_looked(each) for each in report.not_looked],
            "clean": list(report.clean),
        },
        indent=2,
    )


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check.id,
        "severity": finding.severity.name.lower(),
        "subject": finding.subject,
        "found": finding.seen,
        "means": finding.check.means,
        "do": finding.check.do,
    }


def _not_looked(each: NotLooked) -> dict[str, Any]:
    return {
        "kind": each.kind,
        "subject": each.subject,
        "right": each.unseen.right,
        "reason": each.unseen.reason,
        "checks": list(each.checks),
    }


def _show(console: Console, report: Report, stack: str, *, prod: bool) -> None:
    """Findings of one check stand together, the worst first."""
    console.print(Text(f"{stack}, judged as {'production' if prod else 'development'}"))
    before = ""
    for finding in report.findings:
        if finding.check.id != before:
            severity = finding.severity
            title = Text(f"\n{severity.name.lower():6} ", style=_COLOURS[severity])
            console.print(title + Text(finding.check.id, style="bold"))
            _indented(console, finding.check.means)
            _indented(console, f"→ {finding.check.do}")
            before = finding.check.id
        _indented(console, f"· {finding.subject}: {finding.seen}", by=9)
    if report.accepted:
        names = ", ".join(sorted({each.check.id for each in report.accepted}))
        console.print(Text(f"\naccepted: {names}"))
    if report.not_looked:
        console.print(Text("\ncould not look, so nothing is known:", style="bold"))
        for blind in report.not_looked:
            where = blind.kind if blind.subject == "*" else f"{blind.kind}, {blind.subject}"
            _indented(console, f"· {where}: {blind.unseen.reason}", by=2)
            _indented(console, f"takes {blind.unseen.right}; not checked: {_list(blind)}", by=4)
    counts = ", ".join(
        f"{sum(each.severity is severity for each in report.findings)} {severity.name.lower()}"
        for severity in sorted(Severity, reverse=True)
    )
    console.print(
        Text(
            f"\n{counts}; {len(report.clean)} checks found nothing;"
            f" {len(report.not_looked)} places could not be looked at"
        )
    )


def _list(blind: NotLooked) -> str:
    return ", ".join(blind.checks)


def _indented(console: Console, text: str, by: int = 7) -> None:
    # Text, because a name in brackets would else be read as markup.
    console.print(Padding(Text(text), (0, 0, 0, by), expand=False))
