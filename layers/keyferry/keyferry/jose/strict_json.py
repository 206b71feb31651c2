"""JSON objects without duplicate names.

RFC 7515 §4 and RFC 7519 §4 let a parser take the last of two members with one name. Two parsers
that disagree about which one counts are a way round a check, so a duplicate is refused here.
"""

from __future__ import annotations

import json
from typing import Any, Final


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate member")
    return members


def _no_constant(_: str) -> Any:
    raise ValueError("NaN and Infinity are not JSON")


# Once: `json.loads` would make one for every text.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def loads_object(data: bytes | str) -> dict[str, Any]:
    """Raise `ValueError` for anything but one JSON object in UTF-8 without duplicate names."""
    # json.loads would also guess at UTF-16 and UTF-32 (RFC 8259 §8.1 says UTF-8).
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value
