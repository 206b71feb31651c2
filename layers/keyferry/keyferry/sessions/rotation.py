"""What a refresh token means for the session that it names: a pure decision.

    presented                    device key    answer
    ---------------------------  ------------  ------------------------------------------------
    n, the row's generation      the same      the successor n+1; the row moves to n+1
    n, last write was mine       the same      the same successor: my own SDK tried twice
    n-1                          the same      the same successor again: the reply was lost
    n-1                          bearer mode   the same within 60 s and 6 times a day, else reuse
    below n-1, fresh proof       the same      reuse: the whole session is compromised
    below n-1, maybe an old one  the same      a nonce is asked for; the row stays as it is
    above n                      the same      the table was restored: go on from the presented one
    above n                      bearer mode   refused
    any                          another one   refused, and the row stays as it is

The first line is decided by DynamoDB, in the condition of one write (`sessions.store`). The others
are decided here, from the row that the refused write gave back. `decide` knows the first line too,
so that it can be held against the condition, row by row, in the tests.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from keyferry.config import DAY
from keyferry.sessions.model import Session, Status
from keyferry.tokens.refresh import MAX_GENERATION

BEARER_RETRY_SECONDS: Final = 60
"""How long a bearer client may ask again for a lost reply. A bound client may do so for ever."""

BEARER_RETRIES_PER_DAY: Final = 6
"""More lost replies than this in one UTC day are somebody following the session."""

POINTS_FOR_TWICE: Final = 4
"""Points for a generation that was asked for twice; each further generation takes one back. So one
lost reply in four is nothing, for ever."""

FOLLOWED_POINTS: Final = 32
"""From here on a session is reported as followed: after eleven generations in a row, or somewhat
more if some were asked for once. `make simulate` counts the honest phones that come this far."""


class Outcome(StrEnum):
    """The lines of the table above; the value is the name in logs and metrics."""

    ROTATED = "rotated"
    DUPLICATE = "duplicate"
    RETRIED = "retried"
    RETRIED_BEARER = "retried_bearer"
    HEALED = "healed"
    REUSED = "reused"
    STALE = "stale"
    WRONG_KEY = "wrong_key"
    WRONG_CLIENT = "wrong_client"
    WRONG_SECRET = "wrong_secret"
    AHEAD_BEARER = "ahead_bearer"
    LOGGED_OUT = "logged_out"
    COMPROMISED = "compromised"
    EXPIRED = "expired"
    EXHAUSTED = "exhausted"
    UNKNOWN = "unknown"


GRANTED: Final = frozenset(
    {
        Outcome.ROTATED,
        Outcome.DUPLICATE,
        Outcome.RETRIED,
        Outcome.RETRIED_BEARER,
        Outcome.HEALED,
    }
)
"""The outcomes that answer with a successor; every other one is ``invalid_grant``."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a request has proved to hold: a token with a good MAC, and the key ``jkt`` (or "").

    ``request_id`` is this invocation's, and nobody's to choose. ``made_after`` is the moment of our
    clock after which the proof was made, where its nonce says so.
    """

    sub: str
    sid: str
    generation: int
    secret_hash: bytes = field(repr=False)
    client_id: str
    jkt: str
    request_id: str
    made_after: int | None = None


def decide(row: Session | None, presented: Presented, now: int) -> Outcome:
    """Read the table in this module's docstring, from the strictest line to the mildest.

    Whatever fails before the device key is proved to be the session's own changes nothing: a thief
    without the key can not even log the owner out.
    """
    if row is None:
        return Outcome.UNKNOWN
    if not hmac.compare_digest(row.secret_hash, presented.secret_hash):
        return Outcome.WRONG_SECRET
    if row.client_id != presented.client_id:
        return Outcome.WRONG_CLIENT
    if row.jkt != presented.jkt:
        return Outcome.WRONG_KEY
    if row.status is Status.LOGGED_OUT:
        return Outcome.LOGGED_OUT
    if row.status is Status.COMPROMISED:
        return Outcome.COMPROMISED
    if now >= row.refresh_expires_at:
        return Outcome.EXPIRED
    if presented.generation == row.generation:
        return Outcome.ROTATED if row.generation < MAX_GENERATION else Outcome.EXHAUSTED
    if presented.generation > row.generation:
        if not row.jkt:
            return Outcome.AHEAD_BEARER
        return Outcome.HEALED if presented.generation < MAX_GENERATION else Outcome.EXHAUSTED
    if presented.generation < row.generation - 1:
        # Only a nonce issued since the last rotation shows, by our clock and nobody else's, that
        # the proof was made since. Without one this may be a request of the owner's own that comes
        # late, or a recording of it, and must end nothing. Who holds the key can answer with one.
        fresh = presented.made_after is not None and presented.made_after > row.rotated_at
        return Outcome.REUSED if fresh or not row.jkt else Outcome.STALE
    return _parent(row, presented, now)


def _parent(row: Session, presented: Presented, now: int) -> Outcome:
    """The presented token is the parent of the row's: was the reply lost, or was it stolen?"""
    if row.last_request == presented.request_id:
        return Outcome.DUPLICATE
    if row.jkt:
        return Outcome.RETRIED
    spent = row.retry_count if row.retry_day == now // DAY else 0
    in_time = now - row.rotated_at <= BEARER_RETRY_SECONDS
    return Outcome.RETRIED_BEARER if in_time and spent < BEARER_RETRIES_PER_DAY else Outcome.REUSED


def suspicion(row: Session) -> int:
    """The points of a session once the parent of its newest token has been presented again.

    Two who share a session, its key and every token of it can not avoid this: a generation that
    both of them learn is one that both have asked for. An honest phone asks twice when a reply was
    lost. Which of the two it is can be told over many generations only, and never for certain, so
    the points report a session and do not end it. How often one generation is asked for does not
    matter: a phone in a bad place tries many times.
    """
    forgiven = row.generation - row.suspected_at
    return min(max(row.suspicion - forgiven, 0) + POINTS_FOR_TWICE, 2 * FOLLOWED_POINTS)
