"""AWS clients as Lambda wants them, and the one place where AWS's errors become ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from keyferry import __version__, clock
from keyferry.aws_json.client import DynamoDb, Kms, ServiceError
from keyferry.aws_json.connections import NoAnswer
from keyferry.aws_json.credentials import NoCredentials
from keyferry.errors import Unavailable

if TYPE_CHECKING:
    from types import ModuleType

    from botocore.config import Config
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import (
        TransactWriteItemTypeDef,
        UniversalAttributeValueTypeDef,
    )
    from mypy_boto3_kms import KMSClient

    Item = dict[str, UniversalAttributeValueTypeDef]

_BATCH_ATTEMPTS: Final = 3

FIRST_WRITE: Final = "attribute_not_exists(id)"
SAME_REVISION: Final = "revision = :seen"
"""The conditions under which a row that counts its writes is written."""

_TRANSIENT: Final = frozenset(
    {
        # DynamoDB
        "InternalServerError",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
        # KMS
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        # Both
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Throttling",
        "InternalFailure",
    }
)


def dynamodb(environ: Mapping[str, str] = os.environ) -> DynamoDBClient:
    """For the functions that answer requests: as boto3's in all that they use of it, and made for
    processor time (`keyferry.aws_json`)."""
    made = DynamoDb.from_environ(environ, user_agent=user_agent(environ), random=clock.random)
    return cast("DynamoDBClient", made)


def kms(environ: Mapping[str, str] = os.environ) -> KMSClient:
    """As `dynamodb`."""
    made = Kms.from_environ(environ, user_agent=user_agent(environ), random=clock.random)
    return cast("KMSClient", made)


def boto3_dynamodb() -> DynamoDBClient:
    """For everything else: boto3's own, which knows every operation."""
    import boto3  # a third of a second of a cold start

    return boto3.client("dynamodb", config=_boto3_config())


def boto3_kms() -> KMSClient:
    """As `boto3_dynamodb`."""
    import boto3

    return boto3.client("kms", config=_boto3_config())


def user_agent(environ: Mapping[str, str] = os.environ) -> str:
    """The application id in it is how an audit log tells the functions apart."""
    return f"keyferry/{__version__} app/{environ.get('AWS_SDK_UA_APP_ID', 'keyferry')}"


def _boto3_config() -> Config:
    from botocore.config import Config

    # A call takes 6 s at the most: two tries, each of them 1 s to connect and 2 s to answer.
    return Config(
        connect_timeout=1,
        read_timeout=2,
        retries={"mode": "standard", "total_max_attempts": 2},
        tcp_keepalive=True,
        user_agent=user_agent(),  # botocore makes its own anew for every call
    )


@contextmanager
def calling(operation: str, *, passing: frozenset[str] = frozenset()) -> Iterator[None]:
    """Turn a failure that a later try can mend into `Unavailable`. Any other one, and one with an
    error code in ``passing``, is a `ServiceError`, whichever client made the call.

    A refused KMS call counts as one that can be mended: the operator disabled the key or changed a
    policy, and may do so again. It must reach a phone as 503, never as anything like a logout.
    """
    try:
        yield
    except _refusals() as error:
        code = error_code(error)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        # A 5xx from something before the service has no code, only a status.
        mendable = code in _TRANSIENT or status >= 500 or operation.startswith("kms:")
        if mendable and code not in passing:
            raise Unavailable(f"{operation} {code}") from None
        if isinstance(error, ServiceError):
            raise
        raise ServiceError(operation, error.response) from None
    except NoAnswer as error:
        raise Unavailable(f"{operation} {error.reason}") from None
    except _failures() as error:  # no connection, time-out, no credentials
        raise Unavailable(f"{operation} {type(error).__name__}") from None


def error_code(error: ServiceError) -> str:
    code: str = error.response.get("Error", {}).get("Code", "")
    return code


def _refusals() -> tuple[type[ServiceError], ...]:
    """What says that a service has refused. botocore's own is of the same form."""
    botocore = _botocore()
    return (ServiceError, botocore.ClientError) if botocore else (ServiceError,)


def _failures() -> tuple[type[Exception], ...]:
    botocore = _botocore()
    return (NoCredentials, botocore.BotoCoreError) if botocore else (NoCredentials,)


def _botocore() -> ModuleType | None:
    """botocore's exceptions, where it is in use: what it raises can not come before it is loaded,
    and most functions never load it."""
    return sys.modules.get("botocore.exceptions")


def unless_written_since(revision: int | None) -> dict[str, Any]:
    """For a request that writes a row which counts its writes: only if its ``revision`` is still this
    one; without one, only if there is no row."""
    if revision is None:
        return {"ConditionExpression": FIRST_WRITE}
    return {
        "ConditionExpression": SAME_REVISION,
        "ExpressionAttributeValues": {":seen": {"N": str(revision)}},
    }


def write_if(
    write: Callable[..., Mapping[str, Any]], operation: str, **request: Any
) -> tuple[bool, dict[str, Any] | None]:
    """Make one conditional write. Return whether its condition held, and the row: as it is now
    where the request asked for that, or as it was that refused it.

    A client may try a write twice, and the second try then meets the first one's result. So who
    writes should leave a mark of its own in the row, and look for it in the row that refused.
    """
    try:
        with calling(operation):
            response = write(**request, ReturnValuesOnConditionCheckFailure="ALL_OLD")
    except ServiceError as error:
        if error_code(error) != "ConditionalCheckFailedException":
            raise
        return False, error.response.get("Item")
    return True, response.get("Attributes")


def write_all(
    client: DynamoDBClient, operation: str, writes: Mapping[str, TransactWriteItemTypeDef]
) -> frozenset[str]:
    """Make several writes together or none of them. Return the names of those whose condition did
    not hold; none when all were made.

    Raise `Unavailable` when another transaction was in the way, or DynamoDB throttled.
    """
    try:
        with calling(operation):
            client.transact_write_items(TransactItems=list(writes.values()))
    except ServiceError as error:
        if error_code(error) != "TransactionCanceledException":
            raise
        reasons = [reason.get("Code") for reason in error.response.get("CancellationReasons", [])]
        failed = frozenset(
            name
            for name, reason in zip(writes, reasons, strict=True)
            if reason == "ConditionalCheckFailed"
        )
        if not failed:
            raise Unavailable(f"{operation} {'/'.join(sorted(set(map(str, reasons))))}") from None
        return failed
    return frozenset()


def batch_get(
    client: DynamoDBClient, keys: Mapping[str, Sequence[Item]]
) -> dict[str, list[dict[str, Any]]]:
    """Read rows of several tables consistently, in one call unless DynamoDB splits it."""
    pending: dict[str, Any] = {
        table: {"Keys": list(rows), "ConsistentRead": True} for table, rows in keys.items()
    }
    found: dict[str, list[dict[str, Any]]] = {table: [] for table in keys}
    for _ in range(_BATCH_ATTEMPTS):
        with calling("dynamodb:BatchGetItem"):
            response = client.batch_get_item(RequestItems=pending)
        for table, items in response["Responses"].items():
            found[table] += items
        pending = response.get("UnprocessedKeys") or {}
        if not pending:
            return found
    raise Unavailable("dynamodb:BatchGetItem left keys unprocessed")
