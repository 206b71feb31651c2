"""A session under everything that networks, thieves, operators and clocks do to it.

A Hypothesis state machine drives the real refresh endpoint, event in and response out. Once on
DynamoDB semantics (the emulator), and once, with many more examples, on a model of the session
table that `test_session_store` holds equal to it.

What must hold whatever happens:

- an honest device is never logged out,
- there are never two live lineages,
- after a revocation, or a theft that was seen, no token of the session is ever good again,
- who has not the device key gets nothing and changes nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt
import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keyferry.config import DAY, TokenPolicy
from keyferry.edge.endpoint import Route, endpoint
from keyferry.errors import RequestRefused, Unavailable
from keyferry.jose import base64url
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.keyring.lifecycle import maintain, schedules
from keyferry.keyring.unwrapped import UnwrappedKeyring
from keyferry.sessions.grant import Grants
from keyferry.sessions.model import Device, Session, Status
from keyferry.sessions.refresh import Refresh
from keyferry.sessions.rotation import GRANTED, Outcome, Presented, decide
from keyferry.sessions.store import Rotation, SessionStore, session_from_item, session_to_item
from keyferry.tokens import refresh
from keyferry.users.model import User, UserStatus
from tests.contract.conftest import DEPLOYMENT, Cloud, make_cloud, random
from tests.e2e.device import jwk_of, new_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from keyferry_cli.local.emulator import Emulator

ISSUER = "https://api.example.com/test"
START = 1_790_000_000
POLICY = TokenPolicy()
USER = User(base64url.encode(b"u" * 16), "ana", UserStatus.ACTIVE, ("user",), START)

FAULTS = st.sampled_from(["", "", "", "before", "after"])
"""None, or the DynamoDB write fails before it is done, or after: done, but nobody hears of it."""


@dataclass
class FlakyDynamoDB:
    """The emulator's client, with one fault on demand."""

    client: Any
    fault: str = ""

    def update_item(self, **request: Any) -> Any:
        fault, self.fault = self.fault, ""
        if fault == "before":
            raise EndpointConnectionError(endpoint_url="dynamodb")
        response = self.client.update_item(**request)
        if fault == "after":
            raise ReadTimeoutError(endpoint_url="dynamodb")
        return response


@dataclass
class EmulatedTable:
    """One session row on the emulator."""

    cloud: Cloud
    flaky: FlakyDynamoDB = field(init=False)
    store: SessionStore = field(init=False)
    key: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.flaky = FlakyDynamoDB(self.cloud.dynamodb)
        table = self.cloud.tables["SessionsTable"]
        self.store = SessionStore(self.flaky, table)  # type: ignore[arg-type]

    def put(self, row: Session) -> None:
        self.key = {"sub": {"S": row.sub}, "sid": {"S": row.sid}}
        self.cloud.dynamodb.put_item(TableName=self.store.table, Item=session_to_item(row))

    def row(self) -> Session:
        response = self.cloud.dynamodb.get_item(
            TableName=self.store.table, Key=self.key, ConsistentRead=True
        )
        return session_from_item(response["Item"])

    def fail_next(self, fault: str) -> None:
        self.flaky.fault = fault


@dataclass
class ModelTable:
    """The same row in memory: what the conditional write does, said with `decide`."""

    current: Session = field(init=False)
    fault: str = ""

    @property
    def store(self) -> ModelTable:
        return self

    def put(self, row: Session) -> None:
        self.current = row

    def row(self) -> Session:
        return self.current

    def fail_next(self, fault: str) -> None:
        self.fault = fault

    def rotate(
        self, presented: Presented, *, now: int, idle_seconds: int, mac_kid: str
    ) -> Rotation:
        fault, self.fault = self.fault, ""
        if fault == "before":
            raise Unavailable("model")
        outcome = decide(self.current, presented, now)
        if outcome in (Outcome.ROTATED, Outcome.HEALED):
            self.current = replace(
                self.current,
                generation=presented.generation + 1,
                rotated_at=now,
                idle_expires_at=now + idle_seconds,
                mac_kid=mac_kid,
                last_request=presented.request_id,
            )
        elif outcome is Outcome.REUSED:
            self.current = replace(self.current, status=Status.COMPROMISED)
        if fault == "after":
            raise Unavailable("model")
        return Rotation(outcome, self.current)

    def end(self, _sub: str, _sid: str, *, request_id: str) -> bool:
        self.current = replace(self.current, status=Status.LOGGED_OUT)
        return True


@dataclass
class Holder:
    """Whoever has a token and a key: the phone, or a thief."""

    key: ec.EllipticCurvePrivateKey
    token: str
    clock_offset: int = 0
    nonce: str | None = None


class SessionMachine(RuleBasedStateMachine):
    """Subclasses say on which table."""

    cloud: Cloud
    table: EmulatedTable | ModelTable

    @initialize()
    def log_in(self) -> None:
        self.now = START
        self.serial = 0
        self.ended = False
        self.tainted = False
        self.restorable: list[Session] = []
        self.recorded: list[dict[str, Any]] = []
        self.schedules = schedules(idle_seconds=POLICY.idle_seconds)
        clock = lambda: self.now  # noqa: E731
        self._maintain(issuer=ISSUER, clients={"key": "ios"})
        self.keyring = UnwrappedKeyring(
            self.cloud.keyring, self.cloud.kms, self.cloud.key_arn, DEPLOYMENT, clock
        )
        self.keyring.refresh()
        grants = Grants(self.keyring, POLICY, clock, random)
        self.phone = Holder(new_key(), "")
        session, token = grants.begin(
            USER,
            client_id="ios",
            jkt=_thumbprint(self.phone),
            amr=("pwd",),
            device=Device("phone", "ios", "1"),
            encryption_key=Recipient(EcJwk("x", "y")),
            request_id="login",
        )
        self.table.put(session)
        mac_key = self.keyring.refresh_mac_key(token.kid)
        assert mac_key is not None
        self.phone.token = token.encode(mac_key)
        self.issued = [self.phone.token]
        answer = Refresh(self.keyring, self.table.store, grants, POLICY, clock)  # type: ignore[arg-type]
        self.handler = endpoint({("POST", "/v1/token"): Route(answer)}, keyring=self.keyring)

    # ---------------------------------------------------------------- the phone

    @rule(lost=st.booleans(), fault=FAULTS)
    def refreshes(self, lost: bool, fault: str) -> None:
        """The reply may be lost on the way, or the phone may die before it has stored it."""
        self._honest(self._send(self.phone, fault=fault), lost=lost)

    @rule(count=st.integers(2, 4), arrives=st.integers(0, 3))
    def refreshes_several_times_at_once(self, count: int, arrives: int) -> None:
        """Two threads of one app; or a network that delivers a request again. One reply is kept."""
        token = self.phone.token
        replies = []
        for _ in range(count):
            self.phone.token = token
            replies.append(self._send(self.phone))
        for position, reply in enumerate(replies):
            self._honest(reply, lost=position != arrives % count)

    @rule(days=st.sampled_from([-3, 0, 3]))
    def clock_of_the_phone_steps(self, days: int) -> None:
        self.phone.clock_offset = days * DAY

    @rule(seconds=st.sampled_from([1, 61, 900, 8 * 3600, DAY, 3 * DAY]))
    def sleeps(self, seconds: int) -> None:
        self.now += seconds

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def an_old_request_comes_late(self, data: st.DataObject) -> None:
        """One of the phone's own, proof and all: stalled on the way, or recorded and sent again."""
        before = self.table.row().status
        event = data.draw(st.sampled_from(self.recorded))
        response = self.handler(event, self._context())
        assert response["statusCode"] in (200, 400)
        assert self.table.row().status is before, "it ends nothing"

    # ---------------------------------------------------------------- thieves

    @rule(data=st.data(), fault=FAULTS)
    def token_is_stolen_without_the_key(self, data: st.DataObject, fault: str) -> None:
        token = data.draw(st.sampled_from(self.issued))
        before = self.table.row()
        status, body = self._send(Holder(new_key(), token), fault=fault)
        assert status in (400, 503)
        assert body["error"] in ("invalid_grant", "temporarily_unavailable")
        assert self.table.row() == before, "who lacks the key changes nothing"

    @rule(data=st.data())
    def phone_is_cloned(self, data: st.DataObject) -> None:
        """A thief with a token and the key itself. From here on the session may be ended."""
        self.tainted = True
        self._send(Holder(self.phone.key, data.draw(st.sampled_from(self.issued))))

    # ---------------------------------------------------------------- the operator, and AWS

    @rule()
    def keyring_rotates(self) -> None:
        """After the next keys have been announced for long enough."""
        self.now += 2 * DAY
        self._maintain(early=True)
        self.now += 61

    @precondition(lambda self: not self.ended and self.table.row().status is Status.ACTIVE)
    @rule()
    def backup_is_taken(self) -> None:
        self.restorable.append(self.table.row())

    @precondition(
        lambda self: self.restorable and not self.ended and self.table.row().status is Status.ACTIVE
    )
    @rule(data=st.data())
    def backup_is_restored(self, data: st.DataObject) -> None:
        """The table goes back in time; the phone does not."""
        self.table.put(data.draw(st.sampled_from(self.restorable)))

    @rule()
    def session_is_revoked(self) -> None:
        self.table.store.end(USER.sub, self.table.row().sid, request_id="operator")
        self.ended = True

    # ---------------------------------------------------------------- what must hold

    @invariant()
    def one_lineage(self) -> None:
        """Of all tokens ever issued, those that would be answered belong to one line: the current
        generation, its parent, and after a restore the ones ahead of the row."""
        row = self.table.row()
        granted = set()
        for text in self.issued:
            try:
                token = refresh.parse(text, self.keyring.refresh_mac_key)
            except RequestRefused:
                continue
            presented = _presented(token, jkt=row.jkt, generation=token.generation)
            if decide(row, presented, self.now) in GRANTED:
                granted.add(token.generation)
        if row.status is not Status.ACTIVE:
            assert not granted, "no token of a dead session is ever good again"
        behind = {generation for generation in granted if generation < row.generation}
        assert behind <= {row.generation - 1}
        if not self.restorable:
            assert max(granted, default=0) <= row.generation

    @invariant()
    def the_phone_could_go_on(self) -> None:
        """Whatever was just done to it, its stored token is good now, unless it may not be."""
        if self._may_be_refused():
            return
        token = refresh.parse(self.phone.token, self.keyring.refresh_mac_key)
        row = self.table.row()
        presented = _presented(token, jkt=_thumbprint(self.phone), generation=token.generation)
        assert decide(row, presented, self.now) in GRANTED

    # ---------------------------------------------------------------- how

    def _may_be_refused(self) -> bool:
        row = self.table.row()
        return self.ended or self.tainted or self.now >= row.refresh_expires_at

    def _honest(self, reply: tuple[int, dict[str, Any]], *, lost: bool) -> None:
        status, body = reply
        if status == 200:
            if not lost:
                self.phone.token = body["refresh_token"]
        elif status != 503:
            assert body["error"] == "invalid_grant", body
            assert self._may_be_refused(), "an honest device is never logged out"

    def _send(self, holder: Holder, *, fault: str = "") -> tuple[int, dict[str, Any]]:
        """One refresh, and its repetition when the server asks for a nonce."""
        self.table.fail_next(fault)
        for _ in range(2):
            self.now += 1
            event = self._event(holder)
            if holder is self.phone:
                self.recorded.append(event)
            response = self.handler(event, self._context())
            body = json.loads(response["body"])
            holder.nonce = response["headers"].get("DPoP-Nonce", holder.nonce)
            if body.get("error") != "use_dpop_nonce":
                break
        self.table.fail_next("")
        assert response["statusCode"] in (200, 400, 503), body
        if response["statusCode"] == 200:
            assert body["token_type"] == "DPoP"
            self.issued.append(body["refresh_token"])
        return response["statusCode"], body

    def _event(self, holder: Holder) -> dict[str, Any]:
        self.serial += 1
        claims = {
            "jti": f"jti {self.serial}",
            "htm": "POST",
            "htu": f"{ISSUER}/v1/token",
            "iat": self.now + holder.clock_offset,
            **({"nonce": holder.nonce} if holder.nonce else {}),
        }
        headers = {"typ": "dpop+jwt", "jwk": jwk_of(holder.key)}
        proof = jwt.encode(claims, holder.key, algorithm="ES256", headers=headers)
        return {
            "httpMethod": "POST",
            "resource": "/v1/token",
            "headers": {"DPoP": proof, "Content-Type": "application/x-www-form-urlencoded"},
            "requestContext": {
                "requestId": "chosen by the caller",
                "identity": {"apiKeyId": "key"},
            },
            "body": urlencode({"grant_type": "refresh_token", "refresh_token": holder.token}),
        }

    def _context(self) -> Any:
        return SimpleNamespace(
            function_name="refresh",
            memory_limit_in_mb=128,
            invoked_function_arn="arn:aws:lambda:us-east-1:000000000000:function:refresh",
            aws_request_id=f"invocation {self.serial}",
        )

    def _maintain(self, **changes: Any) -> None:
        maintain(self.cloud.keyring, self.cloud.maker, self.schedules, now=self.now, **changes)


def _thumbprint(holder: Holder) -> str:
    return EcJwk.from_key(holder.key.public_key()).thumbprint()


def _presented(token: refresh.RefreshToken, *, jkt: str, generation: int) -> Presented:
    return Presented(
        sub=token.sub,
        sid=token.sid,
        generation=generation,
        secret_hash=token.secret_hash,
        client_id="ios",
        jkt=jkt,
        request_id="what if",
    )


@pytest.fixture(scope="module")
def emulated(emulator: Emulator) -> Cloud:
    return make_cloud(emulator.endpoint_url)


def run(cloud: Cloud, table: type[EmulatedTable | ModelTable], examples: int, steps: int) -> None:
    class Machine(SessionMachine):
        def __init__(self) -> None:
            super().__init__()
            # A keyring of its own for each example: its clock starts anew.
            cloud.dynamodb.delete_item(
                TableName=cloud.tables["KeyringTable"], Key={"id": {"S": "KEYRING"}}
            )
            self.cloud = cloud
            self.table = table(cloud) if table is EmulatedTable else ModelTable()

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_on_dynamodb(emulated: Cloud) -> None:
    run(emulated, EmulatedTable, examples=30, steps=30)


def test_on_the_model(emulated: Cloud) -> None:
    run(emulated, ModelTable, examples=80, steps=50)
