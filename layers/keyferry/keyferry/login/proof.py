"""What a login has proved, however it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused
from keyferry.users.model import User

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a login comes from. ``jkt`` is "" for a bearer client."""

    client_id: str
    jkt: str
    source_ip: str
    invocation_id: str


@dataclass(frozen=True, slots=True)
class Proved:
    """The user, and by what. ``still_so`` is the write or condition that belongs to the credential
    and must hold when the session is written; ``also`` are other writes of a success."""

    user: User
    amr: tuple[str, ...]
    still_so: TransactWriteItemTypeDef
    also: Mapping[str, TransactWriteItemTypeDef] = field(
        default_factory=lambda: MappingProxyType({})
    )


def refused(reason: str) -> RequestRefused:
    """The one answer to whoever has not proved who they are."""
    count(Metric.LOGIN_FAILED)
    return RequestRefused("invalid_grant", f"login: {reason}")
