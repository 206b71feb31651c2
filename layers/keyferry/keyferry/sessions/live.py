"""Whether a session and its user are still good: one read of two rows."""

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


@dataclass(frozen=True, slots=True)
class LiveSessions:
    client: DynamoDBClient
    sessions_table: str
    users_table: str

    def require(self, token: AccessToken, now: int) -> tuple[Session, User]:
        """Raise `RequestRefused` (``invalid_token``) unless both are, whatever ``token`` says."""
        found = batch_get(
            self.client,
            {
                self.sessions_table: [{"sub": {"S": token.sub}, "sid": {"S": token.sid}}],
                self.users_table: [{"sub": {"S": token.sub}}],
            },
        )
        sessions = [session_from_item(item) for item in found[self.sessions_table]]
        users = [user_from_item(item) for item in found[self.users_table]]
        if not sessions or not sessions[0].is_alive(now) or sessions[0].jkt != (token.jkt or ""):
            raise RequestRefused("invalid_token", "session ended, or of another device")
        if not users or users[0].status is not UserStatus.ACTIVE:
            raise RequestRefused("invalid_token", "user disabled")
        return sessions[0], users[0]
