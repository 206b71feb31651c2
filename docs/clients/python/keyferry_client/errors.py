"""What can go wrong, as one small tree.

KeyferryError
├── LoggedOut          the session is over: send the user to the login screen
├── Retryable          nothing was lost: try again, after `retry_after` seconds when it is given
├── Rejected           the server understood and said no; `code` says why (RFC 6749 §5.2)
└── TamperedDelivery   a delivered key did not prove where it came from: use nothing of it

Only `LoggedOut` ends a session. A timeout, a 429 and every 5xx are `Retryable`, however often they
occur: an app that logs its users out because a server was slow has lost them for good.
"""

from __future__ import annotations


class KeyferryError(Exception):
    """Anything this client refuses to hide."""


class LoggedOut(KeyferryError):
    """There is no session, or the server answered a refresh with `invalid_grant`."""


class Retryable(KeyferryError):
    """The reply was lost, or the server asked for patience. The session is as it was before the
    call.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Rejected(KeyferryError):
    """A refusal that repeating the same call will not change."""

    def __init__(
        self,
        code: str,
        description: str = "",
        *,
        status: int = 400,
        auth_session: str | None = None,
    ) -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code
        self.description = description
        self.status = status
        # With `mfa_required`: what `KeyferryClient.login_with_code` goes on with.
        self.auth_session = auth_session


class TamperedDelivery(KeyferryError):
    """The reply was altered, replayed, meant for another device, or signed by a stranger."""
