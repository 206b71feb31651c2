"""Where a key of proxy mode may be used: the one upstream that its entry names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self


class Inject(StrEnum):
    """Into which part of the request the key goes."""

    HEADER = "header"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Upstream:
    """``parameter`` names the header or the query parameter, and ``template`` is what it holds, with
    the key in the place of ``{key}``. Sizes are bytes of bodies. A user may send ``budget`` requests
    in every ``budget_seconds``.
    """

    host: str
    path_prefix: str
    methods: tuple[str, ...]
    inject: Inject
    parameter: str
    template: str = "{key}"
    port: int = 443
    max_request_bytes: int = 16 * 1024
    max_response_bytes: int = 256 * 1024
    timeout_seconds: int = 10
    budget: int = 60
    budget_seconds: int = 60

    def members(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **members,
                "methods": tuple(members["methods"]),
                "inject": Inject(members["inject"]),
            }
        )
