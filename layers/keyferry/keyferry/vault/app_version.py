"""Order among the versions of an app: that of Semantic Versioning 2.0.0 §11, for what app stores
take for a version: one to four numbers, where a missing one counts as 0.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self

MAX_LENGTH: Final = 64

_MAX_NUMBERS: Final = 4
_FORM: Final = re.compile(
    r"(?P<numbers>[0-9]{1,9}(?:\.[0-9]{1,9}){0,3})"
    r"(?:-(?P<prerelease>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z.-]+)?"  # build metadata, which has no rank (§10)
)


class AppVersion(NamedTuple):
    """Compares as the versions do."""

    numbers: tuple[int, ...]
    is_release: bool
    """A pre-release comes before its release (§11.3)."""

    prerelease: tuple[tuple[str, int], ...]
    """Words with 0, or "" with a number: numbers are ordered by value and before words (§11.4)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raise `ValueError` for what is no version."""
        match = _FORM.fullmatch(text) if len(text) <= MAX_LENGTH else None
        if match is None:
            raise ValueError("app version: form")
        numbers = tuple(map(int, match["numbers"].split(".")))
        identifiers = match["prerelease"].split(".") if match["prerelease"] else []
        return cls(
            numbers + (0,) * (_MAX_NUMBERS - len(numbers)),
            match["prerelease"] is None,
            tuple(("", int(each)) if each.isdigit() else (each, 0) for each in identifiers),
        )


def is_at_least(version: str, minimum: str) -> bool:
    """Whether ``version`` is ``minimum`` or newer. What is no version is older than any."""
    try:
        return AppVersion.parse(version) >= AppVersion.parse(minimum)
    except ValueError:
        return False
