"""How keys come and go: next → current → previous → gone.

`advance` is pure and says what the keyring should be now; `maintain` makes the keys that are
missing and writes the result if nobody else did. Run twice at once, or again after a crash at any
point, it ends in the same place: a loser's new keys are never used and were never published.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from keyferry.aws import calling
from keyferry.config import DAY, Deployment
from keyferry.errors import Unavailable
from keyferry.jose import base64url
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.keyring.model import (
    Clients,
    Keyring,
    Purpose,
    Standing,
    WrappedKey,
    encryption_context,
)
from keyferry.keyring.store import KeyringStore
from keyferry.tokens.refresh import KID_BYTES

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

MAC_KEY_BYTES: Final = 32

_WRITE_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Schedule:
    """Seconds: how long a key is announced before use, used, and kept after use."""

    announce: int
    active: int
    retain: int


def schedules(*, idle_seconds: int) -> Mapping[Purpose, Schedule]:
    """``retain`` outlives what the key made: an access token lives minutes, a nonce five. A refresh
    token may be needed for two idle periods: it can be used on the last day of the first, and then
    its successor's reply can be lost, which makes it the parent that is answered for another one.
    ``announce`` outlives every cache of the JWKS, and of the keyring in a warm function."""
    return MappingProxyType(
        {
            Purpose.TOKEN_SIGNING: Schedule(announce=2 * DAY, active=60 * DAY, retain=DAY),
            Purpose.REFRESH_MAC: Schedule(
                announce=2 * DAY, active=60 * DAY, retain=2 * idle_seconds + DAY
            ),
            Purpose.DPOP_NONCE: Schedule(announce=2 * DAY, active=60 * DAY, retain=DAY),
        }
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """The keys to keep, with their new standing, and the keys that are missing."""

    keep: tuple[WrappedKey, ...]
    missing: tuple[tuple[Purpose, Standing], ...]


def advance(
    keys: tuple[WrappedKey, ...],
    schedules: Mapping[Purpose, Schedule],
    now: int,
    *,
    early: bool = False,
) -> Plan:
    """Where each key stands at ``now`` (epoch seconds), and what is missing.

    ``early`` puts every next key into use though the current one's time is not over; it does not
    shorten how long a key is announced.
    """
    keep: list[WrappedKey] = []
    missing: list[tuple[Purpose, Standing]] = []
    for purpose, schedule in schedules.items():
        mine = [key for key in keys if key.purpose is purpose]
        following = [key for key in mine if key.standing is Standing.NEXT]
        current = [key for key in mine if key.standing is Standing.CURRENT]
        previous = [key for key in mine if key.standing is Standing.PREVIOUS]
        if not current and following:
            # The current key was revoked: the next one takes over, announced for long or not.
            current = [replace(following[0], standing=Standing.CURRENT, since=now)]
            following = []
        if not current:
            # The first key of a new stack: nothing has been cached, so nothing must be announced.
            missing.append((purpose, Standing.CURRENT))
        elif (
            following
            and (early or now >= current[0].since + schedule.active)
            and now >= following[0].since + schedule.announce
        ):
            previous.append(replace(current[0], standing=Standing.PREVIOUS, since=now))
            current = [replace(following[0], standing=Standing.CURRENT, since=now)]
            following = []
        if not following:
            missing.append((purpose, Standing.NEXT))
        keep += following + current
        keep += [key for key in previous if now < key.since + schedule.retain]
    return Plan(keep=tuple(keep), missing=tuple(missing))


@dataclass(frozen=True, slots=True)
class KeyMaker:
    """Makes wrapped keys; never sees one in clear."""

    kms: KMSClient
    key_arn: str
    deployment: Deployment
    random: Callable[[int], bytes]

    def make(self, purpose: Purpose, standing: Standing, now: int) -> WrappedKey:
        kid = base64url.encode(self.random(KID_BYTES))
        context = encryption_context(self.deployment, purpose, kid)
        if purpose is not Purpose.TOKEN_SIGNING:
            with calling("kms:GenerateDataKeyWithoutPlaintext"):
                blob = self.kms.generate_data_key_without_plaintext(
                    KeyId=self.key_arn, NumberOfBytes=MAC_KEY_BYTES, EncryptionContext=context
                )["CiphertextBlob"]
            return WrappedKey(kid=kid, purpose=purpose, standing=standing, since=now, wrapped=blob)
        with calling("kms:GenerateDataKeyPairWithoutPlaintext"):
            pair = self.kms.generate_data_key_pair_without_plaintext(
                KeyId=self.key_arn, KeyPairSpec="ECC_NIST_P256", EncryptionContext=context
            )
        public = load_der_public_key(pair["PublicKey"])
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise TypeError("KMS made another kind of key than asked for")
        return WrappedKey(
            kid=kid,
            purpose=purpose,
            standing=standing,
            since=now,
            wrapped=pair["PrivateKeyCiphertextBlob"],
            public=EcJwk.from_key(public),
        )


@dataclass(frozen=True, slots=True)
class Maintenance:
    """What one run found and did; safe to log."""

    revision: int
    written: bool
    created: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def maintain(
    store: KeyringStore,
    maker: KeyMaker,
    schedules: Mapping[Purpose, Schedule],
    *,
    now: int,
    issuer: str | None = None,
    clients: Mapping[str, str] | None = None,
    early: bool = False,
    revoked: str | None = None,
    operated: Callable[[Clients], Clients] | None = None,
) -> Maintenance:
    """Bring the keyring to where it should be at ``now``.

    ``issuer`` and ``clients``, the client keys of the template, are given when the stack is created
    or updated, and kept otherwise. ``early`` rotates before its time. ``revoked`` is the ``kid`` of
    a key to drop at once. ``operated`` is what the operator does to the client keys; it may refuse.

    Raise `Unavailable` when other writers kept winning, and `LookupError` when there is no keyring
    and no issuer to make one for, or no key ``revoked``.
    """
    writer = base64url.encode(maker.random(16))
    for _ in range(_WRITE_ATTEMPTS):
        seen = store.read()
        if seen is None and issuer is None:
            raise LookupError("there is no keyring, and no issuer was given to make one")
        keys = seen.keys if seen else ()
        if revoked is not None and revoked not in {key.kid for key in keys}:
            raise LookupError("there is no such key")
        keys = tuple(key for key in keys if key.kid != revoked)
        plan = advance(keys, schedules, now, early=early)
        known = seen.clients if seen else Clients({})
        if clients is not None:
            known = replace(known, template=clients)
        if operated is not None:
            known = operated(known)
        wanted = Keyring(
            revision=seen.revision + 1 if seen else 1,
            issuer=issuer or (seen.issuer if seen else ""),
            clients=known,
            keys=_ordered(plan.keep),
        )
        if seen and not plan.missing and replace(wanted, revision=seen.revision) == seen:
            return Maintenance(revision=seen.revision, written=False)
        made = tuple(maker.make(purpose, standing, now) for purpose, standing in plan.missing)
        wanted = replace(wanted, keys=_ordered(plan.keep + made))
        if store.write(wanted, seen=seen.revision if seen else None, writer=writer):
            before = {key.kid for key in seen.keys} if seen else set()
            return Maintenance(
                revision=wanted.revision,
                written=True,
                created=tuple(key.kid for key in made),
                dropped=tuple(sorted(before - {key.kid for key in wanted.keys})),
            )
    raise Unavailable("keyring: other writers kept winning")


def _ordered(keys: tuple[WrappedKey, ...]) -> tuple[WrappedKey, ...]:
    """One order for one set of keys, so that a keyring that has not changed compares equal."""
    return tuple(sorted(keys, key=lambda key: (key.purpose, key.standing, key.since, key.kid)))
