"""Base64url without padding (RFC 7515 §2), with exactly one spelling for each value.

The standard library ignores characters outside the alphabet, takes padding and does not look at
the unused bits of the last character. Each of those gives a token a second spelling.
"""

from __future__ import annotations

import base64
import binascii


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Raise `ValueError` unless ``text`` is exactly what `encode` gives for the result."""
    try:
        data = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    if encode(data) != text:
        raise ValueError("not canonical base64url")
    return data
