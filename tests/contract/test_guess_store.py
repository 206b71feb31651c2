"""Guess limits on DynamoDB semantics: exact under concurrency, and no way to lock an owner out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from keyferry.aws import write_all
from keyferry.config import DAY
from keyferry.errors import RequestRefused, Unavailable
from keyferry.users.guessing import (
    ACCOUNT,
    DEVICE,
    FORMER,
    KNOWN_DEVICE_SECONDS,
    NETWORK,
    REDEEM,
    REGISTER,
    GuessStore,
)
from keyferry.users.invitation import invitation_key
from keyferry.users.model import User, UserStatus
from keyferry.users.store import PasswordCredential, credential_key
from tests.contract.conftest import Cloud

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry.users.guessing import Attempt, Redemption

NOW = 1_790_000_000


@dataclass
class Door:
    """The limiter, and a clock."""

    cloud: Cloud
    now: int = NOW
    serial: int = 0
    client: Any = field(default=None)
    longest_session: int = 0

    @property
    def store(self) -> GuessStore:
        client = self.client or self.cloud.dynamodb
        return GuessStore(client, self.cloud.tables["GuessesTable"], self.longest_session)

    def reserve(self, name: str = "ana", *, jkt: str = "", ip: str = "192.0.2.1") -> Attempt:
        self.serial += 1
        return self.store.reserve(
            name,
            jkt=jkt,
            source_ip=ip,
            now=self.now,
            invocation_id=f"{self.serial}",
            beside=(self.cloud.tables["CredentialsTable"], credential_key(name)),
        )

    def fail(self, name: str = "ana", *, jkt: str = "", ip: str = "192.0.2.1") -> None:
        self.store.failed(self.reserve(name, jkt=jkt, ip=ip))

    def succeed(self, name: str = "ana", *, jkt: str, ip: str = "192.0.2.1") -> None:
        attempt = self.reserve(name, jkt=jkt, ip=ip)
        writes = self.store.forgive(attempt, jkt=jkt)
        assert not write_all(self.cloud.dynamodb, "test", writes)

    def refused(self, name: str = "ana", *, jkt: str = "", ip: str = "192.0.2.1") -> int:
        with pytest.raises(RequestRefused) as refused:
            self.reserve(name, jkt=jkt, ip=ip)
        assert refused.value.code == "too_many_attempts"
        assert refused.value.retry_after is not None
        return refused.value.retry_after


@pytest.fixture
def door(cloud: Cloud) -> Door:
    return Door(cloud)


def close(door: Door) -> None:
    """Strangers reach the account's limit."""
    for number in range(ACCOUNT.free + 1):
        door.fail(ip=f"198.51.100.{number}")


def test_backs_off_and_opens_again(door: Door) -> None:
    close(door)
    assert door.refused() == 2
    door.now += 1
    assert door.refused() == 1
    door.now += 1
    door.fail()
    assert door.refused() == 4


def test_one_account_from_many_addresses(door: Door) -> None:
    close(door)
    for number in range(50):
        door.refused(ip=f"203.0.113.{number}")


def test_a_forwarded_for_header_is_one_source(door: Door) -> None:
    """What is no address at all shares one counter; it does not get a fresh one."""
    for number in range(NETWORK.free + 1):
        door.fail(f"user{number}", ip=f"192.0.2.1, 10.0.0.{number}")
    door.refused("another", ip="forged")


def test_spray_from_one_address(door: Door) -> None:
    """One password, many accounts: the network's counter stops it."""
    for number in range(NETWORK.free + 1):
        door.fail(f"user{number}")
    door.refused("yet another")
    door.reserve("yet another", ip="192.0.2.2")


def test_spray_from_one_ipv6_customer(door: Door) -> None:
    for number in range(NETWORK.free + 1):
        door.fail(f"user{number}", ip=f"2001:db8::{number:x}")
    door.refused("yet another", ip="2001:db8::ffff")
    door.reserve("yet another", ip="2001:db8:0:1::1")


def test_the_owner_gets_in_from_the_known_phone(door: Door) -> None:
    """With every limit reached by strangers, from the owner's own network too."""
    door.succeed(jkt="phone")
    close(door)
    for number in range(NETWORK.free + 1):
        door.fail(f"user{number}")
    door.refused()
    door.refused(jkt="a stranger's phone")
    door.succeed(jkt="phone")


def test_a_known_phone_is_limited_too(door: Door) -> None:
    door.succeed(jkt="phone")
    for _ in range(DEVICE.free + 1):
        door.fail(jkt="phone")
    assert door.refused(jkt="phone") == 1
    door.reserve(ip="192.0.2.77")  # its failures are nobody else's


def test_a_phone_is_known_to_the_account_it_logged_in_to(door: Door) -> None:
    door.succeed("ana", jkt="phone")
    for _ in range(ACCOUNT.free + 1):
        door.fail("ben", jkt="phone", ip="198.51.100.1")
    door.refused("ben", jkt="phone")


def test_a_phone_is_forgotten_some_time(door: Door) -> None:
    door.succeed(jkt="phone")
    items = door.cloud.dynamodb.scan(TableName=door.cloud.tables["GuessesTable"])["Items"]
    (row,) = (item for item in items if item["id"]["S"].startswith("device#"))
    assert int(row["expires_at"]["N"]) == NOW + KNOWN_DEVICE_SECONDS


def test_a_phone_is_known_longer_than_its_session_lives(door: Door) -> None:
    """Or strangers could hold up the login that has to follow the end of a session."""
    door.longest_session = 3_650 * DAY
    door.succeed(jkt="phone")
    close(door)
    door.now += door.longest_session
    close(door)
    door.refused()
    door.succeed(jkt="phone")
    door.now += door.longest_session + KNOWN_DEVICE_SECONDS
    close(door)
    door.refused(jkt="phone")


def set_password(door: Door, name: str = "ana") -> None:
    assert door.cloud.users.set_password(name, "another hash", now=door.now)


class TestAfterAChangeOfPassword:
    """Whoever has had the old password can have made any number of devices known."""

    @pytest.fixture
    def thieves(self, door: Door) -> list[str]:
        user = User("sub", "ana", UserStatus.ACTIVE, (), NOW)
        assert door.cloud.users.add(user, PasswordCredential("ana", "sub", "hash"))
        devices = [f"thief {number}" for number in range(20)]
        for device in (*devices, "phone", "tablet"):
            door.succeed(jkt=device)
        door.now += 1
        set_password(door)
        return devices

    def test_all_of_them_have_one_budget(self, door: Door, thieves: list[str]) -> None:
        for device in thieves[: FORMER.free + 1]:
            door.fail(jkt=device, ip="198.51.100.1")
        for device in thieves:
            door.refused(jkt=device)
        door.reserve(ip="192.0.2.77")  # which is not that of strangers

    def test_which_strangers_can_not_reach(self, door: Door, thieves: list[str]) -> None:
        close(door)
        for number in range(NETWORK.free + 1):
            door.fail(f"user{number}")
        door.refused()
        door.succeed(jkt="tablet")

    def test_who_logs_in_again_is_known_again(self, door: Door, thieves: list[str]) -> None:
        door.succeed(jkt="phone")
        for device in thieves[: FORMER.free + 1]:
            door.fail(jkt=device)
        door.refused(jkt=thieves[-1])
        door.succeed(jkt="phone")
        door.refused(jkt="tablet")

    def test_one_that_changes_it_stays_known(self, door: Door, thieves: list[str]) -> None:
        attempt = door.reserve(jkt="phone")
        credential = PasswordCredential("ana", "sub", "another hash")
        writes = {
            "password": door.cloud.users.new_password(credential, "a third", now=door.now),
            **door.store.forgive(attempt, jkt="phone"),
        }
        assert not write_all(door.cloud.dynamodb, "test", writes)
        for device in thieves[: FORMER.free + 1]:
            door.fail(jkt=device)
        door.succeed(jkt="phone")

    def test_another_hash_of_the_same_password_changes_nothing(
        self, door: Door, thieves: list[str]
    ) -> None:
        door.succeed(jkt="phone")
        credential = PasswordCredential("ana", "sub", "another hash")
        rehash = door.cloud.users.same_password(credential, stronger_phc="the same, better")
        door.now += 1
        assert not write_all(door.cloud.dynamodb, "test", {"credential": rehash})
        for device in thieves[: FORMER.free + 1]:
            door.fail(jkt=device)
        door.succeed(jkt="phone")


def test_success_forgives_the_account(door: Door) -> None:
    for number in range(ACCOUNT.free):
        door.fail(ip=f"198.51.100.{number}")
    door.succeed(jkt="phone")
    for number in range(ACCOUNT.free):
        door.fail(ip=f"198.51.100.{number}")
    door.reserve()


def test_success_costs_the_network_nothing(door: Door) -> None:
    """Many people behind one address."""
    for number in range(NETWORK.free + 10):
        door.succeed(f"user{number}", jkt=f"phone{number}")


def test_quiet_is_forgiven(door: Door) -> None:
    close(door)
    for number in range(NETWORK.free + 1):
        door.fail(f"user{number}")
    door.now += DAY + 1
    for number in range(ACCOUNT.free):
        door.fail(ip=f"198.51.100.{number}")
    door.fail("another")
    door.reserve("yet another")


def test_a_hundred_guesses_at_once_never_exceed_the_limit(door: Door) -> None:
    def guess(number: int) -> bool:
        try:
            door.reserve(ip=f"198.51.100.{number}")
        except RequestRefused:
            return False
        return True

    with ThreadPoolExecutor(10) as pool:
        allowed = sum(pool.map(guess, range(100)))
    assert 1 <= allowed <= ACCOUNT.free + 1
    door.refused()


GUESSERS = 4
GUESSES = 10_000


def allowed(guess: Callable[[int], None]) -> int:
    """How many of `GUESSES` guesses are let through to the password."""

    def one(number: int) -> bool:
        try:
            guess(number)
        except RequestRefused:
            return False
        return True

    with ThreadPoolExecutor(GUESSERS) as pool:
        return sum(pool.map(one, range(GUESSES)))


def test_one_password_at_ten_thousand_accounts(door: Door) -> None:
    """From one network. A network's failures are counted when they are known, so each guesser may
    have one more under way."""
    guessed = allowed(lambda number: door.fail(f"user{number}"))
    assert NETWORK.free < guessed <= NETWORK.free + 1 + GUESSERS


def test_one_account_from_ten_thousand_addresses(door: Door) -> None:
    """Each guess comes from another address. Meanwhile the owner's phone gets in."""
    door.succeed(jkt="phone")

    def guess(number: int) -> None:
        if number % 2_500 == 2_499:
            door.succeed(jkt="phone")
        door.fail(ip=f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")

    guessed = allowed(guess)
    # The known phone has a counter of its own: its successes forgive strangers nothing.
    assert guessed == ACCOUNT.free + 1
    door.refused()
    door.succeed(jkt="phone")


def test_no_name_and_no_address_is_readable_in_the_table(door: Door) -> None:
    close(door)
    door.succeed("ben", jkt="phone", ip="192.0.2.99")
    dump = str(door.cloud.dynamodb.scan(TableName=door.cloud.tables["GuessesTable"])["Items"])
    for secret in ("ana", "ben", "192.0.2", "198.51.100", "phone"):
        assert secret not in dump


class TestFaults:
    class Throttled:
        def __init__(self, client: Any, operation: str) -> None:
            self.client, self.operation = client, operation

        def __getattr__(self, name: str) -> Any:
            if name == self.operation:
                return self.throttle
            return getattr(self.client, name)

        def throttle(self, **_: Any) -> Any:
            error: Any = {"Error": {"Code": "ProvisionedThroughputExceededException"}}
            raise ClientError(error, self.operation)

    @pytest.mark.parametrize("operation", ["batch_get_item", "update_item"])
    def test_nobody_logs_in_uncounted(self, door: Door, operation: str) -> None:
        door.client = self.Throttled(door.cloud.dynamodb, operation)
        with pytest.raises(Unavailable):
            door.reserve()
        door.client = None
        door.reserve()

    def test_botocores_second_try_is_one_attempt(self, door: Door) -> None:
        class Twice:
            def __init__(self, client: Any) -> None:
                self.client = client

            def __getattr__(self, name: str) -> Any:
                return getattr(self.client, name)

            def update_item(self, **request: Any) -> Any:
                with suppress(ClientError):
                    self.client.update_item(**request)
                return self.client.update_item(**request)

        door.client = Twice(door.cloud.dynamodb)
        for _ in range(ACCOUNT.free + 1):
            door.reserve()
        door.refused()


class TestNewcomers:
    """Invitations and registrations, counted for the network that they come from."""

    def redeeming(self, door: Door, ip: str = "192.0.2.1", name: str = "ana") -> Redemption:
        beside = (door.cloud.tables["CredentialsTable"], invitation_key(name))
        return door.store.redeeming(ip, now=door.now, beside=beside)

    def register(self, door: Door, ip: str = "192.0.2.1") -> None:
        door.serial += 1
        door.store.register(ip, now=door.now, invocation_id=f"{door.serial}")

    def waits(self, call: Callable[..., Any], *arguments: Any) -> int:
        with pytest.raises(RequestRefused) as refused:
            call(*arguments)
        assert refused.value.code == "too_many_attempts"
        assert refused.value.retry_after is not None
        return refused.value.retry_after

    def test_redeeming_costs_nothing_until_it_fails(self, door: Door) -> None:
        door.cloud.dynamodb.put_item(
            TableName=door.cloud.tables["CredentialsTable"], Item={"id": {"S": "invitation#ana"}}
        )
        for _ in range(REDEEM.free + 10):
            assert self.redeeming(door).beside == {"id": {"S": "invitation#ana"}}
        for _ in range(REDEEM.free + 1):
            door.store.redemption_failed(self.redeeming(door, name="nobody"))
        assert self.waits(self.redeeming, door) == REDEEM.first_wait
        self.redeeming(door, "192.0.2.2")
        door.now += REDEEM.first_wait
        door.store.redemption_failed(self.redeeming(door))
        assert self.waits(self.redeeming, door) == 2 * REDEEM.first_wait
        door.now += REDEEM.forget + 1
        door.store.redemption_failed(self.redeeming(door))
        self.redeeming(door)

    def test_every_registration_counts(self, door: Door) -> None:
        for _ in range(REGISTER.free + 1):
            self.register(door)
        assert self.waits(self.register, door) == REGISTER.first_wait
        self.register(door, "192.0.2.2")
        for _ in range(20):
            door.now += REGISTER.longest_wait
            self.register(door)
        assert self.waits(self.register, door) == REGISTER.longest_wait
        door.now += REGISTER.forget + 1
        self.register(door)
        self.register(door)

    def test_an_ipv6_customer_is_one_network(self, door: Door) -> None:
        for number in range(REGISTER.free + 1):
            self.register(door, f"2001:db8:1:2::{number:x}")
        assert self.waits(self.register, door, "2001:db8:1:2:ffff::1")
        self.register(door, "2001:db8:1:3::1")

    def test_registrations_at_once_do_not_exceed_the_limit(self, door: Door) -> None:
        def register(number: int) -> bool:
            for _ in range(20):  # a phone that is told to wait because others were faster
                try:
                    door.store.register("192.0.2.1", now=door.now, invocation_id=f"n{number}")
                except RequestRefused as refused:
                    if "contention" not in refused.reason:
                        return False
                else:
                    return True
            return False

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(register, range(REGISTER.free + 20)))
        assert made.count(True) == REGISTER.free + 1

    def test_they_are_no_guesses_at_anybody(self, door: Door) -> None:
        for _ in range(REGISTER.free + 1):
            self.register(door)
        self.waits(self.register, door)
        self.redeeming(door)
        door.reserve()

    @pytest.mark.parametrize("operation", ["batch_get_item", "update_item"])
    def test_without_the_counters_nobody_registers(
        self, door: Door, monkeypatch: pytest.MonkeyPatch, operation: str
    ) -> None:
        def throttled(**_: Any) -> None:
            error = {"Error": {"Code": "ThrottlingException", "Message": ""}}
            raise ClientError(error, "X")  # type: ignore[arg-type]

        monkeypatch.setattr(door.cloud.dynamodb, operation, throttled)
        with pytest.raises(Unavailable):
            self.register(door)
        if operation == "batch_get_item":
            with pytest.raises(Unavailable):
                self.redeeming(door)
