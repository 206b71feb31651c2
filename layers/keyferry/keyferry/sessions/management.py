"""Ending sessions: by token (RFC 7009), and by the signed-in user who looks at a list of them. And
the one thing about a session that its device may change, its encryption key.

Ending one stops its refreshes and its key deliveries with the same write: both read that row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from keyferry import aws, clock
from keyferry.config import TokenPolicy, allows_rsa_oaep
from keyferry.dpop.proof import Proof
from keyferry.edge import authentication
from keyferry.edge.request import FORM, JSON, Request
from keyferry.edge.response import Response, of_json
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions import encryption_key
from keyferry.sessions.model import Session
from keyferry.sessions.store import KeyReplacement, SessionStore
from keyferry.tokens import access, refresh
from keyferry.tokens.access import AccessToken

KEEP_CURRENT: Final = "current"


class RevocationRequest(BaseModel):
    """The body of ``POST /v1/revoke``, form or JSON (RFC 7009 §2.1)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    token: str = Field(repr=False)
    token_type_hint: str | None = None
    client_id: str | None = None


class EncryptionKeyRequest(BaseModel):
    """The body of ``PUT /v1/device/encryption-key``."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    encryption_key: dict[str, Any]


@dataclass(frozen=True, slots=True)
class SessionManagement:
    keyring: UnwrappedKeyring
    sessions: SessionStore
    policy: TokenPolicy
    allow_rsa_oaep: bool
    now: Callable[[], int]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            sessions=SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"]),
            policy=TokenPolicy.from_environ(environ),
            allow_rsa_oaep=allows_rsa_oaep(environ),
            now=clock.now,
        )

    def revoke(self, request: Request) -> Response:
        """``POST /v1/revoke``. Who holds a refresh token may end its session, a rotated-out one's
        too, and needs no proof of the device key for it: OAuth clients send none here, and a token
        that is in wrong hands is better dead (RFC 7009 §5). This is the one way in which a thief
        who lacks the key can end a session; what such a thief can not do is use it.

        200 for a token that is none, or not this client's (RFC 7009 §2.2): there is nothing that
        the client could do about it.
        """
        body = _revocation(request)
        client_id = authentication.client_id(request, self.keyring)
        if body.client_id not in (None, client_id):
            raise RequestRefused("invalid_client", "client_id of another client")
        if self._is_access_token(body.token):
            # To say 200 would be to say that it is dead. It lives on for minutes; the session is
            # what can be ended.
            raise RequestRefused("unsupported_token_type", "revoke: access token")
        try:
            token = refresh.parse(body.token, self.keyring.refresh_mac_key)
        except RequestRefused:
            return of_json({})
        ended = self.sessions.end_by_token(
            token.sub,
            token.sid,
            secret_hash=token.secret_hash,
            client_id=client_id,
            request_id=request.invocation_id,
        )
        self._report(ended=int(ended), by="revoke")
        return of_json({})

    def show(self, request: Request) -> Response:
        """``GET /v1/sessions``: the caller's own, oldest first."""
        current, sessions = self._own(request)
        return of_json({"sessions": [_shown(each, current) for each in sessions]})

    def end_one(self, request: Request) -> Response:
        """``DELETE /v1/sessions/{id}``: one of the caller's own."""
        _, sessions = self._own(request)
        sid = request.path_parameters["id"]
        if sid not in {session.sid for session in sessions}:
            raise RequestRefused("not_found", "session unknown or of another user")
        ended = self.sessions.end(sessions[0].sub, sid, request_id=request.invocation_id)
        self._report(ended=int(ended), by="user")
        return Response(204, content_type=None)

    def end_all(self, request: Request) -> Response:
        """``DELETE /v1/sessions``: all of the caller's own; ``?except=current`` keeps this one."""
        spared = request.parameter("except")
        if spared not in (None, KEEP_CURRENT):
            raise RequestRefused(
                "invalid_request", "except", description="except must be: current."
            )
        current, sessions = self._own(request)
        going = [each.sid for each in sessions if spared is None or each.sid != current]
        ended = sum(
            self.sessions.end(sessions[0].sub, sid, request_id=request.invocation_id)
            for sid in going
        )
        self._report(ended=ended, by="user")
        return of_json({"ended": ended})

    def replace_encryption_key(self, request: Request) -> Response:
        """``PUT /v1/device/encryption-key``: from now on keys are delivered to this one."""
        now = self.now()
        client_id, token, proof = self._authenticate(request, now)
        try:
            body = EncryptionKeyRequest.model_validate(request.fields(JSON))
        except ValidationError:
            raise RequestRefused("invalid_request", "body is not an encryption key") from None
        key = encryption_key.read(body.encryption_key, allow_rsa=self.allow_rsa_oaep)
        encryption_key.require_signed_for(key, proof)
        replacement = self.sessions.replace_encryption_key(
            token,
            key,
            client_id=client_id,
            made_after=proof.made_after if proof else None,
            now=now,
        )
        match replacement:
            case KeyReplacement.REFUSED:
                raise RequestRefused(
                    "invalid_token", "session ended, or of another device or client"
                )
            case KeyReplacement.STALE:
                raise RequestRefused(
                    "use_dpop_nonce", "encryption key: replaced since the proof was made"
                )
            case KeyReplacement.REPLACED:
                logger.info(
                    "encryption key replaced", extra={"sid": token.sid, "kid": key.thumbprint()}
                )
                count(Metric.ENCRYPTION_KEY_REPLACED)
            case KeyReplacement.UNCHANGED:
                pass  # this very request, sent or written twice
        return of_json({"kid": key.thumbprint()})

    def _authenticate(self, request: Request, now: int) -> tuple[str, AccessToken, Proof | None]:
        client_id = authentication.client_id(request, self.keyring)
        token, proof = authentication.authenticate(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            require_dpop=self.policy.require_dpop,
        )
        return client_id, token, proof

    def _own(self, request: Request) -> tuple[str, list[Session]]:
        """The caller's session id and living sessions. An ended session may see and end nothing,
        though its access token has minutes to live."""
        now = self.now()
        client_id, token, _ = self._authenticate(request, now)
        sessions = self.sessions.living(token.sub, now=now)
        own = next((session for session in sessions if session.sid == token.sid), None)
        if own is None or own.jkt != (token.jkt or "") or own.client_id != client_id:
            raise RequestRefused("invalid_token", "session ended, or of another device or client")
        return own.sid, sessions

    def _is_access_token(self, token: str) -> bool:
        try:
            access.verify(
                token,
                keys=self.keyring.verification_keys(),
                issuer=self.keyring.issuer,
                now=self.now(),
            )
        except RequestRefused:
            return False
        return True

    def _report(self, *, ended: int, by: str) -> None:
        logger.info("sessions ended", extra={"ended": ended, "by": by})
        if ended:
            count(Metric.SESSION_ENDED, ended)


def _revocation(request: Request) -> RevocationRequest:
    try:
        return RevocationRequest.model_validate(request.fields(FORM, JSON))
    except ValidationError:
        raise RequestRefused("invalid_request", "body is not a revocation request") from None


def _shown(session: Session, current: str) -> dict[str, Any]:
    return {
        "id": session.sid,
        "device": session.device.name,
        "platform": session.device.platform,
        "app_version": session.device.app_version,
        "created_at": session.created_at,
        "last_used_at": session.rotated_at,
        "current": session.sid == current,
    }
