"""Invitations, registration, password changes and imported hashes, from the outside."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from keyferry.users import stored_hashes
from tests.e2e.conftest import PASSWORD
from tests.e2e.device import Device, ath
from tests.e2e.test_main_path import is_error
from tests.e2e.test_sessions import is_alive, is_dead
from tests.unit.test_stored_hashes import FIREBASE, django

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator

NEW_PASSWORD = "seven lanterns over a quiet harbour"


def new_name() -> str:
    return f"Guest-{uuid.uuid4().hex[:12]}"


def post(device: Device, path: str, **body: Any) -> httpx.Response:
    return device.call("POST", path, json=body, proof=None)


def redeem(device: Device, username: str, code: str, password: str = PASSWORD) -> httpx.Response:
    return post(device, "/v1/invitations/redeem", username=username, code=code, password=password)


def register(device: Device, username: str, password: str = PASSWORD) -> httpx.Response:
    return post(device, "/v1/register", username=username, password=password)


def change(device: Device, current: str, new: str = NEW_PASSWORD) -> httpx.Response:
    token = device.tokens["access_token"]
    return device.call(
        "POST",
        "/v1/password",
        headers={"Authorization": f"DPoP {token}"},
        proof=device.proof("POST", "/v1/password", ath=ath(token)),
        json={"current_password": current, "new_password": new},
    )


def expire(stack: LocalStack, username: str) -> None:
    stack.boto3_client("dynamodb").update_item(
        TableName=stack.outputs["CredentialsTable"],
        Key={"id": {"S": f"invitation#{username.lower()}"}},
        UpdateExpression="SET expires_at = :past",
        ExpressionAttributeValues={":past": {"N": "1"}},
    )


class TestInvitations:
    def test_from_the_operator_to_the_first_key(
        self, operator: Operator, new_device: Callable[..., Device]
    ) -> None:
        name, device = new_name(), new_device()
        invitation = operator.do("users.invite", username=name, roles=["user"])
        is_error(device.login(name, PASSWORD), 400, "invalid_grant")
        response = redeem(device, name.upper(), invitation["code"].lower())
        assert (response.status_code, response.json()) == (200, {"username": name})
        assert response.headers["cache-control"] == "no-store"
        assert device.login(name, PASSWORD).status_code == 200
        keys = device.open(device.keys())["keys"]
        assert "maps" in keys, "the roles are the operator's"
        assert "admin-only" not in keys

    def test_every_refusal_is_the_same(
        self, operator: Operator, new_device: Callable[..., Device], stack: LocalStack
    ) -> None:
        device, names = new_device(), {kind: new_name() for kind in ("wrong", "spent", "old")}
        codes = {
            kind: operator.do("users.invite", username=name)["code"] for kind, name in names.items()
        }
        assert redeem(device, names["spent"], codes["spent"]).status_code == 200
        expire(stack, names["old"])
        answers = [
            redeem(device, new_name(), codes["wrong"]),
            redeem(device, names["wrong"], codes["old"]),
            redeem(device, names["wrong"], "no code at all"),
            redeem(device, names["spent"], codes["spent"]),
            redeem(device, names["old"], codes["old"]),
        ]
        for answer in answers:
            is_error(answer, 400, "invalid_grant")
        bodies = [{**answer.json(), "request_id": ""} for answer in answers]
        assert all(body == bodies[0] for body in bodies)
        assert redeem(device, names["wrong"], codes["wrong"]).status_code == 200

    def test_a_weak_password_does_not_spend_the_code(
        self, operator: Operator, new_device: Callable[..., Device]
    ) -> None:
        name, device = new_name(), new_device()
        code = operator.do("users.invite", username=name)["code"]
        for weak in ("short", "passwordpassword", name):
            is_error(redeem(device, name, code, weak), 400, "password_refused")
        assert redeem(device, name, code).status_code == 200

    def test_of_many_at_once_one_wins(
        self, operator: Operator, new_device: Callable[..., Device]
    ) -> None:
        name = new_name()
        code = operator.do("users.invite", username=name)["code"]
        passwords = [f"{PASSWORD} {number}" for number in range(6)]
        device = new_device()
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda each: redeem(device, name, code, each), passwords))
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 400, 503}
        works = [device.login(name, each).status_code == 200 for each in passwords]
        assert works == [status == 200 for status in statuses]

    def test_a_new_invitation_replaces_the_old(
        self, operator: Operator, new_device: Callable[..., Device]
    ) -> None:
        name, device = new_name(), new_device()
        old, new = (operator.do("users.invite", username=name)["code"] for _ in range(2))
        is_error(redeem(device, name, old), 400, "invalid_grant")
        assert redeem(device, name, new).status_code == 200
        answer = operator.invoke("users.invite", username=name)
        assert answer["error"]["error"] == "already_exists"

    def test_neither_code_nor_password_is_logged(
        self, operator: Operator, new_device: Callable[..., Device], stack: LocalStack
    ) -> None:
        name, device = new_name(), new_device()
        code = operator.do("users.invite", username=name)["code"]
        redeem(device, name, code)
        redeem(device, name, code)
        logs = stack.logs("account") + stack.logs("operator")
        assert "redeemed" in logs
        for secret in (code, code.replace("-", ""), PASSWORD, name):
            assert secret not in logs

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"username": "x", "code": "x"},
            {"username": "x", "code": "x" * 65, "password": PASSWORD},
            {"username": "x", "code": "x", "password": PASSWORD, "roles": ["admin"]},
            {"username": "a\u200bb", "code": "x", "password": PASSWORD},
        ],
    )
    def test_malformed(self, new_device: Callable[..., Device], body: dict[str, Any]) -> None:
        is_error(post(new_device(), "/v1/invitations/redeem", **body), 400, "invalid_request")


class TestRegistration:
    def test_closed_unless_the_stack_opens_it(self, new_device: Callable[..., Device]) -> None:
        is_error(register(new_device(), new_name()), 404, "registration_closed")

    def test_open(
        self,
        bearer_stack: LocalStack,
        bearer_operator: Operator,
        http: httpx.Client,
    ) -> None:
        device = Device(http, bearer_stack.api_url, bearer_stack.client_keys["ios"])
        name, invited = new_name(), new_name()
        assert register(device, name).json() == {"username": name}
        assert device.login(name, PASSWORD).status_code == 200
        assert device.keys().status_code == 200
        is_error(register(device, name.lower()), 409, "username_taken")
        is_error(register(device, new_name(), "short"), 400, "password_refused")
        code = bearer_operator.do("users.invite", username=invited)["code"]
        is_error(register(device, invited), 409, "username_taken")
        answer = post(
            device, "/v1/invitations/redeem", username=invited, code=code, password=PASSWORD
        )
        assert answer.status_code == 200


class TestPasswordChange:
    @pytest.fixture
    def phones(self, new_device: Callable[..., Device], username: str) -> list[Device]:
        made = [new_device() for _ in range(3)]
        for phone in made:
            assert phone.login(username, PASSWORD).status_code == 200
        return made

    def test_the_others_are_out_and_this_one_stays(
        self, phones: list[Device], username: str, new_device: Callable[..., Device]
    ) -> None:
        response = change(phones[1], PASSWORD)
        assert (response.status_code, response.json()) == (200, {"ended": 2})
        is_dead(phones[0])
        is_dead(phones[2])
        is_alive(phones[1])
        is_error(new_device().login(username, PASSWORD), 400, "invalid_grant")
        assert new_device().login(username, NEW_PASSWORD).status_code == 200

    def test_a_wrong_current_password_is_no_logout(
        self, phones: list[Device], username: str
    ) -> None:
        is_error(change(phones[0], "wrong"), 403, "wrong_password")
        is_alive(phones[0])
        is_alive(phones[1])
        assert phones[2].login(username, PASSWORD).status_code == 200

    def test_a_stolen_session_is_no_way_to_guess_on(self, device: Device) -> None:
        """The known device has ten free guesses, here as at login; then it waits."""
        statuses = []
        for number in range(18):
            token = device.tokens["access_token"]
            response = device.http.post(
                f"{device.api_url}/v1/password",
                headers={
                    "x-api-key": device.client_key,
                    "Authorization": f"DPoP {token}",
                    "DPoP": device.proof("POST", "/v1/password", ath=ath(token)),
                },
                json={"current_password": f"guess {number}", "new_password": NEW_PASSWORD},
            )
            statuses.append((response.status_code, response.json()["error"]))
        assert statuses[0] == (403, "wrong_password")
        assert (429, "too_many_attempts") in statuses
        is_alive(device)

    @pytest.mark.parametrize("new", ["short", "passwordpassword", "x" * 1025])
    def test_a_weak_new_password(self, device: Device, new: str) -> None:
        is_error(
            change(device, PASSWORD, new),
            400,
            "password_refused" if new[0] != "x" else "invalid_request",
        )
        assert change(device, PASSWORD).status_code == 200

    def test_not_without_the_device_key(
        self, phones: list[Device], new_device: Callable[..., Device]
    ) -> None:
        thief = new_device()
        thief.tokens = phones[0].tokens
        is_error(change(thief, PASSWORD), 401, "invalid_token")

    def test_not_with_an_ended_session(self, phones: list[Device]) -> None:
        phones[1].resource("DELETE", f"/v1/sessions/{phones[0].tokens['session_id']}")
        is_error(change(phones[0], PASSWORD), 401, "invalid_token")
        is_alive(phones[1])


class TestImportedHashes:
    @pytest.mark.parametrize(
        ("password", "stored"),
        [
            ("abc", "$2a$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
            ("user1password", stored_hashes.firebase_scrypt(**FIREBASE)),
            ("correct horse", django(b"correct horse", "seasalt", 1000)),
        ],
    )
    def test_the_first_login_upgrades(
        self,
        operator: Operator,
        new_device: Callable[..., Device],
        stack: LocalStack,
        password: str,
        stored: str,
    ) -> None:
        name = new_name()
        row = {"username": name, "password_hash": stored}
        assert operator.do("users.import", users=[row])["results"] == [{"outcome": "imported"}]
        device = new_device()
        is_error(device.login(name, "wrong"), 400, "invalid_grant")
        assert self.phc(stack, name) == stored
        assert device.login(name, password).status_code == 200
        assert self.phc(stack, name).startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert new_device().login(name, password).status_code == 200
        again = operator.do("users.import", users=[row])["results"]
        assert again == [{"outcome": "already_there"}]
        assert self.phc(stack, name).startswith("$argon2id$"), "a second run takes nothing back"

    @pytest.mark.parametrize(
        "phc", ["", "x", "$argon2id$v=19$m=19456,t=2,p=1$$", "$2b$31$" + "a" * 53]
    )
    def test_a_hash_that_can_not_be_checked_is_a_wrong_password(
        self, username: str, new_device: Callable[..., Device], stack: LocalStack, phc: str
    ) -> None:
        stack.boto3_client("dynamodb").update_item(
            TableName=stack.outputs["CredentialsTable"],
            Key={"id": {"S": f"password#{username}"}},
            UpdateExpression="SET phc = :phc",
            ExpressionAttributeValues={":phc": {"S": phc}},
        )
        is_error(new_device().login(username, PASSWORD), 400, "invalid_grant")

    def phc(self, stack: LocalStack, name: str) -> str:
        item = stack.boto3_client("dynamodb").get_item(
            TableName=stack.outputs["CredentialsTable"],
            Key={"id": {"S": f"password#{name.lower()}"}},
        )["Item"]
        return str(item["phc"]["S"])


class TestRoles:
    def test_taken_away_at_once_and_the_session_goes_on(
        self,
        operator: Operator,
        device: Device,
        new_device: Callable[..., Device],
        username: str,
    ) -> None:
        assert "maps" in device.open(device.keys())["keys"]
        result = operator.do("users.set_roles", username=username, roles=[])
        assert (result["roles"], result["sessions"]) == ([], 1)
        assert "maps" not in device.open(device.keys())["keys"]
        assert self.roles(device) == ["user"], "until it expires"
        assert device.refresh().status_code == 200
        assert self.roles(device) == []
        phone = new_device()
        assert phone.login(username, PASSWORD).status_code == 200
        assert self.roles(phone) == []
        given = operator.do("users.set_roles", sub=result["sub"], roles=["admin", "user", "admin"])
        assert (given["roles"], given["sessions"]) == (["admin", "user"], 2)
        assert "admin-only" in phone.open(phone.keys())["keys"]
        assert operator.do("users.show", username=username)["roles"] == ["admin", "user"]

    def test_changed_by_many_at_once(
        self, operator: Operator, device: Device, username: str
    ) -> None:
        """The session ends up with the roles that the user ends up with."""

        def change(number: int) -> None:
            operator.invoke("users.set_roles", username=username, roles=[f"role-{number % 4}"])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(change, range(12)))
        assert device.refresh().status_code == 200
        assert self.roles(device) == operator.do("users.show", username=username)["roles"]

    def test_of_nobody(self, operator: Operator) -> None:
        for user in ({"username": new_name()}, {"sub": "nobody"}):
            for answer in (
                operator.invoke("users.set_roles", **user, roles=[]),
                operator.invoke("users.show", **user),
            ):
                assert answer["error"]["error"] == "not_found"

    def roles(self, device: Device) -> list[str]:
        token = device.tokens["access_token"]
        claims = jwt.decode(token, options={"verify_signature": False})
        roles: list[str] = claims["roles"]
        return roles


def test_a_user_is_shown_without_secrets(operator: Operator, device: Device, username: str) -> None:
    shown = operator.do("users.show", username=username)
    assert shown | {"created_at": 0} == {
        "sub": jwt.decode(device.tokens["access_token"], options={"verify_signature": False})[
            "sub"
        ],
        "username": username,
        "status": "active",
        "roles": ["user"],
        "password": True,
        "second_factor": False,
        "created_at": 0,
        "sessions": 1,
    }
    operator.do("users.disable", username=username)
    shown = operator.do("users.show", sub=shown["sub"])
    assert (shown["status"], shown["sessions"]) == ("disabled", 0)
