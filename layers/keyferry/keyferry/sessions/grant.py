"""The token response (RFC 6749 §5.1) for a session, and how a session begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyferry.config import TokenPolicy
from keyferry.edge.response import Response, of_json
from keyferry.jose import base64url
from keyferry.jose.recipient import Recipient
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.model import Device, Session, Status
from keyferry.tokens import access
from keyferry.tokens.access import AccessToken
from keyferry.tokens.refresh import ID_BYTES, SECRET_BYTES, RefreshToken
from keyferry.users.model import User

SCOPE: Final = "keys"


@dataclass(frozen=True, slots=True)
class Grants:
    """Makes sessions and the tokens that stand for them."""

    keyring: UnwrappedKeyring
    policy: TokenPolicy
    now: Callable[[], int]
    random: Callable[[int], bytes]

    def unwrap_keys(self) -> None:
        """Have at hand whatever `begin` and `respond` need, before anything is written: KMS may
        fail, and then nothing must have changed that the caller does not hear of."""
        self.keyring.signing_key()
        self.keyring.refresh_mac_key(self.keyring.current_refresh_kid())

    def begin(
        self,
        user: User,
        *,
        client_id: str,
        jkt: str,
        amr: tuple[str, ...],
        device: Device,
        encryption_key: Recipient,
        request_id: str,
        attested: bool = False,
    ) -> tuple[Session, RefreshToken]:
        """A new session, not yet stored, and its first refresh token."""
        now = self.now()
        kid = self.keyring.current_refresh_kid()
        token = RefreshToken(
            kid=kid,
            sub=user.sub,
            sid=base64url.encode(self.random(ID_BYTES)),
            generation=0,
            secret=self.random(SECRET_BYTES),
        )
        session = Session(
            sub=user.sub,
            sid=token.sid,
            status=Status.ACTIVE,
            generation=0,
            secret_hash=token.secret_hash,
            mac_kid=kid,
            client_id=client_id,
            jkt=jkt,
            scope=SCOPE,
            roles=user.roles,
            amr=amr,
            device=device,
            encryption_key=encryption_key,
            created_at=now,
            rotated_at=now,
            idle_expires_at=now + self.policy.idle_seconds,
            absolute_expires_at=now + self.policy.absolute_seconds,
            last_request=request_id,
            attested=attested,
        )
        return session, token

    def respond(self, session: Session, token: RefreshToken) -> Response:
        """An access token and ``token`` for ``session``."""
        now = self.now()
        mac_key = self.keyring.refresh_mac_key(token.kid)
        if mac_key is None:  # the keyring is read once, at the start of a request
            raise LookupError("refresh token under a key that the keyring does not have")
        kid, signing_key = self.keyring.signing_key()
        lifetime = access.lifetime(self.policy.access_seconds, self.random(1))
        expires_in = min(lifetime, session.absolute_expires_at - now)
        access_token = AccessToken(
            issuer=self.keyring.issuer,
            sub=session.sub,
            sid=session.sid,
            client_id=session.client_id,
            scope=session.scope,
            roles=session.roles,
            amr=session.amr,
            jkt=session.jkt or None,
            attested=session.attested,
            jti=base64url.encode(self.random(ID_BYTES)),
            issued_at=now,
            expires_at=now + expires_in,
        )
        return of_json(
            {
                "access_token": access.sign(access_token, kid=kid, key=signing_key),
                "token_type": "DPoP" if session.jkt else "Bearer",
                "expires_in": expires_in,
                "refresh_token": token.encode(mac_key),
                "refresh_expires_in": session.refresh_expires_at - now,
                "session_id": session.sid,
                "scope": session.scope,
            }
        )
