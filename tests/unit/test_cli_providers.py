"""`keyferry providers` against a session that stands in for AWS."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyferry.federation import providers as presets
from keyferry.operator.commands import PutProvider
from tests.unit.test_cli_commands import FakeAws, run

ROLES = {"max_age": 600, "first_login": "closed", "roles": []}
GOOGLE = json.loads(json.dumps(presets.google(("client-1", "client-2")).members()))

OIDC = ("oidc", "work", "--issuer", "https://id.example", "--client-id", "c")
OIDC_JWKS = ("--jwks-uri", "https://id.example/jwks")


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        (
            ("firebase", "my-project"),
            ROLES
            | {"project_id": "my-project", "name": "firebase", "tenant": None, "anonymous": False},
        ),
        (
            (
                *("firebase", "my-project", "--name", "guests", "--tenant", "t-1", "--anonymous"),
                *("--auto-provision", "--role", "guest", "--max-age", "120"),
            ),
            {
                "project_id": "my-project",
                "name": "guests",
                "tenant": "t-1",
                "anonymous": True,
                "max_age": 120,
                "first_login": "open",
                "roles": ["guest"],
            },
        ),
        (
            ("google", "--client-id", "a", "--client-id", "b"),
            ROLES | {"client_ids": ["a", "b"], "name": "google", "nonce": "required"},
        ),
        (
            ("apple", "--client-id", "com.example.app", "--nonce", "none", "--invitation"),
            ROLES
            | {
                "client_ids": ["com.example.app"],
                "name": "apple",
                "nonce": "none",
                "first_login": "invitation",
            },
        ),
        (
            (*OIDC, *OIDC_JWKS, "--algorithm", "ES256", "--authorized-party", "d"),
            ROLES
            | {
                "name": "work",
                "issuer": "https://id.example",
                "client_ids": ["c"],
                "jwks_uri": "https://id.example/jwks",
                "algorithms": ["ES256"],
                "authorized_parties": ["d"],
                "nonce": "required",
            },
        ),
    ],
)
def test_add_sends_what_the_preset_takes(
    arguments: tuple[str, ...], settings: dict[str, Any]
) -> None:
    fake = FakeAws(GOOGLE)
    result = run(fake, "providers", "add", *arguments)
    assert result.exit_code == 0, result.output
    sent = {"kind": arguments[0], "settings": settings}
    assert fake.events == [{"command": "providers.put", "arguments": sent}]
    # And the operator function makes the provider of it that was meant.
    made = PutProvider.model_validate(sent).provider()
    assert (made.name, made.max_age, made.first_login, made.roles) == (
        settings["name"],
        settings["max_age"],
        settings["first_login"],
        tuple(settings["roles"]),
    )


def test_add_says_what_was_stored() -> None:
    result = run(FakeAws(GOOGLE), "providers", "add", "google", "--client-id", "client-1")
    assert result.stdout == "Stored provider google, issuer https://accounts.google.com.\n"
    assert result.stderr == ""
    arguments = ("providers", "add", "google", "--client-id", "client-1", "--json")
    assert json.loads(run(FakeAws(GOOGLE), *arguments).stdout) == GOOGLE


def test_a_provider_that_makes_users_is_warned_about() -> None:
    fake = FakeAws(GOOGLE | {"first_login": "open", "roles": ["guest"]})
    options = ("--client-id", "client-1", "--auto-provision", "--role", "guest", "--json")
    result = run(fake, "providers", "add", "google", *options)
    assert json.loads(result.stdout)["first_login"] == "open"
    assert "whoever can get an account" in result.stderr
    assert "(guest)" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("google",),
        ("google", "--client-id", "a", "--role", "guest"),
        ("google", "--client-id", "a", "--role", "guest", "--invitation"),
        ("google", "--client-id", "a", "--auto-provision", "--invitation"),
        ("google", "--client-id", "a", "--nonce", "maybe"),
        ("google", "--client-id", "a", "--max-age", "59"),
        ("firebase",),
        OIDC,
        ("facebook", "--client-id", "a"),
    ],
)
def test_incomplete_settings_are_wrong_usage(arguments: tuple[str, ...]) -> None:
    fake = FakeAws(GOOGLE)
    assert run(fake, "providers", "add", *arguments).exit_code == 2
    assert fake.events == []


def test_list_shows_every_provider() -> None:
    provisioning = GOOGLE | {"name": "guests", "first_login": "open", "roles": ["guest"]}
    inviting = GOOGLE | {"name": "staff", "first_login": "invitation"}
    fake = FakeAws({"providers": [GOOGLE, provisioning, inviting]})
    result = run(fake, "providers", "list", COLUMNS="160")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines() if line.strip()]
    shown = "google https://accounts.google.com client-1, client-2 required 600 s"
    assert lines[2:] == [
        f"google {shown} -",
        f"guests {shown} guest",
        f"staff {shown} by invitation",
    ]
    assert fake.events == [{"command": "providers.list", "arguments": {}}]
    assert json.loads(run(fake, "providers", "list", "--json").stdout) == fake.result


def test_list_of_no_providers() -> None:
    assert run(FakeAws({"providers": []}), "providers", "list").stdout == "No providers.\n"


def test_remove_asks_first() -> None:
    fake = FakeAws({"name": "google"})
    for answer in ("n\n", "", "\n"):
        assert run(fake, "providers", "remove", "google", stdin=answer).exit_code == 1
    assert fake.events == []
    confirmed = run(fake, "providers", "remove", "google", stdin="y\n")
    assert confirmed.stdout.endswith("Removed provider google.\n")
    assert run(fake, "providers", "remove", "google", "--yes").exit_code == 0
    event = {"command": "providers.remove", "arguments": {"name": "google"}}
    assert fake.events == [event] * 2
