"""Users and credentials in DynamoDB.

Two tables, so that only login and the operator can read a password hash: a credential says which
user it opens, a user says what that user may do.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from botocore.exceptions import ClientError

from keyferry.aws import calling, error_code
from keyferry.users.model import User, UserStatus

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from keyferry.aws import Item

NEW_CREDENTIAL: Final = "attribute_not_exists(id)"
SAME_HASH: Final = "phc = :seen"


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
                TableName=self.credentials_table, Key=_credential_key(username), ConsistentRead=True
            )
        item = response.get("Item")
        if item is None:
            return None
        return PasswordCredential(username=username, sub=item["sub"]["S"], phc=item["phc"]["S"])

    def user(self, sub: str) -> User | None:
        with calling("dynamodb:GetItem user"):
            response = self.client.get_item(
                TableName=self.users_table, Key={"sub": {"S": sub}}, ConsistentRead=True
            )
        item = response.get("Item")
        return user_from_item(item) if item else None

    def add(self, user: User, credential: PasswordCredential) -> bool:
        """Write both rows or neither. Return False when the user name is taken."""
        item: Item = {
            **_credential_key(credential.username),
            "sub": {"S": credential.sub},
            "phc": {"S": credential.phc},
        }
        try:
            with calling("dynamodb:TransactWriteItems user"):
                self.client.transact_write_items(
                    TransactItems=[
                        {
                            "Put": {
                                "TableName": self.credentials_table,
                                "Item": item,
                                "ConditionExpression": NEW_CREDENTIAL,
                            }
                        },
                        {
                            "Put": {
                                "TableName": self.users_table,
                                "Item": user_to_item(user),
                                "ConditionExpression": "attribute_not_exists(#sub)",
                                "ExpressionAttributeNames": {"#sub": "sub"},
                            }
                        },
                    ]
                )
        except ClientError as error:
            # Several causes come under one name; only ours means that the name is taken.
            reasons = error.response.get("CancellationReasons", [])
            if any(reason.get("Code") == "ConditionalCheckFailed" for reason in reasons):
                return False
            raise
        return True

    def replace_hash(self, credential: PasswordCredential, phc: str) -> bool:
        """Write a stronger hash of the same password, unless the password was changed meanwhile."""
        try:
            with calling("dynamodb:UpdateItem credential"):
                self.client.update_item(
                    TableName=self.credentials_table,
                    Key=_credential_key(credential.username),
                    ConditionExpression=SAME_HASH,
                    UpdateExpression="SET phc = :phc",
                    ExpressionAttributeValues={
                        ":seen": {"S": credential.phc},
                        ":phc": {"S": phc},
                    },
                )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True


def user_to_item(user: User) -> Item:
    return {
        "sub": {"S": user.sub},
        "username": {"S": user.username},
        "status": {"S": user.status},
        "roles": {"S": json.dumps(user.roles)},
        "created_at": {"N": str(user.created_at)},
    }


def user_from_item(item: Mapping[str, Any]) -> User:
    return User(
        sub=item["sub"]["S"],
        username=item["username"]["S"],
        status=UserStatus(item["status"]["S"]),
        roles=tuple(json.loads(item["roles"]["S"])),
        created_at=int(item["created_at"]["N"]),
    )


def _credential_key(username: str) -> Item:
    return {"id": {"S": f"password#{username}"}}
