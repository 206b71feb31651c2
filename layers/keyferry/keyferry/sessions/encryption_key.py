"""The encryption key as a request has it: at login, and when the device replaces it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keyferry.dpop.proof import Proof
from keyferry.errors import RequestRefused
from keyferry.jose.recipient import Recipient


def require_signed_for(key: Recipient, proof: Proof | None) -> None:
    """Raise `RequestRefused` (``invalid_dpop_proof``) for another key than the one that ``proof``
    names. A proof does not cover a body, so without that name whoever sits inside the TLS connection
    could put a key of its own there, read what is delivered, and encrypt it again to the device."""
    if proof is not None and proof.encryption_kid not in (None, key.thumbprint()):
        raise RequestRefused("invalid_dpop_proof", "proof: another encryption key")


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
