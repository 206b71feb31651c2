"""Back-off as a function of failures and time, and what counts as one source."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry.users.guessing import ACCOUNT, DEVICE, NETWORK, Counter, Limit, network

NOW = 1_790_000_000


@pytest.mark.parametrize(
    ("failures", "wait"),
    [(0, 0), (1, 0), (5, 0), (6, 2), (7, 4), (8, 8), (14, 512), (15, 900), (16, 900), (10**9, 900)],
)
def test_account(failures: int, wait: int) -> None:
    assert ACCOUNT.wait_after(failures) == wait


@pytest.mark.parametrize("limit", [ACCOUNT, DEVICE, NETWORK])
@given(failures=st.integers(0, 10**12), later=st.integers(-(10**6), 10**6))
def test_no_wait_is_for_ever(limit: Limit, failures: int, later: int) -> None:
    counter = Counter("id", limit, failures=failures, last_at=NOW, exists=True)
    assert 0 <= counter.wait(NOW + later) <= limit.longest_wait
    assert counter.wait(NOW + limit.longest_wait) == 0


@given(st.integers(0, 100))
def test_waits_grow(failures: int) -> None:
    assert ACCOUNT.wait_after(failures) <= ACCOUNT.wait_after(failures + 1)


def test_quiet_is_forgiven() -> None:
    counter = Counter("id", ACCOUNT, failures=100, last_at=NOW, exists=True)
    assert counter.current(NOW + ACCOUNT.forget) == 100
    assert counter.current(NOW + ACCOUNT.forget + 1) == 0


def test_a_day_of_guessing_is_few_guesses() -> None:
    """A stranger who never tires makes about as many guesses a day as there are quarter hours."""
    now, failures, guesses = NOW, 0, 0
    while now < NOW + 86_400:
        counter = Counter("id", ACCOUNT, failures=failures, last_at=now, exists=True)
        now += counter.wait(now)
        failures += 1
        guesses += 1
        now += 1
    assert guesses < 120


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("", "unknown"),
        ("192.0.2.7, 10.0.0.1", "unknown"),
        ("evil", "unknown"),
    ],
)
def test_network(address: str, source: str) -> None:
    assert network(address) == source
