"""The simulation: each rule against examples made by hand, and a small run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from keyferry.config import DAY
from keyferry.sessions.model import Status
from keyferry.sessions.rotation import Outcome
from tests.simulation import phones, report, rules
from tests.simulation.__main__ import main, simulate
from tests.simulation.phones import HOUR, START, Attempt, Episode, Life, stream
from tests.simulation.rules import (
    BETTER_AUTH,
    FIZZY,
    HYDRA,
    KEYFERRY,
    KEYFERRY_BEARER,
    RULES,
    SINGLE_USE,
    STRICT,
    SUPABASE,
    SUPERTOKENS,
    Holder,
    Keyferry,
)
from tests.simulation.thieves import THEFTS, THIEVES, Fate, Result, run_thefts

OK, OUT = True, False

NAMES = (
    KEYFERRY, KEYFERRY_BEARER, STRICT, SINGLE_USE, SUPERTOKENS, BETTER_AUTH, HYDRA, FIZZY, SUPABASE
)  # fmt: skip


def test_every_rule_is_tested_here() -> None:
    assert set(NAMES) == set(RULES)


# ---------------------------------------------------------------- phones, scenario by scenario

#                      KF  bearer strict single ST30 BA30 hydra fizzy supabase
SURVIVES = {
    "retry after 5 s":   (OK, OK,  OUT,  OUT,  OK,  OK,  OK,  OK,  OK),
    "retry after 45 s":  (OK, OK,  OUT,  OUT,  OUT, OUT, OK,  OK,  OK),
    "retry after 599 s": (OK, OUT, OUT,  OUT,  OUT, OUT, OUT, OUT, OK),
    "retry after 8 h":   (OK, OUT, OUT,  OUT,  OUT, OUT, OUT, OUT, OK),
    "at once, in order": (OK, OK,  OUT,  OK,   OK,  OK,  OK,  OK,  OK),
    "at once, crossed":  (OK, OK,  OUT,  OK,   OUT, OK,  OK,  OK,  OK),
    "first reply lost":  (OK, OK,  OUT,  OUT,  OK,  OK,  OK,  OK,  OK),
}  # fmt: skip


def attempts(name: str) -> tuple[Attempt, ...]:
    """A disturbed refresh at the time 1,000."""
    match name:
        case "at once, in order":
            return (Attempt((1000.0, 1001.0), (0, 1)),)
        case "at once, crossed":
            return (Attempt((1000.0, 1001.0), (1, 0)),)
        case "first reply lost":
            return (Attempt((1000.0, 1001.0), (1,)),)
        case _:
            number, unit = name.removeprefix("retry after ").split()
            again = 1000.0 + float(number) * (HOUR if unit == "h" else 1)
            return Attempt((1000.0,), ()), Attempt((again,), (0,))


@pytest.mark.parametrize(
    ("scenario", "name", "survives"),
    [
        (scenario, name, survives)
        for scenario, row in SURVIVES.items()
        for name, survives in zip(NAMES, row, strict=True)
    ],
)
def test_one_disturbed_refresh(scenario: str, name: str, survives: bool) -> None:
    day = 20_000 * DAY
    disturbed = tuple(
        Attempt(tuple(day + at for at in attempt.sent), attempt.arrivals)
        for attempt in attempts(scenario)
    )
    life = Life(
        begun=day,
        episodes=(
            Episode(3, day + 100.0, day + 300.0, disturbed),
            Episode(3, day + 10 * HOUR, day + 11 * HOUR, ()),
        ),
    )
    assert phones.live(RULES[name], life).events == (0 if survives else 1)


@pytest.mark.parametrize(
    ("name", "survives"),
    list(zip(NAMES, (OK, OUT, OUT, OUT, OUT, OUT, OK, OUT, OK), strict=True)),
)
def test_two_holders_without_a_common_store(name: str, survives: bool) -> None:
    """Every quarter of an hour two copies of an app refresh a second apart, each with its own."""
    family = RULES[name].begin(START)
    first: int | None = 0
    second: int | None = 0
    for hour in range(1, 5):
        first = first if first is None else family.present(first, START + hour * 900.0)
        if hour == 2:  # one of them gets behind by a minute and a half
            second = second if second is None else family.present(second, START + hour * 900.0 + 90)
        else:
            second = second if second is None else family.present(second, START + hour * 900.0 + 1)
    assert (first is not None and second is not None) is survives


# ---------------------------------------------------------------- each rule, step by step

# (seconds since the login, token presented, token answered; None: refused)
Step = tuple[float, int, int | None]

STEPS: dict[str, tuple[str, Sequence[Step], bool]] = {
    "strict: the parent ends the family": (
        STRICT,
        [(100, 0, 1), (200, 1, 2), (201, 1, None), (202, 2, None)],
        True,
    ),
    "single use: the parent is refused, the family lives": (
        SINGLE_USE,
        [(100, 0, 1), (101, 0, None), (102, 1, 2), (103, 1, None), (104, 2, 3)],
        False,
    ),
    "supabase: the parent gets the current token, without a limit": (
        SUPABASE,
        [(100, 0, 1), (200, 1, 2), (9_000_000, 1, 2), (9_000_001, 2, 3)],
        False,
    ),
    "supabase: any older token gets it within 10 s": (
        SUPABASE,
        [(100, 0, 1), (200, 1, 2), (300, 2, 3), (309.9, 0, 3)],
        False,
    ),
    "supabase: which makes the 10 s begin again": (
        SUPABASE,
        [(100, 0, 1), (200, 1, 2), (300, 2, 3), (309, 0, 3), (318, 0, 3), (327, 3, 4)],
        False,
    ),
    "supabase: any older token ends the session after them": (
        SUPABASE,
        [(100, 0, 1), (200, 1, 2), (300, 2, 3), (310, 0, None), (311, 3, None)],
        True,
    ),
    "fizzy: the parent gets its successor for less than 60 s": (
        FIZZY,
        [(100, 0, 1), (159.9, 0, 1), (160, 0, None), (161, 1, None)],
        True,
    ),
    "fizzy: a parent whose successor was used is refused within 60 s": (
        FIZZY,
        [(100, 0, 1), (110, 1, 2), (120, 0, None), (121, 2, 3)],
        False,
    ),
    "fizzy: and ends the grant after them": (
        FIZZY,
        [(100, 0, 1), (110, 1, 2), (160, 0, None), (161, 2, None)],
        True,
    ),
    "better-auth: a token is answered as before for 30 s": (
        BETTER_AUTH,
        [(100, 0, 1), (130, 0, 1), (131, 0, None), (132, 1, None)],
        True,
    ),
    "better-auth: even when the successor was used": (
        BETTER_AUTH,
        [(100, 0, 1), (110, 1, 2), (120, 0, 1), (121, 2, 3)],
        False,
    ),
    "hydra: a token gets a new one each time for less than 60 s from its first use": (
        HYDRA,
        [(100, 0, 1), (130, 0, 2), (159.9, 0, 3), (160, 0, None)],
        True,
    ),
    "hydra: and every branch lives on by itself": (
        HYDRA,
        [(100, 0, 1), (130, 0, 2), (900, 1, 3), (1000, 2, 4), (1800, 3, 5), (1900, 4, 6)],
        False,
    ),
    "hydra: until one token is used too late": (
        HYDRA,
        [(100, 0, 1), (130, 0, 2), (900, 1, 3), (961, 1, None), (1000, 2, None)],
        True,
    ),
    "supertokens: the previous token gets a new one for 30 s from its first use": (
        SUPERTOKENS,
        [(100, 0, 1), (120, 0, 2), (130, 0, 3), (900, 3, 4), (901, 0, None)],
        True,
    ),
    "supertokens: which does not make the 30 s begin again": (
        SUPERTOKENS,
        [(100, 0, 1), (120, 0, 2), (131, 0, None), (132, 2, None)],
        True,
    ),
    "supertokens: the displaced branch ends the session": (
        SUPERTOKENS,
        [(100, 0, 1), (120, 0, 2), (900, 1, None), (901, 2, None)],
        True,
    ),
    "keyferry: the parent gets its successor, without a limit": (
        KEYFERRY,
        [(100, 0, 1), (101, 0, 1), (6 * DAY, 0, 1), (6 * DAY, 1, 2)],
        False,
    ),
    "keyferry: until that is used": (
        KEYFERRY,
        [(100, 0, 1), (200, 1, 2), (201, 0, None), (202, 2, None)],
        True,
    ),
    "keyferry: seven days without a refresh are too many": (
        KEYFERRY,
        [(100, 0, 1), (100 + 7 * DAY, 1, None)],
        False,
    ),
    "keyferry, bearer mode: the parent gets its successor for 60 s": (
        KEYFERRY_BEARER,
        [(100, 0, 1), (160, 0, 1), (161, 0, None), (162, 1, None)],
        True,
    ),
    "keyferry, bearer mode: and six times a day": (
        KEYFERRY_BEARER,
        [(100, 0, 1), *[(101.0 + i, 0, 1) for i in range(6)], (107, 0, None)],
        True,
    ),
}


@pytest.mark.parametrize(("name", "steps", "ended"), list(STEPS.values()), ids=list(STEPS))
def test_rule(name: str, steps: Sequence[Step], ended: bool) -> None:
    begun = 20_000 * DAY
    family = RULES[name].begin(begun)
    for seconds, token, answer in steps:
        assert family.present(token, begun + seconds) == answer, (seconds, token)
    assert family.ended is ended


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_skipping_is_presenting(name: str, count: int) -> None:
    """After so many refreshes at once, every answer is what it is after one at a time."""
    times = [START + 900.0 * (i + 1) for i in range(count)]
    last = times[-1]
    later = [last + wait for wait in (1, 29, 31, 59, 61, 700)]
    for token_behind in range(min(count, 3) + 1):
        for at in later:
            one, all_at_once = RULES[name].begin(START), RULES[name].begin(START)
            held: list[int] = [0]
            for now in times:
                answer = one.present(held[-1], now)
                assert answer is not None
                held.append(answer)
            assert all_at_once.skip(0, count, times[0], last) == held[-1]
            presented = held[-1 - token_behind]
            assert one.present(presented, at) == all_at_once.present(presented, at)
            assert one.ended == all_at_once.ended
            assert one.present(held[-1], at + 1) == all_at_once.present(held[-1], at + 1)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_newest_token_of_a_living_family_is_skipped(name: str) -> None:
    family = RULES[name].begin(START)
    assert family.skip(0, 3, START + 900, START + 2700) is not None
    assert family.skip(0, 1, START + 3600, START + 3600) is None
    assert family.ended is False


def test_keyferry_asks_the_deployed_function(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(*arguments: object) -> Outcome:
        asked.append(arguments)
        return Outcome.EXPIRED

    monkeypatch.setattr(rules, "decide", refuse)
    family = Keyferry(START)
    assert family.present(0, START + 1.0) is None
    assert family.skip(0, 1, START + 1.0, START + 1.0) is None
    assert len(asked) == 2


def test_keyferry_tells_keys_apart() -> None:
    family = Keyferry(START)
    assert family.present(0, START + 1.0, Holder.THIEF) is None
    assert family.row == Keyferry(START).row
    assert family.present(0, START + 1.0, Holder.THIEF_WITH_KEY) == 1
    assert family.present(0, START + 2.0) == 1
    ended = replace(family.row, status=Status.COMPROMISED)
    family.present(1, START + 3.0)
    family.present(0, START + 4.0, Holder.THIEF_WITH_KEY)
    assert family.row.status is ended.status


# ---------------------------------------------------------------- thieves

# Of the state machine models that were made of the designs' source: told, 1 s after; told, 7.5 min
# after; told, 7.5 min before; 5 generations old.
R, E, P, U, T = Fate.REFUSED, Fate.ENDED, Fate.REPORTED, Fate.UNDETECTED, Fate.THIEF_KEEPS
FATES = {
    f"{KEYFERRY}: token": (R, R, R, R),
    f"{KEYFERRY}: token and key": (P, P, P, E),
    KEYFERRY_BEARER: (E, E, E, E),
    STRICT: (E, E, E, E),
    SINGLE_USE: (R, R, T, R),
    SUPERTOKENS: (E, E, E, E),
    BETTER_AUTH: (U, E, E, E),
    HYDRA: (U, E, E, E),
    FIZZY: (U, E, E, E),
    SUPABASE: (U, U, U, U),
}


@pytest.mark.parametrize("thief", list(FATES))
def test_a_thief_who_is_told(thief: str) -> None:
    kinds = (
        "told, 1 s after",
        "told, 7.5 min after",
        "told, 7.5 min before",
        "5 generations old, 3 s after",
    )
    for kind, fate in zip(kinds, FATES[thief], strict=True):
        results = run_thefts(thief, kind, range(3), days=4, seed=1)
        assert {result.fate for result in results} == {fate}, kind


@pytest.mark.parametrize("theft", list(THEFTS))
def test_without_the_device_key_nobody_gets_in(theft: str) -> None:
    results = run_thefts(f"{KEYFERRY}: token", theft, range(3), days=4, seed=1)
    assert {result.fate for result in results} == {Fate.REFUSED}


@pytest.mark.parametrize("theft", list(THEFTS))
def test_with_it_nobody_stays_unseen(theft: str) -> None:
    results = run_thefts(f"{KEYFERRY}: token and key", theft, range(20), days=30, seed=1)
    assert {result.fate for result in results} <= {Fate.ENDED, Fate.REPORTED}


@pytest.mark.parametrize("theft", [name for name in THEFTS if name.startswith("by the clock")][:3])
def test_with_it_the_first_pause_of_the_owner_ends_the_session(theft: str) -> None:
    for result in run_thefts(f"{KEYFERRY}: token and key", theft, range(10), days=4, seed=1):
        assert result.fate is Fate.ENDED
        assert 15 * 60 < result.seconds < 12 * HOUR


def test_bearer_mode_ends_a_shadowed_session_when_the_budget_is_spent() -> None:
    kind = "by the clock, 1 s after, app never closed"
    for result in run_thefts(KEYFERRY_BEARER, kind, range(10), days=4, seed=1):
        assert result.fate is Fate.ENDED
        # Six retries, and six more if midnight lies between.
        assert 5 * 870 < result.seconds < 13 * 900


def test_description_of_fates() -> None:
    ended, both = Result(Fate.ENDED, 4.2 * HOUR), Result(Fate.UNDETECTED, math.inf)
    assert report.describe([ended, ended]) == "ended (4.2 h)"
    assert report.describe([ended, both, both, both]) == "UNDETECTED 75 %, ended 25 % (4.2 h)"
    assert [report.duration(each) for each in (0, 5, 90, 3 * DAY)] == [
        "at once",
        "5 s",
        "1.5 min",
        "3.0 days",
    ]


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def run() -> report.Run:
    return simulate(1_000, 2, days=10, seed=7, processes=2)


def test_keyferry_logs_no_honest_phone_out(run: report.Run) -> None:
    assert run.logouts[KEYFERRY] == phones.Logouts(devices=0, events=0, reported=0)
    assert run.logouts[SUPABASE] == phones.Logouts(0, 0)
    for name in set(NAMES) - {KEYFERRY, SUPABASE}:
        assert run.logouts[name].devices > 200, name


def test_the_workload_is_the_one_that_is_claimed(run: report.Run) -> None:
    happened = run.happened
    assert happened.refreshes == pytest.approx(1_000 * 10 * phones.SLOTS, rel=0.02)
    assert happened.at_once / happened.refreshes == pytest.approx(phones.AT_ONCE, rel=0.1)
    without = phones.LOST + phones.KILLED
    assert happened.without_reply / happened.refreshes == pytest.approx(without, rel=0.1)
    assert happened.slept > 100


def test_the_same_seed_gives_the_same_run_in_any_number_of_processes() -> None:
    small = [simulate(50, 1, days=4, seed=3, processes=number) for number in (1, 2)]
    assert report.tables(small[0]) == report.tables(small[1])
    assert report.plot(small[0]) == report.plot(small[1])
    other = simulate(50, 1, days=4, seed=4, processes=1)
    assert report.tables(other) != report.tables(small[0])


def test_skipped_refreshes_are_as_many_as_drawn_ones() -> None:
    random = stream("geometric")
    drawn = [phones.geometric(random, 0.07) for _ in range(20_000)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.93 / 0.07, rel=0.03)
    assert drawn.count(0) / len(drawn) == pytest.approx(0.07, rel=0.1)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "img" / "plot.svg"
    arguments = ["--devices", "20", "--thefts", "1", "--days", "4", "--processes", "1"]
    assert main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for name in (*RULES, *THIEVES))
    assert out.read_text(encoding="utf-8").startswith("<svg ")


def test_committed_tables_are_of_these_rules() -> None:
    page = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text(encoding="utf-8")
    assert all(f"| {name} | {rule.like} |" in page for name, rule in RULES.items())
    assert all(f"| {name} |" in page for name in THIEVES)
    assert f"| {KEYFERRY} | {RULES[KEYFERRY].like} | 0 | 0.0 % | 0 | 0.00 |" in page
