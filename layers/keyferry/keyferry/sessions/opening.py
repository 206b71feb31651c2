"""Opening a session: one transaction that also keeps a user's sessions within the limit.

The user's row lists the sessions that count. A new one is written together with that list, under
the conditions that the list is still the one that was read, that the user is still active, and that
the password is still the one that was checked. So logins at once never exceed the limit, and a
session never begins for somebody who was disabled, or whose password was changed, a moment before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from keyferry.aws import batch_get, calling
from keyferry.errors import RequestRefused, Unavailable
from keyferry.sessions.model import Session, Status
from keyferry.sessions.store import ACTIVE, SessionStore, from_item, to_item
from keyferry.users.model import User, UserStatus
from keyferry.users.store import (
    SAME_HASH,
    PasswordCredential,
    UserStore,
    credential_key,
    encode_sessions,
)

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

SAME_SESSIONS: Final = "sessions = :seen"
NEW_SESSION: Final = "attribute_not_exists(sid)"

_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class SessionOpening:
    users: UserStore
    sessions: SessionStore
    limit: int

    def open(self, session: Session, user: User, credential: PasswordCredential) -> int:
        """Write ``session``; end the user's oldest ones where there would be too many. Return how
        many were ended.

        Raise `RequestRefused` (``invalid_grant``) when the user was disabled or the password
        changed meanwhile, and `Unavailable` when too many logins of one user are going on.
        """
        for _ in range(_ATTEMPTS):
            if user.status is not UserStatus.ACTIVE:
                raise RequestRefused("invalid_grant", "login: disabled meanwhile")
            kept, ended = self._make_room(user, session.created_at)
            failed = self._write(session, user, credential, kept, ended)
            if not failed:
                return len(ended)
            if failed == {"credential"}:
                raise RequestRefused("invalid_grant", "login: password changed meanwhile")
            found = self.users.user(user.sub)
            if found is None:
                raise RequestRefused("invalid_grant", "login: user deleted meanwhile")
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
        rows = [from_item(item) for item in batch_get(self.sessions.client, {table: keys})[table]]
        alive = {row.sid for row in rows if row.is_alive(now)}
        counted = tuple(sid for sid in user.sessions if sid in alive)
        surplus = max(len(counted) - self.limit + 1, 0)
        return counted[surplus:], counted[:surplus]

    def _write(
        self,
        session: Session,
        user: User,
        credential: PasswordCredential,
        kept: tuple[str, ...],
        ended: tuple[str, ...],
    ) -> set[str]:
        """Write it all or nothing. Return which conditions failed; none when it was written."""
        counted = (*kept, session.sid)
        writes: dict[str, TransactWriteItemTypeDef] = {
            "user": {
                "Update": {
                    "TableName": self.users.users_table,
                    "Key": {"sub": {"S": user.sub}},
                    "ConditionExpression": f"{ACTIVE} AND {SAME_SESSIONS}",
                    "UpdateExpression": "SET sessions = :sessions",
                    "ExpressionAttributeNames": {"#status": "status"},
                    "ExpressionAttributeValues": {
                        ":active": {"S": UserStatus.ACTIVE},
                        ":seen": {"S": encode_sessions(user.sessions)},
                        ":sessions": {"S": encode_sessions(counted)},
                    },
                }
            },
            "credential": {
                "ConditionCheck": {
                    "TableName": self.users.credentials_table,
                    "Key": credential_key(credential.username),
                    "ConditionExpression": SAME_HASH,
                    "ExpressionAttributeValues": {":seen": {"S": credential.phc}},
                }
            },
            "session": {
                "Put": {
                    "TableName": self.sessions.table,
                    "Item": to_item(session),
                    "ConditionExpression": NEW_SESSION,
                }
            },
        }
        for sid in ended:
            writes[sid] = {
                "Update": {
                    "TableName": self.sessions.table,
                    "Key": {"sub": {"S": user.sub}, "sid": {"S": sid}},
                    "ConditionExpression": ACTIVE,
                    "UpdateExpression": "SET #status = :logged_out",
                    "ExpressionAttributeNames": {"#status": "status"},
                    "ExpressionAttributeValues": {
                        ":active": {"S": Status.ACTIVE},
                        ":logged_out": {"S": Status.LOGGED_OUT},
                    },
                }
            }
        try:
            with calling("dynamodb:TransactWriteItems session"):
                self.sessions.client.transact_write_items(TransactItems=list(writes.values()))
        except ClientError as error:
            reasons = error.response.get("CancellationReasons", [])
            failed = {
                name
                for name, reason in zip(writes, reasons, strict=False)
                if reason.get("Code") in ("ConditionalCheckFailed", "TransactionConflict")
            }
            if not failed:
                raise
            return failed
        return set()
