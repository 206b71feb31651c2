"""Ending sessions: by token, by their owner, by the operator, by the limit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import PASSWORD
from tests.e2e.test_attacks import thief_of
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator
    from tests.e2e.device import Device

LIMIT = 10
"""The template's default for MaxSessionsPerUser."""


def is_dead(device: Device) -> None:
    is_error(device.refresh(keep=False), 400, "invalid_grant")
    is_error(device.keys(), 401, "invalid_token")
    is_error(device.resource("GET", "/v1/sessions"), 401, "invalid_token")


def is_alive(device: Device) -> None:
    assert device.refresh().status_code == 200
    assert device.keys().status_code == 200


@pytest.fixture
def phones(new_device: Callable[..., Device], username: str) -> list[Device]:
    """Three phones of one user, the oldest first."""
    made = [new_device() for _ in range(3)]
    for phone in made:
        assert phone.login(username, PASSWORD).status_code == 200
    return made


class TestRevocation:
    """RFC 7009."""

    def revoke(self, device: Device, token: str, **form: str) -> httpx.Response:
        return device.call("POST", "/v1/revoke", data={"token": token, **form}, proof=None)

    def test_a_refresh_token_ends_its_session(self, device: Device) -> None:
        response = self.revoke(device, device.tokens["refresh_token"], client_id="ios")
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
        is_dead(device)
        assert self.revoke(device, device.tokens["refresh_token"]).status_code == 200

    def test_a_rotated_out_token_ends_it_too(self, device: Device) -> None:
        old = device.tokens["refresh_token"]
        device.refresh()
        device.refresh()
        assert self.revoke(device, old, token_type_hint="refresh_token").status_code == 200
        is_dead(device)

    @pytest.mark.parametrize("token", ["x", "kfr_", "kfr_" + "A" * 124, "a.b.c", "é" * 50])
    def test_unknown_tokens_are_no_error(self, device: Device, token: str) -> None:
        assert self.revoke(device, token).status_code == 200
        is_alive(device)

    def test_another_clients_token_is_left_alone(self, device: Device, stack: LocalStack) -> None:
        other = thief_of(device, with_key=False)
        other.client_key = stack.client_keys["android"]
        assert self.revoke(other, device.tokens["refresh_token"]).status_code == 200
        is_alive(device)

    def test_an_access_token_is_not_said_to_be_dead(self, device: Device) -> None:
        response = self.revoke(device, device.tokens["access_token"])
        is_error(response, 400, "unsupported_token_type")
        is_alive(device)

    def test_after_logout_a_replay_is_no_theft(
        self, device: Device, phones: list[Device], stack: LocalStack
    ) -> None:
        old = device.tokens["refresh_token"]
        device.refresh()
        device.refresh()
        self.revoke(device, device.tokens["refresh_token"])
        is_error(device.refresh(old), 400, "invalid_grant")
        events = stack.logs("refresh").splitlines()
        last = next(event for event in reversed(events) if device.tokens["session_id"] in event)
        assert '"outcome":"logged_out"' in last
        is_alive(phones[0])


class TestOwnSessions:
    def test_list(self, phones: list[Device]) -> None:
        response = phones[1].resource("GET", "/v1/sessions")
        assert response.headers["cache-control"] == "no-store"
        shown = response.json()["sessions"]
        assert {each["id"] for each in shown} == {phone.tokens["session_id"] for phone in phones}
        assert [each["created_at"] for each in shown] == sorted(
            each["created_at"] for each in shown
        )
        (current,) = (each["id"] for each in shown if each["current"])
        assert current == phones[1].tokens["session_id"]
        for each in shown:
            assert set(each) == {
                *("id", "device", "platform", "app_version"),
                *("created_at", "last_used_at", "current"),
            }
            assert (each["device"], each["platform"]) == ("Test phone", "ios")
            assert each["created_at"] <= each["last_used_at"]

    def test_end_one(self, phones: list[Device]) -> None:
        lost = phones[0].tokens["session_id"]
        response = phones[1].resource("DELETE", f"/v1/sessions/{lost}")
        assert (response.status_code, response.content) == (204, b"")
        is_dead(phones[0])
        is_error(phones[1].resource("DELETE", f"/v1/sessions/{lost}"), 404, "not_found")
        is_alive(phones[1])
        is_alive(phones[2])

    def test_end_the_others(self, phones: list[Device]) -> None:
        response = phones[1].resource("DELETE", "/v1/sessions", query="?except=current")
        assert response.json() == {"ended": 2}
        is_dead(phones[0])
        is_dead(phones[2])
        is_alive(phones[1])

    def test_end_all(self, phones: list[Device]) -> None:
        assert phones[1].resource("DELETE", "/v1/sessions").json() == {"ended": 3}
        for phone in phones:
            is_dead(phone)

    def test_nonsense_ends_nothing(self, phones: list[Device]) -> None:
        response = phones[0].resource("DELETE", "/v1/sessions", query="?except=none")
        is_error(response, 400, "invalid_request")
        is_alive(phones[1])

    def test_another_users_session_is_not_found(
        self, phones: list[Device], new_device: Callable[..., Device], operator: Operator
    ) -> None:
        operator.invoke("users.add", username="neighbour", password=PASSWORD)
        neighbour = new_device()
        neighbour.login("neighbour", PASSWORD)
        target = phones[0].tokens["session_id"]
        is_error(neighbour.resource("DELETE", f"/v1/sessions/{target}"), 404, "not_found")
        is_alive(phones[0])

    def test_an_ended_session_ends_no_other(self, phones: list[Device]) -> None:
        phones[1].resource("DELETE", f"/v1/sessions/{phones[0].tokens['session_id']}")
        is_error(phones[0].resource("DELETE", "/v1/sessions"), 401, "invalid_token")
        is_alive(phones[1])


class TestOperator:
    def test_disabled_users_are_out_at_once(
        self,
        phones: list[Device],
        username: str,
        operator: Operator,
        new_device: Callable[..., Device],
    ) -> None:
        assert operator.do("users.disable", username=username)["revoked"] == 3
        for phone in phones:
            is_dead(phone)
        is_error(new_device().login(username, PASSWORD), 400, "invalid_grant")
        operator.do("users.enable", username=username)
        is_dead(phones[0])
        assert new_device().login(username, PASSWORD).status_code == 200

    def test_a_new_password_ends_every_session(
        self,
        phones: list[Device],
        username: str,
        operator: Operator,
        new_device: Callable[..., Device],
    ) -> None:
        changed = operator.do("users.set_password", username=username, password="another one")
        assert changed["revoked"] == 3
        for phone in phones:
            is_dead(phone)
        is_error(new_device().login(username, PASSWORD), 400, "invalid_grant")
        assert new_device().login(username, "another one").status_code == 200

    @pytest.mark.parametrize(
        ("command", "arguments"),
        [("users.disable", {}), ("users.enable", {}), ("users.set_password", {"password": "x"})],
    )
    def test_unknown_users(
        self, operator: Operator, command: str, arguments: dict[str, Any]
    ) -> None:
        answer = operator.invoke(command, username="nobody-at-all", **arguments)
        assert answer["error"]["error"] == "not_found"

    @pytest.mark.parametrize(
        "command", ["users.disable", "users.enable", "users.reset_second_factor"]
    )
    def test_unknown_subs(self, operator: Operator, command: str) -> None:
        assert operator.invoke(command, sub="nobody")["error"]["error"] == "not_found"
        for both_or_none in ({}, {"username": "ana", "sub": "nobody"}, {"sub": ""}):
            answer = operator.invoke(command, **both_or_none)
            assert answer["error"]["error"] == "invalid_request"

    def test_logins_beside_a_disabling_leave_nothing_alive(
        self,
        username: str,
        operator: Operator,
        new_device: Callable[..., Device],
    ) -> None:
        made = [new_device() for _ in range(8)]
        with ThreadPoolExecutor(9) as pool:
            logins = [pool.submit(phone.login, username, PASSWORD) for phone in made]
            pool.submit(operator.do, "users.disable", username=username).result()
            statuses = {login.result().status_code for login in logins}
        assert statuses <= {200, 400}
        for phone in made:
            if phone.tokens:
                is_dead(phone)


class TestLimit:
    def test_the_oldest_session_makes_room(
        self, username: str, new_device: Callable[..., Device]
    ) -> None:
        made = []
        for _ in range(LIMIT + 2):
            made.append(new_device())
            assert made[-1].login(username, PASSWORD).status_code == 200
        is_dead(made[0])
        is_dead(made[1])
        for phone in made[2:]:
            assert phone.refresh().status_code == 200

    def test_ended_sessions_make_room_first(
        self, username: str, new_device: Callable[..., Device]
    ) -> None:
        oldest = new_device()
        oldest.login(username, PASSWORD)
        for _ in range(LIMIT + 5):
            phone = new_device()
            phone.login(username, PASSWORD)
            ended = phone.resource("DELETE", f"/v1/sessions/{phone.tokens['session_id']}")
            assert ended.status_code == 204
        is_alive(oldest)

    def test_logins_at_once_never_exceed_it(
        self, username: str, new_device: Callable[..., Device], stack: LocalStack
    ) -> None:
        made = [new_device() for _ in range(LIMIT + 4)]
        with ThreadPoolExecutor(7) as pool:
            responses = list(pool.map(lambda phone: phone.login(username, PASSWORD), made))
        assert {response.status_code for response in responses} <= {200, 503}
        sub = next(phone for phone in made if phone.tokens)
        alive = sub.resource("GET", "/v1/sessions")
        survivors = [phone for phone in made if phone.tokens and phone.refresh().status_code == 200]
        assert len(survivors) <= LIMIT
        if alive.status_code == 200:
            assert len(alive.json()["sessions"]) <= LIMIT
