"""Proxied calls of the reference client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from keyferry_client import (
    Config,
    KeyferryClient,
    MemoryStorage,
    ProxiedResponse,
    Rejected,
    Retryable,
    SoftwareDeviceKeys,
)
from tests.unit.test_client_session import ISSUER, Server


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def client(server: Server) -> KeyferryClient:
    config = Config(ISSUER, "ios", "client-key")
    http = httpx.Client(transport=httpx.MockTransport(server))
    made = KeyferryClient(
        config,
        SoftwareDeviceKeys.generate(),
        MemoryStorage(),
        http=http,
        clock=lambda: server.now,
    )
    made.login("ana", "password", device_name="Ana's phone", app_version="1.2.0")
    return made


def answering(**members: Any) -> httpx.Response:
    return httpx.Response(200, json={"status": 200, "headers": {}, **members})


def test_what_is_sent(client: KeyferryClient, server: Server) -> None:
    server.next_replies = [lambda _: answering(status=404, headers={"etag": "x"}, body="grüße")]
    got = client.proxy(
        "pay", "POST", "/v1/x", query=[("a", "b"), ("a", "c")], headers={"accept": "x"}, body=b"\0"
    )
    assert got == ProxiedResponse(404, {"etag": "x"}, "grüße".encode())
    (request,) = server.calls("/v1/proxy/pay")
    assert json.loads(request.content) == {
        "method": "POST",
        "path": "/v1/x",
        "query": [["a", "b"], ["a", "c"]],
        "headers": {"accept": "x"},
        "body_base64": "AA==",
    }
    assert request.headers["authorization"].startswith("DPoP ")
    proof = server.proof(request)
    assert (proof["htm"], proof["htu"]) == ("POST", f"{ISSUER}/v1/proxy/pay")


def test_text_and_bytes(client: KeyferryClient, server: Server) -> None:
    server.next_replies = [lambda _: answering(body_base64="AP8="), lambda _: answering(body="")]
    assert client.proxy("pay", "GET", "/").body == b"\x00\xff"
    assert client.proxy("pay", "POST", "/", body="x").body == b""
    first, second = (json.loads(each.content) for each in server.calls("/v1/proxy/pay"))
    assert first == {"method": "GET", "path": "/"}
    assert second == {"method": "POST", "path": "/", "body": "x"}


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_is_not_repeated(client: KeyferryClient, server: Server, status: int) -> None:
    server.next_replies = [lambda _: server.error(status, "x", **{"Retry-After": "7"})]
    with pytest.raises(Retryable) as error:
        client.proxy("pay", "POST", "/v1/x")
    assert error.value.retry_after == 7
    assert len(server.calls("/v1/proxy/pay")) == 1


def test_is_repeated_only_when_nothing_was_sent(client: KeyferryClient, server: Server) -> None:
    server.next_replies = [lambda _: server.error(401, "invalid_token")]
    server.next_replies += [server.tokens, lambda _: answering(body="")]
    assert client.proxy("pay", "POST", "/v1/x").status == 200
    assert len(server.calls("/v1/proxy/pay")) == 2


def test_refusals(client: KeyferryClient, server: Server) -> None:
    server.next_replies = [lambda _: server.error(403, "proxy_refused")]
    with pytest.raises(Rejected, match="proxy_refused"):
        client.proxy("pay", "DELETE", "/v1/x")


@pytest.mark.parametrize(
    "reply",
    [{}, {"status": "200"}, {"status": 200, "headers": {}}, {"status": 200, "headers": []}]
    + [{"status": 200, "headers": {}, "body_base64": text} for text in ("x", "a b=", "ü")],
    ids=str,
)
def test_something_else_with_status_200(
    client: KeyferryClient, server: Server, reply: dict[str, Any]
) -> None:
    server.next_replies = [lambda _: httpx.Response(200, json=reply)]
    with pytest.raises(Retryable):
        client.proxy("pay", "GET", "/v1/x")
