"""One use for each DPoP proof (RFC 9449 §11.1), by one conditional write.

Keyferry's own routes need no such record: what a replayed refresh or key delivery yields is of use
to the device key alone. The authorizer guards other people's side effects, so it keeps one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.aws import write_if
from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.dpop.proof import IAT_LEEWAY_SECONDS, Proof
from keyferry.edge.request import Call
from keyferry.errors import RequestRefused

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# Not "or expired": DynamoDB removes a row no earlier than its time, and by then its proof is dead.
UNUSED: Final = "attribute_not_exists(id)"

KEPT_SECONDS: Final = max(LIFETIME_SECONDS, 2 * IAT_LEEWAY_SECONDS) + 60
"""Longer than a proof can be good for: the life of its nonce, or the window of its ``iat`` on both
sides, and a minute for clocks that differ."""


@dataclass(frozen=True, slots=True)
class ReplayGuard:
    client: DynamoDBClient
    table: str

    def reserve(self, proof: Proof, call: Call, *, now: int, invocation_id: str) -> None:
        """Raise `RequestRefused` unless this is the first use of ``proof`` on ``call``.

        By the device key too: two devices may draw the same ``jti``, and one must not be able to
        use up another's.
        """
        parts = "\0".join((proof.jkt, call.method, call.url, proof.jti))
        digest = hashlib.sha256(parts.encode("utf-8", "surrogatepass")).hexdigest()
        written, row = write_if(
            self.client.put_item,
            "dynamodb:PutItem proof",
            TableName=self.table,
            Item={
                "id": {"S": digest},
                "expires_at": {"N": str(now + KEPT_SECONDS)},
                "used_by": {"S": invocation_id},
            },
            ConditionExpression=UNUSED,
        )
        if not written and (row is None or row["used_by"]["S"] != invocation_id):
            raise RequestRefused("invalid_dpop_proof", "proof: used before")
