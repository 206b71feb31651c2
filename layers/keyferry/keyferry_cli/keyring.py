"""`keyferry keyring`: the keys that Keyferry itself signs and authenticates with (docs/keyring.md)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from keyferry.config import DAY
from keyferry.keyring.lifecycle import schedules
from keyferry.keyring.model import Purpose, Standing
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
    row,
    table,
    utc,
)

keyring = typer.Typer(
    help="The keys that tokens are signed and authenticated with.", no_args_is_help=True
)

Key = dict[str, Any]
"""One key, as the keyring function shows it: ``kid``, ``purpose``, ``standing``, ``since``."""

# How long a key is announced does not depend on how long a session lives.
_ANNOUNCED: Final[Mapping[str, int]] = {
    purpose: schedule.announce for purpose, schedule in schedules(idle_seconds=0).items()
}

_PUBLISHED_SECONDS: Final = 360
"""How old a copy of the JWKS may be, somewhere: a minute in the function that serves it, and five
more in the cache of whoever has fetched it."""

_COSTS: Final[Mapping[tuple[str, str], str]] = {
    (Purpose.TOKEN_SIGNING, Standing.NEXT): "It has signed nothing yet: nobody will notice.",
    (Purpose.TOKEN_SIGNING, Standing.CURRENT): (
        "Access tokens signed by it are refused within a minute here, and wherever else they are"
        " checked when the published keys are fetched anew, within ten minutes. Phones just"
        " refresh, and get one that the next key has signed. Nobody is logged out."
    ),
    (Purpose.TOKEN_SIGNING, Standing.PREVIOUS): (
        "Access tokens from before {since} UTC are refused within a minute; unless that was less"
        " than 15 minutes ago, there are none."
    ),
    (Purpose.REFRESH_MAC, Standing.NEXT): "It has made no token yet: nobody will notice.",
    (Purpose.REFRESH_MAC, Standing.CURRENT): (
        "EVERY SESSION whose last token was made under it ends, and its user has to log in again:"
        " that is everybody who has logged in or refreshed since {since} UTC. Access tokens that"
        " they hold work for up to 15 minutes more."
    ),
    (Purpose.REFRESH_MAC, Standing.PREVIOUS): (
        "Every session that has not been refreshed since {since} UTC ends, and its user has to log"
        " in again."
    ),
    (Purpose.DPOP_NONCE, Standing.NEXT): "It has made no nonce yet: nobody will notice.",
    (Purpose.DPOP_NONCE, Standing.CURRENT): (
        "A phone that holds a nonce made under it needs one more round trip, once. Nobody is logged"
        " out."
    ),
    (Purpose.DPOP_NONCE, Standing.PREVIOUS): (
        "Nonces live for five minutes: unless it was retired just now, nobody will notice."
    ),
}


@keyring.command("show")
def show_keyring(
    context: typer.Context,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List the keys with what they are for and where in their life they are. Nothing secret."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.keep_keyring("keyring.show")
        Output(as_json).result(result, _key_table(result["keys"]))


def _key_table(keys: Iterable[Key]) -> Table:
    order = (Standing.CURRENT, Standing.NEXT, Standing.PREVIOUS)
    names = ("purpose", "standing", "since, UTC", "kid")
    shown = table(*(Column(name, no_wrap=True) for name in names))
    for key in sorted(keys, key=lambda key: (key["purpose"], order.index(key["standing"]))):
        shown.add_row(*row(key["purpose"], key["standing"], utc(key["since"]), key["kid"]))
    return shown


@keyring.command("rotate")
def rotate_keyring(
    context: typer.Context,
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Use the next keys though the time of the current ones is not over."
        ),
    ] = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Do what the daily schedule does; with --now, rotate every key whose successor is ready.

    A successor is ready when it has been announced for two days, so that no cache is without it.
    Rotation logs nobody out. For a key that has leaked it is not enough: see `revoke`.
    """
    with functions_of(context, stack, profile, region) as functions:
        before = functions.keep_keyring("keyring.show")["keys"]
        result = functions.keep_keyring("keyring.rotate", now=now)
        changes = _changes(before, result["keys"])
        waiting = list(_waiting(result["keys"], changes["rotated"]))
        if now and not changes["rotated"]:
            fail(
                "nothing was rotated: a next key is used only when it has been announced for"
                f" {_ANNOUNCED[Purpose.TOKEN_SIGNING] // DAY} days; {_when(waiting)}"
            )
        Output(as_json).result(result | changes, _told(changes, result["keys"]))
        if now and waiting:
            note(f"not rotated, as the next key is too new: {_when(waiting)}")


# A kid is base64url and may begin with a dash, so what is no option of ours is the argument; and
# there is no short option that a kid could be taken for.
@keyring.command("revoke", context_settings={"ignore_unknown_options": True})
def revoke_key(
    context: typer.Context,
    kid: Annotated[str, typer.Argument(help="Key id, from `keyring show`.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Take a key that has leaked out of the keyring for good; its successor takes over at once.

    Says first what that costs your users, and asks.
    """
    with functions_of(context, stack, profile, region) as functions:
        before = functions.keep_keyring("keyring.show")["keys"]
        key = next((key for key in before if key["kid"] == kid), None)
        if key is None:
            fail("not_found: there is no such key.")
        note(f"{kid} is the {key['standing']} {key['purpose']} key. {_cost(key, before)}")
        if not yes:
            question = f"Revoke it in {stack}? This cannot be undone"
            typer.confirm(question, abort=True, err=True)
        result = functions.keep_keyring("keyring.revoke", kid=kid)
        changes = _changes(before, result["keys"])
        told = _told(changes, result["keys"])
        Output(as_json).result(result | changes, f"{told}\nEvery function knows within a minute.")


def _cost(key: Key, keys: Iterable[Key]) -> str:
    """What users will notice when ``key`` goes."""
    cost = _COSTS[key["purpose"], key["standing"]].format(since=utc(key["since"]))
    if (key["purpose"], key["standing"]) != (Purpose.TOKEN_SIGNING, Standing.CURRENT):
        return cost
    published = max(
        (
            other["since"]
            for other in keys
            if (other["purpose"], other["standing"]) == (Purpose.TOKEN_SIGNING, Standing.NEXT)
        ),
        default=int(time.time()),
    )
    known = published + _PUBLISHED_SECONDS
    if time.time() < known:
        cost += (
            f" The next key was published minutes ago: until {utc(known)} UTC phones may fail to"
            " verify what they are delivered, and try again."
        )
    return cost


def _changes(before: Iterable[Key], after: Iterable[Key]) -> dict[str, list[str]]:
    """Which keys came into use, were made, and went, by ``kid``."""
    was = {key["kid"]: key["standing"] for key in before}
    is_now = {key["kid"]: key["standing"] for key in after}
    return {
        "rotated": [
            kid
            for kid, standing in is_now.items()
            if standing == Standing.CURRENT and was.get(kid) != Standing.CURRENT
        ],
        "made": [kid for kid in is_now if kid not in was],
        "dropped": [kid for kid in was if kid not in is_now],
    }


def _told(changes: Mapping[str, list[str]], after: Iterable[Key]) -> str:
    purposes = {key["kid"]: key["purpose"] for key in after}
    lines = [f"{kid} is the current {purposes[kid]} key now." for kid in changes["rotated"]]
    lines += [f"{kid} is a new {purposes[kid]} key." for kid in changes["made"]]
    lines += [f"{kid} is gone." for kid in changes["dropped"]]
    return "\n".join(lines) or "Nothing was due."


def _waiting(after: list[Key], rotated: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The purposes of which no key came into use, and when the next one can."""
    done = {key["purpose"] for key in after if key["kid"] in set(rotated)}
    for key in after:
        if key["standing"] == Standing.NEXT and key["purpose"] not in done:
            yield key["purpose"], key["since"] + _ANNOUNCED[key["purpose"]]


def _when(waiting: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{purpose} from {utc(ready)} UTC" for purpose, ready in sorted(waiting))
