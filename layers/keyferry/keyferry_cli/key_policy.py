"""Who may have a key, or one of its values, as options say it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from keyferry.vault.app_version import AppVersion
from keyferry.vault.model import ANY, WHOLE_ROLLOUT
from keyferry_cli.command_line import utc

Role = Annotated[
    list[str] | None,
    typer.Option(help="Users with this role may have it; may be repeated; '*' is everybody."),
]
Platform = Annotated[
    list[str] | None,
    typer.Option(help="Platforms that may have it: ios, android, '*'; may be repeated."),
]
MinAppVersion = Annotated[
    str | None, typer.Option(help="Only for apps that say they are this version or newer.")
]
Attested = Annotated[bool, typer.Option("--attested", help="Only for apps that App Check knows.")]
SecondFactor = Annotated[
    bool,
    typer.Option("--second-factor", help="Only for sessions that began with a second factor."),
]
From = Annotated[
    str | None,
    typer.Option("--from", help="Not before this date or time (ISO 8601); UTC without an offset."),
]
Until = Annotated[
    str | None,
    typer.Option("--until", help="No longer at this date or time (ISO 8601), and after it."),
]
Rollout = Annotated[
    str | None, typer.Option(metavar="PERCENT", help="Only for so many of the users, such as 12.5.")
]


def policy_of(
    *,
    role: Sequence[str] | None,
    platform: Sequence[str] | None,
    min_app_version: str | None,
    attested: bool,
    second_factor: bool,
    not_before: str | None,
    not_after: str | None,
    rollout: str | None,
) -> dict[str, Any] | None:
    """The policy for the operator function; None when no option was given.

    Raise `typer.BadParameter` for a policy that leaves out roles or platforms, and for values that
    mean nothing.
    """
    others = _conditions(
        min_app_version=min_app_version,
        attested=attested,
        second_factor=second_factor,
        not_before=not_before,
        not_after=not_after,
        rollout=rollout,
    )
    if bool(role) != bool(platform):
        # Guessing the missing half would widen access; leaving it empty would close it silently.
        raise typer.BadParameter("give --role and --platform together, '*' for any")
    if others and not role:
        raise typer.BadParameter(
            "a policy is given as a whole: give --role and --platform together with its conditions"
        )
    if not role or not platform:
        return None
    return {"roles": list(role), "platforms": list(platform), **others}


def conditions_of(text: str) -> dict[str, Any]:
    """The conditions of a variant, such as ``platform=ios,min-app-version=2.0,attested``.

    Raise `typer.BadParameter`.
    """
    lists: Mapping[str, list[str]] = {"role": [], "platform": []}
    texts: dict[str, str] = {}
    flags: set[str] = set()
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if name in lists and value:
            lists[name].append(value)
        elif name in ("min-app-version", "from", "until", "rollout") and value:
            if name in texts:
                raise typer.BadParameter(f"--variant: {name} stands there twice")
            texts[name] = value
        elif name in ("attested", "second-factor") and not equals:
            flags.add(name)
        else:
            raise typer.BadParameter(
                f"--variant: {part.strip()!r} is no condition; those are role=, platform=,"
                " min-app-version=, attested, second-factor, from=, until= and rollout="
            )
    others = _conditions(
        min_app_version=texts.get("min-app-version"),
        attested="attested" in flags,
        second_factor="second-factor" in flags,
        not_before=texts.get("from"),
        not_after=texts.get("until"),
        rollout=texts.get("rollout"),
    )
    return {f"{name}s": values for name, values in lists.items() if values} | others


def policy_words(policy: Mapping[str, Any] | None) -> str:
    """A policy in few words."""
    if policy is None:
        return "nobody"
    roles, platforms = policy["roles"], policy["platforms"]
    words = ["anybody" if ANY in roles else ", ".join(roles)]
    if ANY not in platforms:
        words[0] += f" on {', '.join(platforms)}"
    if policy["min_app_version"] is not None:
        words.append(f"app {policy['min_app_version']}+")
    if policy["attested"]:
        words.append("attested")
    if policy["second_factor"]:
        words.append("second factor")
    if policy["not_before"] is not None:
        words.append(f"from {utc(policy['not_before'])}")
    if policy["not_after"] is not None:
        words.append(f"until {utc(policy['not_after'])}")
    if policy["rollout"] != WHOLE_ROLLOUT:
        words.append(f"{policy['rollout'] / 100:g} %")
    return "; ".join(words)


def _conditions(
    *,
    min_app_version: str | None,
    attested: bool,
    second_factor: bool,
    not_before: str | None,
    not_after: str | None,
    rollout: str | None,
) -> dict[str, Any]:
    """What was given of the conditions beside roles and platforms."""
    given: dict[str, Any] = {}
    if min_app_version is not None:
        try:
            AppVersion.parse(min_app_version)
        except ValueError:
            raise typer.BadParameter(f"{min_app_version!r} is no version, such as 2.0.1") from None
        given["min_app_version"] = min_app_version
    if attested:
        given["attested"] = True
    if second_factor:
        given["second_factor"] = True
    if not_before is not None:
        given["not_before"] = _epoch(not_before)
    if not_after is not None:
        given["not_after"] = _epoch(not_after)
        if given["not_after"] <= given.get("not_before", -1):
            raise typer.BadParameter("the end is not after the beginning")
    if rollout is not None:
        given["rollout"] = _rollout(rollout)
    return given


def _epoch(text: str) -> int:
    """Seconds since the epoch of a date or time; a date is the first second of its day."""
    try:
        time = datetime.fromisoformat(text)
        since = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        since = -1
    if since < 0:
        raise typer.BadParameter(
            f"{text!r} is no date or time, such as 2027-01-31 or 2027-01-31T08:00+01:00"
        )
    return since


def _rollout(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,2}))?%?", text)
    hundredths = int(match[1]) * 100 + int((match[2] or "").ljust(2, "0")) if match else -1
    if not 0 <= hundredths <= WHOLE_ROLLOUT:
        raise typer.BadParameter(
            f"{text!r} is no percentage from 0 to 100, with two decimals at most"
        )
    return hundredths
