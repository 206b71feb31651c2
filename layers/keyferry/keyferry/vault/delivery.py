"""``GET /v1/keys`` and ``GET /v1/keys/{name}``: the keys that this caller may have, encrypted to
this device.

The session row and the user are read again, consistently: a session that was ended and a user who
was disabled get nothing, whatever the access token says. Those two rows and the manifest are one
DynamoDB call; opened keys stay in memory for a while; so a warm delivery costs that one call and
none to KMS, however many keys there are.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry import aws, clock
from keyferry.aws import batch_get
from keyferry.config import TokenPolicy
from keyferry.edge import authentication
from keyferry.edge.request import Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url, rfc7515_jws
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.model import Session, Status
from keyferry.sessions.store import session_from_item
from keyferry.tokens.access import AccessToken
from keyferry.users.model import User, UserStatus
from keyferry.users.store import user_from_item
from keyferry.vault.cache import OpenedKeys
from keyferry.vault.device_envelope import DeviceEnvelope
from keyferry.vault.envelope import Sealer
from keyferry.vault.model import KeyEntry, Manifest, is_name
from keyferry.vault.store import MANIFEST_KEY, VaultStore, manifest_from_item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

TYP: Final = "keyferry-keys+jwt"
"""Of the signed JWT inside; it keeps one kind of token of ours from passing for another."""

MAX_NAMES: Final = 100


@dataclass(frozen=True, slots=True)
class Caller:
    """What one read says about who is asking, and about the keys that there are."""

    session: Session | None
    user: User | None
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class CallerStore:
    """The one DynamoDB call of a warm delivery."""

    client: DynamoDBClient
    sessions_table: str
    users_table: str
    vault_table: str

    def read(self, sub: str, sid: str) -> Caller:
        found = batch_get(
            self.client,
            {
                self.sessions_table: [{"sub": {"S": sub}, "sid": {"S": sid}}],
                self.users_table: [{"sub": {"S": sub}}],
                self.vault_table: [dict(MANIFEST_KEY)],
            },
        )
        sessions, users = found[self.sessions_table], found[self.users_table]
        manifests = found[self.vault_table]
        return Caller(
            session=session_from_item(sessions[0]) if sessions else None,
            user=user_from_item(users[0]) if users else None,
            manifest=manifest_from_item(manifests[0] if manifests else None),
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    keyring: UnwrappedKeyring
    callers: CallerStore
    vault: VaultStore
    sealer: Sealer
    opened: OpenedKeys
    policy: TokenPolicy
    now: Callable[[], int]
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            callers=CallerStore(
                dynamodb,
                sessions_table=environ["KEYFERRY_SESSIONS_TABLE"],
                users_table=environ["KEYFERRY_USERS_TABLE"],
                vault_table=environ["KEYFERRY_VAULT_TABLE"],
            ),
            vault=VaultStore(dynamodb, environ["KEYFERRY_VAULT_TABLE"]),
            sealer=Sealer.from_environ(kms, environ),
            opened=OpenedKeys(clock.now),
            policy=TokenPolicy.from_environ(environ),
            now=clock.now,
            random=clock.random,
        )

    def __call__(self, request: Request) -> Response:
        now = self.now()
        client_id = authentication.client_id(request, self.keyring)
        token, proof = authentication.authenticate(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            require_dpop=self.policy.require_dpop,
        )
        wanted = _wanted(request)
        caller = self.callers.read(token.sub, token.sid)
        session, user = _living(caller, token, client_id=client_id, now=now)
        allowed = caller.manifest.readable(roles=user.roles, platform=session.device.platform)
        if wanted is not None:
            allowed = tuple(entry for entry in allowed if entry.name in wanted)
        entries = tuple(entry for entry in allowed if _is_open(entry, session))
        if "name" in request.path_parameters and allowed and not entries:
            # Whom the policy lets in but for this may know that there is such a key.
            count(Metric.DELIVERY_REFUSED)
            raise RequestRefused("mfa_required", "key asks for a second factor")
        if "name" in request.path_parameters and not entries:
            # One answer for a key that does not exist and for one that the caller may not have.
            count(Metric.DELIVERY_REFUSED)
            raise RequestRefused("not_found", "key unknown or not permitted")
        accept = request.headers.values.get("accept", ())
        device_envelope = DeviceEnvelope.choose(accept, session.encryption_key)
        etag = _etag(entries, device_envelope)
        if _matches(request.headers.one("if-none-match"), etag):
            count(Metric.KEYS_NOT_MODIFIED)
            return Response(304, content_type=None, headers={"ETag": etag, "Vary": "Accept"})
        payload = {
            "iss": self.keyring.issuer,
            "sub": session.sub,
            "aud": session.client_id,
            "sid": session.sid,
            "iat": now,
            # Ties this reply to the proof of this very request: an old reply is not a new one,
            # even on a phone whose clock is wrong.
            "proof_jti": proof.jti if proof else None,
            "keys": self._values(entries),
        }
        kid, signing_key = self.keyring.signing_key()
        signed = rfc7515_jws.sign_es256(typ=TYP, kid=kid, claims=payload, key=signing_key)
        logger.info(
            "delivered",
            extra={"sid": session.sid, "keys": {entry.name: entry.version for entry in entries}},
        )
        count(Metric.KEYS_DELIVERED)
        return Response(
            200,
            device_envelope.seal(signed, random=self.random),
            content_type=device_envelope.media_type,
            headers={"ETag": etag, "Vary": "Accept"},
        )

    def _values(self, entries: Sequence[KeyEntry]) -> dict[str, dict[str, Any]]:
        values = {
            (entry.name, entry.version): self.opened.get(entry.name, entry.version)
            for entry in entries
        }
        missing = [pair for pair, value in values.items() if value is None]
        for envelope in self.vault.envelopes(missing):
            value = self.sealer.open(envelope)
            self.opened.put(envelope.name, envelope.version, value)
            values[envelope.name, envelope.version] = value
        delivered: dict[str, dict[str, Any]] = {}
        for entry in entries:
            opened = values[entry.name, entry.version]
            if opened is None:
                # The key was replaced or deleted between the two reads; a new try sees the new one.
                raise Unavailable("vault: a version went away", retry_after=1)
            delivered[entry.name] = {
                "value": opened.decode("utf-8"),
                "version": entry.version,
                "cache_seconds": entry.cache_seconds,
            }
        return delivered


def _living(
    caller: Caller, token: AccessToken, *, client_id: str, now: int
) -> tuple[Session, User]:
    """Raise `RequestRefused` (``invalid_token``) unless session and user are still good."""
    session, user = caller.session, caller.user
    if session is None or session.status is not Status.ACTIVE:
        reason = "session ended"
    elif now >= session.absolute_expires_at:
        reason = "session expired"
    elif session.jkt != (token.jkt or "") or session.client_id != client_id:
        reason = "session of another device or client"
    elif user is None or user.status is not UserStatus.ACTIVE:
        reason = "user disabled"
    else:
        return session, user
    count(Metric.DELIVERY_REFUSED)
    raise RequestRefused("invalid_token", reason)


def _is_open(entry: KeyEntry, session: Session) -> bool:
    return entry.policy is None or not entry.policy.second_factor or "mfa" in session.amr


def _wanted(request: Request) -> frozenset[str] | None:
    """The names asked for, or None for all that there are."""
    name = request.path_parameters.get("name")
    listed = request.parameter("names")
    if name is None and listed is None:
        return None
    names = frozenset([name] if name is not None else (listed or "").split(","))
    if len(names) > MAX_NAMES or not all(is_name(each) for each in names):
        raise RequestRefused(
            "invalid_request",
            "names",
            description=f"names must be up to {MAX_NAMES} key names with commas between them.",
        )
    return names


def _etag(entries: Sequence[KeyEntry], device_envelope: DeviceEnvelope) -> str:
    """A weak validator (RFC 9110 §8.8.1): the same versions under the same policies for the same
    device, though each encryption of them is other bytes."""
    delivered = [device_envelope.name(), [entry.members() for entry in entries]]
    digest = hashlib.sha256(json.dumps(delivered, sort_keys=True).encode("utf-8")).digest()
    return f'W/"{base64url.encode(digest[:16])}"'


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110 §13.1.2, which compares weakly."""
    if if_none_match is None:
        return False
    candidates = {candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")}
    return not candidates.isdisjoint({etag.removeprefix("W/"), "*"})
