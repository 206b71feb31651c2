"""Clients of DynamoDB and KMS with the methods, requests and answers of boto3's: as many of them as
the functions that answer requests have a use for.

Bytes are base64 on the wire, and attribute values (``{"B": b"…"}``) are read back as bytes. What
fails is tried once more, after a random wait, where that can help: no answer, a 5xx, throttling.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, NoReturn, Self

from keyferry.aws_json.connections import Answer, Connections, NoAnswer
from keyferry.aws_json.credentials import CredentialSource
from keyferry.aws_json.endpoint import Endpoint, region_of
from keyferry.aws_json.sigv4 import Signer

ATTEMPTS: Final = 2

BACK_OFF_SECONDS: Final = 0.2
"""The longest wait before the second attempt; how long it is, is drawn evenly from 0 to this."""

_TRANSIENT_STATUS: Final = frozenset({429, 500, 502, 503, 504})

# The codes that botocore's standard mode tries again, of whatever status (botocore.retries.standard).
_TRANSIENT_CODES: Final = frozenset(
    {
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)


class ServiceError(Exception):
    """What a service answered instead of doing what it was asked.

    ``response`` is as in botocore's ``ClientError``: ``Error`` with ``Code`` and ``Message``,
    ``ResponseMetadata`` with ``HTTPStatusCode``, and the error's own members, such as the ``Item``
    of a failed condition. The text of the exception is operation and code alone: a message may quote
    the request.
    """

    def __init__(self, operation: str, response: Mapping[str, Any]) -> None:
        super().__init__(f"{operation}: {response.get('Error', {}).get('Code', '')}")
        self.operation = operation
        self.response = response


@dataclass(slots=True)
class JsonClient:
    """Calls of one service. Threads may share it, if they may share ``exchange``.

    ``exchange`` sends header fields and a body and gives the answer (`Connections.exchange`); ``now``
    is in seconds since the epoch, ``random`` gives so many bytes, and ``sleep`` waits for seconds.
    """

    service: ClassVar[str]
    target: ClassVar[str]
    """What goes before the operation in ``X-Amz-Target``."""
    content_type: ClassVar[str]
    binary: ClassVar[frozenset[str]] = frozenset()
    """Members of an answer that are base64."""

    endpoint: Endpoint
    region: str
    credentials: CredentialSource
    exchange: Callable[[Mapping[str, str], bytes], Answer]
    user_agent: str
    random: Callable[[int], bytes]
    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    _signer: Signer = field(init=False)
    _decoder: json.JSONDecoder = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._signer = Signer(self.service, self.region)
        self._decoder = json.JSONDecoder(object_hook=self._decoded)

    @classmethod
    def from_environ(
        cls, environ: Mapping[str, str], *, user_agent: str, random: Callable[[int], bytes]
    ) -> Self:
        """A client that connects at its first call, with the credentials that ``environ`` has then.

        Raise `ValueError` when ``environ`` names no region, or no good endpoint.
        """
        region = region_of(environ)
        endpoint = Endpoint.of(cls.service, region, environ)
        connections = Connections.to(endpoint, ca_bundle=environ.get("AWS_CA_BUNDLE") or None)
        return cls(
            endpoint=endpoint,
            region=region,
            credentials=CredentialSource(environ, time.time),
            exchange=connections.exchange,
            user_agent=user_agent,
            random=random,
        )

    def call(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Raise `ServiceError`, `NoAnswer`, or `NoCredentials`."""
        body = _ENCODER.encode(request).encode("ascii")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._attempt(operation, body)
            except NoAnswer:
                if attempt == ATTEMPTS:
                    raise
            except ServiceError as error:
                if attempt == ATTEMPTS or not _is_transient(error):
                    raise
            self.sleep(self._back_off(attempt))
        raise AssertionError("unreachable")

    def _attempt(self, operation: str, body: bytes) -> dict[str, Any]:
        headers = {
            "Host": self.endpoint.authority,
            "Content-Type": self.content_type,
            "X-Amz-Target": f"{self.target}.{operation}",
        }
        self._signer.sign(headers, body, self.credentials.get(), self.now())
        headers["User-Agent"] = self.user_agent
        answer = self.exchange(headers, body)
        checksum = answer.headers.get("x-amz-crc32")
        if checksum is not None and checksum != str(zlib.crc32(answer.body)):
            raise NoAnswer("checksum")
        if answer.status != 200:
            self._refused(operation, answer)
        try:
            document = self._decoder.decode(answer.body.decode("utf-8"))
        except ValueError:  # of json, and of base64
            raise NoAnswer("not JSON") from None
        if not isinstance(document, dict):
            raise NoAnswer("not a JSON object")
        return document

    def _refused(self, operation: str, answer: Answer) -> NoReturn:
        try:
            members = self._decoder.decode(answer.body.decode("utf-8"))
        except ValueError:  # from something before the service, as a rule
            members = None
        if not isinstance(members, dict):
            members = {}
        code = members.pop("__type", str(answer.status))
        message = members.pop("message", None) or members.pop("Message", None) or ""
        raise ServiceError(
            operation,
            {
                **members,
                "Error": {"Code": _bare(str(code)), "Message": message},
                "ResponseMetadata": {"HTTPStatusCode": answer.status},
            },
        )

    def _decoded(self, members: dict[str, Any]) -> dict[str, Any]:
        """``members`` with bytes where its members are base64."""
        for name in self.binary & members.keys():
            members[name] = _octets(members[name])
        return members

    def _back_off(self, attempt: int) -> float:
        """Full jitter, and twice as much with each attempt. Not by the module `random`: what comes
        out of one snapshot would wait equally long everywhere."""
        drawn = int.from_bytes(self.random(4), "big") / 2**32
        return drawn * BACK_OFF_SECONDS * 2.0 ** (attempt - 1)


class DynamoDb(JsonClient):
    """As boto3's client of DynamoDB."""

    service = "dynamodb"
    target = "DynamoDB_20120810"
    content_type = "application/x-amz-json-1.0"

    def _decoded(self, members: dict[str, Any]) -> dict[str, Any]:
        """An attribute value that is binary has one member, B or BS. Nothing else has a text or a
        list of texts under these names: an attribute called B holds a value in its turn, and a
        table's name is longer."""
        if "B" in members:
            if isinstance(text := members["B"], str) and len(members) == 1:
                return {"B": _octets(text)}
        elif "BS" in members and isinstance(texts := members["BS"], list) and len(members) == 1:
            return {"BS": [_octets(each) for each in texts]}
        return members

    def get_item(self, **request: Any) -> dict[str, Any]:
        return self.call("GetItem", request)

    def put_item(self, **request: Any) -> dict[str, Any]:
        return self.call("PutItem", request)

    def update_item(self, **request: Any) -> dict[str, Any]:
        return self.call("UpdateItem", request)

    def delete_item(self, **request: Any) -> dict[str, Any]:
        return self.call("DeleteItem", request)

    def query(self, **request: Any) -> dict[str, Any]:
        return self.call("Query", request)

    def batch_get_item(self, **request: Any) -> dict[str, Any]:
        return self.call("BatchGetItem", request)

    def transact_write_items(self, **request: Any) -> dict[str, Any]:
        # By it DynamoDB knows the second attempt for the first one's, and does not do it twice.
        return self.call("TransactWriteItems", {"ClientRequestToken": str(uuid.uuid4()), **request})


class Kms(JsonClient):
    """As boto3's client of KMS."""

    service = "kms"
    target = "TrentService"
    content_type = "application/x-amz-json-1.1"
    binary = frozenset({"CiphertextBlob", "Plaintext"})

    def decrypt(self, **request: Any) -> dict[str, Any]:
        return self.call("Decrypt", request)

    def encrypt(self, **request: Any) -> dict[str, Any]:
        return self.call("Encrypt", request)


def _base64(value: object) -> str:
    if not isinstance(value, bytes | bytearray):
        # Not the value: it may be a secret.
        raise TypeError(f"a request has no {type(value).__name__}")
    return base64.b64encode(value).decode("ascii")


# Once: `json.dumps` would make one for every request.
_ENCODER: Final = json.JSONEncoder(default=_base64, separators=(",", ":"))


def _octets(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except TypeError:
        raise ValueError("not base64") from None


def _bare(code: str) -> str:
    """``com.amazonaws.dynamodb.v20120810#ThrottlingException:http://…`` without what surrounds it."""
    return code.partition(":")[0].rpartition("#")[2]


def _is_transient(error: ServiceError) -> bool:
    return (
        error.response["ResponseMetadata"]["HTTPStatusCode"] in _TRANSIENT_STATUS
        or error.response["Error"]["Code"] in _TRANSIENT_CODES
    )
