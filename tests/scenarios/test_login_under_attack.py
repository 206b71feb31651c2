"""Strangers at the door: what the login function does, as it is shipped, while they keep guessing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from keyferry.config import DAY
from keyferry.users.enrolment import RECENT_LOGIN_SECONDS
from keyferry.users.guessing import ACCOUNT, NETWORK
from tests.e2e.conftest import PASSWORD
from tests.e2e.device import jwk_of, new_key
from tests.scenarios.system import ABSOLUTE, ISSUER, Phone, Reply

if TYPE_CHECKING:
    import httpx

    from tests.scenarios.system import System

HOME = "192.0.2.1"
"""The owner's address; strangers use it too."""

THROTTLED = Reply(400, "ProvisionedThroughputExceededException")


def stranger(system: System) -> Phone:
    return Phone(system.http, ISSUER, "ios-key", clock=lambda: system.now)


def attempt(
    system: System,
    phone: Phone,
    username: str,
    password: str,
    *,
    ip: str = HOME,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """One request: `Device.login` would wait when it is told to."""
    system.source_ip = ip
    device = {
        "name": "Phone",
        "platform": "ios",
        "app_version": "1.0",
        "encryption_key": jwk_of(phone.encryption),
    }
    response = system.http.post(
        f"{ISSUER}/v1/login",
        headers={
            "x-api-key": "ios-key",
            "DPoP": phone.proof("POST", "/v1/login"),
            **(headers or {}),
        },
        json={"username": username, "password": password, "device": device},
    )
    system.source_ip = HOME
    return response


def besiege(system: System, username: str) -> None:
    """Reach the limit of the account, and that of its owner's address."""
    phone = stranger(system)
    for number in range(ACCOUNT.free + 1):
        attempt(system, phone, username, "wrong", ip=f"198.51.100.{number}")
    statuses = [
        attempt(system, phone, f"guess {number}", "wrong").status_code
        for number in range(NETWORK.free + 1)
    ]
    assert set(statuses) == {400}


def test_the_owner_gets_in_from_the_known_phone_whatever_strangers_do(system: System) -> None:
    owner = system.phone()
    besiege(system, owner.username)
    copy = replace(owner, signing=new_key())
    for who in (stranger(system), copy):
        kept_out = attempt(system, who, owner.username, PASSWORD)
        assert (kept_out.status_code, kept_out.json()["error"]) == (429, "too_many_attempts")
        assert int(kept_out.headers["retry-after"]) >= 1
    assert attempt(system, owner, owner.username, PASSWORD).status_code == 200
    assert attempt(system, owner, owner.username, PASSWORD, ip="203.0.113.9").status_code == 200


def test_also_when_the_longest_session_has_just_ended(system: System) -> None:
    owner = system.phone()
    system.sleep(ABSOLUTE + DAY)
    besiege(system, owner.username)
    assert attempt(system, stranger(system), owner.username, PASSWORD).status_code == 429
    assert attempt(system, owner, owner.username, PASSWORD).status_code == 200


def test_nor_does_a_new_password_put_the_owner_at_the_mercy_of_strangers(system: System) -> None:
    """And whoever had the old one guesses at the new one no faster for it."""
    owner = system.phone()
    thieves = [system.phone(owner.username) for _ in range(ACCOUNT.free + 2)]
    system.sleep(1)
    system.operate("users.set_password", username=owner.username, password="quite another one")
    besiege(system, owner.username)
    assert attempt(system, owner, owner.username, "quite another one").status_code == 200
    statuses = [attempt(system, thief, owner.username, PASSWORD).status_code for thief in thieves]
    assert statuses == [400] * (ACCOUNT.free + 1) + [429]
    assert attempt(system, owner, owner.username, "quite another one").status_code == 200


def test_a_session_is_not_enough_to_set_up_a_second_factor(system: System) -> None:
    """Or whoever gets hold of one could keep its owner from logging in again."""
    owner = system.phone()
    system.sleep(RECENT_LOGIN_SECONDS)
    assert owner.refresh().status_code == 200
    assert owner.resource("POST", "/v1/mfa/totp").status_code == 200
    system.sleep(1)
    stolen = owner.stolen(with_key=True)
    assert stolen.refresh().status_code == 200
    refused = stolen.resource("POST", "/v1/mfa/totp")
    assert refused.status_code == 401
    assert refused.json()["error"] == "insufficient_user_authentication"
    owner.tokens = dict(stolen.tokens)
    assert owner.refresh().status_code == 200, "no logout"
    assert attempt(system, owner, owner.username, PASSWORD).status_code == 200
    assert system.phone(owner.username).resource("POST", "/v1/mfa/totp").status_code == 200


def test_a_limit_does_not_tell_whether_the_password_was_right(system: System) -> None:
    """Nor whether there is such a user: nothing is looked at."""
    owner = system.phone()
    for name in (owner.username, "nobody"):
        for number in range(ACCOUNT.free + 1):
            attempt(system, stranger(system), name, "wrong", ip=f"198.51.100.{number}")
    system.aws.calls.clear()
    answers = [
        attempt(system, stranger(system), name, password, ip="203.0.113.1")
        for name, password in ((owner.username, PASSWORD), (owner.username, "x"), ("nobody", "x"))
    ]
    told = {
        (answer.status_code, answer.headers["retry-after"], answer.json()["error_description"])
        for answer in answers
    }
    assert len(told) == 1
    assert system.aws.operations() == ["dynamodb:BatchGetItem"] * 3


def test_no_header_and_no_new_device_key_moves_a_network(system: System) -> None:
    def forged(number: int) -> dict[str, str]:
        address = f"10.0.0.{number}"
        names = ("X-Forwarded-For", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP")
        return {**dict.fromkeys(names, address), "Forwarded": f"for={address}"}

    statuses = [
        attempt(
            system, stranger(system), f"guess {number}", "wrong", headers=forged(number)
        ).status_code
        for number in range(NETWORK.free + 2)
    ]
    assert statuses == [400] * (NETWORK.free + 1) + [429]


@pytest.mark.parametrize("operation", ["BatchGetItem", "UpdateItem"])
def test_while_the_limiters_table_is_throttled_nobody_logs_in_and_sessions_go_on(
    system: System, phone: Phone, operation: str
) -> None:
    table = system.cloud.tables["GuessesTable"]
    system.metrics()
    for username, password in ((phone.username, PASSWORD), (phone.username, "x"), ("nobody", "x")):
        with system.failing(f"dynamodb:{operation}", THROTTLED, naming=table):
            refused = attempt(system, phone, username, password)
        assert (refused.status_code, refused.json()["error"]) == (503, "temporarily_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
    assert system.metrics() == ["Unavailable"] * 3
    with system.failing(f"dynamodb:{operation}", THROTTLED, naming=table):
        assert phone.refresh().status_code == 200
        assert phone.keys().status_code == 200
        attempt(system, phone, phone.username, PASSWORD)
    assert attempt(system, phone, phone.username, PASSWORD).status_code == 200


class TestImportedHash:
    def phc(self, system: System, name: str) -> Any:
        key = {"id": {"S": f"password#{name}"}}
        table = system.cloud.tables["CredentialsTable"]
        return system.cloud.dynamodb.get_item(TableName=table, Key=key)["Item"]["phc"]["S"]

    def test_of_a_password_as_it_was_typed(self, system: System) -> None:
        """Not in NFKC, as other systems hash it. From the first login on any keyboard will do."""
        typed, normal = "ﬁsh and chips ½", "fish and chips 1\u20442"
        stored = bcrypt.hashpw(typed.encode(), bcrypt.gensalt(4)).decode()
        system.operate("users.import", users=[{"username": "ana", "password_hash": stored}])
        phone = stranger(system)
        assert attempt(system, phone, "ana", normal).status_code == 400
        assert attempt(system, phone, "ana", typed).status_code == 200
        assert self.phc(system, "ana").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert attempt(system, phone, "ana", normal).status_code == 200
        assert attempt(system, phone, "ana", typed).status_code == 200

    def test_kinds_are_read_once_a_minute_by_whoever_fails(self, system: System) -> None:
        phone = stranger(system)
        assert attempt(system, phone, "nobody", "x").status_code == 400
        read = "dynamodb:GetItem"
        for pause, reads in ((0, 1), (59, 1), (1, 2)):
            system.sleep(pause)
            system.aws.calls.clear()
            attempt(system, phone, "nobody", "x")
            own = [
                params
                for operation, params in system.aws.calls
                if operation == read and params["TableName"] != system.cloud.tables["KeyringTable"]
            ]
            assert len(own) == reads
