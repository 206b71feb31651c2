"""API Gateway's proxy event, and everything a client can put into one."""

import base64
import json
from typing import Any

import pytest

from keyferry.edge.request import FORM, JSON, MAX_BODY_BYTES, Request
from keyferry.errors import RequestRefused


def event(**changes: Any) -> dict[str, Any]:
    return {
        "httpMethod": "POST",
        "resource": "/v1/token",
        "path": "/v1/token",
        "headers": {"Content-Type": FORM, "X-Forwarded-For": "6.6.6.6"},
        "multiValueHeaders": {"Content-Type": [FORM], "X-Forwarded-For": ["6.6.6.6"]},
        "pathParameters": None,
        "queryStringParameters": None,
        "requestContext": {
            "requestId": "r",
            "identity": {"sourceIp": "192.0.2.1", "apiKeyId": "key"},
        },
        "body": "a=1",
        "isBase64Encoded": False,
        **changes,
    }


def read(sent: dict[str, Any]) -> Request:
    return Request.from_event(sent, invocation_id="invocation")


def refused(**changes: Any) -> str:
    with pytest.raises(RequestRefused) as error:
        read(event(**changes)).fields(FORM, JSON)
    return error.value.code


def content(media_type: str) -> dict[str, Any]:
    return {"multiValueHeaders": {"content-TYPE": [media_type]}}


def test_form() -> None:
    request = read(event())
    assert request.fields(FORM) == {"a": "1"}
    assert (request.invocation_id, request.client_key_id) == ("invocation", "key")


def test_source_ip_is_not_a_header() -> None:
    assert read(event()).source_ip == "192.0.2.1"


@pytest.mark.parametrize(
    "media_type",
    [FORM, f"{FORM};charset=UTF-8", FORM.upper(), f" {FORM} ; x=y"],
)
def test_media_type_is_compared_not_the_string(media_type: str) -> None:
    assert read(event(**content(media_type))).fields(FORM) == {"a": "1"}


def test_base64() -> None:
    body = base64.b64encode(b"a=%C3%BC").decode()
    request = read(event(body=body, isBase64Encoded=True))
    assert request.fields(FORM) == {"a": "ü"}


def test_json() -> None:
    assert read(event(**content(JSON), body='{"a":1}')).fields(JSON) == {"a": 1}


@pytest.mark.parametrize("media_type", ["", "text/plain", "application/json5", "a/b;" + FORM])
def test_other_media_types(media_type: str) -> None:
    assert refused(**content(media_type)) == "unsupported_media_type"


def test_no_media_type() -> None:
    assert refused(multiValueHeaders={}) == "unsupported_media_type"


@pytest.mark.parametrize(
    "body", ["a", "a=1&a=2", "a=%FF", "&&=", "=", "a=1&b", "&".join(f"a{n}=1" for n in range(17))]
)
def test_bad_forms(body: str) -> None:
    if body == "=":
        assert read(event(body=body)).fields(FORM) == {"": ""}
    else:
        assert refused(body=body) == "invalid_request"


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "1", '{"a":1,"a":2}', '{"a":NaN}', "[" * 10_000, '"\ud800"']
)
def test_bad_json(body: str) -> None:
    assert refused(**content(JSON), body=body) == "invalid_request"


@pytest.mark.parametrize("body", ["%%%", "A", "ü"])
def test_bad_base64(body: str) -> None:
    assert refused(body=body, isBase64Encoded=True) == "invalid_request"


class TestQuery:
    def read(self, **query: list[str]) -> Request:
        return read(event(multiValueQueryStringParameters=query))

    def test_the_one_parameter(self) -> None:
        assert self.read(names=["a,b"]).parameter("names") == "a,b"
        assert read(event()).parameter("names") is None
        assert read(event(queryStringParameters={"names": "a"})).parameter("names") == "a"

    @pytest.mark.parametrize(
        "query",
        [{"name": ["a"]}, {"names": ["a", "b"]}, {"names": ["a"], "x": ["y"]}, {"names": []}],
        ids=str,
    )
    def test_a_misspelt_filter_is_not_none(self, query: dict[str, list[str]]) -> None:
        with pytest.raises(RequestRefused) as error:
            self.read(**query).parameter("names")
        assert error.value.code == "invalid_request"


def test_size_is_bounded() -> None:
    fits = "a=" + "x" * (MAX_BODY_BYTES - 2)
    assert read(event(body=fits)).fields(FORM)
    assert refused(body=fits + "x") == "payload_too_large"
    assert refused(body="ü" * (MAX_BODY_BYTES // 2) + "x") == "payload_too_large"
    encoded = base64.b64encode(fits.encode() + b"x").decode()
    assert refused(body=encoded, isBase64Encoded=True) == "payload_too_large"
    assert refused(body="A" * 10_000_000, isBase64Encoded=True) == "payload_too_large"


def test_a_repeated_header_is_refused() -> None:
    request = read(event(multiValueHeaders={"DPoP": ["a", "b"]}))
    with pytest.raises(RequestRefused):
        request.headers.one("dpop")
    request = read(event(multiValueHeaders={"DPoP": ["a"], "dpop": ["b"]}))
    with pytest.raises(RequestRefused):
        request.headers.one("dpop")


def test_the_url_is_the_issuers_and_the_routes() -> None:
    request = read(
        event(
            resource="/v1/keys/{name}",
            path="/base/v1/keys/x",
            pathParameters={"name": "maps"},
        )
    )
    call = request.call("https://issuer/stage")
    assert (call.method, call.url) == ("POST", "https://issuer/stage/v1/keys/maps")


def test_secrets_are_not_in_a_repr() -> None:
    request = read(
        event(
            body=json.dumps({"password": "hunter2"}),
            multiValueHeaders={"Authorization": ["DPoP hunter2"]},
        )
    )
    assert "hunter2" not in repr(request)
