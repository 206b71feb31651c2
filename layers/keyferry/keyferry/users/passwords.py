"""Passwords: Argon2id (RFC 9106) in PHC strings, at the parameters that OWASP recommends.

How a hash is checked, those of other systems too, is in `keyferry.users.stored_hashes`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Self

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


@dataclass(frozen=True, slots=True)
class Typed:
    """A password as somebody typed it, in the forms in which it may have been hashed: ours, and
    where that is another one, the bare one that other systems hash. How many there are depends on
    nothing but the password."""

    forms: tuple[bytes, ...] = field(repr=False)

    @classmethod
    def read(cls, password: str) -> Self:
        """Raise `ValueError` as `normalise` does."""
        normal, bare = normalise(password), password.encode("utf-8")
        if bare == normal or len(bare) > MAX_PASSWORD_BYTES:
            return cls((normal,))
        return cls((normal, bare))

    @property
    def normal(self) -> bytes:
        return self.forms[0]

    def opens(self, phc: str | None) -> bool:
        """As `verify_password`, for any of the forms."""
        # All of them: the first one that matches must not save the work for the others.
        matching = [form for form in self.forms if verify_password(form, phc)]
        return bool(matching)

    def spend_the_rest(self, phc: str | None, decoys: Iterable[str]) -> None:
        """After a failed `opens`: do what is left of the work that whoever has one of the hashes
        that ``decoys`` stand for, or one of today's, would have caused."""
        own = todays = stored_hashes.parse(_NOBODY).decoy
        with suppress(ValueError):  # then it was checked as nobody's
            own = stored_hashes.parse(phc if phc is not None else _NOBODY).decoy
        for decoy in stored_hashes.remaining(own, {todays, *decoys}):
            for form in self.forms:
                stored_hashes.parse(decoy).matches(form)


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


def stronger(typed: Typed, phc: str, *, random: Callable[[int], bytes]) -> str | None:
    """A hash of the password that opens ``phc``, when that is not at today's parameters, or not of
    the password's normal form; else None."""
    # Only who types what normalising changes pays for finding that out.
    if not needs_rehash(phc) and (len(typed.forms) == 1 or verify_password(typed.normal, phc)):
        return None
    return hash_password(typed.normal, random=random)
