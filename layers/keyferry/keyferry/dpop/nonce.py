"""Stateless DPoP nonces (RFC 9449 §8): a MAC of the time step, so that no container has to store one.

The nonce of the current and of the previous step are accepted, so one lives for one to two steps.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

from keyferry.jose import base64url

STEP_SECONDS: Final = 150
_NONCE_BYTES: Final = 16


def issue(key: bytes, now: int) -> str:
    """The nonce for the time ``now`` (seconds since the epoch)."""
    return _nonce(key, now // STEP_SECONDS)


def accepts(key: bytes, presented: str, now: int) -> bool:
    """Whether ``presented`` was issued under ``key`` in this time step or the one before."""
    step = now // STEP_SECONDS
    octets = presented.encode("utf-8", "surrogatepass")
    # No early exit between the two: the time taken must not tell which one came close.
    return hmac.compare_digest(_nonce(key, step).encode("ascii"), octets) | hmac.compare_digest(
        _nonce(key, step - 1).encode("ascii"), octets
    )


def _nonce(key: bytes, step: int) -> str:
    mac = hmac.digest(key, b"keyferry dpop nonce" + step.to_bytes(8, "big"), hashlib.sha256)
    return base64url.encode(mac[:_NONCE_BYTES])
