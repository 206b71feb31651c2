"""The JSON of ``POST /v1/proxy/{key}``, both ways."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry.edge.request import JSON, Request
from keyferry.errors import RequestRefused
from keyferry.proxy.forward import Answer, Wanted
from keyferry.proxy.proxy import MAX_BODY_BYTES, _members, _wanted
from keyferry.vault.upstream import MAX_REQUEST_BYTES


def read(body: str) -> Wanted:
    event = {
        "httpMethod": "POST",
        "resource": "/v1/proxy/{key}",
        "multiValueHeaders": {"content-type": [JSON]},
        "requestContext": {},
        "body": body,
    }
    return _wanted(Request.from_event(event, invocation_id="i", max_body_bytes=MAX_BODY_BYTES))


def test_the_least_and_the_most() -> None:
    assert read('{"method": "GET", "path": "/x"}') == Wanted("GET", "/x", [], {}, None)
    most = {
        "method": "POST",
        "path": "/x",
        "query": [["a", "b"], ["a", "c"]],
        "headers": {"accept": "x"},
        "body_base64": "AP8=",
    }
    assert read(json.dumps(most)) == Wanted(
        "POST", "/x", [("a", "b"), ("a", "c")], {"accept": "x"}, b"\x00\xff"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"method": None},
        {"method": 1},
        {"path": ["/x"]},
        {"query": "a=b"},
        {"query": [["a", "b", "c"]]},
        {"query": [["a", None]]},
        {"headers": [["a", "b"]]},
        {"headers": {"a": ["b"]}},
        {"body": {"a": 1}},
        {"body": "a", "body_base64": ""},
        {"body": "\ud800"},
        {"body_base64": "a b="},
        {"body_base64": "ü"},
        {"host": "evil.example"},
        {"upstream": {}},
    ],
    ids=str,
)
def test_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RequestRefused) as error:
        read(json.dumps({"method": "GET", "path": "/x", **changes}))
    assert error.value.code == "invalid_request"


@pytest.mark.parametrize(
    "body", ["", "[]", "null", '{"method": "GET", "path": "/x", "path": "/y"}']
)
def test_no_such_object(body: str) -> None:
    with pytest.raises(RequestRefused) as error:
        read(body)
    assert error.value.code == "invalid_request"


@pytest.mark.parametrize("character", ["x", "\n", '"', "\\"])
def test_a_body_of_the_largest_size_fits(character: str) -> None:
    text = character * MAX_REQUEST_BYTES
    assert read(json.dumps({"method": "POST", "path": "/x", "body": text})).body == text.encode()
    encoded = base64.b64encode(text.encode()).decode()
    document = json.dumps({"method": "POST", "path": "/x", "body_base64": encoded})
    assert read(document).body == text.encode()


def test_a_document_that_is_larger_than_any_may_be() -> None:
    with pytest.raises(RequestRefused) as error:
        read(" " * (MAX_BODY_BYTES + 1))
    assert error.value.code == "payload_too_large"


@given(st.binary(max_size=300) | st.text().map(str.encode))
def test_every_body_comes_back_as_it_was(body: bytes) -> None:
    members = json.loads(json.dumps(_members(Answer(200, {}, body))))
    assert ("body" in members) != ("body_base64" in members)
    if "body" in members:
        assert members["body"].encode() == body
    else:
        assert base64.b64decode(members["body_base64"], validate=True) == body


def test_control_characters_go_in_base64() -> None:
    assert "body_base64" in _members(Answer(200, {}, b"\x01" * 100))
    assert "body" in _members(Answer(200, {}, b"a\tb\r\nc"))
