"""``POST /v1/proxy/{key}``: one request to the key's upstream, with the key, which no device sees.

In this order, so that whatever is refused costs as little as can be, and nothing at the upstream:
client, access token and proof; the body's form; session, user and policy (one read); the upstream's
rules; the key; then the proof is used up and the budget is charged, and the request goes out, once.
"""

from __future__ import annotations

import base64
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from keyferry import aws, clock
from keyferry.config import TokenPolicy
from keyferry.dpop.replay import ReplayGuard
from keyferry.edge import authentication
from keyferry.edge.request import JSON, Request
from keyferry.edge.response import Response, of_json
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import RequestRefused, Unavailable
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.proxy.budget import Budgets
from keyferry.proxy.destination import Destinations
from keyferry.proxy.forward import Answer, Wanted, check, prepare, send
from keyferry.single_use import SingleUse
from keyferry.vault import audit
from keyferry.vault.access import Facts, Granted, decide_use
from keyferry.vault.audit import Action
from keyferry.vault.caller import Caller, CallerStore, app_version_of
from keyferry.vault.model import ValueId, is_name
from keyferry.vault.opening import Values
from keyferry.vault.upstream import MAX_REQUEST_BYTES, Upstream

MAX_BODY_BYTES: Final = 2 * MAX_REQUEST_BYTES + 32 * 1024
"""Of the whole JSON document: a body inside of it is escaped or in Base64, and longer than it is."""

WHOLE_SECONDS: Final = 26.0
"""From the first line to the last, but for what the resolver takes: API Gateway stops listening
after 29, and the function ends then. What AWS has taken of it before, the upstream has not."""

NOT_FOUND: Final = "not_found"
UNAVAILABLE: Final = "temporarily_unavailable"

# With an escape for each of these a body would be seven times as long, which Lambda may not return.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class ProxyRequest(BaseModel):
    """The body of ``POST /v1/proxy/{key}``: the request that the upstream gets."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    method: str
    path: str = Field(repr=False)
    query: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field([], repr=False)
    headers: dict[str, str] = Field({}, repr=False)
    body: str | None = Field(None, repr=False)
    body_base64: str | None = Field(None, repr=False)

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        if self.body is not None and self.body_base64 is not None:
            raise ValueError("either body or body_base64")
        return self

    def wanted(self) -> Wanted:
        """Raise `ValueError` for a body that is no text, or no Base64."""
        body = None
        if self.body is not None:
            body = self.body.encode("utf-8")
        elif self.body_base64 is not None:
            body = base64.b64decode(self.body_base64, validate=True)
        pairs = [(name, value) for name, value in self.query]
        return Wanted(self.method, self.path, pairs, self.headers, body)


@dataclass(frozen=True, slots=True)
class Proxy:
    keyring: UnwrappedKeyring
    callers: CallerStore
    values: Values
    replays: ReplayGuard
    budgets: Budgets
    destinations: Destinations
    policy: TokenPolicy
    now: Callable[[], int]

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        dynamodb, kms = aws.dynamodb(), aws.kms()
        return cls(
            keyring=UnwrappedKeyring.from_environ(dynamodb, kms, environ),
            callers=CallerStore.from_environ(dynamodb, environ),
            values=Values.from_environ(dynamodb, kms, environ),
            replays=ReplayGuard(SingleUse(dynamodb, environ["KEYFERRY_PROOFS_TABLE"])),
            budgets=Budgets(dynamodb, environ["KEYFERRY_BUDGETS_TABLE"]),
            destinations=Destinations.from_environ(environ),
            policy=TokenPolicy.from_environ(environ),
            now=clock.now,
        )

    def __call__(self, request: Request) -> Response:
        now, deadline = self.now(), time.monotonic() + WHOLE_SECONDS
        name = request.path_parameters["key"]
        if not is_name(name):
            raise RequestRefused("invalid_request", "name")
        app_version = app_version_of(request)
        client_id = authentication.client_id(request, self.keyring)
        call = request.call(self.keyring.issuer)
        token, proof = authentication.authenticate(
            call, self.keyring, now=now, require_dpop=self.policy.require_dpop
        )
        if proof is None:
            # A request that somebody recorded could be sent again, and nothing would tell.
            raise RequestRefused(
                "proxy_refused",
                "proxy: bearer client",
                description="Only a session with a device key is served here.",
            )
        wanted = _wanted(request)
        caller = self.callers.read(token, client_id=client_id, now=now)
        facts = Facts.of(caller.session, caller.user, app_version=app_version)
        upstream, value_id = _usable(caller, facts, name, now)
        check(wanted, upstream)
        key = self._open(value_id, caller, facts)
        prepared = prepare(wanted, upstream, key)
        self.replays.reserve(
            proof, call, good_until=token.expires_at, invocation_id=request.invocation_id
        )
        self._charge(caller, name, upstream, now)
        # Before it is sent: of a use that ends in a time-out nobody knows whether it happened.
        used = {name: value_id.label}
        audit.of_device(Action.PROXIED, caller.session, facts, keys=used, refused={})
        try:
            answer = send(
                prepared, upstream, key, destinations=self.destinations, deadline=deadline
            )
        except RequestRefused:
            count(Metric.UPSTREAM_FAILED)
            raise
        logger.info("proxied", extra={"key": name, "status": answer.status})
        count(Metric.REQUEST_PROXIED)
        return of_json(_members(answer))

    def _open(self, value_id: ValueId, caller: Caller, facts: Facts) -> str:
        value = self.values.open([value_id])[value_id]
        if value is None:
            refused = {value_id.name: UNAVAILABLE}
            audit.of_device(Action.REFUSED, caller.session, facts, keys={}, refused=refused)
            raise Unavailable("vault: the key does not open")
        return value.decode("utf-8")

    def _charge(self, caller: Caller, name: str, upstream: Upstream, now: int) -> None:
        try:
            self.budgets.spend(caller.session.sub, name, upstream, now=now)
        except RequestRefused:
            count(Metric.BUDGET_EXHAUSTED)
            raise


def _usable(caller: Caller, facts: Facts, name: str, now: int) -> tuple[Upstream, ValueId]:
    """Raise `RequestRefused` unless the caller may use a key of that name."""
    entry = caller.manifest.keys.get(name)
    decision = decide_use(entry, facts, now) if entry is not None else None
    if entry is not None and entry.upstream is not None and isinstance(decision, Granted):
        return entry.upstream, decision.value
    # One answer for a key that does not exist, one that is not for this caller, and one that has no
    # upstream.
    reason = NOT_FOUND if decision is None else str(decision)
    count(Metric.DELIVERY_REFUSED)
    # A name that the vault does not know is the caller's own text, which has no place in a log.
    refused = {name: reason} if entry is not None else {}
    audit.of_device(Action.REFUSED, caller.session, facts, keys={}, refused=refused)
    raise RequestRefused(reason, "key withheld")


def _wanted(request: Request) -> Wanted:
    try:
        return ProxyRequest.model_validate(request.fields(JSON)).wanted()
    except ValueError:  # pydantic's ValidationError is one
        raise RequestRefused("invalid_request", "body is not a proxy request") from None


def _members(answer: Answer) -> dict[str, Any]:
    members: dict[str, Any] = {"status": answer.status, "headers": dict(answer.headers)}
    try:
        text = answer.body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    if text is None or _CONTROL.search(text):
        return {**members, "body_base64": base64.b64encode(answer.body).decode("ascii")}
    return {**members, "body": text}
