"""The keyring's one row in DynamoDB, written only if nobody else has written since it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from keyferry.aws import calling, error_code
from keyferry.keyring.model import Keyring

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_ROW: Final = "KEYRING"

FIRST_WRITE: Final = "attribute_not_exists(id)"
SAME_REVISION: Final = "revision = :seen"


@dataclass(frozen=True, slots=True)
class KeyringStore:
    client: DynamoDBClient
    table: str

    def read(self) -> Keyring | None:
        with calling("dynamodb:GetItem keyring"):
            response = self.client.get_item(
                TableName=self.table, Key={"id": {"S": _ROW}}, ConsistentRead=True
            )
        item = response.get("Item")
        if item is None:
            return None
        return Keyring.from_json(item["document"]["S"], revision=int(item["revision"]["N"]))

    def write(self, keyring: Keyring, *, seen: int | None) -> bool:
        """Write ``keyring`` if the row's revision is still ``seen`` (None: if there is no row).

        Return whether it was written.
        """
        item = {
            "id": {"S": _ROW},
            "revision": {"N": str(keyring.revision)},
            "document": {"S": keyring.to_json()},
        }
        try:
            with calling("dynamodb:PutItem keyring"):
                if seen is None:
                    self.client.put_item(
                        TableName=self.table, Item=item, ConditionExpression=FIRST_WRITE
                    )
                else:
                    self.client.put_item(
                        TableName=self.table,
                        Item=item,
                        ConditionExpression=SAME_REVISION,
                        ExpressionAttributeValues={":seen": {"N": str(seen)}},
                    )
        except ClientError as error:
            if error_code(error) == "ConditionalCheckFailedException":
                return False
            raise
        return True
