"""Honest phones: what happens to them, and how often a rule logs them out.

What happens to a phone is drawn once, and every rule gets the same. A phone's app is opened four
times a day for three refreshes each, and is closed for more than eight hours every night. A refresh
is one request, or two at once from two threads of the app, which share one store. Replies get lost,
and now and then the app is killed between the reply and the write to its store; either way the
phone tries again with the token that it has: soon, or after the tunnel, or after the night.

Most refreshes are undisturbed. How many of them there are before the next disturbed one is drawn
from the geometric distribution, which is what drawing one by one comes to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Final

from keyferry.config import DAY
from tests.simulation.rules import RULES, Family, Rule

START: Final = 1_790_000_000
"""Seconds since the epoch; the bearer mode's budget is for a UTC day."""

LOST: Final = 0.05
"""Of the replies, also of those that refuse."""

AT_ONCE: Final = 0.02
"""Of the refreshes are made by two threads at once."""

KILLED: Final = 0.002
"""Of the refreshes end with the app killed before the new token was stored."""

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE

OPENED: Final = (8 * HOUR, 12.5 * HOUR, 17 * HOUR, 21 * HOUR)
REFRESHES: Final = 3
"""Each time that the app is opened, a quarter of an hour apart."""

SLOTS: Final = len(OPENED) * REFRESHES
"""Refreshes a day."""

RETRIES: Final = ((0.80, 5.0), (0.12, 45.0), (0.06, 599.0), (0.02, 8 * HOUR))
"""How often a lost reply is followed by the next try after about how many seconds: the client's own
retry; a lift; a tunnel; the phone was put away and slept."""

RELAUNCHES: Final = ((0.5, 20.0), (0.3, 10 * MINUTE), (0.2, 8 * HOUR))
"""The same after the app was killed."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to refresh. ``sent`` are the times of its requests, of one thread or two.

    ``arrivals`` says which of them are answered, in the order in which the phone stores the
    answers; empty if no reply came, or the app was killed before it had stored it.
    """

    sent: tuple[float, ...]
    arrivals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Episode:
    """So many undisturbed refreshes, then one that is not: all attempts until one is answered.

    ``first`` and ``last`` are the times of the first and the last undisturbed refresh.
    """

    undisturbed: int
    first: float
    last: float
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Life:
    """What happens to one phone."""

    begun: float
    episodes: tuple[Episode, ...]

    @property
    def refreshes(self) -> int:
        return sum(each.undisturbed + bool(each.attempts) for each in self.episodes)


def stream(*name: object) -> Random:
    """The random numbers of that name: the same on every machine and in every process."""
    return Random("/".join(map(str, name)))  # noqa: S311 -- repeatable, and guards nothing


def draw_life(random: Random, days: int) -> Life:
    # Somewhere on the globe, and logged in just before the app's first use of the first day.
    midnight = START + random.uniform(0, DAY)
    return Life(midnight + OPENED[0] - MINUTE, tuple(_episodes(random, midnight, days)))


def _episodes(random: Random, midnight: float, days: int) -> Iterator[Episode]:
    disturbed = 1 - (1 - LOST) * (1 - AT_ONCE) * (1 - KILLED)
    slot = 0
    while slot < days * SLOTS:
        undisturbed = min(geometric(random, disturbed), days * SLOTS - slot)
        first, last = _time(midnight, slot), _time(midnight, slot + undisturbed - 1)
        slot += undisturbed
        if slot == days * SLOTS:
            yield Episode(undisturbed, first, last, ())
            return
        begun = _time(midnight, slot) + random.uniform(0, 5 * MINUTE)
        attempts = tuple(_attempts(random, begun))
        yield Episode(undisturbed, first, last, attempts)
        over = attempts[-1].sent[-1]
        # A phone that slept through a time to refresh did not refresh then, and one that has just
        # refreshed does not do it again.
        while slot < days * SLOTS and _time(midnight, slot) < over + 10 * MINUTE:
            slot += 1


def geometric(random: Random, probability: float) -> int:
    """How many failures come before the first success."""
    return int(math.log(1.0 - random.random()) / math.log(1.0 - probability))


def _time(midnight: float, slot: int) -> float:
    day, slot = divmod(slot, SLOTS)
    opened, refresh = divmod(slot, REFRESHES)
    return midnight + day * DAY + OPENED[opened] + refresh * 15 * MINUTE


def _attempts(random: Random, now: float) -> Iterator[Attempt]:
    attempt, killed = _disturbed(random, now)
    while not attempt.arrivals:
        yield attempt
        now = attempt.sent[-1] + _delay(random, RELAUNCHES if killed else RETRIES)
        attempt, killed = _attempt(random, now, threads=1 + (random.random() < AT_ONCE))
    yield attempt


def _disturbed(random: Random, now: float) -> tuple[Attempt, bool]:
    """As `_attempt`, given that it is not one thread whose reply arrives and is stored."""
    lost = (1 - AT_ONCE) * LOST
    killed = (1 - AT_ONCE) * (1 - LOST) * KILLED
    match random.choices(("at once", "lost", "killed"), (AT_ONCE, lost, killed))[0]:
        case "at once":
            return _attempt(random, now, threads=2)
        case "lost":
            return Attempt((now,), ()), random.random() < KILLED
        case _:
            return Attempt((now,), ()), True


def _attempt(random: Random, now: float, *, threads: int) -> tuple[Attempt, bool]:
    """An attempt, and whether the app was killed in it."""
    sent = (now,) if threads == 1 else (now, now + random.uniform(0, 2))
    arrived = sorted(
        (at + random.uniform(0.05, 3), request)
        for request, at in enumerate(sent)
        if random.random() >= LOST
    )
    killed = random.random() < KILLED
    return Attempt(sent, () if killed else tuple(request for _, request in arrived)), killed


def _delay(random: Random, choices: tuple[tuple[float, float], ...]) -> float:
    seconds = random.choices([each[1] for each in choices], [each[0] for each in choices])[0]
    # A night is a night; the others are shorter or longer by half.
    return seconds if seconds >= HOUR else seconds * random.uniform(0.5, 1.5)


def live(rule: Rule, life: Life) -> Logouts:
    """Let one phone live under a rule; return how often its user had to log in again."""
    logouts, reported = 0, False
    family, token = rule.begin(life.begun), 0
    for episode in life.episodes:
        if episode.undisturbed:
            first, last = episode.first, episode.last
            successor = family.skip(token, episode.undisturbed, first, last)
            if successor is None:
                # What went before has left the phone with a token that is not simply the newest.
                successor = family.present(token, first)
                if successor is None:
                    logouts += 1
                    reported = reported or family.reported_at is not None
                    family, successor = rule.begin(first), 0
                if episode.undisturbed > 1:
                    successor = family.skip(successor, episode.undisturbed - 1, first, last)
            assert successor is not None, "an accepted token is answered with the newest one"
            token = successor
        for attempt in episode.attempts:
            stored, refused = _try(family, token, attempt)
            if stored is not None:
                token = stored
            elif refused:
                logouts += 1
                reported = reported or family.reported_at is not None
                family, token = rule.begin(attempt.sent[-1]), 0
    reported = reported or family.reported_at is not None
    return Logouts(int(logouts > 0), logouts, int(reported))


def _try(family: Family, token: int, attempt: Attempt) -> tuple[int | None, bool]:
    """The token that is in the store afterwards, if a new one is, and whether the app was refused.

    A thread that is refused looks into the store before it gives up: if the other thread has put a
    new token there, nobody is logged out.
    """
    answers = [family.present(token, at) for at in attempt.sent]
    arrived = [answers[request] for request in attempt.arrivals]
    tokens = [answer for answer in arrived if answer is not None]
    return (tokens[-1] if tokens else None), bool(arrived) and not tokens


@dataclass(frozen=True, slots=True)
class Logouts:
    """Under one rule: how many phones were logged out at least once, how often all together, and
    how many were wrongly reported as shared with somebody."""

    devices: int = 0
    events: int = 0
    reported: int = 0

    def __add__(self, other: Logouts) -> Logouts:
        return Logouts(
            self.devices + other.devices,
            self.events + other.events,
            self.reported + other.reported,
        )


@dataclass(frozen=True, slots=True)
class Happened:
    """What the phones went through, whatever the rule."""

    refreshes: int = 0
    without_reply: int = 0
    at_once: int = 0
    slept: int = 0

    def __add__(self, other: Happened) -> Happened:
        return Happened(
            self.refreshes + other.refreshes,
            self.without_reply + other.without_reply,
            self.at_once + other.at_once,
            self.slept + other.slept,
        )


def count_happened(life: Life) -> Happened:
    without_reply = at_once = slept = 0
    for episode in life.episodes:
        at_once += sum(len(attempt.sent) > 1 for attempt in episode.attempts)
        without_reply += sum(not attempt.arrivals for attempt in episode.attempts)
        slept += sum(
            later.sent[0] - earlier.sent[-1] >= 8 * HOUR
            for earlier, later in zip(episode.attempts, episode.attempts[1:], strict=False)
        )
    return Happened(life.refreshes, without_reply, at_once, slept)


def run_phones(devices: range, *, days: int, seed: int) -> tuple[dict[str, Logouts], Happened]:
    """Let some of the phones live, each under every rule."""
    totals = dict.fromkeys(RULES, Logouts())
    happened = Happened()
    for device in devices:
        life = draw_life(stream(seed, "phone", device), days)
        happened += count_happened(life)
        for name, rule in RULES.items():
            totals[name] += live(rule, life)
    return totals, happened
