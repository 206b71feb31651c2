"""Opening a session: one transaction that also keeps a user's sessions within the limit.

The user's row lists the sessions that count. A new one is written together with that list, under
the conditions that the list is still the one that was read, that the user is still active, and that
the credential is still the one that was checked. So logins at once never exceed the limit, and a
session never begins for somebody who was disabled, or whose password was changed, a moment before;
nor does one begin with roles that the user no longer has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from keyferry.aws import batch_get, write_all
from keyferry.errors import KeyferryError, RequestRefused, Unavailable
from keyferry.sessions.model import Session
from keyferry.sessions.store import (
    SessionStore,
    session_from_item,
    session_to_item,
)
from keyferry.users.model import User, UserStatus
from keyferry.users.store import UserStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

NEW_SESSION: Final = "attribute_not_exists(sid)"

_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class Opened:
    """The session as it was written, and how many older ones were ended for it."""

    session: Session
    displaced: int


class CredentialChanged(KeyferryError):
    """The credential is not the one that was checked any more: check again."""


@dataclass(frozen=True, slots=True)
class SessionOpening:
    users: UserStore
    sessions: SessionStore
    limit: int

    def open(
        self,
        session: Session,
        user: User,
        *,
        still_so: TransactWriteItemTypeDef,
        also: Mapping[str, TransactWriteItemTypeDef] = MappingProxyType({}),
    ) -> Opened:
        """Write ``session``, with the roles that its user has by then; end the user's oldest ones
        where there would be too many. ``still_so`` is what must hold of the credential, and
        ``also`` are other writes that have no condition.

        Raise `RequestRefused` (``invalid_grant``) when the user was disabled meanwhile,
        `CredentialChanged` when ``still_so`` does not hold, and `Unavailable` when too many logins
        of one user are going on.
        """
        for _ in range(_ATTEMPTS):
            if user.status is not UserStatus.ACTIVE:
                raise RequestRefused("invalid_grant", "login: disabled meanwhile")
            session = replace(session, roles=user.roles)
            kept, ended = self._make_room(user, session.created_at)
            try:
                writes = self._writes(session, user, still_so, kept, ended)
                failed = write_all(
                    self.sessions.client,
                    "dynamodb:TransactWriteItems session",
                    {**writes, **also},
                )
            except Unavailable:
                # Two transactions at once on one row: DynamoDB turns one away. Look again.
                failed = frozenset({"user"})
            if not failed:
                return Opened(session, len(ended))
            if "credential" in failed:
                raise CredentialChanged
            found = self.users.user(user.sub)
            if found is None:
                raise RequestRefused("invalid_grant", "login: user deleted meanwhile")
            if session.sid in found.sessions:
                # the client tried twice, and the first try had done it
                return Opened(session, len(ended))
            user = found
        raise Unavailable("dynamodb:TransactWriteItems session: too many logins at once")

    def _make_room(self, user: User, now: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The counted sessions to keep beside a new one, and those to end for it.

        While there is room nobody asks which of the counted ones still live; when there is none,
        the dead ones go first, then the oldest.
        """
        if len(user.sessions) < self.limit:
            return user.sessions, ()
        keys: list[Item] = [{"sub": {"S": user.sub}, "sid": {"S": sid}} for sid in user.sessions]
        table = self.sessions.table
        rows = [
            session_from_item(item)
            for item in batch_get(self.sessions.client, {table: keys})[table]
        ]
        alive = {row.sid for row in rows if row.is_alive(now)}
        counted = tuple(sid for sid in user.sessions if sid in alive)
        surplus = max(len(counted) - self.limit + 1, 0)
        return counted[surplus:], counted[:surplus]

    def _writes(
        self,
        session: Session,
        user: User,
        still_so: TransactWriteItemTypeDef,
        kept: tuple[str, ...],
        ended: tuple[str, ...],
    ) -> dict[str, TransactWriteItemTypeDef]:
        """What belongs to a new session, by a name for each condition."""
        writes: dict[str, TransactWriteItemTypeDef] = {
            "user": self.users.counted_sessions(user, (*kept, session.sid)),
            "credential": still_so,
            "session": {
                "Put": {
                    "TableName": self.sessions.table,
                    "Item": session_to_item(session),
                    "ConditionExpression": NEW_SESSION,
                }
            },
        }
        for sid in ended:
            writes[sid] = self.sessions.ending(user.sub, sid)
        return writes
