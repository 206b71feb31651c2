"""The conditional write of `SessionStore.rotate` on DynamoDB semantics."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keyferry.config import DAY
from keyferry.errors import Unavailable
from keyferry.jose import base64url
from keyferry.sessions.model import Session, Status
from keyferry.sessions.rotation import (
    BEARER_RETRIES_PER_DAY,
    FOLLOWED_POINTS,
    GRANTED,
    POINTS_FOR_TWICE,
    Outcome,
    Presented,
    decide,
)
from keyferry.sessions.store import (
    EXPIRY_MARGIN_SECONDS,
    Rotation,
    SessionStore,
    session_from_item,
    session_to_item,
)
from tests.contract.conftest import Cloud, make_cloud, random
from tests.unit.test_rotation import NOW, PRESENTED, ROW

if TYPE_CHECKING:
    from keyferry_cli.local.emulator import Emulator

IDLE = 7 * DAY


def fresh(**changes: Any) -> Session:
    identity = base64url.encode(random(16))
    return replace(ROW, sub=identity, sid=identity, **changes)


def present(row: Session, **changes: Any) -> Presented:
    base = replace(PRESENTED, sub=row.sub, sid=row.sid, jkt=row.jkt, generation=row.generation)
    return replace(base, **changes)


def rotate(store: SessionStore, presented: Presented, now: int = NOW) -> Rotation:
    return store.rotate(presented, now=now, idle_seconds=IDLE, mac_kid="new kid")


def read(cloud: Cloud, row: Session) -> Session:
    item = cloud.dynamodb.get_item(
        TableName=cloud.tables["SessionsTable"],
        Key={"sub": {"S": row.sub}, "sid": {"S": row.sid}},
        ConsistentRead=True,
    )["Item"]
    return session_from_item(item)


def put(cloud: Cloud, row: Session) -> None:
    cloud.dynamodb.put_item(TableName=cloud.tables["SessionsTable"], Item=session_to_item(row))


def test_round_trip(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    assert read(cloud, row) == row


def test_rotation_moves_the_row_on_and_nothing_else(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    rotation = rotate(cloud.sessions, present(row))
    assert rotation.outcome is Outcome.ROTATED
    assert rotation.session == read(cloud, row)
    assert rotation.session == replace(
        row,
        generation=row.generation + 1,
        rotated_at=NOW,
        idle_expires_at=NOW + IDLE,
        mac_kid="new kid",
        last_request="this",
    )
    item = cloud.dynamodb.get_item(
        TableName=cloud.tables["SessionsTable"], Key={"sub": {"S": row.sub}, "sid": {"S": row.sid}}
    )["Item"]
    assert int(item["expires_at"]["N"]) == NOW + IDLE + EXPIRY_MARGIN_SECONDS


@pytest.fixture(scope="module")
def shared(emulator: Emulator) -> Cloud:
    """One set of tables for many examples."""
    return make_cloud(emulator.endpoint_url)


class TestConditionAndDecisionAgree:
    """DynamoDB takes the write exactly where `decide` says ROTATED."""

    @settings(
        max_examples=250,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(
        row_jkt=st.sampled_from(["key", ""]),
        jkt=st.sampled_from(["key", "thief", ""]),
        client=st.sampled_from(["ios", "ios", "android"]),
        secret=st.sampled_from([b"h" * 32, b"h" * 32, b"x" * 32]),
        status=st.sampled_from([*Status, Status.ACTIVE, Status.ACTIVE]),
        idle=st.integers(-1, 2),
        absolute=st.integers(-1, 2),
        step=st.integers(-3, 3),
        mine=st.booleans(),
        rotated=st.integers(0, 90),
        spent=st.integers(0, BEARER_RETRIES_PER_DAY + 1),
        made_after=st.sampled_from([None, NOW - 91, NOW - 30, NOW]),
    )
    def test_everywhere(
        self,
        shared: Cloud,
        *,
        row_jkt: str,
        jkt: str,
        client: str,
        secret: bytes,
        status: Status,
        idle: int,
        absolute: int,
        step: int,
        mine: bool,
        rotated: int,
        spent: int,
        made_after: int | None,
    ) -> None:
        row = fresh(
            jkt=row_jkt,
            status=status,
            idle_expires_at=NOW + idle,
            absolute_expires_at=NOW + absolute,
            last_request="this" if mine else "earlier",
            rotated_at=NOW - rotated,
            retry_day=NOW // DAY,
            retry_count=spent,
        )
        put(shared, row)
        presented = present(
            row,
            jkt=jkt,
            client_id=client,
            secret_hash=secret,
            generation=row.generation + step,
            made_after=made_after,
        )
        expected = decide(row, presented, NOW)
        rotation = rotate(shared.sessions, presented)
        assert rotation.outcome is expected
        after = read(shared, row)
        if expected in (Outcome.ROTATED, Outcome.HEALED):
            assert after.generation == presented.generation + 1
            assert after.status is Status.ACTIVE
        elif expected is Outcome.REUSED:
            assert after == replace(row, status=Status.COMPROMISED)
        elif expected is Outcome.RETRIED_BEARER:
            assert after == replace(row, retry_count=spent + 1)
        else:
            assert after == row, "refused means unchanged"
        if expected not in GRANTED:
            assert after.generation == row.generation


def test_unknown_session(cloud: Cloud) -> None:
    rotation = rotate(cloud.sessions, present(fresh()))
    assert (rotation.outcome, rotation.session) == (Outcome.UNKNOWN, None)
    assert not cloud.dynamodb.scan(TableName=cloud.tables["SessionsTable"])["Items"]


def test_lost_reply_then_on(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    outcomes = [
        rotate(
            cloud.sessions,
            present(row, generation=generation, request_id=str(n), made_after=NOW + 1),
        ).outcome
        for n, generation in enumerate([7, 7, 7, 8, 7])
    ]
    assert outcomes == [
        Outcome.ROTATED,
        Outcome.RETRIED,
        Outcome.RETRIED,
        Outcome.ROTATED,  # the successor was used,
        Outcome.REUSED,  # so its parent is now an ancestor
    ]
    assert rotate(cloud.sessions, present(row, generation=9)).outcome is Outcome.COMPROMISED


def test_a_followed_session_is_reported_and_goes_on(cloud: Cloud) -> None:
    """Somebody with token and key asks for every generation that the owner asks for."""
    row = fresh(generation=0)
    put(cloud, row)
    reported = []
    for generation in range(14):
        presented = present(row, generation=generation)
        moved = rotate(cloud.sessions, replace(presented, request_id=f"owner {generation}"))
        shadow = rotate(cloud.sessions, replace(presented, request_id=f"thief {generation}"))
        assert (moved.outcome, shadow.outcome) == (Outcome.ROTATED, Outcome.RETRIED)
        assert not moved.followed
        reported.append(shadow.followed)
    assert reported == [False] * 10 + [True] * 4
    assert read(cloud, row).status is Status.ACTIVE


def test_one_generation_counts_once_however_often_it_is_asked_for(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    rotate(cloud.sessions, present(row))
    for n in range(3 * FOLLOWED_POINTS):
        assert not rotate(cloud.sessions, present(row, request_id=str(n))).followed
    assert read(cloud, row).suspicion == POINTS_FOR_TWICE


@dataclass
class Counted:
    """A client of DynamoDB that counts the writes."""

    client: Any
    writes: int = 0

    def update_item(self, **request: Any) -> Any:
        self.writes += 1
        return self.client.update_item(**request)


class TestWhereTheRotationWasMade:
    """An instance remembers how it left a session, and begins a retry with the count."""

    def moved(self, cloud: Cloud, **changes: Any) -> tuple[Session, SessionStore, Counted]:
        row = fresh(**changes)
        put(cloud, row)
        client = Counted(cloud.dynamodb)
        store = self.forgetful(cloud, client)
        assert rotate(store, present(row, request_id="first")).outcome is Outcome.ROTATED
        assert client.writes == 1
        return row, store, client

    def forgetful(self, cloud: Cloud, client: Any) -> SessionStore:
        return SessionStore(client, cloud.tables["SessionsTable"])

    def test_the_retry_is_one_write(self, cloud: Cloud) -> None:
        row, store, client = self.moved(cloud)
        retried = rotate(store, present(row, request_id="second"))
        assert retried == Rotation(Outcome.RETRIED, read(cloud, row))
        assert read(cloud, row).suspicion == POINTS_FOR_TWICE
        assert client.writes == 2
        again = rotate(store, present(row, request_id="third"))
        assert again == Rotation(Outcome.RETRIED, read(cloud, row))
        assert read(cloud, row).suspicion == POINTS_FOR_TWICE, "counted once"
        assert client.writes == 3

    def test_elsewhere_it_is_two(self, cloud: Cloud) -> None:
        row, _, client = self.moved(cloud)
        elsewhere = self.forgetful(cloud, client)
        retried = rotate(elsewhere, present(row, request_id="second"))
        assert retried == Rotation(Outcome.RETRIED, read(cloud, row))
        assert client.writes == 3

    def test_a_follower_is_reported_from_either(self, cloud: Cloud) -> None:
        row, store, _ = self.moved(cloud, generation=0)
        elsewhere = replace(store, _moved={})
        reported = []
        for generation in range(12):
            asked = present(row, generation=generation)
            if generation:
                rotate(store, replace(asked, request_id=f"owner {generation}"))
            where = store if generation % 2 else elsewhere
            reported.append(rotate(where, replace(asked, request_id=f"{generation}")).followed)
        assert reported == [False] * 10 + [True] * 2

    @pytest.mark.parametrize(
        "since",
        [
            {"status": Status.LOGGED_OUT},
            {"status": Status.COMPROMISED},
            {"generation": 9, "rotated_at": NOW - 60},
            {"generation": 10, "rotated_at": NOW - 60},
            {"generation": 7},
            {"generation": 3},
            {"suspected_at": 8, "suspicion": 4},
            {"suspected_at": 5, "suspicion": 31},
            {"idle_expires_at": NOW},
            {"absolute_expires_at": NOW},
            {"jkt": "of another device"},
            {"client_id": "of another client"},
            {"secret_hash": b"of another session" * 2},
            {"roles": ("new",)},
            {"mac_kid": "newer kid"},
            {},
        ],
    )
    @pytest.mark.parametrize(
        "asking",
        [
            {},
            {"jkt": "thief"},
            {"jkt": ""},
            {"client_id": "android"},
            {"secret_hash": b"x" * 32},
            {"request_id": "first"},
            {"made_after": None},
            {"generation": 6},
            {"generation": 8},
        ],
    )
    def test_what_is_remembered_decides_nothing(
        self, shared: Cloud, since: dict[str, Any], asking: dict[str, Any]
    ) -> None:
        """Whatever has become of the row since: outcome and row are those of an instance that
        remembers nothing."""
        asked = {"generation": 7, "request_id": "second", "made_after": NOW + 1} | asking
        seen = []
        for forget in (False, True):
            row, store, _ = self.moved(shared, generation=7)
            left = read(shared, row)
            put(shared, replace(left, **since))
            if forget:
                store = replace(store, _moved={})
            rotation = rotate(store, present(row, **asked))
            after = read(shared, row)
            plain: dict[str, Any] = {"sub": "", "sid": ""}
            told = rotation.session and replace(rotation.session, **plain)
            if rotation.outcome is Outcome.RETRIED and told:
                # The row before the count or after it: what a successor is made of is the same.
                told = replace(told, suspicion=0, suspected_at=0)
            seen.append((rotation.outcome, rotation.followed, told, replace(after, **plain)))
        assert seen[0] == seen[1]

    def test_so_many_and_no_more(self, cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("keyferry.sessions.store._REMEMBERED", 2)
        store = cloud.sessions
        rows = [fresh() for _ in range(3)]
        for row in rows:
            put(cloud, row)
            rotate(store, present(row))
        assert list(store._moved) == [row.sid for row in rows[1:]]


def test_another_device_key_raises_no_suspicion(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    rotate(cloud.sessions, present(row))
    before = read(cloud, row)
    assert rotate(cloud.sessions, present(row, jkt="thief")).outcome is Outcome.WRONG_KEY
    assert read(cloud, row) == before


def test_a_dead_session_stays_dead(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    assert cloud.sessions.end(row.sub, row.sid, request_id="r")
    assert not cloud.sessions.end(row.sub, row.sid, request_id="another")
    for generation in range(5, 10):
        outcome = rotate(cloud.sessions, present(row, generation=generation)).outcome
        assert outcome is Outcome.LOGGED_OUT
    assert read(cloud, row).status is Status.LOGGED_OUT, "no theft event for a logged-out token"


def test_ending_does_not_make_rows(cloud: Cloud) -> None:
    assert not cloud.sessions.end("nobody", "nothing", request_id="r")
    assert not cloud.dynamodb.scan(TableName=cloud.tables["SessionsTable"])["Items"]


def test_restored_table_heals_once_and_goes_on(cloud: Cloud) -> None:
    row = fresh(generation=3)
    put(cloud, row)
    healed = rotate(cloud.sessions, present(row, generation=40))
    assert healed.outcome is Outcome.HEALED
    assert read(cloud, row).generation == 41
    assert rotate(cloud.sessions, present(row, generation=41)).outcome is Outcome.ROTATED
    assert rotate(cloud.sessions, present(row, generation=41, request_id="z")).outcome is (
        Outcome.RETRIED
    )
    assert rotate(cloud.sessions, present(row, generation=5, made_after=NOW + 1)).outcome is (
        Outcome.REUSED
    )


def test_living_sessions_oldest_first(cloud: Cloud) -> None:
    rows = [replace(fresh(), sub="someone", created_at=NOW - age) for age in (1, 2, 3, 4, 5)]
    rows[4] = replace(rows[4], idle_expires_at=NOW)
    for row in rows:
        put(cloud, row)
    cloud.sessions.end("someone", rows[0].sid, request_id="r")
    assert cloud.sessions.living("someone", now=NOW) == [rows[3], rows[2], rows[1]]
    assert cloud.sessions.living("nobody", now=NOW) == []


def test_ending_all(cloud: Cloud) -> None:
    rows = [replace(fresh(), sub="someone") for _ in range(4)]
    for row in rows:
        put(cloud, row)
    assert cloud.sessions.end_all("someone", now=NOW, request_id="r") == 4
    assert cloud.sessions.living("someone", now=NOW) == []


def test_ending_by_token(cloud: Cloud) -> None:
    row = fresh()
    put(cloud, row)
    for secret, client in ((b"x" * 32, "ios"), (row.secret_hash, "android")):
        assert not cloud.sessions.end_by_token(
            row.sub, row.sid, secret_hash=secret, client_id=client, request_id="r"
        )
    assert read(cloud, row) == row
    assert cloud.sessions.end_by_token(
        row.sub, row.sid, secret_hash=row.secret_hash, client_id="ios", request_id="r"
    )
    assert read(cloud, row).status is Status.LOGGED_OUT


class TestRaces:
    def race(self, cloud: Cloud, presented: list[Presented]) -> list[Outcome]:
        with ThreadPoolExecutor(len(presented)) as pool:
            return list(pool.map(lambda each: rotate(cloud.sessions, each).outcome, presented))

    def test_one_step_for_many_refreshes(self, cloud: Cloud) -> None:
        for _ in range(5):
            row = fresh()
            put(cloud, row)
            outcomes = self.race(cloud, [present(row, request_id=str(n)) for n in range(16)])
            assert sorted(outcomes) == [Outcome.RETRIED] * 15 + [Outcome.ROTATED]
            assert read(cloud, row).generation == row.generation + 1

    def test_racing_replays_are_one_theft(self, cloud: Cloud) -> None:
        row = fresh()
        put(cloud, row)
        outcomes = self.race(
            cloud, [present(row, generation=2, request_id=str(n)) for n in range(8)]
        )
        assert sorted(outcomes) == [Outcome.COMPROMISED] * 7 + [Outcome.REUSED]

    def test_bearer_budget_holds_under_concurrency(self, cloud: Cloud) -> None:
        row = fresh(jkt="", rotated_at=NOW, idle_expires_at=NOW + IDLE)
        put(cloud, row)
        presented = [present(row, generation=6, request_id=str(n)) for n in range(8)]
        with ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(rotate, cloud.sessions, each) for each in presented]
        granted = 0
        for future in futures:
            try:
                granted += future.result().outcome is Outcome.RETRIED_BEARER
            except Unavailable:
                continue  # the row kept changing: told to come back, nothing spent
        after = read(cloud, row)
        assert granted <= BEARER_RETRIES_PER_DAY
        assert after.retry_count == granted or after.status is Status.COMPROMISED

    def test_a_heal_and_a_rotation_at_once_leave_one_lineage(self, cloud: Cloud) -> None:
        row = fresh()
        put(cloud, row)
        presented = [
            present(row, generation=generation, request_id=f"{generation}.{n}")
            for generation in (7, 30)
            for n in range(4)
        ]
        self.race(cloud, presented)
        after = read(cloud, row)
        assert after.generation == 31


class TestOwnSecondTry:
    """botocore sends a write again when the reply to it was lost; the second one must not be taken
    for somebody else's."""

    @dataclass
    class Twice:
        """The emulator's client, each of whose writes is done twice before it is heard of."""

        client: Any

        def update_item(self, **request: Any) -> Any:
            with suppress(ClientError):
                self.client.update_item(**request)
            return self.client.update_item(**request)

    @pytest.fixture
    def store(self, cloud: Cloud) -> SessionStore:
        twice: Any = self.Twice(cloud.dynamodb)
        return SessionStore(twice, cloud.tables["SessionsTable"])

    def test_rotation(self, cloud: Cloud, store: SessionStore) -> None:
        row = fresh()
        put(cloud, row)
        assert rotate(store, present(row)).outcome is Outcome.DUPLICATE
        assert read(cloud, row).generation == row.generation + 1

    def test_theft_is_still_reported(self, cloud: Cloud, store: SessionStore) -> None:
        row = fresh()
        put(cloud, row)
        assert rotate(store, present(row, generation=2)).outcome is Outcome.REUSED

    def test_a_bearer_retry_is_spent_once(self, cloud: Cloud, store: SessionStore) -> None:
        spent = BEARER_RETRIES_PER_DAY - 1
        row = fresh(jkt="", rotated_at=NOW, retry_day=NOW // DAY, retry_count=spent)
        put(cloud, row)
        assert rotate(store, present(row, generation=6)).outcome is Outcome.RETRIED_BEARER
        assert read(cloud, row).retry_count == BEARER_RETRIES_PER_DAY
        assert read(cloud, row).status is Status.ACTIVE

    def test_endings_are_counted(self, cloud: Cloud, store: SessionStore) -> None:
        row = fresh()
        put(cloud, row)
        assert store.end(row.sub, row.sid, request_id="r")
        assert not store.end(row.sub, row.sid, request_id="another")
