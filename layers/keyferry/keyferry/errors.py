"""Every error that Keyferry raises on purpose.

    KeyferryError
    ├── RequestRefused      the caller's fault, or an upstream's; becomes an OAuth error response
    ├── Unavailable         AWS is throttling or down; becomes 503 with ``Retry-After``
    ├── CommandRefused      an operator command that cannot be carried out
    ├── Undecipherable      in `keyferry.vault.envelope`: a row that opens neither now nor later
    └── CredentialChanged   in `keyferry.sessions.opening`: what was checked is not so any more

A credential failure has one opaque public text whatever its cause: which check failed is for the
log (``reason``), never for the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class ErrorKind(NamedTuple):
    """What the caller sees of one error code: HTTP status and ``error_description``."""

    status: int
    description: str


ERRORS: Final[Mapping[str, ErrorKind]] = MappingProxyType(
    {
        # RFC 6749 §5.2
        "invalid_request": ErrorKind(400, "The request is malformed."),
        "invalid_grant": ErrorKind(400, "The credentials or the refresh token are not valid."),
        "invalid_client": ErrorKind(401, "The client key is unknown or names another client."),
        "unsupported_grant_type": ErrorKind(400, "Only grant_type=refresh_token is served here."),
        # RFC 7009 §2.2.1
        "unsupported_token_type": ErrorKind(400, "An access token can not be revoked by itself."),
        # RFC 6750 §3.1
        "invalid_token": ErrorKind(401, "The access token is not valid."),
        # RFC 9470 §3
        "insufficient_user_authentication": ErrorKind(401, "This needs a login of just now."),
        # RFC 9449 §5 and §8; on a protected resource these two are 401 (§7.1, §9)
        "invalid_dpop_proof": ErrorKind(400, "The DPoP proof is not valid."),
        "use_dpop_nonce": ErrorKind(400, "Repeat the request with the DPoP-Nonce of this reply."),
        # Keyferry's own
        # 403, as neither other credentials (401) nor another request (400) would help: it is the app
        # itself that is not believed.
        "attestation_required": ErrorKind(403, "Only a genuine copy of the app is served here."),
        # Why a key is not given to somebody who may know that there is one; see `keyferry.vault.access`.
        "app_version_too_old": ErrorKind(403, "This needs a newer version of the app."),
        "not_yet_available": ErrorKind(403, "This key is not available yet."),
        "no_longer_available": ErrorKind(403, "This key is not available any more."),
        "not_in_rollout": ErrorKind(403, "This key is not available to this user yet."),
        "proxy_only": ErrorKind(403, "This key is used through /v1/proxy and never delivered."),
        "too_many_requests": ErrorKind(429, "Asked too often; wait for the time in Retry-After."),
        "not_found": ErrorKind(404, "There is nothing here that you may have."),
        "password_refused": ErrorKind(400, "The new password is not acceptable."),
        # 403 and a code of its own: invalid_grant would read as the end of the session.
        "wrong_password": ErrorKind(403, "The current password is not right."),
        "registration_closed": ErrorKind(404, "New users are let in by invitation only."),
        "not_acceptable": ErrorKind(406, "The encryption key can not receive what is accepted."),
        "username_taken": ErrorKind(409, "This user name is not available."),
        "payload_too_large": ErrorKind(413, "The request body is larger than it may be here."),
        "unsupported_media_type": ErrorKind(415, "The request body's media type is not accepted."),
        "mfa_required": ErrorKind(403, "A second factor is needed."),
        "invalid_code": ErrorKind(400, "The code is wrong, or was used before."),
        "already_enrolled": ErrorKind(409, "A second factor is in force; remove it first."),
        "too_many_attempts": ErrorKind(429, "Too many attempts; wait for the time in Retry-After."),
        # In proxy mode; 502 and 504 as in RFC 9110 §15.6: it is the other server that failed.
        "proxy_refused": ErrorKind(403, "The key is not for a request of this kind."),
        "budget_exhausted": ErrorKind(429, "The budget is used up until the time in Retry-After."),
        "upstream_unavailable": ErrorKind(502, "The upstream gave no sound answer."),
        "upstream_answer_too_large": ErrorKind(502, "The upstream's answer is too large."),
        "upstream_echo": ErrorKind(502, "The upstream's answer has the key in it."),
        "upstream_timeout": ErrorKind(504, "The upstream gave no answer in time."),
        "server_error": ErrorKind(500, "Something failed here; it is safe to try again."),
        "temporarily_unavailable": ErrorKind(503, "Try again after the time in Retry-After."),
    }
)


class KeyferryError(Exception):
    """Root of the tree in this module's docstring."""


class RequestRefused(KeyferryError):
    """A request that is answered with one of `ERRORS`.

    ``reason`` is a short constant for the log. It never carries what the caller sent.
    ``retry_after`` is in seconds; ``members`` go into the body beside the error.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        description: str | None = None,
        retry_after: int | None = None,
        members: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
        self.retry_after = retry_after
        self.members = members
        self.kind = ERRORS[code]
        self.description = description or self.kind.description


class Unavailable(KeyferryError):
    """An AWS call failed in a way that a later try can mend."""

    def __init__(self, operation: str, retry_after: int = 2) -> None:
        super().__init__(operation)
        self.operation = operation
        self.retry_after = retry_after


class CommandRefused(KeyferryError):
    """An operator command that was understood and cannot be carried out."""

    def __init__(self, code: str, description: str) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
