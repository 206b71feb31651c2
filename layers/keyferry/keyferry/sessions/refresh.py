"""``POST /v1/token``: the refresh_token grant (RFC 6749 §6) with rotation (RFC 9700 §4.14.2).

Order: token and MAC, then proof, then the write. What is refused before the write has cost no I/O
and changed nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Self

from keyferry import aws, clock
from keyferry.config import TokenPolicy
from keyferry.edge import authentication
from keyferry.edge.fields import Malformed, optional_text, require_known, text
from keyferry.edge.request import FORM, JSON, Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.grant import Grants
from keyferry.sessions.rotation import GRANTED, Outcome, Presented
from keyferry.sessions.store import Rotation, SessionStore
from keyferry.tokens import refresh
from keyferry.tokens.refresh import RefreshToken

_COUNTED: Final[Mapping[Outcome, Metric]] = MappingProxyType(
    {
        Outcome.ROTATED: Metric.REFRESH_ROTATED,
        Outcome.DUPLICATE: Metric.REFRESH_ROTATED,
        Outcome.RETRIED: Metric.REFRESH_RETRIED,
        Outcome.RETRIED_BEARER: Metric.REFRESH_RETRIED,
        Outcome.HEALED: Metric.REFRESH_HEALED,
        Outcome.REUSED: Metric.REFRESH_REUSE_DETECTED,
        Outcome.WRONG_KEY: Metric.REFRESH_WRONG_KEY,
        Outcome.WRONG_SECRET: Metric.REFRESH_FORGED,
    }
)


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """The body of ``POST /v1/token``, form or JSON."""

    grant_type: str
    refresh_token: str = field(repr=False)
    client_id: str | None

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        """Raise `Malformed`."""
        require_known(members, cls.__slots__)
        return cls(
            grant_type=text(members, "grant_type"),
            refresh_token=text(members, "refresh_token"),
            client_id=optional_text(members, "client_id"),
        )


@dataclass(frozen=True, slots=True)
class Refresh:
    keyring: UnwrappedKeyring
    sessions: SessionStore
    grants: Grants
    policy: TokenPolicy
    now: Callable[[], int]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        keyring = UnwrappedKeyring.from_environ(dynamodb, kms, environ)
        policy = TokenPolicy.from_environ(environ)
        return cls(
            keyring=keyring,
            sessions=SessionStore(dynamodb, environ["KEYFERRY_SESSIONS_TABLE"]),
            grants=Grants(keyring, policy, clock.now, clock.random),
            policy=policy,
            now=clock.now,
        )

    def __call__(self, request: Request) -> Response:
        form = _form(request)
        client_id = authentication.client_id(request, self.keyring)
        if form.client_id not in (None, client_id):
            raise RequestRefused("invalid_client", "client_id of another client")
        token = refresh.parse(form.refresh_token, self.keyring.refresh_mac_key)
        now = self.now()
        proof = authentication.device_key(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            required=self.policy.require_dpop,
        )
        self.grants.unwrap_keys()
        rotation = self.sessions.rotate(
            Presented(
                sub=token.sub,
                sid=token.sid,
                generation=token.generation,
                secret_hash=token.secret_hash,
                client_id=client_id,
                jkt=proof.jkt if proof else "",
                request_id=request.invocation_id,
                made_after=proof.made_after if proof else None,
            ),
            now=now,
            idle_seconds=self.policy.idle_seconds,
            mac_kid=self.keyring.current_refresh_kid(),
        )
        return self._answer(token, rotation, proved=proof is not None)

    def _answer(self, token: RefreshToken, rotation: Rotation, *, proved: bool) -> Response:
        outcome, session = rotation.outcome, rotation.session
        logger.info("refresh", extra={"outcome": outcome, "sid": token.sid})
        count(_COUNTED.get(outcome, Metric.REFRESH_REFUSED))
        if rotation.followed:
            # The phone is served all the same: whoever runs the stack decides, by `sub` and `sid`.
            logger.warning("session_followed", extra={"sub": token.sub, "sid": token.sid})
            count(Metric.SESSION_FOLLOWED)
        if outcome is Outcome.STALE:
            raise RequestRefused("use_dpop_nonce", "refresh: ancestor under a proof of unknown age")
        if outcome is Outcome.WRONG_KEY and not proved:
            # A bound session and no proof at all: something on the way took the header off. That
            # is no reason to send the owner to the login screen.
            raise RequestRefused("invalid_dpop_proof", "refresh: bound session, no proof")
        if session is None or outcome not in GRANTED:
            raise RequestRefused("invalid_grant", f"refresh: {outcome}")
        kid = session.mac_kid
        if self.keyring.refresh_mac_key(kid) is None:
            # Made under a key that has left the keyring since: any key of ours will do as well.
            kid = self.keyring.current_refresh_kid()
        successor = token.successor(generation=token.generation + 1, kid=kid)
        return self.grants.respond(session, successor)


def _form(request: Request) -> RefreshRequest:
    fields = request.fields(FORM, JSON)
    if "grant_type" in fields and fields["grant_type"] != "refresh_token":
        raise RequestRefused("unsupported_grant_type", "grant_type")
    try:
        return RefreshRequest.from_members(fields)
    except Malformed:
        raise RequestRefused("invalid_request", "body is not a refresh request") from None
