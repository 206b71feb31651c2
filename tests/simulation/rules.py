"""The rotation rule of each design, as published.

A rule is a class; an object of it is one login, that is one family of refresh tokens. Tokens are
numbers, and the first one is 0: what they look like is of no interest here, only which are
accepted, what an accepted one is answered with, and what ends the whole family.

Keyferry's rule is not written down here. Its class asks `keyferry.sessions.rotation.decide`, the
function that is deployed, about a session row, and does to the row what the store does to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from random import Random
from types import MappingProxyType
from typing import Final

from keyferry.config import DAY, TokenPolicy
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.sessions.model import Device, Session, Status
from keyferry.sessions.rotation import (
    FOLLOWED_POINTS,
    GRANTED,
    Outcome,
    Presented,
    decide,
    suspicion,
)
from keyferry.tokens import access

POLICY: Final = TokenPolicy()
ACCESS_SECONDS: Final = POLICY.access_seconds


class Holder(Enum):
    """Who presents a token. Only a rule that binds tokens to a key can tell them apart."""

    OWNER = auto()
    THIEF = auto()
    THIEF_WITH_KEY = auto()


class Family(ABC):
    """One login under one rule."""

    ended = False
    """Whether the rule has seen a theft and refuses every token of the family since."""

    reported_at: float | None = None
    """When the rule first told the operator that the family looks as if two shared it."""

    @abstractmethod
    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        """The successor that the server answers with, or None for ``invalid_grant``."""

    @abstractmethod
    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        """What ``count`` undisturbed refreshes, from the one at ``first`` to ``last``, come to.

        Exactly as if each had been presented, if nothing is presented within the longest window of
        the rule after any but the last. None, and nothing done, unless ``token`` is the newest one
        of a living family: then the first refresh has to be looked at.
        """


class Linear(Family):
    """Families whose tokens stand in one line: token n is followed by n+1, whoever asks."""

    def __init__(self, now: float) -> None:
        self.current = 0
        self.refreshed_at = now

    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        if self.ended or token != self.current:
            return None
        self.current += count
        self.refreshed_at = last
        return self.current


class Strict(Linear):
    """A token is good once. Any other use ends the family."""

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        if token != self.current:
            self.ended = True
            return None
        return self.skip(token, 1, now, now)


class SingleUse(Linear):
    """A token is good once. Any other use is refused, and that is all."""

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        return self.skip(token, 1, now, now)


class Supabase(Linear):
    """The parent is answered with the current token, always. Any older one is too if the session
    was refreshed less than the reuse interval ago, and every such answer counts as a refresh."""

    def __init__(self, now: float, *, interval: float) -> None:
        super().__init__(now)
        self.interval = interval

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        behind = self.current - token
        if behind == 0:
            self.current += 1
        elif behind > 1 and now - self.refreshed_at >= self.interval:
            self.ended = True
            return None
        self.refreshed_at = now
        return self.current


class Fizzy(Linear):
    """A retired token is answered with its successor within the window, unless the successor has
    been retired as well: then it is refused. After the window it ends the family."""

    def __init__(self, now: float, *, window: float) -> None:
        super().__init__(now)
        self.window = window
        self.retired_at: dict[int, float] = {}

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        if token == self.current:
            return self.skip(token, 1, now, now)
        if now - self.retired_at.get(token, 0.0) < self.window:
            return self.current if token == self.current - 1 else None
        self.ended = True
        return None

    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        successor = super().skip(token, count, first, last)
        if successor is not None:
            self.retired_at[successor - 1] = last
        return successor


class BetterAuth(Fizzy):
    """A token is answered within the window of its use as it was answered the first time, whatever
    has become of the successor. After the window it ends the family, and with it every other
    device of the user, which is not counted here."""

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        if token == self.current:
            return self.skip(token, 1, now, now)
        if now - self.retired_at.get(token, 0.0) <= self.window:
            return token + 1
        self.ended = True
        return None


class SuperTokens(Family):
    """Within the window, counted from its first use, the previous token is answered with a new
    token, and the one that was given out before is dead. Anything else ends the family."""

    def __init__(self, now: float, *, window: float) -> None:
        self.window = window
        self.newest = 0
        self.current = 0
        self.previous: int | None = None
        self.rotated_at = now

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        if token == self.current:
            return self.skip(token, 1, now, now)
        if token == self.previous and now <= self.rotated_at + self.window:
            self.newest += 1
            self.current = self.newest
            return self.current
        self.ended = True
        return None

    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        if self.ended or token != self.current:
            return None
        self.previous = self.newest + count - 1
        self.newest += count
        self.current = self.newest
        self.rotated_at = last
        return self.current


class Hydra(Family):
    """Within the window, counted from its first use, a token is answered with a new token each
    time, and each of those lives on by itself. After the window it ends the family."""

    def __init__(self, now: float, *, window: float) -> None:
        self.window = window
        self.newest = 0
        self.unused = {0}
        self.used_at: dict[int, float] = {}

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        if self.ended:
            return None
        if token in self.unused:
            return self.skip(token, 1, now, now)
        if now - self.used_at.get(token, 0.0) < self.window:
            return self._new()
        self.ended = True
        return None

    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        if self.ended or token not in self.unused:
            return None
        self.unused.remove(token)
        if count > 1:
            self.newest += count - 1
            token = self.newest
        self.used_at[token] = last
        return self._new()

    def _new(self) -> int:
        self.newest += 1
        self.unused.add(self.newest)
        return self.newest


_SECRET_HASH: Final = b"h" * 32
_OWN_KEY: Final = "owner's"


class Keyferry(Family):
    """The deployed decision. ``bound`` sessions have a device key, the others are bearer mode."""

    def __init__(self, now: float, *, bound: bool = True) -> None:
        begun = int(now)
        self.bound = bound
        self.requests = 0
        self.row = Session(
            sub="user",
            sid="session",
            status=Status.ACTIVE,
            generation=0,
            secret_hash=_SECRET_HASH,
            mac_kid="kid",
            client_id="ios",
            jkt=_OWN_KEY if bound else "",
            scope="keys",
            roles=(),
            amr=("pwd",),
            device=Device("phone", "ios", "1.0"),
            encryption_key=Recipient(EcJwk("x", "y")),
            created_at=begun,
            rotated_at=begun,
            idle_expires_at=begun + POLICY.idle_seconds,
            absolute_expires_at=begun + POLICY.absolute_seconds,
            last_request="login",
        )

    def decide(self, token: int, now: float, holder: Holder = Holder.OWNER) -> Outcome:
        """What the deployed function makes of the row as it is; changes nothing."""
        return decide(self.row, self._presented(token, int(now), holder), int(now))

    def present(self, token: int, now: float, holder: Holder = Holder.OWNER) -> int | None:
        self.requests += 1
        outcome = self.decide(token, now, holder)
        match outcome:  # the writes of `keyferry.sessions.store.SessionStore.rotate`
            case Outcome.ROTATED | Outcome.HEALED:
                self._move(token + 1, int(now))
            case Outcome.REUSED:
                self.row = replace(self.row, status=Status.COMPROMISED)
                self.ended = True
            case Outcome.RETRIED if self.row.suspected_at != self.row.generation:
                points = suspicion(self.row)
                self.row = replace(self.row, suspicion=points, suspected_at=self.row.generation)
                if points >= FOLLOWED_POINTS and self.reported_at is None:
                    self.reported_at = now
            case Outcome.RETRIED_BEARER:
                today = int(now) // DAY
                spent = self.row.retry_count if self.row.retry_day == today else 0
                self.row = replace(self.row, retry_day=today, retry_count=spent + 1)
        # `keyferry.sessions.refresh.Refresh` derives the successor from the presented token.
        return token + 1 if outcome in GRANTED else None

    def skip(self, token: int, count: int, first: float, last: float) -> int | None:
        self.requests += 1
        if token != self.row.generation or self.decide(token, first) is not Outcome.ROTATED:
            return None
        self._move(token + count, int(last))
        return token + count

    def _presented(self, token: int, now: int, holder: Holder) -> Presented:
        jkt = "thief's" if holder is Holder.THIEF else _OWN_KEY
        return Presented(
            sub="user",
            sid="session",
            generation=token,
            secret_hash=_SECRET_HASH,
            client_id="ios",
            jkt=jkt if self.bound else "",
            request_id=str(self.requests),
            # Asked for a nonce that is newer than the last refresh, the owner and a thief with the key
            # both answer with a new proof.
            made_after=now + 1 if self.bound else None,
        )

    def _move(self, generation: int, now: int) -> None:
        self.row = replace(
            self.row,
            generation=generation,
            rotated_at=now,
            idle_expires_at=now + POLICY.idle_seconds,
            last_request=str(self.requests),
        )


def _fixed(_random: Random) -> int:
    return ACCESS_SECONDS


def _keyferry_lifetime(random: Random) -> int:
    return access.lifetime(ACCESS_SECONDS, random.randbytes(1))


def _supertokens_lifetime(random: Random) -> int:
    return round(ACCESS_SECONDS * random.uniform(0.95, 1.0))


@dataclass(frozen=True, slots=True)
class Rule:
    """How a login begins at a time, and how many seconds an access token lives.

    All access tokens live for a quarter of an hour here, whatever is the default of the product, so
    that all phones refresh equally often; what a rule adds to or takes from it by chance is kept.
    """

    like: str
    """The products that do it so; versions and places are in the comments of `RULES`."""

    begin: Callable[[float], Family]
    lifetime: Callable[[Random], int] = _fixed
    binds: bool = False


KEYFERRY: Final = "Keyferry"
KEYFERRY_BEARER: Final = "Keyferry, bearer mode"
STRICT: Final = "strict"
SINGLE_USE: Final = "single use"
SUPERTOKENS: Final = "30 s, new token"
BETTER_AUTH: Final = "30 s, same answer"
HYDRA: Final = "60 s, new branch"
FIZZY: Final = "60 s, same successor"
SUPABASE: Final = "parent always"

RULES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        # This repository: a session with a device key (RFC 9449), the default.
        KEYFERRY: Rule("this repository, by default", Keyferry, _keyferry_lifetime, binds=True),
        # This repository, RequireDPoP=false: 60 s and 6 retries a day.
        KEYFERRY_BEARER: Rule(
            "this repository, `RequireDPoP=false`",
            lambda now: Keyferry(now, bound=False),
            _keyferry_lifetime,
        ),
        # RFC 9700 §4.14.2 to the letter. ory/hydra 83127c5 without a grace period
        # (strictRefreshRotation; fosite handleRefreshTokenReuse), panva/node-oidc-provider b95c294
        # (lib/actions/grants/refresh_token.js: consumed -> revoke the grant), bluesky-social/atproto
        # d6296a1 (deletes the session).
        STRICT: Rule("RFC 9700; Ory Hydra by default, node-oidc-provider, atproto", Strict),
        # DuendeSoftware/products 18193b5 with TokenUsage.OneTimeOnly (the used token is deleted, or
        # refused), zitadel: neither ends the family.
        SINGLE_USE: Rule("Duende (one-time only), Zitadel", SingleUse),
        # supertokens/supertokens-core 0c1739b, CDI >= 5.6, Session.java refreshSessionHelper,
        # cases 1, 3 and 4; refresh_token_rotation_grace_period 30 s by default.
        SUPERTOKENS: Rule(
            "SuperTokens", lambda now: SuperTokens(now, window=30), _supertokens_lifetime
        ),
        # better-auth/better-auth 451aa4b, packages/oauth-provider/src/token.ts, with
        # refreshTokenReuseInterval 30 (0 by default, which is strict).
        BETTER_AUTH: Rule("better-auth, set to 30 s", lambda now: BetterAuth(now, window=30)),
        # ory/hydra 83127c5, persistence/sql/persister_oauth2.go GetRefreshTokenSession and
        # gracefulRefreshRotation, with a grace period of 60 s (0 by default). Used rows may be
        # pruned after half an hour; a token is then refused without ending the family.
        HYDRA: Rule("Ory Hydra, set to 60 s", lambda now: Hydra(now, window=60)),
        # basecamp/fizzy 054f68a, app/models/oauth/retired_refresh_token.rb and
        # app/controllers/oauth/tokens_controller.rb answer_refresh_replay.
        FIZZY: Rule("37signals Fizzy", lambda now: Fizzy(now, window=60)),
        # supabase/auth bc32168, internal/tokens/service.go RefreshTokenGrant, tokens of version 2,
        # with the reuse interval of 10 s that its documentation gives as the default.
        SUPABASE: Rule("Supabase, as hosted", lambda now: Supabase(now, interval=10)),
    }
)
