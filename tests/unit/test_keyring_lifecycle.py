"""How keys of the keyring come and go, as a pure function of time."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyferry.config import DAY
from keyferry.errors import CommandRefused
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.keyring.lifecycle import Schedule, advance, schedules
from keyferry.keyring.model import Clients, Keyring, Purpose, Standing, WrappedKey

IDLE = 7 * DAY
SCHEDULES = schedules(idle_seconds=IDLE)


def step(keys: tuple[WrappedKey, ...], now: int, serial: list[int]) -> tuple[WrappedKey, ...]:
    """One run of the schedule, with keys whose kid is a serial number."""
    plan = advance(keys, SCHEDULES, now)
    made = []
    for purpose, standing in plan.missing:
        serial[0] += 1
        public = EcJwk("x", "y") if purpose is Purpose.TOKEN_SIGNING else None
        made.append(WrappedKey(str(serial[0]), purpose, standing, now, b"wrapped", public))
    return plan.keep + tuple(made)


def test_a_fresh_stack_can_sign_at_once_and_has_announced_its_next_key() -> None:
    keys = step((), 0, [0])
    for purpose in Purpose:
        standings = sorted(key.standing for key in keys if key.purpose is purpose)
        assert standings == [Standing.CURRENT, Standing.NEXT]


def test_running_again_changes_nothing() -> None:
    keys = step((), 0, [0])
    plan = advance(keys, SCHEDULES, 10)
    assert plan.missing == ()
    assert set(plan.keep) == set(keys)


def test_a_lost_next_key_is_made_again() -> None:
    keys = tuple(key for key in step((), 0, [0]) if key.standing is not Standing.NEXT)
    assert {standing for _, standing in advance(keys, SCHEDULES, 1).missing} == {Standing.NEXT}


@pytest.mark.parametrize("purpose", list(Purpose))
def test_schedule_outlives_what_the_key_made(purpose: Purpose) -> None:
    schedule = SCHEDULES[purpose]
    assert schedule.announce > 2 * 300, "longer than the JWKS and the keyring are cached"
    lives = {
        Purpose.TOKEN_SIGNING: 900,
        Purpose.REFRESH_MAC: 2 * IDLE,  # until used, and then as a parent
        Purpose.DPOP_NONCE: 300,
    }
    assert schedule.retain > lives[purpose] + 300


@settings(max_examples=60)
@given(st.lists(st.integers(0, 20 * DAY), min_size=1, max_size=60))
def test_whenever_it_runs(gaps: list[int]) -> None:
    """However late or often the schedule runs: one current key, one next key that was announced
    before it came into use, and each retired key kept until what it made has died."""
    now, serial = 0, [0]
    keys = step((), now, serial)
    announced = {key.kid: now for key in keys}
    in_use: dict[str, int] = {key.kid: now for key in keys if key.standing is Standing.CURRENT}
    first = set(in_use)
    retired: dict[str, tuple[Purpose, int]] = {}
    for gap in gaps:
        now += gap
        before = {key.kid: key for key in keys}
        keys = step(keys, now, serial)
        for key in keys:
            announced.setdefault(key.kid, now)
            if key.standing is Standing.CURRENT and key.kid not in in_use:
                in_use[key.kid] = now
                assert key.kid in before, "a key is published before it is used"
                assert now - announced[key.kid] >= SCHEDULES[key.purpose].announce
            if key.standing is Standing.PREVIOUS:
                retired.setdefault(key.kid, (key.purpose, now))
        for purpose in Purpose:
            standings = [key.standing for key in keys if key.purpose is purpose]
            assert standings.count(Standing.CURRENT) == 1
            assert standings.count(Standing.NEXT) == 1
        kept = {key.kid for key in keys}
        for kid, (purpose, since) in retired.items():
            if now < since + SCHEDULES[purpose].retain:
                assert kid in kept
            else:
                assert kid not in kept
    assert first <= set(announced)


def test_two_rotations_late_still_go_one_by_one() -> None:
    schedule = {Purpose.DPOP_NONCE: Schedule(announce=10, active=100, retain=50)}
    keys = (
        WrappedKey("c", Purpose.DPOP_NONCE, Standing.CURRENT, 0, b""),
        WrappedKey("n", Purpose.DPOP_NONCE, Standing.NEXT, 0, b""),
    )
    plan = advance(keys, schedule, 1000)
    assert {(key.kid, key.standing, key.since) for key in plan.keep} == {
        ("n", Standing.CURRENT, 1000),
        ("c", Standing.PREVIOUS, 1000),
    }
    assert plan.missing == ((Purpose.DPOP_NONCE, Standing.NEXT),)


def test_json_round_trip_and_jwks() -> None:
    clients = Clients({"id": "ios", "old": "ios"}, {"new": "ios"}, frozenset({"old"}))
    keyring = Keyring(3, "https://issuer", clients, step((), 0, [0]))
    assert Keyring.from_json(keyring.to_json(), revision=3) == keyring
    jwks = keyring.jwks()["keys"]
    assert len(jwks) == 2, "the next key is published too"
    assert all(set(jwk) == {"kty", "crv", "x", "y", "kid", "use", "alg"} for jwk in jwks)
    assert "wrapped" not in repr(replace(keyring.keys[0], wrapped=b"secret wrapped"))


# ── client keys ──────────────────────────────────────────────────────────

TEMPLATE = {"a1": "ios", "b1": "android"}


def test_a_row_from_before_client_keys_could_be_added() -> None:
    document = json.dumps({"issuer": "https://issuer", "clients": TEMPLATE, "keys": []})
    assert Keyring.from_json(document, revision=1).clients == Clients(TEMPLATE)


def test_added_and_retired_client_keys() -> None:
    clients = Clients(TEMPLATE).add("a2", "ios")
    assert clients.known() == TEMPLATE | {"a2": "ios"}
    assert clients.add("a2", "ios") == clients, "once more changes nothing"
    clients = clients.retire("a1")
    assert clients.known() == {"a2": "ios", "b1": "android"}
    assert clients.retire("a1") == clients
    assert clients.retire("unheard-of") == clients


def test_a_deployment_changes_nothing_of_what_the_operator_did() -> None:
    clients = Clients(TEMPLATE).add("a2", "ios").retire("a1")
    deployed = replace(clients, template=TEMPLATE | {"b2": "android"})
    assert deployed.known() == {"a2": "ios", "b1": "android", "b2": "android"}
    without = replace(deployed, template={"b1": "android"})
    back = replace(without, template=TEMPLATE)
    assert back.known() == clients.known(), "a deployment that was rolled back"


def test_a_retired_client_key_can_come_back() -> None:
    clients = Clients(TEMPLATE).add("a2", "ios")
    assert clients.retire("a1").add("a1", "ios") == clients
    assert clients.retire("a2") == Clients(TEMPLATE)
    assert clients.retire("a2").add("a2", "ios") == clients


def test_a_key_that_the_template_adopts_is_retired_for_both() -> None:
    adopted = replace(Clients(TEMPLATE).add("a2", "ios"), template=TEMPLATE | {"a2": "ios"})
    assert adopted.retire("a2").known() == TEMPLATE
    assert replace(adopted.retire("a2"), template=TEMPLATE).known() == TEMPLATE


@pytest.mark.parametrize(
    ("key", "client", "code"),
    [
        ("a2", "macos", "not_found"),
        ("a2", "IOS", "not_found"),
        ("a1", "android", "invalid_request"),
        ("x1", "android", "invalid_request"),
    ],
)
def test_client_keys_that_are_not_added(key: str, client: str, code: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        Clients(TEMPLATE).add("x1", "ios").add(key, client)
    assert refused.value.code == code
