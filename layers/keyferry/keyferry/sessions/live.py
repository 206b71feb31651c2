"""Whether a session and its user are still good, whatever the access token says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from keyferry.aws import batch_get
from keyferry.errors import RequestRefused
from keyferry.sessions.model import Session
from keyferry.sessions.store import session_from_item
from keyferry.tokens.access import AccessToken
from keyferry.users.model import User, UserStatus
from keyferry.users.store import user_from_item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


def require_living(
    session: Session | None,
    user: User | None,
    token: AccessToken,
    *,
    now: int,
    client_id: str | None = None,
) -> tuple[Session, User]:
    """Raise `RequestRefused` (``invalid_token``) unless session and user, as they were just read,
    are good, and the session is of the token's device key and, where there is one, of the client.
    """
    if session is None or not session.is_alive(now):
        reason = "session ended"
    elif session.jkt != (token.jkt or ""):
        reason = "session of another device"
    elif client_id not in (None, session.client_id):
        reason = "session of another client"
    elif user is None or user.status is not UserStatus.ACTIVE:
        reason = "user disabled"
    else:
        return session, user
    raise RequestRefused("invalid_token", reason)


@dataclass(frozen=True, slots=True)
class LiveSessions:
    """Reads the two rows in one call."""

    client: DynamoDBClient
    sessions_table: str
    users_table: str

    def require(
        self, token: AccessToken, *, now: int, client_id: str | None = None
    ) -> tuple[Session, User]:
        """Raise as `require_living` does."""
        found = batch_get(
            self.client,
            {
                self.sessions_table: [{"sub": {"S": token.sub}, "sid": {"S": token.sid}}],
                self.users_table: [{"sub": {"S": token.sub}}],
            },
        )
        sessions = [session_from_item(item) for item in found[self.sessions_table]]
        users = [user_from_item(item) for item in found[self.users_table]]
        return require_living(
            sessions[0] if sessions else None,
            users[0] if users else None,
            token,
            now=now,
            client_id=client_id,
        )
