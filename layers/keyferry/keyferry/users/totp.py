"""Time-based one-time passwords (RFC 6238) as authenticator apps make them, and recovery codes."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final
from urllib.parse import quote, urlencode

STEP_SECONDS: Final = 30
DIGITS: Final = 6
SKEW_STEPS: Final = 1
"""How many steps a phone's clock may be off, either way (RFC 6238 §5.2)."""

SECRET_BYTES: Final = 20
"""RFC 4226 §4 requirement R6: 160 bits are recommended."""

RECOVERY_CODES: Final = 10
_RECOVERY_BYTES: Final = 10
_RECOVERY_LENGTH: Final = 16


def code_at(secret: bytes, step: int) -> str:
    """The HOTP value (RFC 4226 §5.3) for one time step."""
    # SHA-1 because authenticator apps know nothing else; HMAC does not lean on its collisions.
    mac = hmac.digest(secret, step.to_bytes(8, "big"), hashlib.sha1)
    offset = mac[-1] & 0xF
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def matching_step(secret: bytes, code: str, now: int) -> int | None:
    """The time step that ``code`` belongs to, near ``now``; None when there is none."""
    current = now // STEP_SECONDS
    presented = code.encode("utf-8", "surrogatepass")
    matching = None
    for step in range(current - SKEW_STEPS, current + SKEW_STEPS + 1):
        if hmac.compare_digest(code_at(secret, step).encode("ascii"), presented):
            matching = step  # no early exit: the time taken must not tell how near a guess was
    return matching


def base32(secret: bytes) -> str:
    return base64.b32encode(secret).decode("ascii")


def otpauth_uri(secret: bytes, *, issuer: str, account: str) -> str:
    """What goes into the QR code (the Key URI Format of Google Authenticator)."""
    label = quote(f"{issuer}:{account}", safe="")
    parameters = {
        "secret": base32(secret),
        "issuer": issuer,
        "algorithm": "SHA1",
        "digits": str(DIGITS),
        "period": str(STEP_SECONDS),
    }
    return f"otpauth://totp/{label}?{urlencode(parameters)}"


def new_recovery_codes(random: Callable[[int], bytes]) -> list[str]:
    """Ten codes of 80 bits each, in four groups of four."""
    codes = [base32(random(_RECOVERY_BYTES)) for _ in range(RECOVERY_CODES)]
    return ["-".join(code[n : n + 4] for n in range(0, _RECOVERY_LENGTH, 4)) for code in codes]


def recovery_hash(code: str) -> str | None:
    """What is stored of a recovery code; None when ``code`` has not the form of one.

    One round of SHA-256 is enough: nobody finds 80 random bits by trying.
    """
    plain = code.replace("-", "").replace(" ", "").upper()
    if len(plain) != _RECOVERY_LENGTH or not plain.isascii():
        return None
    return hashlib.sha256(b"keyferry recovery code" + plain.encode("ascii")).hexdigest()
