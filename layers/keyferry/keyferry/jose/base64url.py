"""Base64url without padding (RFC 7515 §2), with exactly one spelling for each value.

The standard library ignores characters outside the alphabet, takes padding and does not look at
the unused bits of the last character. Each of those gives a token a second spelling.
"""

from __future__ import annotations

import binascii
from typing import Final

_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
# Both ways: a character of the other alphabet becomes one that is none of this one.
_FROM_URL: Final = bytes.maketrans(b"-_+/", b"+/-_")


def encode(data: bytes) -> str:
    return binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=").decode("ascii")


def decode(text: str) -> bytes:
    """Raise `ValueError` unless ``text`` is exactly what `encode` gives for the result."""
    try:
        octets = text.encode("ascii").translate(_FROM_URL)
        data = binascii.a2b_base64(octets + b"=" * (-len(octets) % 4))
    except (UnicodeEncodeError, binascii.Error):
        raise ValueError("not base64url") from None
    # Whatever was left out or filled up above, the way back does not make it again.
    if binascii.b2a_base64(data, newline=False).rstrip(b"=") != octets:
        raise ValueError("not canonical base64url")
    return data
