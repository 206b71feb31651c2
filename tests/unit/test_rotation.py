"""The decision table of `keyferry.sessions.rotation`, exhaustively."""

from dataclasses import replace
from itertools import product

import pytest

from keyferry.config import DAY
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.sessions.model import Device, Session, Status
from keyferry.sessions.rotation import (
    BEARER_RETRIES_PER_DAY,
    BEARER_RETRY_SECONDS,
    FOLLOWED_POINTS,
    GRANTED,
    POINTS_FOR_TWICE,
    Outcome,
    Presented,
    decide,
    suspicion,
)
from keyferry.tokens.refresh import MAX_GENERATION

NOW = 20_000 * DAY + 500

ROW = Session(
    sub="sub",
    sid="sid",
    status=Status.ACTIVE,
    generation=7,
    secret_hash=b"h" * 32,
    mac_kid="kid",
    client_id="ios",
    jkt="key",
    scope="keys",
    roles=("user",),
    amr=("pwd",),
    device=Device("phone", "ios", "1.0"),
    encryption_key=Recipient(EcJwk("x", "y")),
    created_at=NOW - 1000,
    rotated_at=NOW - 100,
    idle_expires_at=NOW + 100,
    absolute_expires_at=NOW + 1000,
    last_request="earlier",
)
PRESENTED = Presented(
    sub="sub",
    sid="sid",
    generation=7,
    secret_hash=b"h" * 32,
    client_id="ios",
    jkt="key",
    request_id="this",
    made_after=NOW,
)
BEARER_ROW = replace(ROW, jkt="", rotated_at=NOW)
BEARER = replace(PRESENTED, jkt="")


def test_no_row() -> None:
    assert decide(None, PRESENTED, NOW) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("generation", "outcome"),
    [
        (0, Outcome.REUSED),
        (5, Outcome.REUSED),
        (6, Outcome.RETRIED),
        (7, Outcome.ROTATED),
        (8, Outcome.HEALED),
        (700, Outcome.HEALED),
        (MAX_GENERATION, Outcome.EXHAUSTED),
    ],
)
def test_bound_session(generation: int, outcome: Outcome) -> None:
    assert decide(ROW, replace(PRESENTED, generation=generation), NOW) is outcome


@pytest.mark.parametrize(
    ("generation", "outcome"),
    [
        (5, Outcome.REUSED),
        (6, Outcome.RETRIED_BEARER),
        (7, Outcome.ROTATED),
        (8, Outcome.AHEAD_BEARER),
    ],
)
def test_bearer_session(generation: int, outcome: Outcome) -> None:
    assert decide(BEARER_ROW, replace(BEARER, generation=generation), NOW) is outcome


@pytest.mark.parametrize("generation", [0, 5])
@pytest.mark.parametrize(
    ("made_after", "outcome"),
    [
        (None, Outcome.STALE),
        (ROW.rotated_at - 1, Outcome.STALE),
        (ROW.rotated_at, Outcome.STALE),
        (ROW.rotated_at + 1, Outcome.REUSED),
        (NOW, Outcome.REUSED),
    ],
)
def test_an_ancestor_is_theft_only_under_a_proof_made_since(
    generation: int, made_after: int | None, outcome: Outcome
) -> None:
    presented = replace(PRESENTED, generation=generation, made_after=made_after)
    assert decide(ROW, presented, NOW) is outcome
    assert decide(BEARER_ROW, replace(presented, jkt=""), NOW) is Outcome.REUSED


def test_parent_of_a_bound_session_is_good_for_as_long_as_the_session() -> None:
    sleeper = replace(ROW, rotated_at=NOW - 8 * 3600)
    assert decide(sleeper, replace(PRESENTED, generation=6), NOW) is Outcome.RETRIED


@pytest.mark.parametrize(
    ("age", "outcome"),
    [
        (0, Outcome.RETRIED_BEARER),
        (BEARER_RETRY_SECONDS, Outcome.RETRIED_BEARER),
        (BEARER_RETRY_SECONDS + 1, Outcome.REUSED),
    ],
)
def test_bearer_retry_window(age: int, outcome: Outcome) -> None:
    row = replace(BEARER_ROW, rotated_at=NOW - age)
    assert decide(row, replace(BEARER, generation=6), NOW) is outcome


@pytest.mark.parametrize(
    ("day", "spent", "outcome"),
    [
        (NOW // DAY, BEARER_RETRIES_PER_DAY - 1, Outcome.RETRIED_BEARER),
        (NOW // DAY, BEARER_RETRIES_PER_DAY, Outcome.REUSED),
        (NOW // DAY - 1, BEARER_RETRIES_PER_DAY, Outcome.RETRIED_BEARER),
    ],
)
def test_bearer_retry_budget(day: int, spent: int, outcome: Outcome) -> None:
    row = replace(BEARER_ROW, retry_day=day, retry_count=spent)
    assert decide(row, replace(BEARER, generation=6), NOW) is outcome


def test_my_own_sdks_second_try_is_no_retry_of_the_client() -> None:
    row = replace(ROW, last_request="this")
    assert decide(row, replace(PRESENTED, generation=6), NOW) is Outcome.DUPLICATE
    assert decide(row, replace(PRESENTED, generation=5), NOW) is Outcome.REUSED
    exhausted = replace(
        BEARER_ROW, last_request="this", retry_day=NOW // DAY, retry_count=BEARER_RETRIES_PER_DAY
    )
    assert decide(exhausted, replace(BEARER, generation=6), NOW) is Outcome.DUPLICATE


@pytest.mark.parametrize("generation", [0, 5, 6, 7, 8, MAX_GENERATION])
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"jkt": "thief"}, Outcome.WRONG_KEY),
        ({"jkt": ""}, Outcome.WRONG_KEY),
        ({"client_id": "android"}, Outcome.WRONG_CLIENT),
        ({"secret_hash": b"x" * 32}, Outcome.WRONG_SECRET),
    ],
    ids=str,
)
def test_a_stranger_is_refused_and_changes_nothing(
    generation: int, change: dict[str, object], outcome: Outcome
) -> None:
    presented = replace(PRESENTED, generation=generation, **change)  # type: ignore[arg-type]
    assert decide(ROW, presented, NOW) is outcome


@pytest.mark.parametrize("generation", [0, 5, 6, 7, 8, MAX_GENERATION])
@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"status": Status.LOGGED_OUT}, Outcome.LOGGED_OUT),
        ({"status": Status.COMPROMISED}, Outcome.COMPROMISED),
        ({"idle_expires_at": NOW}, Outcome.EXPIRED),
        ({"absolute_expires_at": NOW}, Outcome.EXPIRED),
    ],
    ids=str,
)
def test_an_ended_session_stays_ended_whatever_is_presented(
    generation: int, change: dict[str, object], outcome: Outcome
) -> None:
    row = replace(ROW, **change)  # type: ignore[arg-type]
    assert decide(row, replace(PRESENTED, generation=generation), NOW) is outcome


def test_expiry_is_exclusive() -> None:
    assert decide(replace(ROW, idle_expires_at=NOW + 1), PRESENTED, NOW) is Outcome.ROTATED
    assert decide(replace(ROW, absolute_expires_at=NOW + 1), PRESENTED, NOW) is Outcome.ROTATED


def test_whole_space() -> None:
    """No combination of key, client, secret, status, expiry and generation is granted unless each
    of the first five is right; and every outcome of the table is reached."""
    reached = set()
    for (
        jkt,
        row_jkt,
        client,
        secret,
        status,
        idle,
        absolute,
        generation,
        mine,
        made_after,
    ) in product(
        ("key", "thief", ""),
        ("key", ""),
        ("ios", "android"),
        (b"h" * 32, b"x" * 32),
        Status,
        (NOW - 1, NOW, NOW + 1),
        (NOW, NOW + 1),
        (0, 5, 6, 7, 8, MAX_GENERATION),
        ("this", "earlier"),
        (None, NOW - 1, NOW),
    ):
        row = replace(
            ROW,
            jkt=row_jkt,
            status=status,
            idle_expires_at=idle,
            absolute_expires_at=absolute,
            last_request=mine,
            rotated_at=NOW - 1,
        )
        presented = replace(
            PRESENTED,
            jkt=jkt,
            client_id=client,
            secret_hash=secret,
            generation=generation,
            made_after=made_after,
        )
        outcome = decide(row, presented, NOW)
        reached.add(outcome)
        good = (
            jkt == row_jkt
            and client == "ios"
            and secret == ROW.secret_hash
            and status is Status.ACTIVE
            and idle > NOW
            and absolute > NOW
        )
        if outcome in GRANTED:
            assert good
            assert generation >= 6
        if outcome is Outcome.REUSED:
            assert good, "only the session's own key can end it"
    assert reached == set(Outcome) - {Outcome.UNKNOWN}


class TestSuspicion:
    """How often the parent is presented again tells a thief from bad luck, over many generations."""

    def follow(self, row: Session, twice: int, once: int) -> Session:
        """``twice`` generations that are asked for twice, then ``once`` that are not."""
        for _ in range(twice):
            row = replace(row, generation=row.generation + 1)
            row = replace(row, suspicion=suspicion(row), suspected_at=row.generation)
        return replace(row, generation=row.generation + once)

    def test_eleven_in_a_row_are_reported(self) -> None:
        assert self.follow(ROW, 10, 0).suspicion < FOLLOWED_POINTS
        assert self.follow(ROW, 11, 0).suspicion >= FOLLOWED_POINTS

    def test_so_is_a_thief_who_misses_every_second_generation(self) -> None:
        row = ROW
        for _ in range(16):
            row = self.follow(row, 1, 1)
        assert row.suspicion >= FOLLOWED_POINTS

    def test_one_lost_reply_in_four_never_is(self) -> None:
        row = ROW
        for _ in range(10_000):
            row = self.follow(row, 1, 3)
            assert row.suspicion <= POINTS_FOR_TWICE

    def test_points_are_forgiven_but_never_below_none(self) -> None:
        assert suspicion(self.follow(ROW, 5, 1000)) == POINTS_FOR_TWICE

    def test_a_long_pursuit_is_not_remembered_for_ever(self) -> None:
        row = self.follow(ROW, 1_000, 2 * FOLLOWED_POINTS)
        assert suspicion(row) == POINTS_FOR_TWICE
