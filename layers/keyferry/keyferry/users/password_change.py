"""Changing a password and ending the user's other sessions: one transaction does both.

So there is no moment at which the old password, or a session that it opened, lives beside the new
one. A login at the same time has conditions on the same two rows (`keyferry.sessions.opening`): it
either comes first, and its session ends here, or it starts over and meets the new password.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.aws import batch_get, write_all
from keyferry.errors import RequestRefused, Unavailable
from keyferry.sessions.model import Session, Status
from keyferry.sessions.store import ACTIVE, SessionStore
from keyferry.users.model import User, UserStatus
from keyferry.users.store import (
    PasswordCredential,
    UserStore,
    credential_from_item,
    credential_key,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class PasswordChange:
    users: UserStore
    sessions: SessionStore

    def caller(self, sub: str, sid: str, *, now: int) -> tuple[User, Session, list[Session]]:
        """The user, the session ``sid`` and the user's other living sessions.

        Raise `RequestRefused` (``invalid_token``) when the user or that session is gone.
        """
        # In this order: a session that is opened in between is missing from the user's list, and
        # the condition on that list then fails. The other way round it would be missing from ours.
        user = self.users.user(sub)
        living = self.sessions.living(sub, now=now)
        own = next((session for session in living if session.sid == sid), None)
        if own is None or user is None or user.status is not UserStatus.ACTIVE:
            raise RequestRefused("invalid_token", "session ended, or user disabled")
        return user, own, [session for session in living if session.sid != sid]

    def write(
        self,
        user: User,
        own: Session,
        others: list[Session],
        credential: PasswordCredential,
        phc: str,
        *,
        now: int,
        also: Mapping[str, TransactWriteItemTypeDef],
    ) -> int:
        """Put ``phc`` in the place of ``credential``, with the writes ``also``, which have no
        condition. Return how many other sessions were ended.

        Raise `Unavailable` when the password was changed, or hashed anew, meanwhile.
        """
        ended = len(others)
        for _ in range(_ATTEMPTS):
            writes = self._writes(user, own, others, credential, phc, now)
            try:
                failed = write_all(
                    self.users.client,
                    "dynamodb:TransactWriteItems password",
                    {**writes, **also},
                )
            except Unavailable:
                # Two transactions at once on one row: DynamoDB turns one away. Look again.
                failed = frozenset({"user"})
            if not failed:
                return len(others)
            if "credential" in failed:
                if self._stored(credential.username) == phc:
                    return ended  # an earlier try was carried out, and only its reply was lost
                raise Unavailable("password: changed meanwhile")
            ended = len(others)
            # A session was opened, or one of them ended or refreshed.
            user, own, others = self.caller(user.sub, own.sid, now=now)
        raise Unavailable("dynamodb:TransactWriteItems password: the sessions kept changing")

    def _stored(self, username: str) -> str | None:
        table = self.users.credentials_table
        rows = batch_get(self.users.client, {table: [credential_key(username)]})[table]
        stored = credential_from_item(username, next(iter(rows), None))
        return stored.phc if stored is not None else None

    def _writes(
        self,
        user: User,
        own: Session,
        others: list[Session],
        credential: PasswordCredential,
        phc: str,
        now: int,
    ) -> dict[str, TransactWriteItemTypeDef]:
        writes: dict[str, TransactWriteItemTypeDef] = {
            "credential": self.users.new_password(credential, phc, now=now),
            "user": self.users.counted_sessions(user, (own.sid,)),
            "own": {
                "ConditionCheck": {
                    "TableName": self.sessions.table,
                    "Key": {"sub": {"S": user.sub}, "sid": {"S": own.sid}},
                    "ConditionExpression": ACTIVE,
                    "ExpressionAttributeNames": {"#status": "status"},
                    "ExpressionAttributeValues": {":active": {"S": Status.ACTIVE}},
                }
            },
        }
        for other in others:
            writes[f"session {other.sid}"] = self.sessions.ending(user.sub, other.sid)
        return writes
