"""Who gets which value of a key: a pure decision.

Default deny. Whom the roles or the platform of the policy leave out learns nothing: for them the key
does not exist. Whom something else leaves out may know that it exists, and is told what.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from keyferry.sessions.model import MFA, Session
from keyferry.users.model import User
from keyferry.vault.app_version import is_at_least
from keyferry.vault.model import ANY, WHOLE_ROLLOUT, Conditions, KeyEntry, ValueId, Version


class Reason(StrEnum):
    """Why a caller does not get a key that the caller may know of; each is an error code, too."""

    ATTESTATION_REQUIRED = "attestation_required"
    MFA_REQUIRED = "mfa_required"
    APP_VERSION_TOO_OLD = "app_version_too_old"
    NOT_YET_AVAILABLE = "not_yet_available"
    NO_LONGER_AVAILABLE = "no_longer_available"
    NOT_IN_ROLLOUT = "not_in_rollout"
    PROXY_ONLY = "proxy_only"


@dataclass(frozen=True, slots=True)
class Facts:
    """What decisions are made by. ``app_version`` and ``platform`` are as the app says."""

    sub: str
    roles: tuple[str, ...]
    platform: str
    app_version: str
    attested: bool
    second_factor: bool

    @classmethod
    def of(cls, session: Session, user: User, *, app_version: str | None = None) -> Facts:
        """``app_version`` is newer than the login: an app is updated without one."""
        return cls(
            sub=session.sub,
            roles=user.roles,
            platform=session.device.platform,
            app_version=app_version or session.device.app_version,
            attested=session.attested,
            second_factor=MFA in session.amr,
        )


@dataclass(frozen=True, slots=True)
class Granted:
    """``previous`` says that a newer version is current. ``created_at`` is that of the version."""

    value: ValueId
    previous: bool = False
    created_at: int = 0


def decide_delivery(
    entry: KeyEntry, facts: Facts, now: int, *, version: int | None = None
) -> Granted | Reason | None:
    """What a device gets of a key; None when nothing may be said, not even that there is one.

    ``version`` asks for that one instead of the current one: the previous one, while it lasts.
    """
    if entry.policy is None or not _fits(entry.policy, facts):
        return None
    if entry.upstream is not None:
        return Reason.PROXY_ONLY
    return _unmet(entry.policy, entry.name, facts, now) or _chosen(entry, facts, now, version)


def decide_use(entry: KeyEntry, facts: Facts, now: int) -> Granted | Reason | None:
    """As `decide_delivery`, for the use of a key at its upstream; without one there is no use."""
    if entry.upstream is None or entry.policy is None or not _fits(entry.policy, facts):
        return None
    return _unmet(entry.policy, entry.name, facts, now) or _chosen(entry, facts, now, None)


def rollout_bucket(name: str, sub: str) -> int:
    """Where a user stands in the rollout of a key, from 0 to `WHOLE_ROLLOUT` - 1: always there, and
    elsewhere for another key, so that no user is always among the first."""
    digest = hashlib.sha256(f"keyferry rollout\0{name}\0{sub}".encode()).digest()
    # 64 bits modulo 10,000: no bucket is likelier than another by more than one in 10^15.
    return int.from_bytes(digest[:8], "big") % WHOLE_ROLLOUT


def _fits(conditions: Conditions, facts: Facts) -> bool:
    return (ANY in conditions.roles or not set(facts.roles).isdisjoint(conditions.roles)) and (
        ANY in conditions.platforms or facts.platform in conditions.platforms
    )


def _unmet(conditions: Conditions, name: str, facts: Facts, now: int) -> Reason | None:
    """The first condition beside roles and platforms that does not hold."""
    if conditions.attested and not facts.attested:
        return Reason.ATTESTATION_REQUIRED
    if conditions.second_factor and not facts.second_factor:
        return Reason.MFA_REQUIRED
    minimum = conditions.min_app_version
    if minimum is not None and not is_at_least(facts.app_version, minimum):
        return Reason.APP_VERSION_TOO_OLD
    if conditions.not_before is not None and now < conditions.not_before:
        return Reason.NOT_YET_AVAILABLE
    if conditions.not_after is not None and now >= conditions.not_after:
        return Reason.NO_LONGER_AVAILABLE
    if rollout_bucket(name, facts.sub) >= conditions.rollout:
        return Reason.NOT_IN_ROLLOUT
    return None


def _chosen(entry: KeyEntry, facts: Facts, now: int, number: int | None) -> Granted | Reason | None:
    if entry.current is None:
        return Reason.NOT_YET_AVAILABLE
    chosen, previous = entry.current, False
    if number is not None and number != chosen.number:
        if entry.previous is None or number != entry.previous.number or now >= entry.previous_until:
            return None
        chosen, previous = entry.previous, True
    if chosen.number < entry.min_version:
        return None
    return Granted(_value(entry.name, chosen, facts, now), previous, chosen.created_at)


def _value(name: str, version: Version, facts: Facts, now: int) -> ValueId:
    for variant, conditions in enumerate(version.variants, start=1):
        if _fits(conditions, facts) and _unmet(conditions, name, facts, now) is None:
            return ValueId(name, version.number, variant)
    return ValueId(name, version.number)
