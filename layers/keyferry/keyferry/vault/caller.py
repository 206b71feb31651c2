"""Who asks for keys, and the keys that there are: one DynamoDB call.

The session row and the user are read again, consistently: a session that was ended and a user who
was disabled get nothing, whatever the access token says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from keyferry.aws import batch_get
from keyferry.edge.request import Request
from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused
from keyferry.sessions.live import require_living
from keyferry.sessions.model import Session
from keyferry.sessions.store import session_from_item
from keyferry.tokens.access import AccessToken
from keyferry.users.model import User
from keyferry.users.store import user_from_item
from keyferry.vault.model import Manifest
from keyferry.vault.store import MANIFEST_KEY, ManifestReader

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

APP_VERSION_HEADER: Final = "keyferry-app-version"

_APP_VERSION: Final = re.compile(r"[0-9A-Za-z.+-]{1,64}")


@dataclass(frozen=True, slots=True)
class Caller:
    session: Session
    user: User
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class CallerStore:
    client: DynamoDBClient
    sessions_table: str
    users_table: str
    vault_table: str
    manifests: ManifestReader = field(default_factory=ManifestReader)

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            client,
            sessions_table=environ["KEYFERRY_SESSIONS_TABLE"],
            users_table=environ["KEYFERRY_USERS_TABLE"],
            vault_table=environ["KEYFERRY_VAULT_TABLE"],
        )

    def read(self, token: AccessToken, *, client_id: str, now: int) -> Caller:
        """Raise `RequestRefused` (``invalid_token``) unless session and user are still good."""
        found = batch_get(
            self.client,
            {
                self.sessions_table: [{"sub": {"S": token.sub}, "sid": {"S": token.sid}}],
                self.users_table: [{"sub": {"S": token.sub}}],
                self.vault_table: [dict(MANIFEST_KEY)],
            },
        )
        sessions, users = found[self.sessions_table], found[self.users_table]
        rows = found[self.vault_table]
        try:
            session, user = require_living(
                session_from_item(sessions[0]) if sessions else None,
                user_from_item(users[0]) if users else None,
                token,
                now=now,
                client_id=client_id,
            )
        except RequestRefused:
            count(Metric.DELIVERY_REFUSED)
            raise
        return Caller(session, user, self.manifests.read(rows[0] if rows else None))


def app_version_of(request: Request) -> str | None:
    """What the app says to be now; it was updated since the login, maybe."""
    text = request.headers.one(APP_VERSION_HEADER)
    if text is not None and not _APP_VERSION.fullmatch(text):
        raise RequestRefused(
            "invalid_request",
            "app version",
            description="Keyferry-App-Version must be a version, such as 2.4.1.",
        )
    return text
