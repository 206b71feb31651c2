"""From facts to findings. Pure: the same facts give the same findings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from keyferry_cli.doctor.facts import Facts, Unseen


class Severity(IntEnum):
    """``HIGH``: what Keyferry promises does not hold, or would not survive a bad day. ``MEDIUM``: a
    line of defence is missing. ``LOW``: worth a look; it may be meant."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3


@dataclass(frozen=True, slots=True)
class Limits:
    """Ages in days from which something is old."""

    client_key_days: int = 365
    key_days: int = 180


Find = Callable[[str, Any, Facts, Limits], Iterable[str]]
"""What is off with one thing of the kind, by its name and what is known of it: a sentence for each."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that can be off. ``of`` is the kind of facts that it looks at one by one, ``also``
    what it has to know beside that. In a stack for development it is a finding of ``dev``, or none
    if that is None: what the template leaves out there on purpose, since it is billed."""

    id: str
    of: str
    prod: Severity
    dev: Severity | None
    means: str
    do: str
    find: Find
    also: tuple[str, ...] = ()

    def severity(self, prod: bool) -> Severity | None:
        return self.prod if prod else self.dev


@dataclass(frozen=True, slots=True)
class Finding:
    check: Check
    severity: Severity
    subject: str
    seen: str


@dataclass(frozen=True, slots=True)
class NotLooked:
    """``checks`` are those that nothing can be said of for this reason."""

    kind: str
    subject: str
    unseen: Unseen
    checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """``findings`` the worst first. ``accepted`` are those that somebody has said to be meant;
    ``clean`` are the checks that saw all there is to see and found nothing."""

    findings: tuple[Finding, ...]
    accepted: tuple[Finding, ...]
    not_looked: tuple[NotLooked, ...]
    clean: tuple[str, ...]

    def worst(self) -> Severity | None:
        return max((finding.severity for finding in self.findings), default=None)


def examine(
    facts: Facts,
    checks: Iterable[Check],
    limits: Limits,
    *,
    accept: Collection[str] = (),
) -> Report:
    """Hold ``facts`` against ``checks``. ``accept`` holds ids of checks, or ``id=subject``."""
    found: list[Finding] = []
    blind: dict[tuple[str, str], list[str]] = {}
    clean: list[str] = []
    unseen = {(kind, name): reason for kind, name, reason in facts.unseen()}
    for check in checks:
        severity = check.severity(facts.prod)
        if severity is None:
            continue
        before = len(found)
        missing = [key for key in unseen if key[0] in check.also]
        # What it has to know beside is needed only where there is something to look at.
        parts = getattr(facts, check.of)
        hidden = [(check.of, name) for name, part in parts.items() if isinstance(part, Unseen)]
        if len(hidden) < len(parts):
            hidden += missing
        if not missing:
            for name, part in parts.items():
                if not isinstance(part, Unseen):
                    seen = check.find(name, part, facts, limits)
                    found += [Finding(check, severity, name, each) for each in seen]
        for key in hidden:
            blind.setdefault(key, []).append(check.id)
        if not hidden and len(found) == before:
            clean.append(check.id)
    found.sort(key=lambda finding: (-finding.severity, finding.check.id, finding.subject))
    meant = [finding for finding in found if _is_accepted(finding, accept)]
    return Report(
        findings=tuple(finding for finding in found if finding not in meant),
        accepted=tuple(meant),
        not_looked=tuple(
            NotLooked(*key, unseen[key], tuple(sorted(left_out)))
            for key, left_out in sorted(blind.items())
            if not set(left_out) <= set(accept)
        ),
        clean=tuple(clean),
    )


def _is_accepted(finding: Finding, accept: Collection[str]) -> bool:
    return finding.check.id in accept or f"{finding.check.id}={finding.subject}" in accept
