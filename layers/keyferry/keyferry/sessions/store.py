"""Session rows in DynamoDB, and the one conditional write that rotates a refresh token.

UpdateItem ──ok──────────────► rotated (one round trip)
   │ condition failed, row given back
   ▼
decide(row) ──refused or same successor──► answer (still one round trip)
   │ reuse, heal, the first retry of a generation, a retry of a bearer client
   ▼
a second write, under the condition that the row is still the one decided on

The phone that has lost a reply asks again within seconds, and comes to the same function instance as
a rule. That one has the row in memory as it left it, and begins with the second write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import calling, write_if
from keyferry.config import DAY
from keyferry.errors import Unavailable
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry.sessions.model import Device, Session, Status
from keyferry.sessions.rotation import (
    FOLLOWED_POINTS,
    Outcome,
    Presented,
    decide,
    suspicion,
)
from keyferry.tokens.access import AccessToken
from keyferry.tokens.refresh import MAX_GENERATION

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

# The conditions by name; together they are the first line of the table in `sessions.rotation`.
SAME_GENERATION: Final = "generation = :presented"
ACTIVE: Final = "#status = :active"
SAME_DEVICE_KEY: Final = "jkt = :jkt"
SAME_CLIENT: Final = "client_id = :client_id"
SAME_SECRET: Final = "secret_hash = :secret_hash"
NOT_IDLE_EXPIRED: Final = "idle_expires_at > :now"
NOT_ABSOLUTELY_EXPIRED: Final = "absolute_expires_at > :now"
NOT_EXHAUSTED: Final = "generation < :max_generation"

ROTATE: Final = " AND ".join(
    (
        SAME_GENERATION,
        ACTIVE,
        SAME_DEVICE_KEY,
        SAME_CLIENT,
        SAME_SECRET,
        NOT_IDLE_EXPIRED,
        NOT_ABSOLUTELY_EXPIRED,
        NOT_EXHAUSTED,
    )
)

MADE_SINCE_THE_LAST: Final = (
    "(attribute_not_exists(encryption_key_set_at) OR encryption_key_set_at < :made_after)"
)

COUNT_TWICE: Final = " AND ".join(
    (
        "generation = :seen",
        "suspected_at = :before",
        ACTIVE,
        SAME_DEVICE_KEY,
        SAME_CLIENT,
        SAME_SECRET,
        NOT_IDLE_EXPIRED,
        NOT_ABSOLUTELY_EXPIRED,
    )
)

REPLACE_KEY: Final = (
    ACTIVE,
    SAME_DEVICE_KEY,
    SAME_CLIENT,
    NOT_IDLE_EXPIRED,
    NOT_ABSOLUTELY_EXPIRED,
)

MOVE: Final = (
    "SET generation = :successor, rotated_at = :now, idle_expires_at = :idle_expires_at,"
    " expires_at = :expires_at, mac_kid = :mac_kid, last_request = :request_id"
)

EXPIRY_MARGIN_SECONDS: Final = DAY
"""DynamoDB removes a row this long after its last token has died, so that a replay right after it
is still told apart from junk. The code checks expiry itself: TTL is late by hours."""

_RECIPIENT_ATTRIBUTES: Final = frozenset({"encryption_key", "encryption_x", "encryption_y"})

_REMEMBERED: Final = 1_000
"""Sessions of which an instance knows how it left them."""

_DECISIONS: Final = 5
"""How often a row may change under a decision before the request is told to come back."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """An outcome and the row that it left; no row for a token that names none.

    ``followed`` says that the session has just reached, or is still at, the points from which it
    looks as if two shared it (`sessions.rotation.suspicion`).
    """

    outcome: Outcome
    session: Session | None
    followed: bool = False


class KeyReplacement(Enum):
    """What became of a request to replace the encryption key; `SessionStore.replace_encryption_key`
    says which is when."""

    REPLACED = auto()
    UNCHANGED = auto()
    STALE = auto()
    REFUSED = auto()


@dataclass(frozen=True, slots=True)
class SessionStore:
    client: DynamoDBClient
    table: str
    _moved: dict[str, Session] = field(default_factory=dict, repr=False, compare=False)
    """By ``sid``: rows as the last rotations here left them. Nothing is decided by them alone."""

    def rotate(
        self, presented: Presented, *, now: int, idle_seconds: int, mac_kid: str
    ) -> Rotation:
        """Move the session on by one generation, or say why not.

        ``mac_kid`` is the key that the successor will be made under; it is kept in the row, so that
        a retry derives the very same token. Raise `Unavailable` when AWS fails or the row keeps
        changing; nothing is lost then, and the same request may be made again.
        """
        left = self._moved.pop(presented.sid, None)
        if left is not None and decide(left, presented, now) is Outcome.RETRIED:
            retried = self._count_twice(left, presented, now)
            if retried is not None:
                return retried
        expected = presented.generation
        for _ in range(_DECISIONS):
            moved, row = self._move(
                presented, expected=expected, now=now, idle_seconds=idle_seconds, mac_kid=mac_kid
            )
            if moved:
                if row is not None:
                    self._remember(row)
                healed = expected != presented.generation
                return Rotation(Outcome.HEALED if healed else Outcome.ROTATED, row)
            outcome = decide(row, presented, now)
            expected = presented.generation
            if row is None:
                return Rotation(outcome, None)
            match outcome:
                case Outcome.ROTATED:
                    continue  # it can move after all: the row was healed or restored just now
                case Outcome.HEALED:
                    expected = row.generation
                case Outcome.REUSED:
                    if self._compromise(row, request_id=presented.request_id):
                        return Rotation(outcome, row)
                case Outcome.RETRIED:
                    return self._count_twice(row, presented, now) or Rotation(outcome, row)
                case Outcome.RETRIED_BEARER:
                    if self._count_retry(row, now, request_id=presented.request_id):
                        return Rotation(outcome, row)
                case _:
                    return Rotation(outcome, row)
        raise Unavailable("dynamodb:UpdateItem session: the row kept changing")

    def replace_encryption_key(
        self,
        token: AccessToken,
        key: Recipient,
        *,
        client_id: str,
        made_after: int | None,
        now: int,
    ) -> KeyReplacement:
        """Give the session that ``token`` names another encryption key, in one write.

            the row                        the proof                       outcome
            -----------------------------  ------------------------------  ---------
            ended, expired, of another     any                             REFUSED
            device key or client, or none
            its key never replaced         any                             REPLACED
            its key replaced before        nonce issued since then         REPLACED
            the same, and has this key     any other                       UNCHANGED
            the same, and has another key  any other                       STALE

        ``made_after`` is the moment of our clock after which the proof was made, or None when that
        is not known. It is what makes a recorded request worthless: once a newer one has come, its
        proof is older than the row, and the key that it names does not come back. Without a device
        key there is no proof, and whoever holds the access token may replace the key.
        """
        conditions = (*REPLACE_KEY, MADE_SINCE_THE_LAST) if token.jkt else REPLACE_KEY
        attributes = _recipient_to_item(key)
        others = sorted(_RECIPIENT_ATTRIBUTES - attributes.keys())
        replaced, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session",
            TableName=self.table,
            Key={"sub": {"S": token.sub}, "sid": {"S": token.sid}},
            ConditionExpression=" AND ".join(conditions),
            UpdateExpression=(
                f"SET {', '.join(f'{name} = :{name}' for name in attributes)},"
                f" encryption_key_set_at = :set_at REMOVE {', '.join(others)}"
            ),
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":active": {"S": Status.ACTIVE},
                ":jkt": {"S": token.jkt or ""},
                ":client_id": {"S": client_id},
                ":now": {"N": str(now)},
                **{f":{name}": value for name, value in attributes.items()},
                # The nonce may be from a function whose clock is a little ahead of this one's.
                ":set_at": {"N": str(max(now, made_after or 0))},
                **({":made_after": {"N": str(made_after or 0)}} if token.jkt else {}),
            },
        )
        if replaced:
            return KeyReplacement.REPLACED
        session = session_from_item(row) if row else None
        if (
            session is None
            or not session.is_alive(now)
            or session.jkt != (token.jkt or "")
            or session.client_id != client_id
        ):
            return KeyReplacement.REFUSED
        return KeyReplacement.UNCHANGED if session.encryption_key == key else KeyReplacement.STALE

    def end(self, sub: str, sid: str, *, request_id: str) -> bool:
        """Log a session out. Return whether it was active until now."""
        return self._end(sub, sid, Status.LOGGED_OUT, request_id=request_id)

    def end_by_token(
        self, sub: str, sid: str, *, secret_hash: bytes, client_id: str, request_id: str
    ) -> bool:
        """As `end`, if the token that names the session is of that session and that client."""
        return self._end(
            sub,
            sid,
            Status.LOGGED_OUT,
            request_id=request_id,
            conditions=(SAME_SECRET, SAME_CLIENT),
            values={":secret_hash": {"B": secret_hash}, ":client_id": {"S": client_id}},
        )

    def ending(self, sub: str, sid: str) -> TransactWriteItemTypeDef:
        """For a transaction: log a session out, if it is active."""
        return {
            "Update": {
                "TableName": self.table,
                "Key": {"sub": {"S": sub}, "sid": {"S": sid}},
                "ConditionExpression": ACTIVE,
                "UpdateExpression": "SET #status = :logged_out",
                "ExpressionAttributeNames": {"#status": "status"},
                "ExpressionAttributeValues": {
                    ":active": {"S": Status.ACTIVE},
                    ":logged_out": {"S": Status.LOGGED_OUT},
                },
            }
        }

    def end_all(self, sub: str, *, now: int, request_id: str) -> int:
        """Log out every session of a user. Return how many were active until now."""
        living = self.living(sub, now=now)
        return sum(self.end(sub, row.sid, request_id=request_id) for row in living)

    def set_roles(self, sub: str, sid: str, roles: tuple[str, ...]) -> bool:
        """What the session's access tokens say of its user, from the next refresh on. Return False
        when it is not active."""
        written, _ = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session roles",
            TableName=self.table,
            Key={"sub": {"S": sub}, "sid": {"S": sid}},
            ConditionExpression=ACTIVE,
            UpdateExpression="SET #roles = :roles",
            ExpressionAttributeNames={"#status": "status", "#roles": "roles"},
            ExpressionAttributeValues={
                ":active": {"S": Status.ACTIVE},
                ":roles": {"S": json.dumps(roles)},
            },
        )
        return written

    def living(self, sub: str, *, now: int) -> list[Session]:
        """A user's sessions that are active and not expired, oldest first, read consistently."""
        rows: list[Session] = []
        start: dict[str, Any] = {}
        while True:
            with calling("dynamodb:Query session"):
                page = self.client.query(
                    TableName=self.table,
                    ConsistentRead=True,
                    KeyConditionExpression="#sub = :sub",
                    ExpressionAttributeNames={"#sub": "sub"},
                    ExpressionAttributeValues={":sub": {"S": sub}},
                    **start,
                )
            rows += [session_from_item(item) for item in page["Items"]]
            if "LastEvaluatedKey" not in page:
                break
            start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}
        alive = (row for row in rows if row.is_alive(now))
        return sorted(alive, key=lambda row: (row.created_at, row.sid))

    def _move(
        self, presented: Presented, *, expected: int, now: int, idle_seconds: int, mac_kid: str
    ) -> tuple[bool, Session | None]:
        """The one write. Return whether it happened, and the row as it is now."""
        idle_expires_at = now + idle_seconds
        moved, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session",
            TableName=self.table,
            Key={"sub": {"S": presented.sub}, "sid": {"S": presented.sid}},
            ConditionExpression=ROTATE,
            UpdateExpression=MOVE,
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":presented": {"N": str(expected)},
                ":active": {"S": Status.ACTIVE},
                ":jkt": {"S": presented.jkt},
                ":client_id": {"S": presented.client_id},
                ":secret_hash": {"B": presented.secret_hash},
                ":now": {"N": str(now)},
                ":max_generation": {"N": str(MAX_GENERATION)},
                ":successor": {"N": str(presented.generation + 1)},
                ":idle_expires_at": {"N": str(idle_expires_at)},
                ":expires_at": {"N": str(idle_expires_at + EXPIRY_MARGIN_SECONDS)},
                ":mac_kid": {"S": mac_kid},
                ":request_id": {"S": presented.request_id},
            },
            ReturnValues="ALL_NEW",
        )
        return moved, session_from_item(row) if row else None

    def _compromise(self, row: Session, *, request_id: str) -> bool:
        """Return whether this call ended the session: of racing replays, one does."""
        return self._end(
            row.sub,
            row.sid,
            Status.COMPROMISED,
            request_id=request_id,
            conditions=("generation = :seen",),
            values={":seen": {"N": str(row.generation)}},
        )

    def _end(
        self,
        sub: str,
        sid: str,
        status: Status,
        *,
        request_id: str,
        conditions: tuple[str, ...] = (),
        values: Item | None = None,
    ) -> bool:
        ended, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session",
            TableName=self.table,
            Key={"sub": {"S": sub}, "sid": {"S": sid}},
            ConditionExpression=" AND ".join((ACTIVE, *conditions)),
            UpdateExpression="SET #status = :status, ended_by = :request_id",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":active": {"S": Status.ACTIVE},
                ":status": {"S": status},
                ":request_id": {"S": request_id},
                **(values or {}),
            },
        )
        return ended or _marked(row, "ended_by", request_id)

    def _count_retry(self, row: Session, now: int, *, request_id: str) -> bool:
        """Spend one retry of a bearer client's day, if the row is still as it was."""
        today = now // DAY
        spent = row.retry_count if row.retry_day == today else 0
        counted, refused = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session",
            TableName=self.table,
            Key={"sub": {"S": row.sub}, "sid": {"S": row.sid}},
            ConditionExpression=(
                f"{ACTIVE} AND generation = :seen"
                " AND retry_day = :seen_day AND retry_count = :seen_count"
            ),
            UpdateExpression=(
                "SET retry_day = :today, retry_count = :count, retried_by = :request_id"
            ),
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":active": {"S": Status.ACTIVE},
                ":seen": {"N": str(row.generation)},
                ":seen_day": {"N": str(row.retry_day)},
                ":seen_count": {"N": str(row.retry_count)},
                ":today": {"N": str(today)},
                ":count": {"N": str(spent + 1)},
                ":request_id": {"S": request_id},
            },
        )
        return counted or _marked(refused, "retried_by", request_id)

    def _count_twice(self, row: Session, presented: Presented, now: int) -> Rotation | None:
        """Count a generation that was asked for twice, once. None when it was counted before, or
        the row is not as ``row`` any more.

        Of racing retries one counts. A write that is lost to a race or to an SDK's second attempt
        is not made again: a session that is followed comes by at its next generation.
        """
        if row.suspected_at == row.generation:
            return None
        points = suspicion(row)
        counted, after = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem session",
            TableName=self.table,
            Key={"sub": {"S": row.sub}, "sid": {"S": row.sid}},
            ConditionExpression=COUNT_TWICE,
            UpdateExpression="SET suspicion = :points, suspected_at = :seen",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={
                ":active": {"S": Status.ACTIVE},
                ":seen": {"N": str(row.generation)},
                ":before": {"N": str(row.suspected_at)},
                ":points": {"N": str(points)},
                ":jkt": {"S": presented.jkt},
                ":client_id": {"S": presented.client_id},
                ":secret_hash": {"B": presented.secret_hash},
                ":now": {"N": str(now)},
            },
            ReturnValues="ALL_NEW",
        )
        if not counted or after is None:
            return None
        return Rotation(
            Outcome.RETRIED, session_from_item(after), followed=points >= FOLLOWED_POINTS
        )

    def _remember(self, row: Session) -> None:
        while len(self._moved) >= _REMEMBERED:
            del self._moved[next(iter(self._moved))]  # the one that was moved longest ago
        self._moved[row.sid] = row


def _marked(row: Mapping[str, Any] | None, attribute: str, request_id: str) -> bool:
    """Whether the write that is in the way is this very request's own, tried twice."""
    return row is not None and row.get(attribute, {}).get("S") == request_id


def session_to_item(session: Session) -> Item:
    return {
        "sub": {"S": session.sub},
        "sid": {"S": session.sid},
        "status": {"S": session.status},
        "generation": {"N": str(session.generation)},
        "secret_hash": {"B": session.secret_hash},
        "mac_kid": {"S": session.mac_kid},
        "client_id": {"S": session.client_id},
        "jkt": {"S": session.jkt},
        "scope": {"S": session.scope},
        "roles": {"S": json.dumps(session.roles)},
        "amr": {"S": json.dumps(session.amr)},
        "device_name": {"S": session.device.name},
        "platform": {"S": session.device.platform},
        "app_version": {"S": session.device.app_version},
        **_recipient_to_item(session.encryption_key),
        "created_at": {"N": str(session.created_at)},
        "rotated_at": {"N": str(session.rotated_at)},
        "idle_expires_at": {"N": str(session.idle_expires_at)},
        "absolute_expires_at": {"N": str(session.absolute_expires_at)},
        "expires_at": {"N": str(session.refresh_expires_at + EXPIRY_MARGIN_SECONDS)},
        "last_request": {"S": session.last_request},
        "attested": {"BOOL": session.attested},
        "retry_day": {"N": str(session.retry_day)},
        "retry_count": {"N": str(session.retry_count)},
        "suspicion": {"N": str(session.suspicion)},
        "suspected_at": {"N": str(session.suspected_at)},
    }


def _recipient_to_item(recipient: Recipient) -> Item:
    """P-256 with ECDH-ES is two attributes, as it was when there was nothing else: while a deployment
    is under way, or is rolled back, old code and new read each other's rows."""
    jwk = recipient.jwk
    if isinstance(jwk, EcJwk) and recipient.alg == "ECDH-ES":
        return {"encryption_x": {"S": jwk.x}, "encryption_y": {"S": jwk.y}}
    return {"encryption_key": {"S": json.dumps(recipient.members(), separators=(",", ":"))}}


def _recipient_from_item(item: Mapping[str, Any]) -> Recipient:
    if "encryption_key" in item:
        return Recipient.from_own(json.loads(item["encryption_key"]["S"]))
    return Recipient(EcJwk(item["encryption_x"]["S"], item["encryption_y"]["S"]))


def session_from_item(item: Mapping[str, Any]) -> Session:
    return Session(
        sub=item["sub"]["S"],
        sid=item["sid"]["S"],
        status=Status(item["status"]["S"]),
        generation=int(item["generation"]["N"]),
        secret_hash=item["secret_hash"]["B"],
        mac_kid=item["mac_kid"]["S"],
        client_id=item["client_id"]["S"],
        jkt=item["jkt"]["S"],
        scope=item["scope"]["S"],
        roles=tuple(json.loads(item["roles"]["S"])),
        amr=tuple(json.loads(item["amr"]["S"])),
        device=Device(
            name=item["device_name"]["S"],
            platform=item["platform"]["S"],
            app_version=item["app_version"]["S"],
        ),
        encryption_key=_recipient_from_item(item),
        created_at=int(item["created_at"]["N"]),
        rotated_at=int(item["rotated_at"]["N"]),
        idle_expires_at=int(item["idle_expires_at"]["N"]),
        absolute_expires_at=int(item["absolute_expires_at"]["N"]),
        last_request=item["last_request"]["S"],
        attested=item.get("attested", {}).get("BOOL", False),
        retry_day=int(item["retry_day"]["N"]),
        retry_count=int(item["retry_count"]["N"]),
        suspicion=int(item["suspicion"]["N"]),
        suspected_at=int(item["suspected_at"]["N"]),
    )
