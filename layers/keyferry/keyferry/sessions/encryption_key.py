"""The encryption key as a request has it: at login, and when the device replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyferry.errors import RequestRefused
from keyferry.jose.recipient import Recipient


def read(members: Mapping[str, Any], *, allow_rsa: bool) -> Recipient:
    """Raise `RequestRefused` (``invalid_request``), saying what is wrong with the key."""
    try:
        return Recipient.from_members(members, allow_rsa=allow_rsa)
    except ValueError as error:
        raise RequestRefused(
            "invalid_request",
            f"encryption_key: {error}",
            description=f"encryption_key is not a JWK that is accepted here: {error}.",
        ) from None
