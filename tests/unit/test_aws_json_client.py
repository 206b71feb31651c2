"""`keyferry.aws_json` against botocore: what is sent, how it is signed, how answers are read."""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import os
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import botocore.auth
import botocore.retries.standard
import botocore.session
import pytest
from botocore.awsrequest import AWSRequest, AWSResponse
from botocore.compat import HTTPHeaders
from botocore.config import Config
from botocore.credentials import Credentials as BotocoreCredentials
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from keyferry.aws_json import client as aws_json
from keyferry.aws_json.client import DynamoDb, JsonClient, Kms, ServiceError
from keyferry.aws_json.connections import Answer, NoAnswer
from keyferry.aws_json.credentials import Credentials, NoCredentials
from keyferry.aws_json.sigv4 import Signer

NOW = 1_795_000_000.5
ACCESS, SECRET, TOKEN = (
    "AKIDEXAMPLE",
    "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "IQoJb3JpZ2luX2Vj//+=",
)
ENVIRON = {
    "AWS_ACCESS_KEY_ID": ACCESS,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_REGION": "eu-central-1",
}
KEY = {"id": {"S": "x"}}
OK: dict[str, Any] = {}


def ok(document: object = OK, *, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(document).encode())


class Script:
    """Answers, or failures, one for each request; keeps what was sent."""

    def __init__(self, *answers: Answer | BaseException) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[dict[str, str], bytes]] = []
        self.waited: list[float] = []

    def exchange(self, headers: Mapping[str, str], body: bytes) -> Answer:
        self.sent.append((dict(headers), body))
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def made(kind: type[Any], script: Script, environ: Mapping[str, str] = ENVIRON) -> Any:
    client = kind.from_environ(environ, user_agent="keyferry/1 app/keyferry-x", random=os.urandom)
    return dataclasses.replace(
        client, exchange=script.exchange, now=lambda: NOW, sleep=script.waited.append
    )


@functools.cache
def session() -> botocore.session.Session:
    """One, as it reads the models of the services once."""
    made = botocore.session.Session()
    made.set_credentials(ACCESS, SECRET, TOKEN)
    return made


def boto3s(service: str, answer: Answer, region: str = "eu-central-1") -> tuple[Any, list[Any]]:
    """botocore's own client, which is given ``answer``, and the list of what it sends."""
    config = Config(user_agent="keyferry/1 app/keyferry-x")
    client: Any = session().create_client(service, region_name=region, config=config)
    sent: list[Any] = []

    def send(request: Any, **_: Any) -> AWSResponse:
        sent.append(request)
        raw: Any = mock.Mock(stream=lambda: iter([answer.body]))
        return AWSResponse(request.url, answer.status, HTTPHeaders.from_dict(answer.headers), raw)

    client.meta.events.register("before-send", send)
    return client, sent


@pytest.fixture(autouse=True)
def botocores_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.fromtimestamp(NOW, UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: moment)


CALLS: list[tuple[type[JsonClient], str, dict[str, Any]]] = [
    (DynamoDb, "get_item", {"TableName": "Sessions", "Key": KEY, "ConsistentRead": True}),
    (
        DynamoDb,
        "put_item",
        {
            "TableName": "Sessions",
            "Item": {
                **KEY,
                "bytes": {"B": bytes(range(256))},
                "many": {"BS": [b"", b"a", b"\xff"]},
                "number": {"N": "90071992547409931234567890.5"},
                "nested": {"M": {"B": {"B": b"deep"}, "L": {"L": [{"B": b"er"}, {"NULL": True}]}}},
                "text": {"S": 'é "quoted" \u2028 \U0001f511 \\'},
                "words": {"SS": ["a", "b"]},
                "flag": {"BOOL": False},
            },
            "ConditionExpression": "attribute_not_exists(id)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        },
    ),
    (
        DynamoDb,
        "update_item",
        {
            "TableName": "Sessions",
            "Key": KEY,
            "UpdateExpression": "SET #a = :a",
            "ExpressionAttributeNames": {"#a": "a"},
            "ExpressionAttributeValues": {":a": {"B": b"\0\1"}},
            "ReturnValues": "ALL_NEW",
        },
    ),
    (DynamoDb, "delete_item", {"TableName": "Sessions", "Key": KEY}),
    (
        DynamoDb,
        "query",
        {
            "TableName": "Sessions",
            "KeyConditionExpression": "id = :id",
            "ExpressionAttributeValues": {":id": {"S": "x"}},
        },
    ),
    (
        DynamoDb,
        "batch_get_item",
        {"RequestItems": {"Users": {"Keys": [KEY, {"id": {"B": b"k"}}], "ConsistentRead": True}}},
    ),
    (
        DynamoDb,
        "transact_write_items",
        {
            "TransactItems": [{"Put": {"TableName": "Users", "Item": KEY}}],
            "ClientRequestToken": "given",
        },
    ),
    (
        Kms,
        "decrypt",
        {
            "CiphertextBlob": b"\x01\x02wrapped",
            "KeyId": "arn:aws:kms:eu-central-1:0:key/x",
            "EncryptionContext": {"app": "keyferry", "stage": "prod"},
        },
    ),
    (Kms, "encrypt", {"KeyId": "k", "Plaintext": b"secret", "EncryptionContext": {"a": "b"}}),
]


@pytest.mark.parametrize(("kind", "method", "request_"), CALLS, ids=[each[1] for each in CALLS])
@pytest.mark.parametrize("region", ["eu-central-1", "cn-north-1"])
def test_a_request_is_botocores(
    kind: type[JsonClient], method: str, request_: dict[str, Any], region: str
) -> None:
    theirs, sent_by_botocore = boto3s(kind.service, ok(), region)
    getattr(theirs, method)(**request_)
    script = Script(ok())
    getattr(made(kind, script, ENVIRON | {"AWS_REGION": region}), method)(**request_)
    ((headers, body),) = script.sent
    (expected,) = sent_by_botocore
    assert expected.url == f"https://{headers['Host']}/"
    assert json.loads(body) == json.loads(expected.body)
    theirs_by_name = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in expected.headers.items()
    }
    # Of its own, which are not signed: how often it has tried, an id for that, and what Powertools
    # adds to its name.
    unsigned = {"content-length", "amz-sdk-invocation-id", "amz-sdk-request", "authorization"}
    theirs_by_name["user-agent"] = theirs_by_name["user-agent"].partition(" PT/")[0]
    ours_by_name = {name.lower(): value for name, value in headers.items()}
    for name in theirs_by_name.keys() - unsigned:
        if name != "x-amz-account-id-endpoint-mode":
            assert ours_by_name.get(name, ours_by_name.get("host")) == theirs_by_name[name], name


texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=40)


@given(
    secret=texts,
    token=st.none() | texts.map(str.strip).filter(bool),
    region=st.sampled_from(["us-east-1", "eu-central-1", "cn-north-1", "us-gov-west-1"]),
    service=st.sampled_from(["dynamodb", "kms"]),
    body=st.binary(max_size=300),
    now=st.integers(0, 4_102_444_800),
)
def test_a_signature_is_botocores(
    secret: str, token: str | None, region: str, service: str, body: bytes, now: int
) -> None:
    headers = {
        "Host": f"{service}.{region}.amazonaws.com",
        "Content-Type": "application/x-amz-json-1.0",
        "X-Amz-Target": "DynamoDB_20120810.UpdateItem",
    }
    request = AWSRequest("POST", f"https://{headers['Host']}/", headers=dict(headers), data=body)
    signer = botocore.auth.SigV4Auth(BotocoreCredentials(ACCESS, secret, token), service, region)
    moment = datetime.fromtimestamp(now, UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=moment):
        signer.add_auth(request)
    Signer(service, region).sign(headers, body, Credentials(ACCESS, secret, token), now)
    assert headers["Authorization"] == request.headers["Authorization"]
    assert headers["X-Amz-Date"] == request.headers["X-Amz-Date"]
    assert headers.get("X-Amz-Security-Token") == request.headers.get("X-Amz-Security-Token")


def test_the_key_of_a_day_goes_with_the_day_and_the_credentials() -> None:
    def signature(signer: Signer, credentials: Credentials, now: float) -> str:
        headers = {"Host": "h"}
        signer.sign(headers, b"", credentials, now)
        return headers["Authorization"]

    first, second = Credentials(ACCESS, SECRET), Credentials(ACCESS, "another")
    kept = Signer("kms", "us-east-1")
    for credentials, now in ((first, 0), (first, 86_400), (second, 86_400), (first, 0), (first, 1)):
        fresh = Signer("kms", "us-east-1")
        assert signature(kept, credentials, now) == signature(fresh, credentials, now)


ANSWERS: list[tuple[type[JsonClient], str, dict[str, Any]]] = [
    (
        DynamoDb,
        "get_item",
        {
            "Item": {
                "B": {"B": "AAE="},
                "BS": {"BS": ["", "/w=="]},
                "M": {"M": {"B": {"S": "not bytes"}, "BS": {"L": [{"B": "aGk="}]}}},
                "n": {"N": "1"},
                "t": {"S": "AAE="},
            }
        },
    ),
    (
        DynamoDb,
        "batch_get_item",
        {
            "Responses": {"Users": [{"B": {"B": "AAE="}}], "BSS": []},
            "UnprocessedKeys": {"Users": {"Keys": [{"id": {"B": "AAE="}}]}},
        },
    ),
    (DynamoDb, "update_item", {"Attributes": {"s": {"SS": ["B"]}, "b": {"BOOL": True}}}),
    (DynamoDb, "query", {"Items": [{"id": {"B": ""}}], "LastEvaluatedKey": {"id": {"B": "AAE="}}}),
    (Kms, "decrypt", {"KeyId": "AAE=", "Plaintext": "c2VjcmV0"}),
    (Kms, "encrypt", {"KeyId": "AAE=", "CiphertextBlob": "c2VjcmV0"}),
]


@pytest.mark.parametrize(("kind", "method", "document"), ANSWERS, ids=[each[1] for each in ANSWERS])
def test_an_answer_is_read_as_botocore_reads_it(
    kind: type[JsonClient], method: str, document: dict[str, Any]
) -> None:
    request = next(request for _, name, request in CALLS if name == method)
    theirs, _ = boto3s(kind.service, ok(document))
    expected = getattr(theirs, method)(**request)
    del expected["ResponseMetadata"]
    assert getattr(made(kind, Script(ok(document))), method)(**request) == expected


ERRORS: dict[str, tuple[int, object]] = {
    "condition": (
        400,
        {
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
            "Item": {"secret_hash": {"B": "AAE="}, "generation": {"N": "4"}},
        },
    ),
    "no row": (400, {"__type": "x#ConditionalCheckFailedException", "message": "m"}),
    "transaction": (
        400,
        {
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "Transaction cancelled",
            "CancellationReasons": [
                {"Code": "None"},
                {"Code": "ConditionalCheckFailed", "Message": "m", "Item": {"b": {"B": "AAE="}}},
            ],
        },
    ),
    "bare code": (400, {"__type": "ValidationException", "message": "m"}),
    "address after the code": (400, {"__type": "a#AccessDeniedException:http://x/#y"}),
    "no code": (400, {"message": "m"}),
    "nothing": (400, {}),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_read_as_botocore_reads_it(name: str) -> None:
    status, document = ERRORS[name]
    method = "transact_write_items" if name == "transaction" else "update_item"
    request = next(request for _, each, request in CALLS if each == method)
    theirs, _ = boto3s("dynamodb", ok(document, status=status))
    with pytest.raises(ClientError) as expected:
        getattr(theirs, method)(**request)
    with pytest.raises(ServiceError) as found:
        getattr(made(DynamoDb, Script(ok(document, status=status))), method)(**request)
    theirs_read: dict[str, Any] = dict(expected.value.response)
    ours_read = dict(found.value.response)
    assert ours_read["ResponseMetadata"]["HTTPStatusCode"] == status
    assert theirs_read["ResponseMetadata"]["HTTPStatusCode"] == status
    # botocore has the message a second time, under its name in the model of the error.
    for read in (theirs_read, ours_read):
        for extra in ("ResponseMetadata", "message", "Message"):
            read.pop(extra, None)
    assert ours_read == theirs_read


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"null", b"\xff", b'{"__type": 5}'])
def test_what_is_no_error_of_the_service_still_has_its_status(body: bytes) -> None:
    script = Script(Answer(503, {}, body), Answer(503, {}, body))
    with pytest.raises(ServiceError) as found:
        made(DynamoDb, script).get_item(TableName="T", Key=KEY)
    assert found.value.response["ResponseMetadata"] == {"HTTPStatusCode": 503}


class TestRetries:
    @pytest.mark.parametrize("status", sorted({429, 500, 502, 503, 504}))
    def test_a_status_that_passes(self, status: int) -> None:
        script = Script(ok(status=status), ok({"Item": KEY}))
        assert made(DynamoDb, script).get_item(TableName="T", Key=KEY) == {"Item": KEY}
        assert len(script.sent) == 2

    @pytest.mark.parametrize("code", sorted(aws_json._TRANSIENT_CODES))
    def test_a_code_that_passes(self, code: str) -> None:
        script = Script(ok({"__type": f"x#{code}"}, status=400), ok())
        made(DynamoDb, script).get_item(TableName="T", Key=KEY)
        assert len(script.sent) == 2

    def test_the_codes_are_botocores(self) -> None:
        standard: Any = botocore.retries.standard
        throttled = standard.ThrottledRetryableChecker._THROTTLED_ERROR_CODES
        transient = standard.TransientRetryableChecker._TRANSIENT_ERROR_CODES
        assert {*throttled, *transient} == aws_json._TRANSIENT_CODES

    @pytest.mark.parametrize(
        "answer",
        [
            ok({"__type": "ConditionalCheckFailedException"}, status=400),
            ok({"__type": "TransactionCanceledException"}, status=400),
            ok({"__type": "AccessDeniedException"}, status=400),
            ok({"__type": "InvalidCiphertextException"}, status=400),
            ok(status=403),
            ok(status=301, location="https://elsewhere.example.com/"),
        ],
    )
    def test_what_does_not_pass_is_not_tried_again(self, answer: Answer) -> None:
        script = Script(answer)
        with pytest.raises(ServiceError):
            made(DynamoDb, script).get_item(TableName="T", Key=KEY)
        assert len(script.sent) == 1
        assert not script.waited

    @pytest.mark.parametrize(
        "bad",
        [
            NoAnswer("ConnectionRefusedError"),
            Answer(200, {"x-amz-crc32": "1"}, b"{}"),
            Answer(200, {}, b"{"),
            Answer(200, {}, b"[]"),
            Answer(200, {}, b'{"Item": {"x": {"B": "no base64!"}}}'),
        ],
    )
    def test_no_answer_that_can_be_read(self, bad: Answer | NoAnswer) -> None:
        good = json.dumps({"Item": KEY}).encode()
        checked = Answer(200, {"x-amz-crc32": str(zlib.crc32(good))}, good)
        script = Script(bad, checked)
        assert made(DynamoDb, script).get_item(TableName="T", Key=KEY) == {"Item": KEY}
        with pytest.raises(NoAnswer):
            made(DynamoDb, Script(bad, bad)).get_item(TableName="T", Key=KEY)

    def test_two_tries_and_no_more(self) -> None:
        script = Script(ok(status=500), ok(status=500), ok())
        with pytest.raises(ServiceError):
            made(DynamoDb, script).get_item(TableName="T", Key=KEY)
        assert len(script.sent) == 2

    def test_the_wait_is_drawn(self) -> None:
        for drawn, seconds in ((b"\0\0\0\0", 0.0), (b"\x80\0\0\0", 0.1), (b"\xff" * 4, 0.2)):
            script = Script(ok(status=500), ok())
            client = dataclasses.replace(made(DynamoDb, script), random=lambda _, d=drawn: d)
            client.get_item(TableName="T", Key=KEY)
            assert script.waited == [pytest.approx(seconds, abs=1e-6)]

    def test_a_second_try_is_signed_anew_and_asks_the_same(self) -> None:
        script = Script(NoAnswer("x"), ok())
        moments = iter([NOW, NOW + 1])
        client = dataclasses.replace(made(DynamoDb, script), now=lambda: next(moments))
        client.transact_write_items(TransactItems=[])
        (first, body), (second, again) = script.sent
        assert body == again
        assert first["X-Amz-Date"] != second["X-Amz-Date"]

    def test_a_transaction_is_known_by_its_token(self) -> None:
        script = Script(ok(), ok())
        client = made(DynamoDb, script)
        for _ in range(2):
            client.transact_write_items(TransactItems=[])
        first, second = (json.loads(body)["ClientRequestToken"] for _, body in script.sent)
        assert first != second
        assert len(first) == 36


class TestSecrets:
    """Neither credentials nor what KMS has opened, in any text that somebody could log."""

    def leaks(self, text: str) -> bool:
        return any(each in text for each in (ACCESS, SECRET, TOKEN, "open sesame"))

    def test_repr(self) -> None:
        answer = ok({"Plaintext": base64.b64encode(b"open sesame").decode()})
        client = made(Kms, Script(answer))
        client.decrypt(CiphertextBlob=b"x")
        assert not self.leaks(repr(client) + repr(answer) + repr(client.credentials.get()))
        assert not self.leaks(repr(client._signer))

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, {}, b'{"Plaintext": "open sesame"}'),
            Answer(400, {}, b'{"__type": "X", "message": "open sesame"}'),
            Answer(200, {}, b"open sesame"),
        ],
    )
    def test_exceptions(self, answer: Answer) -> None:
        with pytest.raises((NoAnswer, ServiceError)) as failed:
            made(Kms, Script(answer, answer)).decrypt(CiphertextBlob=b"open sesame")
        assert not self.leaks(f"{failed.value} {failed.value!r}")

    def test_a_request_that_can_not_be_sent(self) -> None:
        with pytest.raises(TypeError, match="a request has no set") as failed:
            made(Kms, Script()).encrypt(Plaintext={"open sesame"})
        assert not self.leaks(str(failed.value))


def test_bytes_of_every_kind_are_sent() -> None:
    script = Script(ok())
    made(Kms, script).encrypt(Plaintext=bytearray(b"x"))
    assert json.loads(script.sent[0][1]) == {"Plaintext": "eA=="}


def test_without_credentials_nothing_is_sent() -> None:
    script = Script()
    with pytest.raises(NoCredentials):
        made(DynamoDb, script, {"AWS_REGION": "eu-central-1"}).get_item(TableName="T", Key=KEY)
    assert not script.sent


def test_credentials_are_those_of_the_first_call() -> None:
    """What a snapshot is made of has none; a function that is restored from it finds its own."""
    environ = {"AWS_REGION": "eu-central-1"}
    script = Script(ok())
    client = made(DynamoDb, script, environ)
    environ |= {"AWS_ACCESS_KEY_ID": "LATER", "AWS_SECRET_ACCESS_KEY": "x"}
    client.get_item(TableName="T", Key=KEY)
    headers, _ = script.sent[0]
    assert "Credential=LATER/" in headers["Authorization"]
    assert "X-Amz-Security-Token" not in headers
