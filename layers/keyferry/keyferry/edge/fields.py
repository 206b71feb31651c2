"""Members of a JSON object or a form, checked one by one.

For login and refresh, whose bodies are small and whose cold starts people wait for: a third of such a
start would be the loading of pydantic, which checks the bodies of all other routes. The tests hold
what is accepted here against pydantic models of the same bodies.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from keyferry.edge.request import MAX_BODY_BYTES


class Malformed(ValueError):
    """``where`` is the path of a member, and the text of the exception: never what it holds."""

    def __init__(self, where: str) -> None:
        super().__init__(where)
        self.where = where


def require_known(members: Mapping[str, Any], known: Collection[str], *, at: str = "") -> None:
    """Raise `Malformed` for a member of another name. ``at`` goes before names, as in ``device.``."""
    for name in members:
        if name not in known:
            raise Malformed(at + name)


def text(
    members: Mapping[str, Any],
    name: str,
    *,
    least: int = 0,
    most: int = MAX_BODY_BYTES,
    form: re.Pattern[str] | None = None,
    at: str = "",
) -> str:
    """As `optional_text`, for what may not be missing."""
    found = optional_text(members, name, least=least, most=most, form=form, at=at)
    if found is None:
        raise Malformed(at + name)
    return found


def optional_text(
    members: Mapping[str, Any],
    name: str,
    *,
    least: int = 0,
    most: int = MAX_BODY_BYTES,
    form: re.Pattern[str] | None = None,
    at: str = "",
) -> str | None:
    """A text of ``least`` to ``most`` characters, the whole of which has the ``form``; None where it is
    missing or null. Raise `Malformed`."""
    value = members.get(name)
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not least <= len(value) <= most
        or (form is not None and not form.fullmatch(value))
        or not _is_unicode(value)
    ):
        raise Malformed(at + name)
    return value


def optional_object(
    members: Mapping[str, Any], name: str, *, at: str = ""
) -> dict[str, Any] | None:
    value = members.get(name)
    if value is not None and not isinstance(value, dict):
        raise Malformed(at + name)
    return value


def object_(members: Mapping[str, Any], name: str, *, at: str = "") -> dict[str, Any]:
    found = optional_object(members, name, at=at)
    if found is None:
        raise Malformed(at + name)
    return found


def _is_unicode(value: str) -> bool:
    """JSON can spell half of a surrogate pair, which no encoding can write."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
