"""Opening values through a KMS that does not do what it should."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from keyferry.errors import Unavailable
from keyferry.vault import changes, opening
from keyferry.vault.cache import OpenedKeys
from keyferry.vault.changes import Draft
from keyferry.vault.model import ValueId
from keyferry.vault.opening import Values

if TYPE_CHECKING:
    from tests.contract.conftest import Cloud

COUNT = 20


class Kms:
    """The emulator's KMS, with ``before`` to happen first. Counts what it is asked."""

    def __init__(self, client: Any, before: Callable[[int], None]) -> None:
        self.client, self.before = client, before
        self.calls = 0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def decrypt(self, **request: Any) -> Any:
        with self._lock:
            self.calls += 1
            number = self.calls
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.before(number)
            return self.client.decrypt(**request)
        finally:
            with self._lock:
                self.at_once -= 1


def failing(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code}}, "Decrypt")


@pytest.fixture
def wanted(cloud: Cloud) -> list[ValueId]:
    drafts = [Draft(f"key{n}", f"value{n}".encode()) for n in range(COUNT)]
    cloud.vault.commit(lambda manifest: changes.put(manifest, drafts, now=1), cloud.sealer)
    return [ValueId(draft.name, 1) for draft in drafts]


def values(cloud: Cloud, before: Callable[[int], None] = lambda _: None) -> tuple[Values, Kms]:
    kms = Kms(cloud.kms, before)
    sealer = replace(cloud.sealer, kms=cast("Any", kms))
    return Values(cloud.vault, sealer, OpenedKeys(lambda: 1)), kms


def test_many_are_opened_side_by_side_and_once(cloud: Cloud, wanted: list[ValueId]) -> None:
    opener, kms = values(cloud, lambda _: time.sleep(0.02))
    opened = opener.open(wanted)
    assert opened == {each: f"value{each.name[3:]}".encode() for each in wanted}
    assert 1 < kms.most_at_once <= 8
    assert opener.open(wanted) == opened
    assert kms.calls == COUNT, "warm: none"


def test_nothing_wanted(cloud: Cloud) -> None:
    assert values(cloud)[0].open([]) == {}


@pytest.mark.parametrize(
    "failure",
    [
        failing("ThrottlingException"),
        failing("AccessDeniedException"),
        failing("DisabledException"),
        failing("KMSInvalidStateException"),
        ReadTimeoutError(endpoint_url="https://kms"),
    ],
    ids=str,
)
@pytest.mark.parametrize("number", [1, COUNT], ids=["one key", "many"])
def test_kms_fails_and_comes_back(
    cloud: Cloud, wanted: list[ValueId], failure: Exception, number: int
) -> None:
    broken = [True]

    def before(_: int) -> None:
        if broken:
            raise failure

    opener, _ = values(cloud, before)
    with pytest.raises(Unavailable) as unavailable:
        opener.open(wanted[:number])
    assert unavailable.value.retry_after > 0
    broken.clear()
    assert None not in opener.open(wanted[:number]).values()


def test_throttled_half_way_goes_on_from_there(cloud: Cloud, wanted: list[ValueId]) -> None:
    def before(number: int) -> None:
        if number % 5 == 0:
            raise failing("ThrottlingException")

    opener, _ = values(cloud, before)
    attempts = 0
    while True:
        attempts += 1
        try:
            opened = opener.open(wanted)
        except Unavailable:
            assert attempts < COUNT
        else:
            break
    assert None not in opened.values()
    assert attempts > 1


def test_slow_is_answered_for(
    cloud: Cloud, wanted: list[ValueId], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "OPEN_SECONDS", 0.05)
    released = threading.Event()

    def before(number: int) -> None:
        if number > 3:
            released.wait(10)

    opener, kms = values(cloud, before)
    with pytest.raises(Unavailable):
        opener.open(wanted)
    released.set()
    assert kms.calls < COUNT, "what had not begun does not begin"
    monkeypatch.setattr(opening, "OPEN_SECONDS", 30)
    assert None not in opener.open(wanted).values()


def test_one_that_does_not_open_keeps_nothing_back(cloud: Cloud, wanted: list[ValueId]) -> None:
    one, other = wanted[3:5]
    rows = {
        each: cloud.dynamodb.get_item(
            TableName=cloud.tables["VaultTable"], Key={"id": {"S": f"{each.name}#1"}}
        )["Item"]
        for each in (one, other)
    }
    planted = {**rows[other], **{k: rows[one][k] for k in ("id", "name", "version", "variant")}}
    cloud.dynamodb.put_item(TableName=cloud.tables["VaultTable"], Item=planted)
    opener, _ = values(cloud)
    opened = opener.open(wanted)
    assert [each for each, value in opened.items() if value is None] == [one]
    assert opener.open([one]) == {one: None}


def row(cloud: Cloud, value_id: ValueId) -> dict[str, Any]:
    table = cloud.tables["VaultTable"]
    key = {"id": {"S": f"{value_id.name}#{value_id.label}"}}
    found: dict[str, Any] = cloud.dynamodb.get_item(TableName=table, Key=key)["Item"]
    return found


BROKEN: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "no nonce": lambda row: {**row, "nonce": {"B": b""}},
    "a short nonce": lambda row: {**row, "nonce": {"B": row["nonce"]["B"][:4]}},
    "a long nonce": lambda row: {**row, "nonce": {"B": row["nonce"]["B"] * 20}},
    "no data key": lambda row: {**row, "wrapped_key": {"B": b""}},
    "a data key of 7 KB": lambda row: {**row, "wrapped_key": {"B": b"x" * 7_000}},
    "an empty ciphertext": lambda row: {**row, "ciphertext": {"B": b""}},
    "text for bytes": lambda row: {**row, "ciphertext": {"S": "x"}},
    "no ciphertext": lambda row: {k: v for k, v in row.items() if k != "ciphertext"},
    "nothing": lambda row: {"id": row["id"]},
}


@pytest.mark.parametrize("number", [1, COUNT], ids=["one key", "many"])
@pytest.mark.parametrize("form", BROKEN)
def test_a_row_that_is_no_envelope_keeps_nothing_back(
    cloud: Cloud, wanted: list[ValueId], form: str, number: int
) -> None:
    planted = BROKEN[form](row(cloud, wanted[0]))
    cloud.dynamodb.put_item(TableName=cloud.tables["VaultTable"], Item=planted)
    opened = values(cloud)[0].open(wanted[:number])
    assert [each for each, value in opened.items() if value is None] == wanted[:1]


def test_what_a_row_says_of_itself_is_not_believed(cloud: Cloud, wanted: list[ValueId]) -> None:
    """A whole row of another key, under this one's id: it opens as neither."""
    one, other = wanted[:2]
    planted = {**row(cloud, other), "id": row(cloud, one)["id"]}
    cloud.dynamodb.put_item(TableName=cloud.tables["VaultTable"], Item=planted)
    opener, _ = values(cloud)
    assert opener.open([one]) == {one: None}
    assert opener.opened.get(other) is None


@pytest.mark.parametrize("number", [1, COUNT], ids=["one key", "many"])
def test_a_lost_row_keeps_nothing_back(cloud: Cloud, wanted: list[ValueId], number: int) -> None:
    """As after a restore of the table that did not bring all of it back."""
    table, key = cloud.tables["VaultTable"], {"id": row(cloud, wanted[0])["id"]}
    cloud.dynamodb.delete_item(TableName=table, Key=key)
    opened = values(cloud)[0].open(wanted[:number])
    assert [each for each, value in opened.items() if value is None] == wanted[:1]


def test_a_value_that_went_away(cloud: Cloud, wanted: list[ValueId]) -> None:
    opener, _ = values(cloud)
    with pytest.raises(Unavailable) as unavailable:
        opener.open([*wanted, ValueId("key0", 2)])
    assert unavailable.value.retry_after == 1
