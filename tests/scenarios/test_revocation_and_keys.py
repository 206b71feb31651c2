"""Logins and endings, keys that rotate, errors that must not be taken for a logout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from botocore.exceptions import ConnectTimeoutError, ReadTimeoutError

from keyferry.config import DAY
from keyferry.keyring import discovery, unwrapped
from keyferry_client import (
    Config,
    KeyferryClient,
    LoggedOut,
    MemoryStorage,
    Retryable,
    SoftwareDeviceKeys,
)
from tests.contract import test_opening
from tests.contract import test_session_machine as machine
from tests.e2e import test_attacks as attacks
from tests.e2e.conftest import PASSWORD
from tests.e2e.test_main_path import is_error
from tests.scenarios.system import ISSUER, THEIRS, Crash, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.contract.conftest import Cloud
    from tests.e2e.device import Device
    from tests.scenarios.system import Phone, System


def is_dead(phone: Phone) -> None:
    is_error(phone.refresh(keep=False), 400, "invalid_grant")
    is_error(phone.keys(), 401, "invalid_token")


class TestLogin:
    def test_37_failed_logins_read_alike(self, system: System, phone: Phone) -> None:
        """Unknown, wrong and disabled: to the byte, and in what is asked of AWS. How long each
        takes is not measured here; each checks one hash of one strength."""
        disabled = system.phone()
        system.operate("users.disable", username=disabled.username)
        seen = []
        # Once a minute whoever fails has the kinds of imported hashes read.
        is_error(phone.stolen().login("nobody", PASSWORD), 400, "invalid_grant")
        for name, password in (
            ("nobody", PASSWORD),
            (phone.username, "wrong"),
            (disabled.username, PASSWORD),
        ):
            stranger = phone.stolen()
            calls = len(system.aws.calls)
            response = stranger.login(name, password)
            is_error(response, 400, "invalid_grant")
            body = response.json()
            del body["request_id"]
            seen.append((body, sorted(response.headers.items()), system.aws.operations()[calls:]))
        assert [each == seen[0] for each in seen] == [True] * 3

    @pytest.mark.parametrize("password", [PASSWORD, "wrong"])
    @pytest.mark.parametrize("operation", ["dynamodb:BatchGetItem", "dynamodb:UpdateItem"])
    def test_39_the_guess_counters_are_down(
        self, system: System, phone: Phone, operation: str, password: str
    ) -> None:
        """Nobody logs in, and nobody is told that a password was right or wrong. Who is logged in
        stays so."""
        stranger = phone.stolen()
        table = system.cloud.tables["GuessesTable"]
        with system.failing(operation, Reply(400, "ThrottlingException"), naming=table):
            is_error(stranger.login(phone.username, password), 503, "temporarily_unavailable")
            assert phone.refresh().status_code == 200
            assert phone.keys().status_code == 200
        assert len(phone.resource("GET", "/v1/sessions").json()["sessions"]) == 1


class TestEndings:
    @pytest.mark.parametrize(
        ("command", "arguments"),
        [("users.disable", {}), ("users.set_password", {"password": "another one"})],
    )
    def test_41_disabled_or_given_a_new_password(
        self, system: System, phone: Phone, command: str, arguments: dict[str, Any]
    ) -> None:
        """Refused within no second at all, in functions that are warm."""
        other = system.phone(phone.username)
        for each in (phone, other):
            assert each.keys().status_code == 200
        system.operate(command, username=phone.username, **arguments)
        is_dead(phone)
        is_dead(other)
        assert replace(phone, api_url=THEIRS).resource("GET", "/x").status_code == 401

    def test_41_a_second_factor_reset(self, system: System, phone: Phone) -> None:
        """Asked for by somebody who has lost a phone; what is lost is still logged in."""
        system.operate("users.reset_second_factor", username=phone.username)
        is_dead(phone)

    def test_41_a_disabling_that_is_cut_off(self, system: System, phone: Phone) -> None:
        """From its first write on there are no keys; the operator's next try ends the sessions."""
        with system.failing("dynamodb:Query", Crash()), pytest.raises(Crash):
            system.operate("users.disable", username=phone.username)
        is_error(phone.keys(), 401, "invalid_token")
        assert system.operate("users.disable", username=phone.username)["revoked"] == 1
        is_dead(phone)

    def test_42_the_oldest_makes_room(self, system: System, phone: Phone) -> None:
        """Three are allowed in this system."""
        phones = [phone, *(system.phone(phone.username) for _ in range(4))]
        is_dead(phones[0])
        is_dead(phones[1])
        for each in phones[2:]:
            assert each.refresh().status_code == 200
            assert each.keys().status_code == 200

    def test_42_logins_at_once_never_exceed_the_limit(self, cloud: Cloud) -> None:
        """Decided in DynamoDB; tests/e2e/test_sessions.py does it over HTTP as well."""
        test_opening.test_logins_at_once_never_exceed_the_limit(cloud)


class TestSigningKeys:
    def test_43_a_token_from_before_the_switch_lives_to_its_end(
        self, system: System, phone: Phone
    ) -> None:
        system.sleep(2 * DAY - 1)
        assert phone.refresh().status_code == 200
        system.sleep(1)
        before = phone.tokens["access_token"]
        system.keyring("keyring.rotate", now=True)
        system.start_cold()
        assert phone.refresh().status_code == 200
        assert kid(phone.tokens["access_token"]) != kid(before), "it did switch"
        phone.tokens["access_token"] = before
        system.now = claim(before, "exp") - 1
        assert phone.keys().status_code == 200
        system.now += 1
        is_error(phone.keys(), 401, "invalid_token")

    def test_43_published_before_it_signs_and_gone_after(
        self, system: System, phone: Phone
    ) -> None:
        """Half a year: what signs has been in the JWKS for longer than anybody may keep it, and
        what signed until now stays there for as long as its tokens live."""
        first_seen: dict[str, int] = {}
        current = kid(phone.tokens["access_token"])
        switches = 0
        for _ in range(18):
            # No session lives that long, so the tokens are those of one phone after another.
            phone = system.phone(phone.username)
            published = self.published(phone)
            for each in published:
                first_seen.setdefault(each, system.now)
            assert phone.refresh().status_code == 200
            signing = kid(phone.tokens["access_token"])
            assert signing in published
            if signing != current:
                switches += 1
                assert system.now - first_seen[signing] > discovery.MAX_AGE_SECONDS
                assert current in published, "tokens of the old key still live"
                current = signing
            system.sleep(10 * DAY)
            self.run_the_schedule(system)
        assert switches == 2
        assert len(first_seen) - len(self.published(phone)) > 0, (
            "retired keys are published no more"
        )

    def test_43_a_revoked_key_is_refused_within_a_minute(
        self, system: System, phone: Phone
    ) -> None:
        published = self.published(phone)
        assert phone.keys().status_code == 200
        system.keyring("keyring.revoke", kid=kid(phone.tokens["access_token"]))
        system.sleep(unwrapped.MAX_AGE_SECONDS)
        assert claim(phone.tokens["access_token"], "exp") > system.now
        is_error(phone.keys(), 401, "invalid_token")
        assert phone.refresh().status_code == 200, "the session goes on"
        assert phone.keys().status_code == 200
        assert kid(phone.tokens["access_token"]) in published, "the next one was announced"

    def published(self, phone: Phone) -> set[str]:
        response = phone.call("GET", "/.well-known/jwks.json", proof=None)
        return {key["kid"] for key in response.json()["keys"]}

    def run_the_schedule(self, system: System) -> None:
        system.invoke("rotate_keyring", {})


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


def claim(token: str, name: str) -> int:
    return int(jwt.decode(token, options={"verify_signature": False})[name])


FAILURES = [
    Reply(400, "ProvisionedThroughputExceededException"),
    Reply(400, "AccessDeniedException"),
    Reply(500, "InternalServerError"),
    Reply(502),
    ConnectTimeoutError(endpoint_url="x"),
    ReadTimeoutError(endpoint_url="x"),
    RuntimeError("a mistake of ours"),
]


class TestErrors:
    def calls(self, phone: Phone) -> dict[str, Callable[[], httpx.Response]]:
        sid = phone.tokens["session_id"]
        form = {"token": phone.tokens["refresh_token"]}
        return {
            "login": lambda: phone.login(phone.username, PASSWORD),
            "token": lambda: phone.refresh(keep=False),
            "keys": phone.keys,
            "key": lambda: phone.keys("/v1/keys/maps"),
            "sessions": lambda: phone.resource("GET", "/v1/sessions"),
            "end": lambda: phone.resource("DELETE", f"/v1/sessions/{sid}"),
            "end all": lambda: phone.resource("DELETE", "/v1/sessions"),
            "revoke": lambda: phone.call("POST", "/v1/revoke", data=form, proof=None),
            "mfa": lambda: phone.resource("POST", "/v1/mfa/totp"),
            "jwks": lambda: phone.call("GET", "/.well-known/jwks.json", proof=None),
        }

    @pytest.mark.parametrize("service", ["dynamodb", "kms"])
    @pytest.mark.parametrize("failure", FAILURES, ids=str)
    def test_44_no_failure_of_aws_looks_like_a_logout(
        self, system: System, phone: Phone, service: str, failure: BaseException | Reply
    ) -> None:
        """On every route, cold and, for DynamoDB, warm."""
        for cold in (True, False):
            for name, call in self.calls(phone).items():
                if service == "kms" and (name == "jwks" or not cold):
                    continue  # no call to KMS that could fail
                if name == "jwks":
                    system.start_cold()  # it keeps what it has read
                if cold:
                    system.start_cold()
                with system.failing(f"{service}:*", failure):
                    is_trouble(call())
        theirs = replace(phone, api_url=THEIRS)
        with system.failing("dynamodb:*", failure):
            assert theirs.resource("GET", "/x").status_code == 500, "not 401"
        assert phone.refresh().status_code == 200
        assert phone.keys().status_code == 200

    def test_44_the_phone_waits_and_stays_logged_in(self, system: System) -> None:
        """The reference client, against throttling that ends, and then against some that lasts."""
        username = system.phone().username
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            slept.append(seconds)
            system.sleep(int(seconds))
            system.aws.fault = None  # by then it is over

        storage, device_keys = MemoryStorage(), SoftwareDeviceKeys.generate()
        client = KeyferryClient(
            Config(ISSUER, client_id="ios", client_key="ios-key"),
            device_keys,
            storage,
            http=system.http,
            clock=lambda: float(system.now),
            sleep=sleep,
        )
        client.login(username, PASSWORD, device_name="phone", app_version="1")
        throttled = Reply(400, "ThrottlingException")
        with system.failing("dynamodb:UpdateItem", throttled):
            client.refresh()
        (waited,) = slept
        assert 2 < waited < 3, "as Retry-After said, and a moment that is each phone's own"
        before = storage.load()
        assert before is not None
        lasting = KeyferryClient(
            Config(ISSUER, client_id="ios", client_key="ios-key", attempts=1),
            device_keys,
            storage,
            http=system.http,
            clock=lambda: float(system.now),
        )
        with system.failing("dynamodb:UpdateItem", throttled), pytest.raises(Retryable):
            lasting.refresh()
        assert storage.load() == before
        lasting.refresh()
        system.operate("sessions.revoke", username=username)
        with pytest.raises(LoggedOut):
            lasting.refresh()

    def test_44_throttled_by_the_usage_plan(
        self, stack: LocalStack, new_device: Callable[..., Device]
    ) -> None:
        attacks.test_throttled_by_the_usage_plan(stack, new_device)


def is_trouble(response: httpx.Response) -> None:
    code = response.json()["error"]
    if response.status_code == 503:
        assert code == "temporarily_unavailable"
        assert int(response.headers["retry-after"]) > 0
    else:
        assert (response.status_code, code) == (500, "server_error")


def test_45_the_state_machine_against_its_model(cloud: Cloud) -> None:
    """A few examples of what the contract tests run at length."""
    machine.run(cloud, machine.EmulatedTable, examples=5, steps=20)
