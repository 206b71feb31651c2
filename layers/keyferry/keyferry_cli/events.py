"""`keyferry events`: sample events for `sam local invoke`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated

import typer

from keyferry_cli.command_line import (
    DEFAULT_STACK,
    AsJson,
    Output,
    Profile,
    Region,
    Stack,
    Yes,
    functions_of,
)
from keyferry_cli.live_events import (
    SAMPLE_USER,
    Api,
    Event,
    Replays,
    of_another_api,
    of_custom_resource,
    of_route,
)
from keyferry_cli.stack_functions import CommandFailed

DEFAULT_FOLDER = Path("events/live")

events = typer.Typer(help="Sample events for `sam local invoke`.", no_args_is_help=True)


@events.callback()
def _group() -> None:
    """Keep `refresh` a word of its own, though it is the only one."""


@events.command("refresh")
def refresh_events(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Where the events are written.")] = DEFAULT_FOLDER,
    samples: Annotated[
        Path, typer.Option(help="The samples to start from: events/ of the repository.")
    ] = Path("events"),
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Write the sample events anew, good for this stack and for the next minutes: with its URL and
    client key, fresh tokens and proofs, and an env.json with the names of its tables and keys.

    That takes users and sessions, which this makes: the users `keyferry-sample-…`, with the roles
    of one of your keys. What is written lets its reader be them: `users disable` ends that.
    """
    found = sorted(
        path
        for path in samples.glob("*/*.json")
        if path.parent not in (folder, samples / DEFAULT_FOLDER.name)
    )
    if not found:
        raise typer.BadParameter(f"there are no events in {samples}", param_hint="--samples")
    if not yes and not typer.confirm(
        f"This makes users {SAMPLE_USER}-… in {stack}, and writes their tokens to {folder}. Go on?",
        err=True,
    ):
        raise typer.Exit(1)
    with functions_of(context, stack, profile, region) as functions:
        api = Api.of_stack(functions)
        replays = Replays(functions, api)
        names = [str(path.relative_to(samples)) for path in found]
        contents = [_live(json.loads(path.read_text("utf-8")), api, replays) for path in found]
        for name, content in zip(names, contents, strict=True):
            _write(folder / name, content)
        _write(folder / "env.json", {k: dict(v) for k, v in api.environments.items()})
        Output(as_json).result(
            {"folder": str(folder), "events": names},
            f"Wrote {len(names)} events and env.json to {folder}. Proofs are good for 5 minutes,"
            " a code for one, access tokens for 15.",
        )


def _live(sample: Event, api: Api, replays: Replays) -> Event:
    now = time.time()
    if sample.get("type") == "REQUEST":
        return of_another_api(sample, api, replays.signed_in, now=now)
    if "httpMethod" in sample:
        replay = replays.of(sample["httpMethod"], sample["resource"])
        return of_route(sample, api, replay, now=now)
    if "ResourceProperties" in sample:
        return of_custom_resource(sample, api)
    return sample


def _write(path: Path, content: Event) -> None:
    """For the eyes of the caller alone from the first byte on: there are tokens in it."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise CommandFailed(f"cannot write {path}: {error.strerror}") from None
