"""Users and credentials in DynamoDB.

Two tables, so that only login and the operator can read a password hash: a credential says which
user it opens, a user says what that user may do.

A user name is somebody's by the credential row under it, one row for one canonical name. The row of
a user whom an invitation and a provider brought has no hash in it: the name is theirs all the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry.aws import FIRST_WRITE, calling, write_all, write_if
from keyferry.users.model import User, UserStatus

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

SAME_HASH: Final = "phc = :seen"
SET_PASSWORD: Final = "SET phc = :phc, set_at = :now"
"""``set_at`` is when there came to be another password. A hash of the same one leaves it alone."""
ACTIVE: Final = "#status = :active"
SAME_SESSIONS: Final = "sessions = :seen"
SAME_ROLES: Final = "#roles = :roles"


@dataclass(frozen=True, slots=True)
class PasswordCredential:
    """The password hash (PHC string) that opens the user ``sub``."""

    username: str
    sub: str
    phc: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UserStore:
    client: DynamoDBClient
    users_table: str
    credentials_table: str

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(client, environ["KEYFERRY_USERS_TABLE"], environ["KEYFERRY_CREDENTIALS_TABLE"])

    def password_credential(self, username: str) -> PasswordCredential | None:
        """``username`` is canonical. Read consistently: a changed password counts at once."""
        with calling("dynamodb:GetItem credential"):
            response = self.client.get_item(
                TableName=self.credentials_table, Key=credential_key(username), ConsistentRead=True
            )
        return credential_from_item(username, response.get("Item"))

    def user(self, sub: str) -> User | None:
        with calling("dynamodb:GetItem user"):
            response = self.client.get_item(
                TableName=self.users_table, Key={"sub": {"S": sub}}, ConsistentRead=True
            )
        item = response.get("Item")
        return user_from_item(item) if item else None

    def sub_of(self, username: str) -> str | None:
        """Who has the name ``username`` (canonical), with a password or without one."""
        with calling("dynamodb:GetItem credential"):
            response = self.client.get_item(
                TableName=self.credentials_table, Key=credential_key(username), ConsistentRead=True
            )
        item = response.get("Item")
        return item["sub"]["S"] if item else None

    def add(self, user: User, credential: PasswordCredential) -> bool:
        """Write both rows or neither. Return False when the user name is taken."""
        writes = self.creation(user, credential)
        return not write_all(self.client, "dynamodb:TransactWriteItems user", writes)

    def creation(
        self, user: User, credential: PasswordCredential
    ) -> dict[str, TransactWriteItemTypeDef]:
        """The two rows of a new user, each under the condition that there is none yet."""
        item: Item = {
            **credential_key(credential.username),
            "sub": {"S": credential.sub},
            "phc": {"S": credential.phc},
        }
        return {
            "credential": {
                "Put": {
                    "TableName": self.credentials_table,
                    "Item": item,
                    "ConditionExpression": FIRST_WRITE,
                }
            },
            "user": {
                "Put": {
                    "TableName": self.users_table,
                    "Item": user_to_item(user),
                    "ConditionExpression": "attribute_not_exists(#sub)",
                    "ExpressionAttributeNames": {"#sub": "sub"},
                }
            },
        }

    def naming(self, username: str, sub: str) -> TransactWriteItemTypeDef:
        """For the transaction that makes the user ``sub``: give it the name ``username`` (canonical)
        without a password, if nobody has it."""
        return {
            "Update": {
                "TableName": self.credentials_table,
                "Key": credential_key(username),
                "ConditionExpression": FIRST_WRITE,
                "UpdateExpression": "SET #sub = :sub",
                "ExpressionAttributeNames": {"#sub": "sub"},
                "ExpressionAttributeValues": {":sub": {"S": sub}},
            }
        }

    def new_password(
        self, credential: PasswordCredential, phc: str, *, now: int
    ) -> TransactWriteItemTypeDef:
        """For a transaction: the hash of another password in the place of the one that was checked,
        if that is still there."""
        return {
            "Update": {
                "TableName": self.credentials_table,
                "Key": credential_key(credential.username),
                "ConditionExpression": SAME_HASH,
                "UpdateExpression": SET_PASSWORD,
                "ExpressionAttributeValues": {
                    ":seen": {"S": credential.phc},
                    ":phc": {"S": phc},
                    ":now": {"N": str(now)},
                },
            }
        }

    def same_password(
        self, credential: PasswordCredential, *, stronger_phc: str | None = None
    ) -> TransactWriteItemTypeDef:
        """For the transaction that opens a session: that the hash is still the one that was
        checked; with ``stronger_phc``, put that hash of the same password in its place."""
        key, seen = credential_key(credential.username), {":seen": {"S": credential.phc}}
        if stronger_phc is None:
            return {
                "ConditionCheck": {
                    "TableName": self.credentials_table,
                    "Key": key,
                    "ConditionExpression": SAME_HASH,
                    "ExpressionAttributeValues": seen,
                }
            }
        return {
            "Update": {
                "TableName": self.credentials_table,
                "Key": key,
                "ConditionExpression": SAME_HASH,
                "UpdateExpression": "SET phc = :phc",
                "ExpressionAttributeValues": {**seen, ":phc": {"S": stronger_phc}},
            }
        }

    def counted_sessions(self, user: User, sids: tuple[str, ...]) -> TransactWriteItemTypeDef:
        """For a transaction: ``sids`` in the place of the sessions that count, if ``user`` is active
        and the list and the roles are still those that were read."""
        return {
            "Update": {
                "TableName": self.users_table,
                "Key": {"sub": {"S": user.sub}},
                "ConditionExpression": f"{ACTIVE} AND {SAME_SESSIONS} AND {SAME_ROLES}",
                "UpdateExpression": "SET sessions = :sessions",
                "ExpressionAttributeNames": {"#status": "status", "#roles": "roles"},
                "ExpressionAttributeValues": {
                    ":active": {"S": UserStatus.ACTIVE},
                    ":seen": {"S": encode_sessions(user.sessions)},
                    ":roles": {"S": encode_roles(user.roles)},
                    ":sessions": {"S": encode_sessions(sids)},
                },
            }
        }

    def set_password(self, username: str, phc: str, *, now: int) -> str | None:
        """Write a new password's hash, also for a user who had none. Return the ``sub`` it belongs
        to, or None: no such user."""
        written, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem phc",
            TableName=self.credentials_table,
            Key=credential_key(username),
            ConditionExpression="attribute_exists(id)",
            UpdateExpression=SET_PASSWORD,
            ExpressionAttributeValues={":phc": {"S": phc}, ":now": {"N": str(now)}},
            ReturnValues="ALL_NEW",
        )
        return row["sub"]["S"] if written and row is not None else None

    def set_status(self, sub: str, status: UserStatus) -> bool:
        """Return False when there is no such user."""
        written, _ = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem status",
            TableName=self.users_table,
            Key={"sub": {"S": sub}},
            ConditionExpression="attribute_exists(#sub)",
            UpdateExpression="SET #status = :status",
            ExpressionAttributeNames={"#sub": "sub", "#status": "status"},
            ExpressionAttributeValues={":status": {"S": status}},
        )
        return written

    def set_roles(self, sub: str, roles: tuple[str, ...]) -> User | None:
        """Return the user as it is now, or None: no such user."""
        written, row = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem roles",
            TableName=self.users_table,
            Key={"sub": {"S": sub}},
            ConditionExpression="attribute_exists(#sub)",
            UpdateExpression="SET #roles = :roles",
            ExpressionAttributeNames={"#sub": "sub", "#roles": "roles"},
            ExpressionAttributeValues={":roles": {"S": encode_roles(roles)}},
            ReturnValues="ALL_NEW",
        )
        return user_from_item(row) if written and row is not None else None


def user_to_item(user: User) -> Item:
    return {
        "sub": {"S": user.sub},
        "username": {"S": user.username},
        "status": {"S": user.status},
        "roles": {"S": encode_roles(user.roles)},
        "created_at": {"N": str(user.created_at)},
        "sessions": {"S": encode_sessions(user.sessions)},
        "second_factor": {"BOOL": user.second_factor},
    }


def user_from_item(item: Mapping[str, Any]) -> User:
    return User(
        sub=item["sub"]["S"],
        username=item["username"]["S"],
        status=UserStatus(item["status"]["S"]),
        roles=tuple(json.loads(item["roles"]["S"])),
        created_at=int(item["created_at"]["N"]),
        sessions=tuple(json.loads(item["sessions"]["S"])),
        second_factor=item.get("second_factor", {}).get("BOOL", False),
    )


def encode_roles(roles: tuple[str, ...]) -> str:
    """As `encode_sessions`."""
    return json.dumps(roles)


def encode_sessions(sessions: tuple[str, ...]) -> str:
    """One text for one list, so that a condition can compare it."""
    return json.dumps(sessions, separators=(",", ":"))


def credential_from_item(
    username: str, item: Mapping[str, Any] | None
) -> PasswordCredential | None:
    """None also for the row of a user who has a name and no password."""
    if item is None or "phc" not in item:
        return None
    return PasswordCredential(username=username, sub=item["sub"]["S"], phc=item["phc"]["S"])


def credential_key(username: str) -> Item:
    return {"id": {"S": f"password#{username}"}}
