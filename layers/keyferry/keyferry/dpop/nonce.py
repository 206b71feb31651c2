"""Stateless DPoP nonces (RFC 9449 §8): the time of issue under a MAC, so that no container has to
store one.

    nonce = base64url( time of issue 5 | MAC 11 )

That the time can be read back is what makes a nonce more than a check of freshness: a proof that
carries one was made after that moment, by our clock and whatever the device's says.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from keyferry.jose import base64url

LIFETIME_SECONDS: Final = 300
CLOCK_SKEW_SECONDS: Final = 5
"""Between two of our own functions."""

_TIME_BYTES: Final = 5
_MAC_BYTES: Final = 11


def issue(key: bytes, now: int) -> str:
    """The nonce for the time ``now`` (seconds since the epoch)."""
    time = now.to_bytes(_TIME_BYTES, "big")
    return base64url.encode(time + _mac(key, time))


def time_of_issue(key: bytes, presented: str, now: int) -> int | None:
    """When ``presented`` was issued under ``key``, however long ago; None when it was not."""
    try:
        octets = base64url.decode(presented)
    except ValueError:
        return None
    time, mac = octets[:_TIME_BYTES], octets[_TIME_BYTES:]
    if not hmac.compare_digest(_mac(key, time), mac):
        return None
    issued_at = int.from_bytes(time, "big")
    return issued_at if issued_at <= now + CLOCK_SKEW_SECONDS else None


def _mac(key: bytes, time: bytes) -> bytes:
    return hmac.digest(key, b"keyferry dpop nonce" + time, hashlib.sha256)[:_MAC_BYTES]
