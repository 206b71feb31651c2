"""Count the AWS calls that the emulator served, from its audit log.

CloudTrail on AWS would list the KMS calls but not the DynamoDB data calls, minutes late; the emulator lists both, and
an entry is there before the caller has its answer. Functions are told apart by the application id that the template
gives each of them (AWS_SDK_UA_APP_ID, which the SDK puts into its user agent).
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import botocore.auth
import botocore.awsrequest
import botocore.credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAGE = 50
_APPLICATION = re.compile(r"\bapp/keyferry-([a-z_]+)")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one AWS service."""

    service: str
    operation: str
    function: str | None
    """The function that called (`refresh`, `deliver_key`, …); None for calls from outside, such as a test's own."""

    table: str | None = None
    """The DynamoDB table, for a call that names one."""

    read_units: int = 0
    """What DynamoDB charges for a strongly consistent read of these rows, at up to 4 KB each."""

    write_units: int = 0
    """Likewise for a write, at up to 1 KB each; in a transaction each row counts twice."""

    request: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was asked, as AWS names it; may hold secrets."""


@dataclass(slots=True)
class CallCount:
    """The calls of a `count_calls` block; complete once the block has ended."""

    calls: list[Call] = field(default_factory=list)

    def _of(self, service: str) -> Counter[str]:
        return Counter(
            call.operation
            for call in self.calls
            if call.service == service and call.function is not None
        )

    @property
    def dynamodb(self) -> Counter[str]:
        """DynamoDB calls of the functions, by operation name."""
        return self._of("dynamodb")

    @property
    def kms(self) -> Counter[str]:
        """KMS calls of the functions, by operation name."""
        return self._of("kms")

    @property
    def units(self) -> tuple[int, int]:
        """Read and write request units of the functions' DynamoDB calls."""
        ours = [call for call in self.calls if call.function is not None]
        return sum(call.read_units for call in ours), sum(call.write_units for call in ours)

    def by(self, function: str) -> CallCount:
        """Only the calls of one function."""
        return CallCount([call for call in self.calls if call.function == function])

    def besides(self, table: str) -> CallCount:
        """Without those that are about one table, such as the keyring's, which is read by the clock."""
        return CallCount([call for call in self.calls if call.table != table])


@dataclass(frozen=True, slots=True)
class AuditLog:
    """The emulator's record of calls, newest first."""

    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str

    def latest(self) -> str | None:
        """The id of the newest entry, as a mark for `since`."""
        entries = self._page(before=None, size=1)
        return entries[0]["EventId"] if entries else None

    def since(self, mark: str | None) -> list[Call]:
        """Every call after the mark, oldest first."""
        seen: set[str] = set()
        found: list[Call] = []
        before: float | None = None
        while True:
            fresh = [entry for entry in self._page(before, _PAGE) if entry["EventId"] not in seen]
            for entry in fresh:
                if entry["EventId"] == mark:
                    return found[::-1]
                seen.add(entry["EventId"])
                found.append(_call(entry))
            if not fresh:
                return found[::-1]
            before = fresh[-1][
                "EventTime"
            ]  # the next page overlaps this one by the entries of one instant

    def _page(self, before: float | None, size: int) -> list[dict[str, Any]]:
        # By hand, because the SDK cuts the fraction off a time and the emulator has no page tokens.
        body = json.dumps(
            {"MaxResults": size, **({} if before is None else {"EndTime": before})}
        ).encode()
        url = f"{self.endpoint_url}/"
        request = botocore.awsrequest.AWSRequest("POST", url, data=body)
        request.headers["Content-Type"] = "application/x-amz-json-1.1"
        request.headers["X-Amz-Target"] = (
            "com.amazonaws.cloudtrail.v20131101.CloudTrail_20131101.LookupEvents"
        )
        credentials = botocore.credentials.Credentials(self.access_key_id, self.secret_access_key)
        botocore.auth.SigV4Auth(credentials, "cloudtrail", self.region).add_auth(request)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        signed = urllib.request.Request(url, body, dict(request.headers.items()))
        with direct.open(signed, timeout=30) as answer:
            events: list[dict[str, Any]] = json.load(answer)["Events"]
            return events


def _call(entry: dict[str, Any]) -> Call:
    detail = json.loads(entry["CloudTrailEvent"])
    application = _APPLICATION.search(detail.get("userAgent", ""))
    service = str(entry["EventSource"]).removesuffix(".amazonaws.com")
    operation = str(entry["EventName"])
    parameters = detail.get("requestParameters") or {}
    reads, writes = _units(operation, parameters) if service == "dynamodb" else (0, 0)
    return Call(
        service=service,
        operation=operation,
        function=application.group(1) if application else None,
        table=parameters.get("TableName"),
        read_units=reads,
        write_units=writes,
        request=parameters,
    )


def _units(operation: str, parameters: dict[str, Any]) -> tuple[int, int]:
    match operation:
        case "GetItem" | "Query":
            return 1, 0
        case "BatchGetItem":
            return sum(len(rows["Keys"]) for rows in parameters["RequestItems"].values()), 0
        case "PutItem" | "UpdateItem" | "DeleteItem":
            return 0, 1
        case "TransactWriteItems":
            return 0, 2 * len(parameters["TransactItems"])
        case _:
            return 0, 0
