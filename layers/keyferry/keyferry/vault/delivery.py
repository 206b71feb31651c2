"""``GET /v1/keys`` and ``GET /v1/keys/{name}``: the keys that this caller may have, encrypted to
this device.

Who asks and which keys there are is one DynamoDB call; opened keys stay in memory for a while; so a
warm delivery costs that one call and none to KMS, however many keys there are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from keyferry import aws, clock
from keyferry.config import TokenPolicy
from keyferry.dpop.proof import Proof
from keyferry.edge import authentication
from keyferry.edge.request import Request
from keyferry.edge.response import Response
from keyferry.edge.telemetry import Metric, count
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url, rfc7515_jws
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.model import Session
from keyferry.vault import audit
from keyferry.vault.access import Facts, Granted, decide_delivery
from keyferry.vault.audit import Action
from keyferry.vault.caller import CallerStore, app_version_of
from keyferry.vault.device_envelope import DeviceEnvelope
from keyferry.vault.fetch_budget import FetchBudget
from keyferry.vault.model import KeyEntry, Manifest, is_name
from keyferry.vault.opening import Values

TYP: Final = "keyferry-keys+jwt"
"""Of the signed JWT inside; it keeps one kind of token of ours from passing for another."""

MAX_NAMES: Final = 100

NOT_FOUND: Final = "not_found"
"""Of a name that was asked for: unknown, or not for this caller. One word for both."""

UNAVAILABLE: Final = "temporarily_unavailable"

_VERSION_NUMBER: Final = re.compile(r"[1-9][0-9]{0,14}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """``names`` of None are all that there are; ``version`` is one that is not the current one."""

    names: frozenset[str] | None
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What a caller gets, by name, and what not and why."""

    granted: Mapping[str, tuple[KeyEntry, Granted]]
    refused: Mapping[str, str]

    def versions(self) -> dict[str, str]:
        return {name: granted.value.label for name, (_, granted) in self.granted.items()}


def select(manifest: Manifest, facts: Facts, wanted: Wanted, now: int) -> Selection:
    """By name, in the order of the names."""
    granted: dict[str, tuple[KeyEntry, Granted]] = {}
    refused: dict[str, str] = {}
    for name in sorted(manifest.keys if wanted.names is None else wanted.names):
        entry = manifest.keys.get(name)
        decision = (
            decide_delivery(entry, facts, now, version=wanted.version)
            if entry is not None
            else None
        )
        if entry is not None and isinstance(decision, Granted):
            granted[name] = (entry, decision)
        elif decision is not None:
            refused[name] = str(decision)
        elif wanted.names is not None:
            refused[name] = NOT_FOUND
    return Selection(granted, refused)


@dataclass(frozen=True, slots=True)
class Delivery:
    keyring: UnwrappedKeyring
    callers: CallerStore
    values: Values
    budget: FetchBudget
    policy: TokenPolicy
    now: Callable[[], int]
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            callers=CallerStore.from_environ(dynamodb, environ),
            values=Values.from_environ(dynamodb, kms, environ),
            budget=FetchBudget(int(environ["KEYFERRY_MIN_FETCH_SECONDS"]), clock.now),
            policy=TokenPolicy.from_environ(environ),
            now=clock.now,
            random=clock.random,
        )

    def all(self, request: Request) -> Response:
        """``GET /v1/keys``, and ``?names=`` of it: whatever is withheld is listed with the reason."""
        return self._deliver(request, Wanted(_names(request)), one=False)

    def one(self, request: Request) -> Response:
        """``GET /v1/keys/{name}``, and ``?version=`` of it: a key that is withheld is an error."""
        name = request.path_parameters["name"]
        if not is_name(name):
            raise RequestRefused("invalid_request", "name")
        return self._deliver(request, Wanted(frozenset([name]), _version(request)), one=True)

    def _deliver(self, request: Request, wanted: Wanted, *, one: bool) -> Response:
        now = self.now()
        app_version = app_version_of(request)
        client_id = authentication.client_id(request, self.keyring)
        token, proof = authentication.authenticate(
            request.call(self.keyring.issuer),
            self.keyring,
            now=now,
            require_dpop=self.policy.require_dpop,
        )
        caller = self.callers.read(token, client_id=client_id, now=now)
        session = caller.session
        facts = Facts.of(session, caller.user, app_version=app_version)
        selection = select(caller.manifest, facts, wanted, now)
        # What the vault does not know is the caller's own text, which has no place in a log.
        refused = {
            name: reason
            for name, reason in selection.refused.items()
            if name in caller.manifest.keys
        }
        if one and selection.refused:
            count(Metric.DELIVERY_REFUSED)
            audit.of_device(Action.REFUSED, session, facts, keys={}, refused=refused)
            (reason,) = selection.refused.values()
            raise RequestRefused(reason, "key withheld")
        envelope = DeviceEnvelope.choose(
            request.headers.values.get("accept", ()), session.encryption_key
        )
        cached = {"ETag": self._etag(selection, envelope), "Vary": "Accept"}
        versions = selection.versions()
        if _matches(request.headers.one("if-none-match"), cached["ETag"]):
            count(Metric.KEYS_NOT_MODIFIED)
            audit.of_device(Action.NOT_MODIFIED, session, facts, keys=versions, refused=refused)
            return Response(304, content_type=None, headers=cached)
        wait = self.budget.take(session.sid)
        if wait:
            count(Metric.KEYS_THROTTLED)
            raise RequestRefused("too_many_requests", "keys fetched too often", retry_after=wait)
        keys, unavailable = self._values(selection)
        if one and unavailable:
            audit.of_device(Action.REFUSED, session, facts, keys={}, refused=unavailable)
            raise Unavailable("vault: the key does not open")
        payload = self._payload(session, proof, now) | {
            "keys": keys,
            "refused": {**selection.refused, **unavailable},
        }
        kid, signing_key = self.keyring.signing_key()
        signed = rfc7515_jws.sign_es256(typ=TYP, kid=kid, claims=payload, key=signing_key)
        audit.of_device(
            Action.DELIVERED,
            session,
            facts,
            keys={name: version for name, version in versions.items() if name in keys},
            refused={**refused, **unavailable},
        )
        count(Metric.KEYS_DELIVERED)
        return Response(
            200,
            envelope.seal(signed, random=self.random),
            content_type=envelope.media_type,
            # Where not all is there, the next request must not be told that nothing has changed.
            headers={"Vary": "Accept"} if unavailable else cached,
        )

    def _payload(self, session: Session, proof: Proof | None, now: int) -> dict[str, Any]:
        return {
            "iss": self.keyring.issuer,
            "sub": session.sub,
            "aud": session.client_id,
            "sid": session.sid,
            "iat": now,
            # Ties this reply to the proof of this very request: an old reply is not a new one,
            # even on a phone whose clock is wrong.
            "proof_jti": proof.jti if proof else None,
            # To whom this was encrypted: a key that somebody else has put in the place of the
            # device's would show here, though the delivery was encrypted to the device's again.
            "encryption_kid": session.encryption_key.thumbprint(),
            "min_fetch_interval": self.budget.interval,
        }

    def _values(self, selection: Selection) -> tuple[dict[str, Any], dict[str, str]]:
        """The members of each key, and the keys that are there and do not open."""
        opened = self.values.open([granted.value for _, granted in selection.granted.values()])
        delivered: dict[str, Any] = {}
        unavailable: dict[str, str] = {}
        for name, (entry, granted) in selection.granted.items():
            value = opened[granted.value]
            if value is None:
                unavailable[name] = UNAVAILABLE
                continue
            delivered[name] = {
                "value": value.decode("utf-8"),
                "version": granted.value.version,
                "min_version": entry.min_version,
                "cache_seconds": entry.cache_seconds,
            }
        return delivered, unavailable

    def _etag(self, selection: Selection, envelope: DeviceEnvelope) -> str:
        """A weak validator (RFC 9110 §8.8.1): the same values under the same terms for the same
        device, though each encryption of them is other bytes."""
        delivered = [
            envelope.name(),
            self.budget.interval,
            [
                # The time as well, for a table that was restored counts its versions from there on.
                [*granted.value, granted.created_at, entry.min_version, entry.cache_seconds]
                for entry, granted in selection.granted.values()
            ],
            dict(selection.refused),
        ]
        digest = hashlib.sha256(json.dumps(delivered, sort_keys=True).encode("utf-8")).digest()
        return f'W/"{base64url.encode(digest[:16])}"'


def _names(request: Request) -> frozenset[str] | None:
    """The names asked for, or None for all that there are."""
    listed = request.parameter("names")
    if listed is None:
        return None
    names = frozenset(listed.split(","))
    if len(names) > MAX_NAMES or not all(is_name(each) for each in names):
        raise RequestRefused(
            "invalid_request",
            "names",
            description=f"names must be up to {MAX_NAMES} key names with commas between them.",
        )
    return names


def _version(request: Request) -> int | None:
    text = request.parameter("version")
    if text is None:
        return None
    if not _VERSION_NUMBER.fullmatch(text):
        raise RequestRefused(
            "invalid_request", "version", description="version must be a version's number."
        )
    return int(text)


def _matches(if_none_match: str | None, etag: str) -> bool:
    """RFC 9110 §13.1.2, which compares weakly."""
    if if_none_match is None:
        return False
    candidates = {candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")}
    return not candidates.isdisjoint({etag.removeprefix("W/"), "*"})
