"""A second factor, from the QR code to its removal, and everything between."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from keyferry.users import totp
from keyferry.users.guessing import ACCOUNT
from tests.e2e.conftest import PASSWORD
from tests.e2e.device import jwk_of
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator
    from tests.e2e.device import Device


def this_step() -> int:
    """The step of now, with enough of it left that a code of the one before is still in time."""
    left = totp.STEP_SECONDS - time.time() % totp.STEP_SECONDS
    if left < 5:
        time.sleep(left)
    return int(time.time()) // totp.STEP_SECONDS


def enrol(device: Device) -> tuple[bytes, list[str], int]:
    """Turn TOTP on. Return the secret, the recovery codes, and the step of the code used for it."""
    begun = device.resource("POST", "/v1/mfa/totp").json()
    secret = base64.b32decode(begun["secret"])
    assert begun["secret"] in begun["otpauth_uri"]
    step = this_step() - 1
    confirmed = device.resource(
        "POST", "/v1/mfa/totp/confirm", json={"code": totp.code_at(secret, step)}
    )
    assert confirmed.status_code == 200, confirmed.text
    assert confirmed.headers["cache-control"] == "no-store"
    return secret, confirmed.json()["recovery_codes"], step


def code(secret: bytes, *, after: int) -> str:
    """A code that is newer than the one of step ``after`` and good now."""
    step = max(after + 1, this_step() - 1)
    while step > int(time.time()) // totp.STEP_SECONDS + totp.SKEW_STEPS:
        time.sleep(1)
    return totp.code_at(secret, step)


def go_on(device: Device, auth_session: str, otp: str) -> httpx.Response:
    details = {
        "name": "Test phone",
        "platform": "ios",
        "app_version": "1.2.3",
        "encryption_key": jwk_of(device.encryption),
    }
    body = {"auth_session": auth_session, "otp": otp, "device": details}
    return device.call("POST", "/v1/login", json=body)


@pytest.fixture
def enrolled(device: Device) -> tuple[Device, bytes, list[str], int]:
    return (device, *enrol(device))


def test_password_alone_is_not_enough(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    _, secret, _, step = enrolled
    phone = new_device()
    asked = phone.login(username, PASSWORD)
    assert (asked.status_code, asked.json()["error"]) == (403, "mfa_required")
    assert asked.headers["cache-control"] == "no-store"
    response = go_on(phone, asked.json()["auth_session"], code(secret, after=step))
    assert response.status_code == 200, response.text
    phone.tokens = response.json()
    assert phone.refresh().status_code == 200
    assert phone.keys().status_code == 200


def test_password_and_code_together(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    _, secret, _, step = enrolled
    phone = new_device()
    assert phone.login(username, PASSWORD, otp=code(secret, after=step)).status_code == 200


def test_a_code_is_good_once_also_at_the_same_moment(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    device, secret, _, step = enrolled
    one = code(secret, after=step)
    phones = [new_device(signing=device.signing) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        statuses = sorted(
            pool.map(lambda phone: phone.login(username, PASSWORD, otp=one).status_code, phones)
        )
    assert statuses == [200, 400, 400, 400]


def test_the_code_of_the_enrolment_is_used_up(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    _, secret, _, step = enrolled
    response = new_device().login(username, PASSWORD, otp=totp.code_at(secret, step))
    is_error(response, 400, "invalid_grant")


def test_recovery_codes_are_good_once(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    device, _, recovery, _ = enrolled
    phone = new_device(signing=device.signing)
    assert phone.login(username, PASSWORD, otp=recovery[3].lower()).status_code == 200
    is_error(phone.login(username, PASSWORD, otp=recovery[3]), 400, "invalid_grant")
    assert phone.login(username, PASSWORD, otp=recovery[4]).status_code == 200


def test_codes_are_guessed_at_no_faster_than_passwords(
    enrolled: tuple[Device, bytes, list[str], int],
    new_device: Callable[..., Device],
    username: str,
) -> None:
    """Somebody who knows the password has as few attempts at the code."""
    thief = new_device()
    # The wait after the free ones doubles from 2 s on: sooner or later an attempt comes too early,
    # however slow this machine is.
    attempts: list[tuple[int, str]] = []
    while len(attempts) < ACCOUNT.free + 10:
        response = thief.http.post(
            f"{thief.api_url}/v1/login",
            headers={"x-api-key": thief.client_key, "DPoP": thief.proof("POST", "/v1/login")},
            json={
                "username": username,
                "password": PASSWORD,
                "otp": "000000",
                "device": {
                    "name": "x",
                    "platform": "ios",
                    "app_version": "1",
                    "encryption_key": jwk_of(thief.encryption),
                },
            },
        )
        if response.json()["error"] == "temporarily_unavailable":  # the usage plan's own throttle
            time.sleep(float(response.headers.get("retry-after", "1")))
            continue
        attempts.append((response.status_code, response.json()["error"]))
        if response.status_code != 400:
            break
    assert attempts[-1] == (429, "too_many_attempts")
    assert set(attempts[:-1]) == {(400, "invalid_grant")}
    assert len(attempts) > ACCOUNT.free
    assert int(response.headers["retry-after"]) >= 1


class TestAuthSession:
    @pytest.fixture
    def asked(
        self,
        enrolled: tuple[Device, bytes, list[str], int],
        new_device: Callable[..., Device],
        username: str,
    ) -> tuple[Device, str, bytes, int]:
        _, secret, _, step = enrolled
        phone = new_device()
        return phone, phone.login(username, PASSWORD).json()["auth_session"], secret, step

    def test_opens_nothing_by_itself(self, asked: tuple[Device, str, bytes, int]) -> None:
        phone, note, _, _ = asked
        is_error(go_on(phone, note, "000000"), 400, "invalid_grant")
        phone.tokens["access_token"] = note
        is_error(phone.keys(), 401, "invalid_token")
        is_error(phone.refresh(note), 400, "invalid_grant")

    def test_is_of_the_device_that_proved_the_password(
        self, asked: tuple[Device, str, bytes, int], new_device: Callable[..., Device]
    ) -> None:
        phone, note, secret, step = asked
        good = code(secret, after=step)
        is_error(go_on(new_device(), note, good), 400, "invalid_grant")
        assert go_on(phone, note, good).status_code == 200, "and it was not used up by it"

    def test_dies_with_the_password(
        self, asked: tuple[Device, str, bytes, int], operator: Operator, username: str
    ) -> None:
        phone, note, secret, step = asked
        operator.do("users.set_password", username=username, password="quite another one")
        is_error(go_on(phone, note, code(secret, after=step)), 400, "invalid_grant")

    @pytest.mark.parametrize("note", ["x", "a.b.c", "", "{access}"])
    def test_nonsense(
        self, asked: tuple[Device, str, bytes, int], device: Device, note: str
    ) -> None:
        phone = asked[0]
        note = note.format(access=device.tokens["access_token"])
        is_error(go_on(phone, note, "123456"), 400, "invalid_grant")

    def test_a_password_beside_it_is_refused(self, asked: tuple[Device, str, bytes, int]) -> None:
        phone, note, _, _ = asked
        response = phone.login("ana", PASSWORD, auth_session=note, otp="123456")
        is_error(response, 400, "invalid_request")


class TestStepUp:
    @pytest.fixture
    def precious(self, operator: Operator) -> str:
        policy = {"roles": ["user"], "second_factor": True}
        operator.do(
            "keys.put", name="precious", value="precious value", policy=policy, promote=True
        )
        return "precious"

    def test_a_key_that_asks_for_it(
        self, device: Device, precious: str, new_device: Callable[..., Device], username: str
    ) -> None:
        is_error(device.keys(f"/v1/keys/{precious}"), 403, "mfa_required")
        assert precious not in device.open(device.keys())["keys"]
        secret, _, step = enrol(device)
        is_error(device.keys(f"/v1/keys/{precious}"), 403, "mfa_required")
        phone = new_device()
        assert phone.login(username, PASSWORD, otp=code(secret, after=step)).status_code == 200
        assert phone.open(phone.keys(f"/v1/keys/{precious}"))["keys"][precious]
        assert precious in phone.open(phone.keys())["keys"]


class TestByTheOperator:
    def confirm(self, operator: Operator, user: dict[str, str], code: str) -> dict[str, Any]:
        return operator.invoke("users.confirm_totp", **user, code=code)

    @pytest.mark.parametrize("by", ["username", "sub"])
    def test_from_the_secret_to_the_login(
        self,
        operator: Operator,
        device: Device,
        new_device: Callable[..., Device],
        username: str,
        stack: LocalStack,
        by: str,
    ) -> None:
        sub = operator.do("users.show", username=username)["sub"]
        user = {"username": username} if by == "username" else {"sub": sub}
        begun = operator.do("users.begin_totp", **user)
        secret = base64.b32decode(begun["secret"])
        assert begun["otpauth_uri"].startswith(f"otpauth://totp/keyferry%3A{username}?")
        assert begun["secret"] in begun["otpauth_uri"]
        assert new_device().login(username, PASSWORD).status_code == 200, "not in force yet"
        assert self.confirm(operator, user, "000000")["error"]["error"] == "invalid_code"
        step = this_step() - 1
        confirmed = self.confirm(operator, user, totp.code_at(secret, step))["result"]
        recovery = confirmed["recovery_codes"]
        assert len(set(recovery)) == totp.RECOVERY_CODES
        assert operator.do("users.show", **user)["second_factor"] is True
        assert device.refresh().status_code == 200, "sessions go on"

        phone = new_device()
        assert phone.login(username, PASSWORD).json()["error"] == "mfa_required"
        used = phone.login(username, PASSWORD, otp=totp.code_at(secret, step))
        is_error(used, 400, "invalid_grant")
        assert phone.login(username, PASSWORD, otp=code(secret, after=step)).status_code == 200
        assert phone.login(username, PASSWORD, otp=recovery[0]).status_code == 200
        is_error(phone.login(username, PASSWORD, otp=recovery[0]), 400, "invalid_grant")

        for again in ("users.begin_totp", "users.confirm_totp"):
            more = {"code": totp.code_at(secret, this_step())} if "confirm" in again else {}
            answer = operator.invoke(again, **user, **more)
            assert answer["error"]["error"] == ("not_found" if more else "already_exists")
        logs = stack.logs("operator")
        for plain in (begun["secret"], *recovery):
            assert plain not in logs

    def test_a_second_beginning_makes_the_first_secret_void(
        self, operator: Operator, username: str
    ) -> None:
        user = {"username": username}
        first, _ = (operator.do("users.begin_totp", **user)["secret"] for _ in range(2))
        stale = totp.code_at(base64.b32decode(first), this_step())
        assert self.confirm(operator, user, stale)["error"]["error"] == "invalid_code"

    def test_after_a_reset(self, operator: Operator, device: Device, username: str) -> None:
        enrol(device)
        user = {"username": username}
        assert operator.invoke("users.begin_totp", **user)["error"]["error"] == "already_exists"
        operator.do("users.reset_second_factor", **user)
        operator.do("users.begin_totp", **user)

    def test_of_nobody(self, operator: Operator, username: str) -> None:
        for user in ({"username": "nobody"}, {"sub": "nobody"}):
            assert operator.invoke("users.begin_totp", **user)["error"]["error"] == "not_found"
            assert self.confirm(operator, user, "123456")["error"]["error"] == "not_found"
        unbegun = self.confirm(operator, {"username": username}, "123456")
        assert unbegun["error"]["error"] == "not_found"


class TestManagement:
    def confirm(self, device: Device, code: Any) -> httpx.Response:
        return device.resource("POST", "/v1/mfa/totp/confirm", json={"code": code})

    def test_nothing_is_in_force_before_it_is_confirmed(
        self, device: Device, new_device: Callable[..., Device], username: str
    ) -> None:
        device.resource("POST", "/v1/mfa/totp")
        is_error(self.confirm(device, "000000"), 400, "invalid_code")
        assert new_device().login(username, PASSWORD).status_code == 200

    def test_a_second_enrolment_takes_the_place_of_an_unconfirmed_one(self, device: Device) -> None:
        first = base64.b32decode(device.resource("POST", "/v1/mfa/totp").json()["secret"])
        enrol(device)
        is_error(self.confirm(device, code(first, after=0)), 400, "invalid_request")

    def test_in_force_it_is_not_replaced(
        self, enrolled: tuple[Device, bytes, list[str], int]
    ) -> None:
        is_error(enrolled[0].resource("POST", "/v1/mfa/totp"), 409, "already_enrolled")

    def test_removal_takes_a_code(
        self,
        enrolled: tuple[Device, bytes, list[str], int],
        new_device: Callable[..., Device],
        username: str,
    ) -> None:
        device, secret, recovery, step = enrolled

        def remove(code: str) -> httpx.Response:
            return device.resource("POST", "/v1/mfa/totp/remove", json={"code": code})

        is_error(remove("000000"), 400, "invalid_code")
        is_error(remove(totp.code_at(secret, step)), 400, "invalid_code")
        assert remove(recovery[0]).status_code == 204
        assert new_device().login(username, PASSWORD).status_code == 200
        enrol(device)

    @pytest.mark.parametrize(
        "body", [{}, {"code": 123456}, {"code": "1"}, {"code": "123456", "x": 1}]
    )
    def test_bad_bodies(self, device: Device, body: dict[str, Any]) -> None:
        response = device.resource("POST", "/v1/mfa/totp/confirm", json=body)
        is_error(response, 400, "invalid_request")

    def test_needs_a_session(self, device: Device) -> None:
        device.resource("DELETE", "/v1/sessions")
        is_error(device.resource("POST", "/v1/mfa/totp"), 401, "invalid_token")

    def test_secrets_rest_sealed(
        self, enrolled: tuple[Device, bytes, list[str], int], stack: LocalStack
    ) -> None:
        _, secret, recovery, _ = enrolled
        client = stack.boto3_client("dynamodb")
        items = client.scan(TableName=stack.outputs["CredentialsTable"])["Items"]
        client.close()
        dump = str(items) + stack.logs("mfa") + stack.logs("login")
        for plain in (repr(secret)[2:-1], totp.base32(secret), secret.hex(), *recovery):
            assert plain not in dump
        assert any(item["id"]["S"].startswith("totp#") for item in items)
