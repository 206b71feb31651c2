"""Thieves: somebody has a copy of a refresh token, and perhaps of the device key too.

The network is perfect here, so that whatever happens to a session happens because of the theft. The
owner refreshes as the phones of `phones` do. There are two kinds of thieves. One is *told* of every
refresh, before or after: he still has code on the phone, or he sits in its network. The other goes
*by the clock*: he has left with a copy, and refreshes when his own access token ends, day and night.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final

from keyferry.config import DAY
from tests.simulation.phones import MINUTE, OPENED, REFRESHES, START, stream
from tests.simulation.rules import KEYFERRY, RULES, Family, Holder, Rule


@dataclass(frozen=True, slots=True)
class Theft:
    """``after`` seconds after a refresh of the owner (before it, if negative) the thief presents
    a token: the one that the owner presented at that refresh, or one ``older`` by some generations.

    ``told`` thieves do it again at every refresh of the owner, the others by the clock.
    """

    after: float
    told: bool = False
    older: int = 0
    never_closed: bool = False
    """Whether the owner's app is open day and night."""


THEFTS: Final[Mapping[str, Theft]] = MappingProxyType(
    {
        "told, 1 s after": Theft(1, told=True),
        "told, 7.5 min after": Theft(7.5 * MINUTE, told=True),
        "told, 7.5 min before": Theft(-7.5 * MINUTE, told=True),
        "by the clock, 1 s after": Theft(1),
        "by the clock, 7.5 min after": Theft(7.5 * MINUTE),
        "by the clock, 7.5 min before": Theft(-7.5 * MINUTE),
        "by the clock, 1 s after, app never closed": Theft(1, never_closed=True),
        "5 generations old, 3 s after": Theft(3, told=True, older=4),
        "a day old": Theft(DAY),
    }
)
"""After a refresh the owner holds the successor of what was presented, so a token that is older by
four than the presented one is five generations old."""

THIEVES: Final[Mapping[str, tuple[str, Holder]]] = MappingProxyType(
    {
        f"{KEYFERRY}: token": (KEYFERRY, Holder.THIEF),
        f"{KEYFERRY}: token and key": (KEYFERRY, Holder.THIEF_WITH_KEY),
        **{name: (name, Holder.THIEF) for name, rule in RULES.items() if not rule.binds},
    }
)
"""Who steals what. Without binding there is nothing but the token."""


class Fate(StrEnum):
    """What has become of a theft when the days are over, and who has access then."""

    REFUSED = "refused"
    """The thief got nothing, and the owner did not notice: the owner."""

    LOCKED_OUT = "locked out"
    """The thief got in, and was refused later: the owner."""

    ENDED = "ended"
    """The family was ended: nobody, until the owner has logged in again."""

    REPORTED = "reported"
    """Both, until the operator who was told of it ends the session."""

    UNDETECTED = "UNDETECTED"
    """Both."""

    THIEF_KEEPS = "THIEF KEEPS"
    """The owner was refused, the thief was not: the thief."""


@dataclass(frozen=True, slots=True)
class Result:
    fate: Fate
    seconds: float
    """From the thief's first use to the end of the family, to his first refusal, or to the report."""


@dataclass(slots=True)
class _Side:
    """The owner, or the thief: what he holds, whether he ever got anything, when he was refused."""

    who: Holder
    token: int
    served: bool = False
    refused_at: float | None = None

    def present(self, family: Family, now: float) -> None:
        answer = family.present(self.token, now, self.who)
        if answer is None:
            self.refused_at = now
        else:
            self.token, self.served = answer, True


def steal(rule: Rule, holder: Holder, theft: Theft, random: Random, days: int) -> Result:
    """Play one theft, in the second of ``days``, to its end."""
    times = list(_owner_refreshes(rule, theft, random, days))
    index = random.choice([i for i, at in enumerate(times) if DAY <= at - times[0] < 2 * DAY])
    family, owner = rule.begin(times[0]), _Side(Holder.OWNER, 0)
    thief: _Side | None = None
    presented: list[int] = []
    uses = iter([at + theft.after for at in times[index:]])
    use = began = next(uses)
    for at in [*times, math.inf]:
        while use < min(at, times[-1]):
            if thief is None:
                of_index = presented[index] if index < len(presented) else owner.token
                thief = _Side(holder, presented[index - theft.older] if theft.older else of_index)
            thief.present(family, use)
            if family.ended:
                return Result(Fate.ENDED, use - began)
            if thief.refused_at is not None:
                use = math.inf
            else:
                use = next(uses, math.inf) if theft.told else use + rule.lifetime(random)
        if at < math.inf and owner.refused_at is None:
            presented.append(owner.token)
            owner.present(family, at)
            if family.ended:
                return Result(Fate.ENDED, at - began)
    if thief is None:
        raise ValueError("too few days for the theft to happen")
    if thief.refused_at is not None:
        fate = Fate.LOCKED_OUT if thief.served else Fate.REFUSED
        return Result(fate, thief.refused_at - began)
    if owner.refused_at is not None:
        return Result(Fate.THIEF_KEEPS, math.inf)
    if family.reported_at is not None:
        return Result(Fate.REPORTED, family.reported_at - began)
    return Result(Fate.UNDETECTED, math.inf)


def _owner_refreshes(rule: Rule, theft: Theft, random: Random, days: int) -> Iterator[float]:
    """When the owner refreshes: whenever the access token has ended and the app is open."""
    midnight = START + random.uniform(0, DAY)
    if theft.never_closed:
        now = midnight
        while now < midnight + days * DAY:
            yield now
            now += rule.lifetime(random)
        return
    for day in range(days):
        for opened in OPENED:
            now = midnight + day * DAY + opened + random.uniform(0, 5 * MINUTE)
            for _ in range(REFRESHES):
                yield now
                now += rule.lifetime(random)


def run_thefts(thief: str, name: str, thefts: range, *, days: int, seed: int) -> list[Result]:
    """Some thefts of one kind, under one rule."""
    rule, holder = THIEVES[thief]
    return [
        steal(RULES[rule], holder, THEFTS[name], stream(seed, "theft", name, number), days)
        for number in thefts
    ]
