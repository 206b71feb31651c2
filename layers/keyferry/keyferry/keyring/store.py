"""The keyring's one row in DynamoDB, written only if nobody else has written since it was read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.aws import calling, unless_written_since, write_if
from keyferry.keyring.model import Keyring

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_ROW: Final = "KEYRING"


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

    def write(self, keyring: Keyring, *, seen: int | None, writer: str) -> bool:
        """Write ``keyring`` if the row's revision is still ``seen`` (None: if there is no row).

        Return whether it was written. ``writer`` is a name that nobody else has.
        """
        item = {
            "id": {"S": _ROW},
            "revision": {"N": str(keyring.revision)},
            "document": {"S": keyring.to_json()},
            "writer": {"S": writer},
        }
        written, row = write_if(
            self.client.put_item,
            "dynamodb:PutItem keyring",
            TableName=self.table,
            Item=item,
            **unless_written_since(seen),
        )
        return written or (row is not None and row["writer"]["S"] == writer)
