"""Passwords: Argon2id (RFC 9106) in PHC strings, at the parameters that OWASP recommends.

How a hash is checked, those of other systems too, is in `keyferry.users.stored_hashes`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from keyferry.users import stored_hashes

MAX_PASSWORD_BYTES: Final = 1024
"""After normalisation, in UTF-8. There is no lower surprise: nothing is cut off."""

# OWASP Password Storage Cheat Sheet: m=19456 (19 MiB), t=2, p=1.
MEMORY_KIB: Final = 19_456
ITERATIONS: Final = 2
LANES: Final = 1
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32

_CURRENT: Final = f"$argon2id$v=19$m={MEMORY_KIB},t={ITERATIONS},p={LANES}$"

_NOBODY: Final = _CURRENT + "YXJnb24yaWQgc2FsdCEhIQ$" + "A" * 43
"""A hash that no password has, at today's parameters: what an unknown user is checked against."""


def normalise(password: str) -> bytes:
    """NFKC (NIST SP 800-63B §5.1.1.2) in UTF-8, so that one password typed on two keyboards is one.

    Raise `ValueError` when it is empty or longer than `MAX_PASSWORD_BYTES`.
    """
    octets = unicodedata.normalize("NFKC", password).encode("utf-8")
    if not 0 < len(octets) <= MAX_PASSWORD_BYTES:
        raise ValueError("password: length")
    return octets


def hash_password(password: bytes, *, random: Callable[[int], bytes]) -> str:
    """The PHC string of ``password``, which comes from `normalise`."""
    salt = random(SALT_BYTES)
    return Argon2id(
        salt=salt,
        length=HASH_BYTES,
        iterations=ITERATIONS,
        lanes=LANES,
        memory_cost=MEMORY_KIB,
    ).derive_phc_encoded(password)


def verify_password(password: bytes, phc: str | None) -> bool:
    """Whether ``phc`` is the hash of ``password``. None, for no such user, costs as much work as a
    hash at today's parameters, and so does one that can not be checked."""
    try:
        stored = stored_hashes.parse(phc if phc is not None else _NOBODY)
    except ValueError:
        stored, phc = stored_hashes.parse(_NOBODY), None
    return stored.matches(password) and phc is not None


def needs_rehash(phc: str) -> bool:
    """Whether a hash is not what `hash_password` makes today."""
    return not phc.startswith(_CURRENT)
