"""Lost replies, races, thieves and crashes: one test for each example of them."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ConnectTimeoutError, EndpointConnectionError, ReadTimeoutError

from keyferry.config import DAY
from keyferry.edge.telemetry import Metric
from keyferry.sessions.model import Status
from keyferry.sessions.rotation import BEARER_RETRIES_PER_DAY
from tests.e2e.conftest import PASSWORD
from tests.e2e.test_attacks import thief_of
from tests.e2e.test_main_path import is_error
from tests.race import test_refresh_race as races
from tests.race.test_refresh_race import at_once, generation
from tests.scenarios.system import Crash, Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.device import Device
    from tests.scenarios.system import Phone, System

A_SECOND = 1.1
"""So that a nonce is of a later second than the last refresh."""

CYCLE = 15 * 60
"""An app that is used all day refreshes when its access token runs out."""


def is_dead(phone: Phone) -> None:
    is_error(phone.refresh(keep=False), 400, "invalid_grant")
    is_error(phone.keys(), 401, "invalid_token")


def is_alive(phone: Phone) -> None:
    assert phone.refresh().status_code == 200
    assert phone.keys().status_code == 200


def test_01_two_refreshes_at_once(stack: LocalStack, device: Device) -> None:
    token = device.tokens["refresh_token"]
    answers = at_once(device, [token] * 2)
    assert [answer["status"] for answer in answers] == [200, 200]
    first, second = (json.loads(answer["body"])["refresh_token"] for answer in answers)
    assert first == second != token
    assert generation(stack, device) == (1, "active")
    assert device.refresh(first).status_code == 200


class TestLostReply:
    @pytest.mark.parametrize("seconds", [1, 59, 60, 61, 8 * 3600])
    def test_03_reply_dropped_and_retried_later(
        self, system: System, phone: Phone, seconds: int
    ) -> None:
        """With a device key there is no grace time: the same successor, however late."""
        lost = phone.refresh(keep=False).json()["refresh_token"]
        system.sleep(seconds)
        assert phone.refresh().json()["refresh_token"] == lost
        assert system.row(phone).generation == 1
        is_alive(phone)

    @pytest.mark.parametrize(
        ("seconds", "alive"),
        [(1, True), (59, True), (60, True), (61, False)],  # the boundary is the client's
    )
    def test_03_bearer_reply_dropped_and_retried_later(
        self, open_system: System, bearer: Phone, seconds: int, alive: bool
    ) -> None:
        lost = bearer.refresh(keep=False).json()["refresh_token"]
        open_system.sleep(seconds)
        response = bearer.refresh()
        if alive:
            assert response.json()["refresh_token"] == lost
            is_alive(bearer)
        else:
            is_error(response, 400, "invalid_grant")
            assert open_system.row(bearer).status is Status.COMPROMISED
            is_error(bearer.refresh(lost), 400, "invalid_grant")
            is_error(bearer.keys(), 401, "invalid_token")

    def test_a_thief_with_the_key_who_follows_every_refresh_is_reported(
        self, system: System, phone: Phone
    ) -> None:
        """He looks like a phone that loses every reply, which no phone does for long."""
        thief = phone.stolen(with_key=True)
        system.metrics()
        counted = []
        for _ in range(12):
            assert phone.refresh().status_code == thief.refresh().status_code == 200
            counted.append(Metric.SESSION_FOLLOWED in system.metrics())
        assert counted == [False] * 10 + [True] * 2
        is_alive(phone)

    def test_04_retry_after_the_successor_was_used(self, stack: LocalStack, device: Device) -> None:
        token, proof = device.tokens["refresh_token"], device.proof("POST", "/v1/token")
        assert device.refresh(proof=proof).status_code == 200
        assert device.refresh().status_code == 200
        # Maybe the owner's own request, late or recorded: refused, and it ends nothing.
        is_error(device.refresh(token, proof=proof, keep=False), 400, "use_dpop_nonce")
        assert generation(stack, device) == (2, "active")
        assert device.refresh().status_code == 200
        time.sleep(A_SECOND)
        # A proof made since: somebody goes on with an old token.
        is_error(device.refresh(token, keep=False), 400, "invalid_grant")
        assert generation(stack, device) == (3, "compromised")

    def test_04_the_same_request_twice_in_one_second(self, system: System, phone: Phone) -> None:
        """Byte for byte, by a proxy that tries again, while the app is already a refresh further."""
        token = phone.tokens["refresh_token"]
        proof = phone.fresh_proof("POST", "/v1/token")
        assert phone.refresh(proof=proof).status_code == 200
        assert phone.refresh().status_code == 200
        assert phone.refresh(token, proof=proof, keep=False).status_code == 400
        assert system.row(phone).status is Status.ACTIVE, "the owner did nothing wrong"
        is_alive(phone)

    def test_05_retry_after_the_new_access_token_was_used(
        self, system: System, phone: Phone
    ) -> None:
        """Answered, not refused as some would have it: to confirm by use of the access token would
        cost a write for each delivery. What it would stop is somebody who has the device key, and
        such a one only gets what the phone has: there is no second lineage to be had."""
        old = dict(phone.tokens)
        new = phone.refresh().json()
        assert phone.keys().status_code == 200
        assert phone.refresh(old["refresh_token"]).json()["refresh_token"] == new["refresh_token"]
        assert system.row(phone).generation == 1
        is_error(phone.stolen().refresh(old["refresh_token"]), 400, "invalid_grant")
        is_alive(phone)

    def test_05_bearer_retry_after_the_new_access_token_was_used(
        self, open_system: System, bearer: Phone
    ) -> None:
        """Answered within a minute, and counted: see 8 for whom the counting is."""
        old, new = dict(bearer.tokens), bearer.refresh().json()
        assert bearer.keys().status_code == 200
        again = bearer.refresh(old["refresh_token"])
        assert again.json()["refresh_token"] == new["refresh_token"]
        assert open_system.row(bearer).retry_count == 1

    def test_24_killed_before_the_new_token_was_stored(self, system: System, phone: Phone) -> None:
        stored = phone.tokens["refresh_token"]
        phone.refresh()
        assert phone.keys().status_code == 200
        newest = phone.tokens["refresh_token"]
        system.sleep(3 * DAY)  # nobody opens the app
        system.start_cold()
        assert phone.refresh(stored).json()["refresh_token"] == newest
        is_alive(phone)
        assert system.row(phone).generation == 2


class TestAncestors:
    @pytest.mark.parametrize("generations", [2, 5])
    @pytest.mark.parametrize("bound", [True, False])
    def test_06_an_old_token_moments_after_a_refresh(
        self, open_system: System, bound: bool, generations: int
    ) -> None:
        """No time of grace covers it: it never gives a token, and the session ends."""
        phone = open_system.phone(bound=bound)
        old = phone.tokens["refresh_token"]
        for _ in range(generations):
            assert phone.refresh().status_code == 200
        open_system.sleep(3)
        open_system.metrics()
        is_error(phone.refresh(old), 400, "invalid_grant")
        assert open_system.metrics().count(Metric.REFRESH_REUSE_DETECTED) == 1
        is_dead(phone)

    def test_07_five_generations_old_a_day_later(self, system: System, phone: Phone) -> None:
        clone = phone.stolen(with_key=True)
        for _ in range(5):
            system.sleep(CYCLE)
            assert phone.refresh().status_code == 200
        system.sleep(DAY)
        is_alive(phone)
        system.sleep(1)
        is_error(clone.refresh(), 400, "invalid_grant")
        assert system.row(phone).status is Status.COMPROMISED
        is_dead(phone)  # with an access token that has minutes to live

    def test_11_the_users_other_phone_goes_on(
        self, device: Device, new_device: Callable[..., Device], username: str
    ) -> None:
        other = new_device()
        other.login(username, PASSWORD)
        clone = thief_of(device, with_key=True)
        device.refresh()
        device.refresh()
        time.sleep(A_SECOND)
        is_error(clone.refresh(), 400, "invalid_grant")
        is_error(device.keys(), 401, "invalid_token")
        is_error(device.refresh(), 400, "invalid_grant")
        assert other.keys().status_code == 200
        assert other.refresh().status_code == 200

    def test_12_a_logged_out_token_is_no_theft(self, system: System, phone: Phone) -> None:
        other = system.phone(phone.username)
        old = phone.tokens["refresh_token"]
        phone.refresh()
        phone.refresh()
        phone.call("POST", "/v1/revoke", data={"token": old}, proof=None)
        system.sleep(1)
        system.metrics()
        for token in (old, phone.tokens["refresh_token"]):
            is_error(phone.refresh(token), 400, "invalid_grant")
        assert set(system.metrics()) == {Metric.REFRESH_REFUSED}
        assert system.row(phone).status is Status.LOGGED_OUT
        is_alive(other)

    def test_13_replays_that_race_are_one_theft(self, stack: LocalStack, device: Device) -> None:
        ancestor, sid = device.tokens["refresh_token"], device.tokens["session_id"]
        device.refresh()
        device.refresh()
        time.sleep(A_SECOND)
        answers = at_once(device, [ancestor] * 4)
        assert {answer["status"] for answer in answers} == {400}
        events = [json.loads(line) for line in stack.logs("refresh").splitlines() if sid in line]
        outcomes = Counter(event["outcome"] for event in events if "outcome" in event)
        assert outcomes == {"rotated": 2, "reused": 1, "compromised": 3}


class TestThief:
    def test_08_a_shadow_a_second_behind(self, system: System, phone: Phone) -> None:
        """Who lacks the device key is not in for a moment, and disturbs nobody."""
        thief = phone.stolen()
        for _ in range(10):
            system.sleep(CYCLE)
            thief.tokens = dict(phone.tokens)
            assert phone.refresh().status_code == 200
            system.sleep(1)
            is_error(thief.refresh(keep=False), 400, "invalid_grant")
            is_error(thief.keys(), 401, "invalid_token")
        is_alive(phone)

    def test_08_a_bearer_shadow_a_second_behind(self, open_system: System, bearer: Phone) -> None:
        """Found out when the lost replies of a day are used up, within two hours of use."""
        for cycle in range(1, 20):  # noqa: B007 -- read after the loop
            open_system.sleep(CYCLE)
            shadowed = bearer.tokens["refresh_token"]
            assert bearer.refresh().status_code == 200
            open_system.sleep(1)
            if bearer.refresh(shadowed, keep=False).status_code != 200:
                break
        assert cycle == BEARER_RETRIES_PER_DAY + 1 == 7
        is_dead(bearer)

    def test_09_a_shadow_half_a_cycle_behind(self, system: System, phone: Phone) -> None:
        thief = phone.stolen()
        for _ in range(3):
            thief.tokens = dict(phone.tokens)
            assert phone.refresh().status_code == 200
            system.sleep(CYCLE // 2)
            is_error(thief.refresh(keep=False), 400, "invalid_grant")
            system.sleep(CYCLE // 2)
        is_alive(phone)

    def test_09_a_bearer_shadow_half_a_cycle_behind(
        self, open_system: System, bearer: Phone
    ) -> None:
        thief = bearer.stolen()
        bearer.refresh()
        open_system.sleep(CYCLE // 2)
        open_system.metrics()
        is_error(thief.refresh(), 400, "invalid_grant")
        assert open_system.metrics() == [Metric.REFRESH_REUSE_DETECTED]
        is_dead(bearer)

    def test_10_a_thief_who_goes_first(self, system: System, phone: Phone) -> None:
        is_error(phone.stolen().refresh(), 400, "invalid_grant")
        system.sleep(CYCLE // 2)
        is_alive(phone)

    def test_10_a_bearer_thief_who_goes_first(self, open_system: System, bearer: Phone) -> None:
        thief = bearer.stolen()
        assert thief.refresh().status_code == 200
        open_system.sleep(CYCLE // 2)
        is_error(bearer.refresh(), 400, "invalid_grant")
        is_dead(thief)

    def test_10_a_cloned_phone_that_goes_first(self, system: System, phone: Phone) -> None:
        """It has the key too. Two steps ahead of the owner, it is found out by the owner."""
        clone = phone.stolen(with_key=True)
        assert clone.refresh().status_code == 200
        assert clone.refresh().status_code == 200
        system.sleep(CYCLE // 2)
        is_error(phone.refresh(), 400, "invalid_grant")
        is_dead(clone)


class TestCrash:
    @pytest.mark.parametrize("bound", [True, False])
    def test_14_crash_after_the_write(self, open_system: System, bound: bool) -> None:
        phone = open_system.phone(bound=bound)
        with (
            open_system.failing("dynamodb:UpdateItem", Crash(), done=True),
            pytest.raises(Crash),
        ):
            phone.refresh()
        open_system.start_cold()
        assert open_system.row(phone).generation == 1, "it was written"
        open_system.metrics()
        assert phone.refresh().status_code == 200
        assert open_system.metrics() == [Metric.REFRESH_RETRIED]
        assert open_system.row(phone).generation == 1
        is_alive(phone)

    @pytest.mark.parametrize("bound", [True, False])
    @pytest.mark.parametrize(
        "failure", [Crash(), EndpointConnectionError(endpoint_url="x")], ids=["crash", "network"]
    )
    def test_15_crash_before_the_write(
        self, open_system: System, bound: bool, failure: BaseException
    ) -> None:
        phone = open_system.phone(bound=bound)
        before = open_system.row(phone)
        with open_system.failing("dynamodb:UpdateItem", failure):
            fails(phone, failure)
        assert open_system.row(phone) == before
        open_system.metrics()
        assert phone.refresh().status_code == 200
        assert open_system.metrics() == [Metric.REFRESH_ROTATED], "the first try cost nothing"

    def test_15_crash_before_a_retry_is_counted(self, open_system: System, bearer: Phone) -> None:
        lost = bearer.refresh(keep=False).json()["refresh_token"]
        before = open_system.row(bearer)
        with open_system.failing("dynamodb:UpdateItem", Crash(), spare=1):
            fails(bearer, Crash())
        assert open_system.row(bearer) == before, "nothing of the budget is spent"
        assert bearer.refresh().json()["refresh_token"] == lost
        assert open_system.row(bearer).retry_count == 1

    def test_15_crash_before_a_theft_is_written(self, system: System, phone: Phone) -> None:
        clone = phone.stolen(with_key=True)
        phone.refresh()
        phone.refresh()
        system.sleep(1)
        proof = clone.fresh_proof("POST", "/v1/token")
        with system.failing("dynamodb:UpdateItem", Crash(), spare=1), pytest.raises(Crash):
            clone.refresh(proof=proof)
        assert system.row(phone).status is Status.ACTIVE
        is_error(clone.refresh(), 400, "invalid_grant")
        is_dead(phone)

    def test_16_kms_fails_at_any_point_of_a_refresh(self, system: System, phone: Phone) -> None:
        """A cold function unwraps its keys before it writes: there is no "after" for KMS."""
        system.start_cold()
        mark = len(system.aws.calls)
        phone.refresh()
        decrypts = system.aws.operations()[mark:].count("kms:Decrypt")
        assert decrypts == 3
        before = system.row(phone)
        for spare in range(decrypts):
            system.start_cold()
            with system.failing("kms:Decrypt", Reply(500, "KMSInternalException"), spare=spare):
                response = phone.refresh()
            is_error(response, 503, "temporarily_unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert system.row(phone) == before
        system.start_cold()
        assert phone.refresh().status_code == 200

    def test_16_kms_fails_for_a_lost_reply_after_a_rotation_of_keys(
        self, system: System, phone: Phone
    ) -> None:
        """The row names a MAC key that is not the current one any more."""
        lost = phone.refresh(keep=False).json()["refresh_token"]
        system.sleep(2 * DAY)
        system.keyring("keyring.rotate", now=True)
        before = system.row(phone)
        for spare in range(4):
            system.start_cold()
            with system.failing("kms:Decrypt", Reply(400, "KMSInvalidStateException"), spare=spare):
                is_error(phone.refresh(), 503, "temporarily_unavailable")
            assert system.row(phone) == before
        system.start_cold()
        assert phone.refresh().json()["refresh_token"] == lost

    def test_16_signing_fails_after_the_counter_has_moved(
        self, system: System, phone: Phone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object, **__: object) -> str:
            raise RuntimeError("no entropy, no memory, no luck")

        with monkeypatch.context() as patch:
            patch.setattr("keyferry.tokens.access.sign", fail)
            is_error(phone.refresh(), 500, "server_error")
        assert system.row(phone).generation == 1
        system.metrics()
        assert phone.refresh().status_code == 200
        assert system.metrics() == [Metric.REFRESH_RETRIED]
        assert system.row(phone).generation == 1
        is_alive(phone)


def fails(phone: Phone, failure: BaseException) -> None:
    if isinstance(failure, Crash):
        with pytest.raises(Crash):
            phone.refresh(keep=False)
    else:
        is_error(phone.refresh(keep=False), 503, "temporarily_unavailable")


class TestDynamoDBFails:
    @pytest.mark.parametrize(
        "failure",
        [
            Reply(400, "ProvisionedThroughputExceededException"),
            Reply(400, "ThrottlingException"),
            Reply(400, "RequestLimitExceeded"),
            Reply(500, "InternalServerError"),
            Reply(503),
            ConnectTimeoutError(endpoint_url="x"),
            ReadTimeoutError(endpoint_url="x"),
        ],
        ids=str,
    )
    def test_17_dynamodb_throttles_or_fails(
        self, open_system: System, failure: BaseException | Reply
    ) -> None:
        """503, and the token is as good as before: for a refresh, and for each write after it."""
        phone, bearer = open_system.phone(), open_system.phone(bound=False)
        lost = bearer.refresh(keep=False).json()["refresh_token"]
        for each, spare in ((phone, 0), (bearer, 0), (bearer, 1)):
            before = open_system.row(each)
            with open_system.failing("dynamodb:UpdateItem", failure, spare=spare):
                response = each.refresh(keep=False)
            is_error(response, 503, "temporarily_unavailable")
            assert int(response.headers["retry-after"]) > 0
            assert open_system.row(each) == before
        is_alive(phone)
        assert bearer.refresh().json()["refresh_token"] == lost


def test_46_races_on_separate_workers(stack: LocalStack, device: Device) -> None:
    """The race with replays, and that what it ran on were several Lambda workers."""
    races.test_replays_of_an_ancestor_beside_honest_refreshes(stack, device)
    sid = device.tokens["session_id"]
    events = [json.loads(line) for line in stack.logs("refresh").splitlines() if line[:1] == "{"]
    cold = [event for event in events if event.get("cold_start")]
    workers = {event["function_request_id"] for event in cold}
    assert len(workers) > 1, "each worker starts cold once"
    assert any(sid == event.get("sid") for event in events)
