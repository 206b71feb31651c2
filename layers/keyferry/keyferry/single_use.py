"""What is good once in a stack: one conditional write of its hash, kept as long as it could be good.

For the proofs that the authorizer and the proxy see, and for limited-use App Check tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.aws import write_if

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# Not "or expired": DynamoDB removes a row no earlier than its time, and by then what it stands for
# is not good any more.
UNUSED: Final = "attribute_not_exists(id)"


@dataclass(frozen=True, slots=True)
class SingleUse:
    client: DynamoDBClient
    table: str

    def use(self, *parts: str, expires_at: int, invocation_id: str) -> bool:
        """Whether this is the first use of what ``parts`` name together; but for the last one, none
        of them has a NUL in it.

        ``expires_at``, in seconds since the epoch, is when it is certainly not good any more.
        """
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
        written, row = write_if(
            self.client.put_item,
            "dynamodb:PutItem single use",
            TableName=self.table,
            Item={
                "id": {"S": digest},
                "expires_at": {"N": str(expires_at)},
                "used_by": {"S": invocation_id},
            },
            ConditionExpression=UNUSED,
        )
        # The client tried twice and met its own first try.
        return written or (row is not None and row["used_by"]["S"] == invocation_id)
