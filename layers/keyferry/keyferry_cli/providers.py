"""`keyferry providers`: issuers whose ID tokens log users in (docs/login.md)."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Column, Table

from keyferry.federation.providers import DEFAULT_MAX_AGE, FirstLogin, Nonce
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
    row,
    table,
)

providers = typer.Typer(help="Issuers whose ID tokens log users in.", no_args_is_help=True)
add = typer.Typer(
    help="Add a provider, or replace the one of its name as a whole.", no_args_is_help=True
)
providers.add_typer(add, name="add")

ClientIds = Annotated[
    list[str], typer.Option("--client-id", help="Your client id there (`aud`); may be repeated.")
]
NonceOption = Annotated[
    Nonce, typer.Option("--nonce", help="`none` is for issuers that put none into ID tokens.")
]
MaxAge = Annotated[
    int, typer.Option(min=60, max=86_400, help="Seconds from the sign-in there to the login here.")
]
Invitation = Annotated[
    bool,
    typer.Option(
        "--invitation",
        help="Let whoever has an invitation redeem it by signing in; else, only `users link`"
        " lets somebody in.",
    ),
]
AutoProvision = Annotated[
    bool,
    typer.Option("--auto-provision", help="Make a user of whoever signs in for the first time."),
]
Roles = Annotated[
    list[str] | None,
    typer.Option("--role", help="Role of the users made by --auto-provision; may be repeated."),
]


@add.command("firebase")
def add_firebase(
    context: typer.Context,
    project_id: Annotated[str, typer.Argument(help="Firebase project id.")],
    name: Annotated[str, typer.Option(help="What apps call it at login.")] = "firebase",
    tenant: Annotated[str | None, typer.Option(help="A tenant of Identity Platform.")] = None,
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Let Firebase's anonymous users in as well.")
    ] = False,
    max_age: MaxAge = DEFAULT_MAX_AGE,
    invitation: Invitation = False,
    auto_provision: AutoProvision = False,
    role: Roles = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Firebase Auth. It puts no nonce into its ID tokens: only their age bounds the use of one."""
    settings = {
        "project_id": project_id,
        "name": name,
        "tenant": tenant,
        "anonymous": anonymous,
        **_shared(max_age, role, _first_login(invitation, auto_provision)),
    }
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.put", kind="firebase", settings=settings)
        _report(result, Output(as_json))


@add.command("google")
def add_google(
    context: typer.Context,
    client_id: ClientIds,
    name: Annotated[str, typer.Option(help="What apps call it at login.")] = "google",
    nonce: NonceOption = Nonce.REQUIRED,
    max_age: MaxAge = DEFAULT_MAX_AGE,
    invitation: Invitation = False,
    auto_provision: AutoProvision = False,
    role: Roles = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Sign in with Google. The client id is the one that ID tokens are for: on Android the
    server's."""
    settings = {
        "client_ids": client_id,
        "name": name,
        "nonce": nonce,
        **_shared(max_age, role, _first_login(invitation, auto_provision)),
    }
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.put", kind="google", settings=settings)
        _report(result, Output(as_json))


@add.command("apple")
def add_apple(
    context: typer.Context,
    client_id: ClientIds,
    name: Annotated[str, typer.Option(help="What apps call it at login.")] = "apple",
    nonce: NonceOption = Nonce.REQUIRED,
    max_age: MaxAge = DEFAULT_MAX_AGE,
    invitation: Invitation = False,
    auto_provision: AutoProvision = False,
    role: Roles = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Sign in with Apple. Client ids are bundle ids, and service ids for Android and the web."""
    settings = {
        "client_ids": client_id,
        "name": name,
        "nonce": nonce,
        **_shared(max_age, role, _first_login(invitation, auto_provision)),
    }
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.put", kind="apple", settings=settings)
        _report(result, Output(as_json))


@add.command("oidc")
def add_oidc(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="What apps call it at login.")],
    issuer: Annotated[str, typer.Option(help="Exactly as its ID tokens spell `iss`.")],
    client_id: ClientIds,
    jwks_uri: Annotated[str, typer.Option(help="`jwks_uri` of its metadata.")],
    algorithm: Annotated[
        list[str] | None, typer.Option(help="JWS algorithm; may be repeated; else RS256.")
    ] = None,
    authorized_party: Annotated[
        list[str] | None,
        typer.Option(help="A further client id that may have asked (`azp`); may be repeated."),
    ] = None,
    nonce: NonceOption = Nonce.REQUIRED,
    max_age: MaxAge = DEFAULT_MAX_AGE,
    invitation: Invitation = False,
    auto_provision: AutoProvision = False,
    role: Roles = None,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Any other issuer of OpenID Connect."""
    settings = {
        "name": name,
        "issuer": issuer,
        "client_ids": client_id,
        "jwks_uri": jwks_uri,
        "algorithms": algorithm or ["RS256"],
        "authorized_parties": authorized_party or [],
        "nonce": nonce,
        **_shared(max_age, role, _first_login(invitation, auto_provision)),
    }
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.put", kind="oidc", settings=settings)
        _report(result, Output(as_json))


def _first_login(invitation: bool, auto_provision: bool) -> FirstLogin:
    if invitation and auto_provision:
        raise typer.BadParameter("--auto-provision lets everybody in, with an invitation or not")
    if auto_provision:
        return FirstLogin.OPEN
    return FirstLogin.INVITATION if invitation else FirstLogin.CLOSED


def _shared(max_age: int, role: list[str] | None, first_login: FirstLogin) -> dict[str, Any]:
    if role and first_login is not FirstLogin.OPEN:
        # They would be kept and never used: other users have those of `users add` or `invite`.
        raise typer.BadParameter("--role is for the users that --auto-provision makes")
    return {"max_age": max_age, "first_login": first_login, "roles": role or []}


def _report(result: dict[str, Any], output: Output) -> None:
    output.result(result, f"Stored provider {result['name']}, issuer {result['issuer']}.")
    if result["first_login"] == FirstLogin.OPEN:
        roles = ", ".join(result["roles"]) or "no roles"
        note(
            f"warning: whoever can get an account at {result['issuer']} becomes a user here"
            f" ({roles})"
        )


@providers.command("list")
def list_providers(
    context: typer.Context,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """List the providers. All settings are in --json; none of them is secret."""
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.list")
        found = result["providers"]
        Output(as_json).result(result, _provider_table(found) if found else "No providers.")


def _provider_table(found: list[dict[str, Any]]) -> Table:
    names = ("name", "kind", "issuer", "audiences", "nonce", "max age", "new users")
    # A client id that is cut off could pass for another; it is folded instead.
    shown = table(*(Column(name, overflow="fold") for name in names))
    for provider in found:
        new_users = "-"
        if provider["first_login"] == FirstLogin.INVITATION:
            new_users = "by invitation"
        if provider["first_login"] == FirstLogin.OPEN:
            new_users = ", ".join(provider["roles"]) or "no roles"
        cells = (
            provider["name"],
            provider["kind"],
            provider["issuer"],
            ", ".join(provider["audiences"]),
            provider["nonce"],
            f"{provider['max_age']} s",
            new_users,
        )
        shown.add_row(*row(*cells))
    return shown


@providers.command("remove")
def remove_provider(
    context: typer.Context,
    name: Annotated[str, typer.Argument()],
    yes: Yes = False,
    stack: Stack = DEFAULT_STACK,
    profile: Profile = None,
    region: Region = None,
    as_json: AsJson = False,
) -> None:
    """Let nobody log in by a provider any more, within a minute. Sessions that it began go on;
    identities stay linked, for when it is added again."""
    if not yes:
        question = f"Remove {name} from {stack}? Who has no password here can log in no more"
        typer.confirm(question, abort=True, err=True)
    with functions_of(context, stack, profile, region) as functions:
        result = functions.operate("providers.remove", name=name)
        Output(as_json).result(result, f"Removed provider {result['name']}.")
