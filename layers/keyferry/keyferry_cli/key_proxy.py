"""`keyferry keys proxy`: keys that are used at one upstream and never delivered (docs/proxy.md)."""

from __future__ import annotations

from typing import Annotated, Any

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
    note,
)
from keyferry_cli.keys import Name


def set_upstream(
    context: typer.Context,
    name: Name,
    host: Annotated[
        str | None, typer.Option(help="The upstream's exact DNS name, such as api.example.com.")
    ] = None,
    path_prefix: Annotated[
        str | None,
        typer.Option(
            help="Paths that may be called: all below it when it ends in /, else that one."
        ),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Method that may be called; may be repeated.")
    ] = None,
    header: Annotated[str | None, typer.Option(help="Header that the key goes into.")] = None,
    query: Annotated[
        str | None, typer.Option(help="Or the query parameter that it goes into.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="What is sent there; 'Bearer {key}', for one.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Else 443.")] = None,
    pass_header: Annotated[
        list[str] | None,
        typer.Option(help="Header that callers may set beside the usual ones; may be repeated."),
    ] = None,
    budget: Annotated[
        int | None, typer.Option(help="Requests of one user in every window; else 60.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Seconds of a window of the budget; else 60.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(help="Seconds that the upstream has; else 15.")
    ] = None,
    max_request_bytes: Annotated[int | None, typer.Option(help="Else 65536.")] = None,
    max_response_bytes: Annotated[int | None, typer.Option(help="Else 262144.")] = None,
    off: Annotated[
        bool, typer.Option("--off", help="No proxy any more: devices get the key, by its policy.")
    ] = False,
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let a key be used at one upstream only. No device is given it from then on: apps call
    POST /v1/proxy/NAME, and whoever its policy lets in may.

    The rules are given as a whole; what is not named is as the help says.
    """
    rules_given: tuple[object, ...] = (
        *(host, path_prefix, method, header, query, template, port, pass_header, budget, window),
        *(timeout, max_request_bytes, max_response_bytes),
    )
    if off:
        if any(each not in (None, []) for each in rules_given):
            raise typer.BadParameter("--off takes the proxy away: give no rules beside it")
        rules = None
        if not yes:
            question = f"Let devices have the value of {name}, as its policy says?"
            typer.confirm(question, abort=True, err=True)
    else:
        if not host or not path_prefix or not method:
            raise typer.BadParameter("give --host, --path-prefix and --method; or --off")
        if bool(header) == bool(query):
            raise typer.BadParameter("give either --header or --query")
        rules = {
            "host": host,
            "path_prefix": path_prefix,
            "methods": method,
            "inject": "header" if header else "query",
            "parameter": header or query,
            "template": template,
            "port": port,
            "headers": [each.lower() for each in pass_header] if pass_header else None,
            "budget": budget,
            "budget_seconds": window,
            "timeout_seconds": timeout,
            "max_request_bytes": max_request_bytes,
            "max_response_bytes": max_response_bytes,
        }
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("keys.proxy", name=name, upstream=rules)
        Output(as_json).result(result, _summary(result))
        if rules is not None:
            note(
                f"note: a device that was ever given {name} still has it; if there may be one,"
                " replace the key at its provider and put the new value here"
            )
        if result["policy"] is None:
            note(f"warning: {name} has no policy, so nobody may use it")


def _summary(entry: dict[str, Any]) -> str:
    upstream = entry["upstream"]
    if upstream is None:
        return f"{entry['name']} is delivered to devices again."
    port = f":{upstream['port']}" if upstream["port"] != 443 else ""
    return (
        f"{entry['name']} is used at https://{upstream['host']}{port}{upstream['path_prefix']}"
        f" ({', '.join(upstream['methods'])}) and never delivered;"
        f" {upstream['budget']} requests of each user every {upstream['budget_seconds']} s."
    )
