"""Codes on DynamoDB semantics: each good once, however many requests bring it, and never lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from keyferry.errors import RequestRefused, Unavailable
from keyferry.users import totp
from keyferry.users.guessing import ACCOUNT, GuessStore
from keyferry.users.model import User, UserStatus
from keyferry.users.second_factor import SecondFactors
from keyferry.users.store import PasswordCredential
from tests.contract.conftest import DEPLOYMENT, Cloud, random

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = 1_790_000_000
STEP = NOW // totp.STEP_SECONDS
SUB = "sub-of-ana"


@dataclass
class Factor:
    """Ana's second factor, in force; the code of `STEP` - 1 was used for that."""

    cloud: Cloud
    secret: bytes = field(default_factory=lambda: random(totp.SECRET_BYTES))
    recovery: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        user = User(SUB, "ana", UserStatus.ACTIVE, (), NOW)
        assert self.cloud.users.add(user, PasswordCredential("ana", SUB, "x"))
        assert self.store.begin(SUB, self.secret)
        enrolment = self.store.read(SUB)
        assert enrolment is not None
        code = self.code(STEP - 1)
        recovery = self.store.confirm(enrolment, code, now=NOW, random=random)
        assert recovery is not None
        self.recovery = recovery

    @property
    def store(self) -> SecondFactors:
        tables = self.cloud.tables
        return SecondFactors(
            self.cloud.dynamodb,
            tables["CredentialsTable"],
            tables["UsersTable"],
            self.cloud.kms,
            self.cloud.key_arn,
            DEPLOYMENT,
        )

    def code(self, step: int) -> str:
        return totp.code_at(self.secret, step)

    def use(self, code: str, invocation: str, store: SecondFactors | None = None) -> bool:
        return (store or self.store).use(SUB, code, now=NOW, invocation_id=invocation)


@pytest.fixture
def factor(cloud: Cloud) -> Factor:
    return Factor(cloud)


def at_once(factor: Factor, code: str, requests: int = 24) -> int:
    """How many of so many requests the code lets in."""
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda number: factor.use(code, f"i{number}"), range(requests)))


CODES: dict[str, Callable[[Factor], str]] = {
    "app": lambda factor: factor.code(STEP),
    "recovery": lambda factor: factor.recovery[0],
}


@pytest.mark.parametrize("kind", CODES)
def test_a_code_is_good_once_however_many_bring_it(factor: Factor, kind: str) -> None:
    code = CODES[kind](factor)
    assert at_once(factor, code) == 1
    assert not factor.use(code, "later")


def test_an_older_code_is_none_after_a_newer_one(factor: Factor) -> None:
    assert factor.use(factor.code(STEP + 1), "a")
    assert not factor.use(factor.code(STEP), "b")
    assert not factor.use(factor.code(STEP - 1), "c"), "used for the enrolment besides"


def test_each_recovery_code_is_good_by_itself(factor: Factor) -> None:
    assert [factor.use(code, "a") for code in factor.recovery] == [True] * totp.RECOVERY_CODES
    assert [factor.use(code, "b") for code in factor.recovery] == [False] * totp.RECOVERY_CODES


class Twice:
    """A client whose writes are carried out, and whose first replies are lost: botocore tries again."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def update_item(self, **request: Any) -> Any:
        with suppress(ClientError):
            self.client.update_item(**request)
        return self.client.update_item(**request)


@pytest.mark.parametrize("kind", CODES)
def test_a_lost_reply_of_dynamodb_is_no_lost_code(factor: Factor, kind: str) -> None:
    twice: Any = Twice(factor.cloud.dynamodb)
    store = replace(factor.store, client=twice)
    code = CODES[kind](factor)
    assert factor.use(code, "one", store)
    assert not factor.use(code, "another", store)


@pytest.mark.parametrize("kind", CODES)
def test_the_mark_of_a_request_is_of_one_code(factor: Factor, kind: str) -> None:
    """The same request may try its code again, as a login does whose credential has changed."""
    code, other = CODES[kind](factor), factor.recovery[1]
    assert factor.use(code, "one")
    assert factor.use(code, "one")
    assert factor.use(other, "one")
    assert not factor.use(code, "one"), "and it is the last one that is remembered"


def test_a_secret_opens_for_its_user_alone(factor: Factor) -> None:
    """A row that was copied to somebody else's id is no second factor of theirs."""
    table = factor.cloud.tables["CredentialsTable"]
    row = factor.cloud.dynamodb.get_item(TableName=table, Key={"id": {"S": f"totp#{SUB}"}})["Item"]
    moved = {**row, "id": {"S": "totp#ben"}, "sub": {"S": "ben"}}
    factor.cloud.dynamodb.put_item(TableName=table, Item=moved)
    with pytest.raises(Unavailable):
        factor.store.use("ben", factor.code(STEP), now=NOW, invocation_id="i")


class TestCounted:
    def guess(self, factor: Factor, guesses: GuessStore, number: int, code: str = "") -> bool:
        attempt = factor.store.use_counted(
            guesses,
            SUB,
            code or "000000",
            jkt="",
            source_ip=f"198.51.100.{number}",
            now=lambda: NOW,
            invocation_id=f"i{number}",
        )
        return attempt is not None

    def test_codes_beside_an_id_token_are_limited(self, factor: Factor) -> None:
        guesses = GuessStore(factor.cloud.dynamodb, factor.cloud.tables["GuessesTable"])
        for number in range(ACCOUNT.free + 1):
            assert not self.guess(factor, guesses, number)
        for code in ("", factor.code(STEP)):
            with pytest.raises(RequestRefused) as refused:
                self.guess(factor, guesses, 99, code)
            assert refused.value.code == "too_many_attempts"

    def test_nobody_can_count_there_by_a_user_name(self, factor: Factor) -> None:
        """Not even of a user whose ``sub`` is a user name in its canonical form."""
        guesses = GuessStore(factor.cloud.dynamodb, factor.cloud.tables["GuessesTable"])
        for number in range(ACCOUNT.free + 1):
            guesses.reserve(
                f"totp {SUB}",
                jkt="",
                source_ip="192.0.2.1",
                now=NOW,
                invocation_id=f"s{number}",
                beside=(factor.cloud.tables["CredentialsTable"], {"id": {"S": "x"}}),
            )
        assert self.guess(factor, guesses, 1, factor.code(STEP))
