"""Opening a key delivery: decrypt, verify who signed it, and check that it answers this very
request.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .device import DeviceKeys
from .errors import TamperedDelivery
from .hpke import open_sealed
from .jose import PublicJwk, decrypt, thumbprint, verify_jwt

TYP = "keyferry-keys+jwt"


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """One API key. Its value is kept out of `repr`, so that no log holds it by accident."""

    value: str = field(repr=False)
    version: int
    cache_seconds: int
    """How long the value may be used before it is asked for again. Keep it in memory, not on disk.
    """

    min_version: int = 0
    """Older versions of this key are not to be used any more."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """The keys of one answer, and why others are withheld, by name."""

    keys: dict[str, DeliveredKey]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class CachedDelivery:
    """``verified_at`` is when the server last said that this is what there is."""

    delivery: Delivery
    etag: str | None
    verified_at: float

    def usable(self, now: float) -> Delivery:
        """Without the keys whose time is over."""
        keys = {
            name: key
            for name, key in self.delivery.keys.items()
            if now < self.verified_at + key.cache_seconds
        }
        return replace(self.delivery, keys=keys)

    def is_fresh(self, now: float) -> bool:
        keys = self.delivery.keys
        return bool(keys) and len(self.usable(now).keys) == len(keys)

    def is_outdated_by(self, newer: Delivery) -> bool:
        return any(
            name in self.delivery.keys and self.delivery.keys[name].version < key.min_version
            for name, key in newer.keys.items()
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What a reply to this request must say."""

    issuer: str
    client_id: str
    subject: str
    session_id: str
    proof_jti: str


def open_delivery(
    token: str,
    device: DeviceKeys,
    expected: Expected,
    *,
    signing_key: Callable[[str], PublicJwk],
    hpke: bool = False,
) -> Delivery:
    """What one delivery holds, or `TamperedDelivery`.

    `hpke` says which of the two envelopes was asked for; the other one is refused.
    `signing_key` finds the public key of the inner JWT. A delivery has no `exp`: `proof_jti` proves
    that it was signed after the request was sent, so it is no older than that, and the HTTP
    time-out bounds how long it can have been held back. No clock of this device is asked.
    """
    opened = open_sealed(token, device) if hpke else decrypt(token, device)
    inner = opened.decode("utf-8", errors="replace")
    # Encryption alone proves nothing about the sender: anybody can encrypt to a public key. The
    # signature does.
    claims = verify_jwt(inner, typ=TYP, jwk=signing_key(inner))
    required = {
        "iss": expected.issuer,
        "aud": expected.client_id,
        "sub": expected.subject,
        "sid": expected.session_id,
        # The identifier of the proof that was sent with this request: an older delivery, however
        # authentic, is not an answer to it.
        "proof_jti": expected.proof_jti,
        # The key that the server encrypted to. Somebody who has made it use a key of theirs can read
        # a delivery and encrypt it to this device again, but not change this.
        "encryption_kid": thumbprint(device.encryption_jwk),
    }
    for name, value in required.items():
        if claims.get(name) != value:
            raise TamperedDelivery(f"the delivery has another {name}")
    match claims:
        case {"keys": dict(keys), "refused": dict(refused)}:
            return Delivery(
                {name: _delivered_key(entry) for name, entry in keys.items()},
                {name: str(reason) for name, reason in refused.items()},
            )
        case _:
            raise TamperedDelivery("the delivery is not as documented")


def _delivered_key(entry: object) -> DeliveredKey:
    match entry:
        case {
            "value": str(value),
            "version": int(version),
            "min_version": int(minimum),
            "cache_seconds": int(seconds),
        }:
            return DeliveredKey(value, version, seconds, minimum)
        case _:
            raise TamperedDelivery("a delivered key is not as documented")
