"""Checks of what people keep in a stack: the vault's keys and their policies, providers, and the
keyring that all tokens hang on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from keyferry.keyring.lifecycle import schedules
from keyferry.keyring.model import Purpose, Standing
from keyferry.vault.model import ANY
from keyferry_cli.doctor.checks import Check, Limits, Severity
from keyferry_cli.doctor.facts import (
    ApiKey,
    Facts,
    KeyringKey,
    Provider,
    Schedule,
    Settings,
    Stack,
)

HIGH, MEDIUM, LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW
DAY: Final = 86_400

LONG_CACHE_SECONDS: Final = 3_600
PENDING_DAYS: Final = 30
OVERDUE_DAYS: Final = 3
"""How much later than its schedule a rotation of the keyring may be: it is looked at once a day."""

OPEN: Final = "open"
"""`keyferry.federation.providers.FirstLogin`: whoever signs in for the first time is a user."""

# How long a key is in use does not depend on how long a session lives.
_SCHEDULES: Final = schedules(idle_seconds=0)


def _for_anybody(key: ApiKey) -> bool:
    policy = key.policy
    return (
        policy is not None
        and ANY in policy.roles
        and not policy.attested
        and not policy.second_factor
    )


def _open_to_anybody(facts: Facts) -> bool:
    """Whether strangers can become users."""
    settings = [each for each in facts.settings.values() if isinstance(each, Settings)]
    providers = [each for each in facts.providers.values() if isinstance(each, Provider)]
    return any(each.has("KEYFERRY_SELF_REGISTRATION", "true") for each in settings) or any(
        each.first_login == OPEN for each in providers
    )


# ── the vault ────────────────────────────────────────────────────────────


def _key_without_policy(_: str, key: ApiKey, *__: Any) -> Iterator[str]:
    if key.policy is None:
        yield "The key has no policy, so nobody is given it."


def _key_without_version(_: str, key: ApiKey, *__: Any) -> Iterator[str]:
    if key.current_since is None:
        yield "No version of the key has been promoted, so nobody is given it."


def _key_for_strangers(_: str, key: ApiKey, facts: Facts, *__: Any) -> Iterator[str]:
    if _for_anybody(key) and _open_to_anybody(facts):
        yield "Every user is given the key, and anybody can become a user."


def _key_for_everybody(_: str, key: ApiKey, facts: Facts, *__: Any) -> Iterator[str]:
    if _for_anybody(key) and not _open_to_anybody(facts):
        yield "The policy asks for no role, no attestation and no second factor."


def _attested_in_vain(_: str, key: ApiKey, facts: Facts, *__: Any) -> Iterator[str]:
    if key.policy is None or not key.policy.attested:
        return
    for settings in facts.settings.values():
        if isinstance(settings, Settings) and settings.only("KEYFERRY_APP_CHECK", "off"):
            yield "The policy asks for an attested app, and AppCheck is off: nobody is given it."


def _key_old(_: str, key: ApiKey, facts: Facts, limits: Limits) -> Iterator[str]:
    if key.current_since is not None:
        days = (facts.now - key.current_since) // DAY
        if days >= limits.key_days:
            yield f"The value is {days} days old."


def _pending_for_long(_: str, key: ApiKey, facts: Facts, *__: Any) -> Iterator[str]:
    if key.pending_since is not None:
        days = (facts.now - key.pending_since) // DAY
        if days >= PENDING_DAYS:
            yield f"A version has been waiting for {days} days to be promoted."


def _cached_for_long(_: str, key: ApiKey, *__: Any) -> Iterator[str]:
    if key.cache_seconds > LONG_CACHE_SECONDS and not key.proxied:
        yield f"Apps may keep the value for {key.cache_seconds} seconds."


def _no_minimum_version(_: str, key: ApiKey, *__: Any) -> Iterator[str]:
    if key.policy is not None and not key.policy.minimum_version:
        yield "The policy names no minimum app version."


def _provider_open(_: str, provider: Provider, *__: Any) -> Iterator[str]:
    if provider.first_login == OPEN:
        yield "Whoever has an account there becomes a user here."


# ── the keyring ──────────────────────────────────────────────────────────


def _keyring_overdue(_: str, key: KeyringKey, facts: Facts, *__: Any) -> Iterator[str]:
    if key.standing != Standing.CURRENT:
        return
    active = _SCHEDULES[Purpose(key.purpose)].active
    late = (facts.now - key.since - active) // DAY
    if late >= OVERDUE_DAYS:
        yield f"The current {key.purpose} key should have been replaced {late} days ago."


def _keyring_incomplete(_: str, __: Stack, facts: Facts, *___: Any) -> Iterator[str]:
    there = {
        (key.purpose, key.standing) for key in facts.keyring.values() if isinstance(key, KeyringKey)
    }
    for purpose in Purpose:
        for standing in (Standing.CURRENT, Standing.NEXT):
            if (purpose, standing) not in there:
                yield f"The keyring has no {standing} {purpose} key."


def _schedule_off(_: str, schedule: Schedule, *__: Any) -> Iterator[str]:
    if not schedule.enabled:
        yield "The schedule that rotates the keyring is disabled."


CHECKS: Final = (
    Check(
        "key-without-policy", "keys", LOW, LOW,
        "A key without a policy goes to nobody: it is of no use as it is.",
        "keyferry keys policy, or delete it.",
        _key_without_policy,
    ),
    Check(
        "key-without-version", "keys", LOW, LOW,
        "Its apps are told that it is not there.",
        "keyferry keys promote, or delete it.",
        _key_without_version,
    ),
    Check(
        "key-for-strangers", "keys", HIGH, HIGH,
        "The key is public, with a registration in front.",
        "keyferry keys policy with a role or --attested; or close registration.",
        _key_for_strangers,
        also=("settings", "providers"),
    ),
    Check(
        "key-for-everybody", "keys", MEDIUM, LOW,
        "One stolen password, of any user, opens it.",
        "keyferry keys policy with a role, --attested or --second-factor.",
        _key_for_everybody,
        also=("settings", "providers"),
    ),
    Check(
        "attested-in-vain", "keys", HIGH, MEDIUM,
        "The apps that need the key do not get it.",
        "Deploy with AppCheck=monitor or enforce, or change the policy.",
        _attested_in_vain,
        also=("settings",),
    ),
    Check(
        "key-old", "keys", LOW, LOW,
        "A copy that somebody once took is still good.",
        "Make a new one at its service, then keyferry keys put and promote.",
        _key_old,
    ),
    Check(
        "pending-for-long", "keys", LOW, LOW,
        "Somebody began to replace the key and did not end it.",
        "keyferry keys promote, or keyferry keys delete --pending.",
        _pending_for_long,
    ),
    Check(
        "cached-for-long", "keys", LOW, LOW,
        "For so long a phone goes on with a key that was taken from its user.",
        f"keyferry keys put --cache-seconds with {LONG_CACHE_SECONDS} or less.",
        _cached_for_long,
    ),
    Check(
        "no-minimum-version", "keys", LOW, None,
        "An old app with a known weakness is given the key too.",
        "keyferry keys policy --min-app-version, when you have such an app in the field.",
        _no_minimum_version,
    ),
    Check(
        "provider-open", "providers", LOW, LOW,
        "Users are made by strangers, with the provider's default roles.",
        "keyferry providers add with --invitation, unless that is what you want.",
        _provider_open,
    ),
    Check(
        "keyring-overdue", "keyring", HIGH, HIGH,
        "The keys that all tokens hang on grow old; something stops their rotation.",
        "keyferry keyring rotate, and see the log of rotate_keyring.",
        _keyring_overdue,
    ),
    Check(
        "keyring-incomplete", "stack", HIGH, HIGH,
        "Without a current key nobody logs in; without a next one, revoking takes longer.",
        "keyferry keyring rotate, and see the log of rotate_keyring.",
        _keyring_incomplete,
        also=("keyring",),
    ),
    Check(
        "keyring-schedule-off", "schedules", HIGH, HIGH,
        "The keyring does not rotate by itself.",
        "Enable the rule (aws events enable-rule), or deploy again.",
        _schedule_off,
    ),
)  # fmt: skip
