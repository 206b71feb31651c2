"""The `keyferry` command: users, providers, keys, sessions, clients and the keyring of a deployed stack."""

from __future__ import annotations

import typer

from keyferry_cli.clients import clients
from keyferry_cli.cost import cost
from keyferry_cli.doctor.command import doctor
from keyferry_cli.events import events
from keyferry_cli.key_audit import audit_key
from keyferry_cli.key_import import import_keys
from keyferry_cli.key_proxy import set_upstream
from keyferry_cli.keyring import keyring
from keyferry_cli.keys import keys
from keyferry_cli.openapi.command import print_openapi
from keyferry_cli.providers import providers
from keyferry_cli.sessions import sessions
from keyferry_cli.totp import enrol_totp
from keyferry_cli.user_import import import_users
from keyferry_cli.users import users

app = typer.Typer(
    name="keyferry",
    help="Operate a Keyferry stack: users, providers, keys, sessions, clients, keyring, sample events, interface;"
    " and look whether it is as it should be."
    " Exit status: 0 done, 1 refused or failed, 2 wrong usage.",
    no_args_is_help=True,
    # A traceback could show the value of a secret.
    pretty_exceptions_enable=False,
)
users.command("import")(import_users)
users.command("totp")(enrol_totp)
keys.command("import")(import_keys)
keys.command("audit")(audit_key)
keys.command("proxy")(set_upstream)
app.command("openapi")(print_openapi)
app.command("cost")(cost)
app.add_typer(users, name="users")
app.add_typer(providers, name="providers")
app.add_typer(keys, name="keys")
app.add_typer(sessions, name="sessions")
app.add_typer(clients, name="clients")
app.add_typer(keyring, name="keyring")
app.add_typer(events, name="events")
app.command("doctor")(doctor)


def main() -> None:
    """Entry point of the `keyferry` command."""
    app(prog_name="keyferry")
