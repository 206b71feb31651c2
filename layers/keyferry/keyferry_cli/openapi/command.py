"""`keyferry openapi`: the interface as a document, for generators of clients and for reading."""

from __future__ import annotations

from typing import Annotated

import typer

from keyferry_cli.command_line import Profile, Region, functions_of
from keyferry_cli.stack_functions import CommandFailed

NamedStack = Annotated[
    str | None,
    typer.Option(
        "--stack",
        envvar="KEYFERRY_STACK",
        help="CloudFormation stack whose URL the document names; without one, that of any.",
    ),
]


def print_openapi(
    context: typer.Context,
    stack: NamedStack = None,
    profile: Profile = None,
    region: Region = None,
) -> None:
    """Print the HTTP interface as an OpenAPI 3.1 document. With a stack it names that stack's URL."""
    # Imported here: it brings in most of the product, which the other commands need not wait for.
    from keyferry_cli.openapi.document import text

    if stack is None:
        typer.echo(text(), nl=False)
        return
    with functions_of(context, stack, profile, region) as functions:
        url = functions.outputs().get("ApiUrl")
        if url is None:
            raise CommandFailed(f"stack {stack} has no output ApiUrl: is it a Keyferry stack?")
        typer.echo(text(url), nl=False)
