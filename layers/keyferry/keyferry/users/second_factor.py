"""A user's second factor at rest, and its use: each code once, also when two arrive at once.

The secret is sealed by KMS under a context that names the user; recovery codes are hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import calling, write_all, write_if
from keyferry.config import Deployment
from keyferry.users import totp
from keyferry.users.guessing import Attempt, GuessStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef
    from mypy_boto3_kms import KMSClient

    from keyferry.aws import Item

PURPOSE: Final = "totp"

NOT_CONFIRMED: Final = "(attribute_not_exists(id) OR confirmed = :no)"
CONFIRMED: Final = "confirmed = :yes"
SAME_SECRET: Final = "sealed = :sealed"
NEWER_STEP: Final = "last_step < :step"
UNUSED_RECOVERY: Final = "contains(recovery, :hash)"


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A user's TOTP row. ``last_step`` is the step of the newest code that was used."""

    sub: str
    sealed: bytes = field(repr=False)
    last_step: int
    confirmed: bool


@dataclass(frozen=True, slots=True)
class SecondFactors:
    client: DynamoDBClient
    credentials_table: str
    users_table: str
    kms: KMSClient
    key_arn: str
    deployment: Deployment

    def begin(self, sub: str, secret: bytes) -> bool:
        """Keep a new secret that is not in force yet. Return False when one is in force."""
        with calling("kms:Encrypt totp"):
            sealed = self.kms.encrypt(
                KeyId=self.key_arn, Plaintext=secret, EncryptionContext=self._context(sub)
            )["CiphertextBlob"]
        written, _ = write_if(
            self.client.put_item,
            "dynamodb:PutItem totp",
            TableName=self.credentials_table,
            Item={
                **enrolment_key(sub),
                "sub": {"S": sub},
                "sealed": {"B": sealed},
                "last_step": {"N": "0"},
                "confirmed": {"BOOL": False},
            },
            ConditionExpression=NOT_CONFIRMED,
            ExpressionAttributeValues={":no": {"BOOL": False}},
        )
        return written

    def confirm(
        self, enrolment: Enrolment, code: str, *, now: int, random: Callable[[int], bytes]
    ) -> list[str] | None:
        """Put the secret into force, and use ``code`` up. Return the recovery codes, of which only
        hashes are kept; None when ``code`` is wrong, or another call was faster."""
        step = self._matching_step(enrolment, code, now)
        if step is None:
            return None
        recovery = totp.new_recovery_codes(random)
        hashes = [totp.recovery_hash(each) or "" for each in recovery]
        writes: dict[str, TransactWriteItemTypeDef] = {
            "enrolment": {
                "Update": {
                    "TableName": self.credentials_table,
                    "Key": enrolment_key(enrolment.sub),
                    "ConditionExpression": f"confirmed = :no AND {SAME_SECRET} AND {NEWER_STEP}",
                    "UpdateExpression": (
                        "SET confirmed = :yes, last_step = :step, recovery = :recovery"
                    ),
                    "ExpressionAttributeValues": {
                        ":no": {"BOOL": False},
                        ":yes": {"BOOL": True},
                        ":sealed": {"B": enrolment.sealed},
                        ":step": {"N": str(step)},
                        ":recovery": {"SS": hashes},
                    },
                }
            },
            "user": _in_force(self.users_table, enrolment.sub, in_force=True),
        }
        failed = write_all(self.client, "dynamodb:TransactWriteItems totp", writes)
        return None if failed else recovery

    def remove(
        self, sub: str, *, also: Mapping[str, TransactWriteItemTypeDef] = MappingProxyType({})
    ) -> bool:
        """Take the second factor out of force, if there is one. Return False, and nothing has
        happened, when there is no such user or ``also`` did not hold."""
        writes: dict[str, TransactWriteItemTypeDef] = {
            "enrolment": {
                "Delete": {"TableName": self.credentials_table, "Key": enrolment_key(sub)}
            },
            "user": _in_force(self.users_table, sub, in_force=False),
            **also,
        }
        return not write_all(self.client, "dynamodb:TransactWriteItems totp", writes)

    def read(self, sub: str) -> Enrolment | None:
        with calling("dynamodb:GetItem totp"):
            response = self.client.get_item(
                TableName=self.credentials_table, Key=enrolment_key(sub), ConsistentRead=True
            )
        item = response.get("Item")
        return enrolment_from_item(item) if item else None

    def _matching_step(self, enrolment: Enrolment, code: str, now: int) -> int | None:
        """The step of a right code; that it is unused is for the write to find out."""
        with calling("kms:Decrypt totp"):
            secret = self.kms.decrypt(
                CiphertextBlob=enrolment.sealed,
                KeyId=self.key_arn,
                EncryptionContext=self._context(enrolment.sub),
            )["Plaintext"]
        return totp.matching_step(secret, code, now)

    def use(self, sub: str, code: str, *, now: int, invocation_id: str) -> bool:
        """Use up a code, of the app or for recovery. Return whether it was good, and unused but by
        the request ``invocation_id`` itself: a client may write twice, and a login may begin anew.
        """
        enrolment = self.read(sub)
        if enrolment is None or not enrolment.confirmed:
            return False
        recovery = totp.recovery_hash(code)
        if recovery is not None:
            return self._use_recovery(sub, recovery, invocation_id)
        step = self._matching_step(enrolment, code, now)
        if step is None:
            return False
        return self._use_up(
            sub,
            condition=f"{SAME_SECRET} AND {NEWER_STEP}",
            update="SET last_step = :step, used_by = :use",
            values={":sealed": {"B": enrolment.sealed}, ":step": {"N": str(step)}},
            use=f"{invocation_id} {step}",
        )

    def use_counted(
        self,
        guesses: GuessStore,
        sub: str,
        code: str,
        *,
        jkt: str,
        source_ip: str,
        now: Callable[[], int],
        invocation_id: str,
    ) -> Attempt | None:
        """As `use`, where no password has counted the attempt already. Return the attempt, to be
        forgiven, or None when the code was wrong or used.

        Raise `RequestRefused` (``too_many_attempts``).
        """
        attempt = guesses.reserve(
            f"totp\0{sub}",  # no user name has a NUL in it: nobody else counts there
            jkt=jkt,
            source_ip=source_ip,
            now=now(),
            invocation_id=invocation_id,
            beside=(self.credentials_table, enrolment_key(sub)),
        )
        if self.use(sub, code, now=now(), invocation_id=invocation_id):
            return attempt
        guesses.failed(attempt)
        return None

    def _use_recovery(self, sub: str, recovery: str, invocation_id: str) -> bool:
        return self._use_up(
            sub,
            condition=UNUSED_RECOVERY,
            update="SET used_by = :use DELETE recovery :used",
            values={":hash": {"S": recovery}, ":used": {"SS": [recovery]}},
            use=f"{invocation_id} {recovery}",
        )

    def _use_up(self, sub: str, *, condition: str, update: str, values: Item, use: str) -> bool:
        """``use`` names the request and the code, and is the mark that a second try looks for."""
        used, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem totp",
            TableName=self.credentials_table,
            Key=enrolment_key(sub),
            ConditionExpression=f"{CONFIRMED} AND {condition}",
            UpdateExpression=update,
            ExpressionAttributeValues={":yes": {"BOOL": True}, ":use": {"S": use}, **values},
        )
        return used or (row is not None and row.get("used_by", {}).get("S") == use)

    def _context(self, sub: str) -> dict[str, str]:
        return {
            "app": self.deployment.app,
            "stage": self.deployment.stage,
            "purpose": PURPOSE,
            "sub": sub,
        }


def _in_force(users_table: str, sub: str, *, in_force: bool) -> TransactWriteItemTypeDef:
    return {
        "Update": {
            "TableName": users_table,
            "Key": {"sub": {"S": sub}},
            "ConditionExpression": "attribute_exists(#sub)",
            "UpdateExpression": "SET second_factor = :in_force",
            "ExpressionAttributeNames": {"#sub": "sub"},
            "ExpressionAttributeValues": {":in_force": {"BOOL": in_force}},
        }
    }


def enrolment_key(sub: str) -> Item:
    return {"id": {"S": f"totp#{sub}"}}


def enrolment_from_item(item: Mapping[str, Any]) -> Enrolment:
    return Enrolment(
        sub=item["sub"]["S"],
        sealed=item["sealed"]["B"],
        last_step=int(item["last_step"]["N"]),
        confirmed=item["confirmed"]["BOOL"],
    )
