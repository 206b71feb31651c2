"""Who gets which value of a key."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry.errors import ERRORS
from keyferry.vault.access import (
    Facts,
    Granted,
    Reason,
    decide_delivery,
    decide_use,
    rollout_bucket,
)
from keyferry.vault.app_version import AppVersion, is_at_least
from keyferry.vault.delivery import NOT_FOUND, Wanted, select
from keyferry.vault.model import WHOLE_ROLLOUT, Conditions, KeyEntry, Manifest, ValueId, Version
from keyferry.vault.upstream import Inject, Upstream

NOW = 1_000
EVERYBODY = Conditions(("*",))
UPSTREAM = Upstream("api.example.com", "/", ("GET",), Inject.HEADER, "x-api-key")

FACTS = Facts(
    sub="u1",
    roles=("user",),
    platform="ios",
    app_version="2.4.1",
    attested=False,
    second_factor=False,
)


def entry(policy: Conditions | None = EVERYBODY, **changes: Any) -> KeyEntry:
    return replace(KeyEntry.new("k"), **{"current": Version(5, 0), "policy": policy, **changes})


GRANTED = Granted(ValueId("k", 5))


@pytest.mark.parametrize(
    ("policy", "roles", "platform", "allowed"),
    [
        (Conditions(("*",)), (), "ios", True),
        (Conditions(("user",)), ("user",), "ios", True),
        (Conditions(("user", "admin")), ("admin", "x"), "ios", True),
        (Conditions(("user",)), (), "ios", False),
        (Conditions(("user",)), ("User",), "ios", False),
        (Conditions(("user",)), ("*",), "ios", False),
        (Conditions(("*",), ("android",)), (), "ios", False),
        (Conditions(("*",), ("android", "ios")), (), "ios", True),
        (Conditions((), ("*",)), ("user",), "ios", False),
        (Conditions(("*",), ()), ("user",), "ios", False),
        (None, ("user", "*"), "ios", False),
    ],
)
def test_roles_and_platforms_hide_a_key(
    policy: Conditions | None, roles: tuple[str, ...], platform: str, *, allowed: bool
) -> None:
    facts = replace(FACTS, roles=roles, platform=platform)
    assert decide_delivery(entry(policy), facts, NOW) == (GRANTED if allowed else None)


CONDITIONS: list[tuple[dict[str, Any], dict[str, Any], Reason]] = [
    ({"attested": True}, {"attested": True}, Reason.ATTESTATION_REQUIRED),
    ({"second_factor": True}, {"second_factor": True}, Reason.MFA_REQUIRED),
    ({"min_app_version": "2.5"}, {"app_version": "2.5.0"}, Reason.APP_VERSION_TOO_OLD),
    ({"min_app_version": "2.5"}, {"app_version": "nightly"}, Reason.APP_VERSION_TOO_OLD),
]


@pytest.mark.parametrize(("condition", "facts", "reason"), CONDITIONS, ids=str)
def test_other_conditions_are_told(
    condition: dict[str, Any], facts: dict[str, Any], reason: Reason
) -> None:
    key = entry(Conditions(("*",), **condition))
    assert decide_delivery(key, FACTS, NOW) is reason
    if facts != {"app_version": "nightly"}:
        assert decide_delivery(key, replace(FACTS, **facts), NOW) == GRANTED
    stranger = replace(FACTS, roles=())
    hidden = entry(Conditions(("admin",), **condition))
    assert decide_delivery(hidden, stranger, NOW) is None, "who may not know is not told why"


@pytest.mark.parametrize(
    ("window", "now", "reason"),
    [
        ({"not_before": 1000}, 999, Reason.NOT_YET_AVAILABLE),
        ({"not_before": 1000}, 1000, None),
        ({"not_after": 1000}, 999, None),
        ({"not_after": 1000}, 1000, Reason.NO_LONGER_AVAILABLE),
        ({"not_before": 10, "not_after": 20}, 15, None),
    ],
)
def test_window(window: dict[str, Any], now: int, reason: Reason | None) -> None:
    assert decide_delivery(entry(Conditions(("*",), **window)), FACTS, now) == (reason or GRANTED)


def test_every_reason_is_an_error_code() -> None:
    assert {str(reason) for reason in Reason} <= set(ERRORS)


class TestRollout:
    def test_none_and_all(self) -> None:
        for user in range(200):
            facts = replace(FACTS, sub=f"u{user}")
            nobody = entry(Conditions(("*",), rollout=0))
            everybody = entry(Conditions(("*",), rollout=WHOLE_ROLLOUT))
            assert decide_delivery(nobody, facts, NOW) is Reason.NOT_IN_ROLLOUT
            assert decide_delivery(everybody, facts, NOW) == GRANTED

    def test_about_as_many_as_asked_for(self) -> None:
        users = 20_000
        inside = sum(rollout_bucket("k", f"user-{n}") < 2_500 for n in range(users))
        # six standard deviations of a binomial distribution: 6 * sqrt(20000 * 0.25 * 0.75)
        assert abs(inside - users // 4) < 368

    def test_who_is_in_stays_in(self) -> None:
        for n in range(500):
            bucket = rollout_bucket("k", f"user-{n}")
            assert bucket == rollout_bucket("k", f"user-{n}")
            assert 0 <= bucket < WHOLE_ROLLOUT

    def test_to_the_hundredth_of_a_percent(self) -> None:
        bucket = rollout_bucket("k", FACTS.sub)
        for rollout, expected in ((bucket, Reason.NOT_IN_ROLLOUT), (bucket + 1, GRANTED)):
            key = entry(Conditions(("*",), rollout=rollout))
            assert decide_delivery(key, FACTS, NOW) == expected

    def test_other_users_are_first_for_another_key(self) -> None:
        first = {n for n in range(2_000) if rollout_bucket("a", str(n)) < 1_000}
        also = {n for n in first if rollout_bucket("b", str(n)) < 1_000}
        assert len(also) < len(first) / 2


class TestVersions:
    key = entry(previous=Version(3, 0), previous_until=NOW + 10, pending=Version(9, 0))

    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            (None, GRANTED),
            (5, GRANTED),
            (3, Granted(ValueId("k", 3), previous=True)),
            (9, None),
            (4, None),
        ],
    )
    def test_which(self, asked: int | None, expected: Granted | None) -> None:
        assert decide_delivery(self.key, FACTS, NOW, version=asked) == expected

    def test_the_previous_one_ends(self) -> None:
        assert decide_delivery(self.key, FACTS, NOW + 10, version=3) is None
        assert decide_delivery(self.key, FACTS, NOW + 10) == GRANTED

    def test_below_the_minimum(self) -> None:
        assert decide_delivery(replace(self.key, min_version=4), FACTS, NOW, version=3) is None

    def test_only_a_pending_one(self) -> None:
        waiting = replace(self.key, current=None, previous=None)
        assert decide_delivery(waiting, FACTS, NOW) is Reason.NOT_YET_AVAILABLE
        assert decide_delivery(waiting, FACTS, NOW, version=9) is Reason.NOT_YET_AVAILABLE

    def test_a_policy_refuses_each_version(self) -> None:
        closed = replace(self.key, policy=Conditions(("*",), second_factor=True))
        assert decide_delivery(closed, FACTS, NOW, version=3) is Reason.MFA_REQUIRED


class TestVariants:
    key = entry(
        current=Version(
            5,
            0,
            (
                Conditions(("*",), ("android",)),
                Conditions(("*",), min_app_version="3.0"),
                Conditions(("beta", "user"), ("ios",)),
                Conditions(("*",), ("ios",)),
            ),
        )
    )

    @pytest.mark.parametrize(
        ("facts", "variant"),
        [
            ({"platform": "android", "app_version": "9"}, 1),
            ({"app_version": "3.0.1"}, 2),
            ({}, 3),
            ({"roles": ()}, 4),
            ({"platform": "web"}, 0),
        ],
    )
    def test_the_first_that_fits(self, facts: dict[str, Any], variant: int) -> None:
        assert decide_delivery(self.key, replace(FACTS, **facts), NOW) == Granted(
            ValueId("k", 5, variant)
        )


def test_a_proxied_key_is_used_and_never_delivered() -> None:
    key = entry(upstream=UPSTREAM)
    assert decide_delivery(key, FACTS, NOW) is Reason.PROXY_ONLY
    assert decide_use(key, FACTS, NOW) == GRANTED
    assert decide_use(entry(), FACTS, NOW) is None, "a key without an upstream is not used"
    closed = replace(key, policy=Conditions(("admin",)))
    assert decide_delivery(closed, FACTS, NOW) is None
    assert decide_use(closed, FACTS, NOW) is None
    strict = replace(key, policy=Conditions(("*",), second_factor=True))
    assert decide_use(strict, FACTS, NOW) is Reason.MFA_REQUIRED


class TestSelection:
    manifest = Manifest(
        9,
        {
            "open": replace(entry(), name="open"),
            "closed": replace(entry(None), name="closed"),
            "strict": replace(entry(Conditions(("*",), second_factor=True)), name="strict"),
        },
    )

    def test_all(self) -> None:
        selection = select(self.manifest, FACTS, Wanted(None), NOW)
        assert selection.versions() == {"open": "5"}
        assert selection.refused == {"strict": "mfa_required"}, "closed does not exist for them"

    def test_named(self) -> None:
        names = frozenset({"open", "closed", "strict", "never-was"})
        selection = select(self.manifest, FACTS, Wanted(names), NOW)
        assert selection.versions() == {"open": "5"}
        assert selection.refused == {
            "closed": NOT_FOUND,
            "never-was": NOT_FOUND,
            "strict": "mfa_required",
        }


class TestAppVersions:
    ORDER = (
        "0",
        "0.9",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.0.0.1",
        "1.2",
        "1.10",
        "2.0-1",
        "2.0-a",
        "2",
        "10.0",
    )
    """The order that Semantic Versioning 2.0.0 §11 gives in its example, and more around it."""

    def test_order(self) -> None:
        for smaller, version in enumerate(self.ORDER):
            for larger, other in enumerate(self.ORDER):
                assert is_at_least(other, version) is (larger >= smaller), (other, version)

    @pytest.mark.parametrize(("one", "other"), [("2", "2.0.0"), ("1.2+45", "1.2"), ("01.2", "1.2")])
    def test_equal(self, one: str, other: str) -> None:
        assert is_at_least(one, other)
        assert is_at_least(other, one)

    @pytest.mark.parametrize(
        "text", ["", "v1.2", "1.2.", ".1", "1.2.3.4.5", "1..2", "1.2-", "1.2 ", "٣.1", "9" * 10]
    )
    def test_no_version_is_older_than_any(self, text: str) -> None:
        assert not is_at_least(text, "0")
        with pytest.raises(ValueError, match="app version"):
            AppVersion.parse(text)

    @given(st.text(alphabet="0123456789.+-ab", max_size=20), st.text(max_size=70))
    def test_it_never_fails(self, one: str, other: str) -> None:
        assert is_at_least(one, other) in (True, False)
