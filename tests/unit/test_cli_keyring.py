"""`keyferry keyring` against a session that stands in for AWS."""

from __future__ import annotations

import io
import json
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from keyferry.config import DAY
from keyferry.keyring import discovery
from keyferry.keyring.model import Purpose, Standing
from keyferry_cli import keyring as command
from tests.unit.test_cli_commands import FakeAws, run

NOW = 1_795_334_400  # 2026-11-22 08:00 UTC


def key(kid: str, purpose: str, standing: str, since: int = NOW) -> dict[str, Any]:
    return {"kid": kid, "purpose": purpose, "standing": standing, "since": since}


KEYS = [
    key("sig-cur", "token-signing", "current"),
    key("sig-next", "token-signing", "next"),
    key("sig-prev", "token-signing", "previous"),
    key("mac-cur", "refresh-mac", "current"),
    key("mac-next", "refresh-mac", "next"),
    key("mac-prev", "refresh-mac", "previous"),
    key("-y9_nonce", "dpop-nonce", "current"),
    key("nonce-next", "dpop-nonce", "next"),
    key("nonce-prev", "dpop-nonce", "previous"),
]


@dataclass
class Keyring(FakeAws):
    """The keyring function: shows `keys` until it is told to change them into `then`."""

    keys: list[dict[str, Any]] = field(default_factory=lambda: KEYS)
    then: list[dict[str, Any]] = field(default_factory=lambda: KEYS)

    def invoke(self, *, FunctionName: str, Payload: bytes) -> dict[str, Any]:  # noqa: N803
        assert FunctionName == "ring:live"
        event = json.loads(Payload)
        self.events.append(event)
        keys = self.keys if event["command"] == "keyring.show" else self.then
        result = {"revision": 3, "issuer": "https://api.example/dev", "clients": {}, "keys": keys}
        return {"Payload": io.BytesIO(json.dumps({"ok": True, "result": result}).encode())}

    @property
    def sent(self) -> list[dict[str, Any]]:
        return [event for event in self.events if event["command"] != "keyring.show"]


def rotated(*purposes: str) -> list[dict[str, Any]]:
    """`KEYS` after the next keys of some purposes have come into use."""
    moves = {Standing.NEXT: Standing.CURRENT, Standing.CURRENT: Standing.PREVIOUS}
    moved = [
        each | {"standing": moves.get(each["standing"], each["standing"])}
        if each["purpose"] in purposes
        else each
        for each in KEYS
    ]
    return moved + [key(f"{purpose}-new", purpose, "next") for purpose in purposes]


def test_show() -> None:
    fake = Keyring()
    lines = run(fake, "keyring", "show", COLUMNS="120").stdout.splitlines()
    assert [line.split() for line in lines if "sig-" in line] == [
        ["token-signing", "current", "2026-11-22", "08:00", "sig-cur"],
        ["token-signing", "next", "2026-11-22", "08:00", "sig-next"],
        ["token-signing", "previous", "2026-11-22", "08:00", "sig-prev"],
    ]
    assert json.loads(run(fake, "keyring", "show", "--json").stdout)["keys"] == KEYS
    assert fake.events == [{"command": "keyring.show"}] * 2


def test_rotate_by_schedule_may_have_nothing_to_do() -> None:
    fake = Keyring()
    result = run(fake, "keyring", "rotate")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Nothing was due.\n", "")
    assert fake.sent == [{"command": "keyring.rotate", "now": False}]


def test_rotate_now_says_what_came_into_use() -> None:
    fake = Keyring(then=rotated(*Purpose))
    result = run(fake, "keyring", "rotate", "--now")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "sig-next is the current token-signing key now." in result.stdout
    assert "token-signing-new is a new token-signing key." in result.stdout
    assert fake.sent == [{"command": "keyring.rotate", "now": True}]
    shown = json.loads(run(fake, "keyring", "rotate", "--now", "--json").stdout)
    assert shown["rotated"] == ["sig-next", "mac-next", "nonce-next"]
    assert shown["dropped"] == []


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_rotate_now_before_its_time_is_a_failure_with_a_date(options: tuple[str, ...]) -> None:
    result = run(Keyring(), "keyring", "rotate", "--now", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("keyferry: nothing was rotated: ")
    assert result.stderr.count("\n") == 1
    for purpose in Purpose:
        assert f"{purpose} from 2026-11-24 08:00 UTC" in result.stderr


def test_rotate_now_names_the_keys_that_are_too_new() -> None:
    fake = Keyring(then=rotated("token-signing", "dpop-nonce"))
    result = run(fake, "keyring", "rotate", "--now")
    assert result.exit_code == 0
    expected = "not rotated, as the next key is too new: refresh-mac from 2026-11-24 08:00 UTC\n"
    assert result.stderr == expected


# ── revoke ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kid", "cost"),
    [
        ("sig-cur", "Nobody is logged out."),
        ("sig-next", "nobody will notice"),
        ("sig-prev", "before 2026-11-22 08:00 UTC"),
        ("mac-cur", "EVERY SESSION"),
        ("mac-next", "nobody will notice"),
        ("mac-prev", "has not been refreshed since 2026-11-22 08:00 UTC"),
        ("-y9_nonce", "one more round trip"),
        ("nonce-next", "nobody will notice"),
        ("nonce-prev", "five minutes"),
    ],
)
def test_revoke_says_what_it_costs_and_asks(kid: str, cost: str) -> None:
    fake = Keyring()
    for answer in ("n\n", "", "\n"):
        refused = run(fake, "keyring", "revoke", kid, stdin=answer)
        assert refused.exit_code == 1
        assert cost in refused.stderr
        assert "Revoke it in keyferry-dev?" in refused.stderr
    assert fake.sent == []
    assert run(fake, "keyring", "revoke", kid, stdin="y\n").exit_code == 0
    agreed = run(fake, "keyring", "revoke", "--yes", kid)
    assert agreed.exit_code == 0
    assert cost in agreed.stderr
    assert fake.sent == [{"command": "keyring.revoke", "kid": kid}] * 2


def test_revoke_says_what_took_over() -> None:
    then = [each for each in rotated("token-signing") if each["kid"] != "sig-cur"]
    fake = Keyring(then=then)
    result = run(fake, "keyring", "revoke", "sig-cur", "--yes")
    assert "sig-next is the current token-signing key now." in result.stdout
    assert "sig-cur is gone." in result.stdout
    assert "within a minute" in result.stdout
    shown = json.loads(run(fake, "keyring", "revoke", "sig-cur", "--yes", "--json").stdout)
    assert (shown["rotated"], shown["dropped"]) == (["sig-next"], ["sig-cur"])


def test_revoke_warns_when_the_next_key_is_not_known_everywhere() -> None:
    fresh = [key("a", "token-signing", "current"), key("b", "token-signing", "next", NOW)]
    fresh[1]["since"] = int(time.time()) - 60
    assert "published minutes ago" in run(Keyring(keys=fresh), "keyring", "revoke", "a").stderr
    fresh[1]["since"] = int(time.time()) - DAY
    assert "published" not in run(Keyring(keys=fresh), "keyring", "revoke", "b").stderr
    assert "minutes ago" not in run(Keyring(keys=fresh), "keyring", "revoke", "a").stderr


@pytest.mark.parametrize("kid", ["nobody", "-x", "--x"])
def test_revoke_of_an_unknown_key_changes_nothing(kid: str) -> None:
    fake = Keyring()
    result = run(fake, "keyring", "revoke", kid, "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "keyferry: not_found: there is no such key.\n"
    assert fake.sent == []


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("a", "--now")])
def test_revoke_takes_one_key(arguments: tuple[str, ...]) -> None:
    assert run(Keyring(), "keyring", "revoke", *arguments).exit_code == 2


def test_every_key_has_a_price() -> None:
    assert set(command._COSTS) == {(purpose, each) for purpose in Purpose for each in Standing}
    published = discovery.READ_AGAIN_SECONDS + discovery.MAX_AGE_SECONDS
    assert published == command._PUBLISHED_SECONDS


def test_a_failing_keyring_function_is_named() -> None:
    fake = FakeAws(reply={"errorType": "KeyError"}, function_error="Unhandled")
    result = run(fake, "keyring", "show")
    assert result.exit_code == 1
    assert "the keyring function failed (KeyError): see the logs of ring:live" in result.stderr
    assert "no output KeyringFunction" in run(FakeAws(outputs=[]), "keyring", "show").stderr
