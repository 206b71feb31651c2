"""What is good once, on DynamoDB semantics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from keyferry.single_use import SingleUse

if TYPE_CHECKING:
    from tests.contract.conftest import Cloud

LATER = 1_790_000_000


@pytest.fixture
def single_use(cloud: Cloud) -> SingleUse:
    return SingleUse(cloud.dynamodb, cloud.tables["ProofsTable"])


def test_once(single_use: SingleUse) -> None:
    assert single_use.use("app check", "j", expires_at=LATER, invocation_id="1")
    assert not single_use.use("app check", "j", expires_at=LATER, invocation_id="2")
    assert single_use.use("app check", "k", expires_at=LATER, invocation_id="3")
    assert single_use.use("another kind", "j", expires_at=LATER, invocation_id="4")


def test_the_first_try_of_the_same_invocation_is_no_other_use(single_use: SingleUse) -> None:
    for _ in range(2):
        assert single_use.use("app check", "j", expires_at=LATER, invocation_id="1")


def test_many_at_once(single_use: SingleUse) -> None:
    def use(number: int) -> bool:
        return single_use.use("app check", "j", expires_at=LATER, invocation_id=f"{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(16))).count(True) == 1


def test_the_row_is_a_hash_that_goes_away(cloud: Cloud, single_use: SingleUse) -> None:
    assert single_use.use("app check", "secret-jti", expires_at=LATER, invocation_id="1")
    (item,) = cloud.dynamodb.scan(TableName=single_use.table)["Items"]
    assert item["expires_at"] == {"N": str(LATER)}
    assert "secret-jti" not in str(item)
