"""A user, and how a user name is compared."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from keyferry.jose import base64url
from keyferry.tokens.refresh import ID_BYTES

MAX_USERNAME_LENGTH: Final = 254
"""Characters: the longest e-mail address (RFC 5321 §4.5.3.1.3)."""

MADE_BY_A_PROVIDER: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}:[0-9a-f]{16}")
"""The names that `keyferry.federation.store.new_user` makes."""


class UserStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class User:
    """``sub`` never changes and says nothing; ``username`` is as it was first typed.

    ``sessions`` are the ids of the sessions that count against the limit, in the order in which
    they were opened. One of them may have ended since; one that is not among them is not alive.
    ``second_factor`` says that a password alone does not log this user in.
    """

    sub: str
    username: str
    status: UserStatus
    roles: tuple[str, ...]
    created_at: int
    sessions: tuple[str, ...] = ()
    second_factor: bool = False

    @classmethod
    def new(
        cls,
        username: str,
        roles: Iterable[str],
        *,
        now: int,
        random: Callable[[int], bytes],
        status: UserStatus = UserStatus.ACTIVE,
    ) -> Self:
        """Somebody who was not there before; a role that is named twice counts once."""
        return cls(
            sub=base64url.encode(random(ID_BYTES)),
            username=username,
            status=status,
            roles=tuple(dict.fromkeys(roles)),
            created_at=now,
        )


def canonical_username(username: str) -> str:
    """The form under which a name is stored and looked up: NFKC, case folded, no outer space.

    Raise `ValueError` for a name that is empty, too long, or has control characters in it.
    """
    folded = unicodedata.normalize("NFKC", username).casefold().strip()
    # Folding can undo the normal form (Unicode 3.13, toNFKC_Casefold), so it is applied again.
    canonical = unicodedata.normalize("NFKC", folded)
    if not 0 < len(canonical) <= MAX_USERNAME_LENGTH:
        raise ValueError("user name: length")
    # Cc control, Cf format (invisible), Cs surrogate, Co private use, Cn unassigned
    if any(unicodedata.category(character).startswith("C") for character in canonical):
        raise ValueError("user name: control character")
    return canonical


def canonical_new_username(username: str) -> str:
    """As `canonical_username`, for somebody who is to have the name.

    Raise `ValueError` also for a name like those that are made for the users of a provider: nobody
    can choose to be called like one of them.
    """
    canonical = canonical_username(username)
    if MADE_BY_A_PROVIDER.fullmatch(canonical):
        raise ValueError("user name: of the form that is kept for users of a provider")
    return canonical
