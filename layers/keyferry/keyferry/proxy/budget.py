"""How many requests a user may still send with a key, in windows that begin for all at one time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from keyferry.aws import write_if
from keyferry.errors import RequestRefused
from keyferry.vault.upstream import Upstream

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

NOT_SPENT: Final = "attribute_not_exists(spent) OR spent < :budget"

_KEPT_SECONDS: Final = 60
"""After a window's end, for clocks that differ."""


@dataclass(frozen=True, slots=True)
class Budgets:
    """One row for each user, key and window; it counts up and is then forgotten.

    A new window is a new row, so nothing is ever set back, and two requests at once cannot both take
    what is left for one. A request that is sent to DynamoDB twice may count twice: never less
    than there were.
    """

    client: DynamoDBClient
    table: str

    def spend(self, sub: str, name: str, upstream: Upstream, *, now: int) -> None:
        """Count one request. Raise `RequestRefused` (``budget_exhausted``) when there is none left."""
        window = now // upstream.budget_seconds
        end = (window + 1) * upstream.budget_seconds
        written, _ = write_if(
            self.client.update_item,
            "dynamodb:UpdateItem budget",
            TableName=self.table,
            Key={"id": {"S": f"{sub}#{name}#{upstream.budget_seconds}#{window}"}},
            UpdateExpression="ADD spent :one SET expires_at = :expires_at",
            ConditionExpression=NOT_SPENT,
            ExpressionAttributeValues={
                ":one": {"N": "1"},
                ":budget": {"N": str(upstream.budget)},
                ":expires_at": {"N": str(end + _KEPT_SECONDS)},
            },
        )
        if not written:
            raise RequestRefused("budget_exhausted", "budget of this window", retry_after=end - now)
