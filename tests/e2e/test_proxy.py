"""Proxy mode: a key that works for whoever may use it, and that no device ever sees."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from keyferry_client import (
    Config,
    KeyferryClient,
    MemoryStorage,
    Rejected,
    SoftwareDeviceKeys,
)
from tests.e2e.conftest import MONTH, PASSWORD, PROXIED, RULES, PutKey
from tests.e2e.device import Device, ath
from tests.e2e.test_attacks import thief_of
from tests.e2e.test_secrets import spellings
from tests.local_upstream import HOST, LocalUpstream

if TYPE_CHECKING:
    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator


@pytest.fixture
def key(put_key: PutKey) -> str:
    return put_key()


@pytest.fixture
def path() -> str:
    """One that no other test's requests come to."""
    return f"/v1/{uuid.uuid4().hex}"


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def test_the_upstream_gets_the_key_and_the_device_its_answer(
    device: Device, key: str, upstream: LocalUpstream, path: str
) -> None:
    response = device.proxy(
        key,
        "POST",
        path,
        query=[["a", "b c"], ["a", "&"]],
        headers={"Content-Type": "text/plain", "X-Extra": "1"},
        body="grüße",
    )
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    assert response.json() == {
        "status": 200,
        "headers": {"content-type": "application/json", "etag": '"1"'},
        "body": '{"theirs": true}',
    }
    (sent,) = upstream.at(path)
    assert (sent.method, sent.body.decode()) == ("POST", "grüße")
    assert sent.target == f"{path}?a=b%20c&a=%26"
    assert sent.headers.pop("user-agent").startswith("keyferry/")
    assert sent.headers == {
        "host": f"{HOST}:443",
        "x-api-key": PROXIED,
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": "7",
        "content-type": "text/plain",
        "x-extra": "1",
    }


def test_the_key_in_the_query_and_in_a_template(
    device: Device, put_key: PutKey, upstream: LocalUpstream, path: str
) -> None:
    in_query = put_key(inject="query", parameter="key")
    assert device.proxy(in_query, "GET", path, query=[["a", "b"]]).status_code == 200
    bearer = put_key(parameter="authorization", template="Bearer {key}")
    assert device.proxy(bearer, "GET", path).status_code == 200
    first, second = upstream.at(path)
    assert first.target == f"{path}?a=b&key=sk-proxied%2F9f1c2d%2B7e51d0c4aa93%3D"
    assert second.headers["authorization"] == f"Bearer {PROXIED}"
    assert error(device.proxy(in_query, "GET", path, query=[["KEY", "x"]])) == (
        403,
        "proxy_refused",
    )
    assert len(upstream.at(path)) == 2


def test_it_is_never_delivered(device: Device, key: str, operator: Operator) -> None:
    delivered = device.open(device.keys())
    assert key not in delivered["keys"]
    assert delivered["refused"][key] == "proxy_only"
    assert error(device.keys(f"/v1/keys/{key}")) == (403, "proxy_only")
    operator.do("keys.proxy", name=key, upstream=None)
    assert error(device.proxy(key, "GET", "/v1/x")) == (404, "not_found")


@pytest.mark.parametrize(
    ("policy", "refusal"),
    [
        ({"roles": ["admin"]}, (404, "not_found")),
        ({"platforms": ["android"]}, (404, "not_found")),
        ({"second_factor": True}, (403, "mfa_required")),
        ({"attested": True}, (403, "attestation_required")),
        ({"min_app_version": "99.0"}, (403, "app_version_too_old")),
        ({"not_after": 1}, (403, "no_longer_available")),
        ({"rollout": 0}, (403, "not_in_rollout")),
    ],
    ids=str,
)
def test_the_policy_is_that_of_delivery(
    device: Device,
    put_key: PutKey,
    upstream: LocalUpstream,
    path: str,
    policy: dict[str, Any],
    refusal: tuple[int, str],
) -> None:
    assert error(device.proxy(put_key(policy), "GET", path)) == refusal
    assert upstream.at(path) == []


def test_no_such_key_and_keys_for_devices(device: Device, path: str) -> None:
    for name in ("no-such-key", "maps", "no-policy", "admin-only"):
        assert error(device.proxy(name, "GET", path)) == (404, "not_found")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"method": "DELETE"}, (403, "proxy_refused")),
        ({"path": "/v2/x"}, (403, "proxy_refused")),
        ({"path": "/v1/../v2/x"}, (403, "proxy_refused")),
        ({"path": "/v1/%2e%2e/v2/x"}, (403, "proxy_refused")),
        ({"path": f"https://{HOST}/v1/x"}, (403, "proxy_refused")),
        ({"path": "/v1/x\r\nHost: evil"}, (403, "proxy_refused")),
        ({"headers": {"x-api-key": "mine"}}, (403, "proxy_refused")),
        ({"headers": {"Host": "evil.example"}}, (403, "proxy_refused")),
        ({"headers": {"X-Extra": "a\r\nX: y"}}, (403, "proxy_refused")),
        ({"headers": {"x-extra": 1}}, (400, "invalid_request")),
        ({"query": [["a"]]}, (400, "invalid_request")),
        ({"query": {"a": "b"}}, (400, "invalid_request")),
        ({"host": "evil.example"}, (400, "invalid_request")),
        ({"method": "POST", "body": "a", "body_base64": "YQ=="}, (400, "invalid_request")),
        ({"method": "POST", "body_base64": "a"}, (400, "invalid_request")),
        ({"method": "POST", "body_base64": "YQ=\n="}, (400, "invalid_request")),
        ({"method": "POST", "body": "x" * 262_145}, (413, "payload_too_large")),
        ({"method": "POST", "body": "x" * 600_000}, (413, "payload_too_large")),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_refused_reaches_no_upstream_and_costs_no_budget(
    device: Device,
    put_key: PutKey,
    upstream: LocalUpstream,
    changes: dict[str, Any],
    refusal: tuple[int, str],
) -> None:
    key = put_key(budget=1)
    path = f"/v1/{uuid.uuid4().hex}"
    before = len(upstream.received)
    wanted = {"method": "GET", "path": path, **changes}
    assert error(device.proxy(key, wanted.pop("method"), wanted.pop("path"), **wanted)) == refusal
    assert len(upstream.received) == before
    assert device.proxy(key, "GET", path).status_code == 200


class TestProofs:
    def test_a_recorded_request_is_not_sent_again(
        self, device: Device, key: str, upstream: LocalUpstream, path: str
    ) -> None:
        token = device.tokens["access_token"]
        proof = device.proof("POST", f"/v1/proxy/{key}", ath=ath(token))
        assert device.proxy(key, "POST", path, proof=proof).status_code == 200
        for _ in range(3):
            replayed = device.proxy(key, "POST", path, proof=proof)
            assert error(replayed) == (401, "invalid_dpop_proof")
        assert len(upstream.at(path)) == 1

    def test_not_even_at_the_same_moment(
        self, device: Device, key: str, upstream: LocalUpstream, path: str
    ) -> None:
        token = device.tokens["access_token"]
        proof = device.proof("POST", f"/v1/proxy/{key}", ath=ath(token))
        with ThreadPoolExecutor(10) as pool:
            sent = [pool.submit(device.proxy, key, "POST", path, proof=proof) for _ in range(10)]
            statuses = sorted(each.result().status_code for each in sent)
        assert statuses == [200] + [401] * 9
        assert len(upstream.at(path)) == 1

    def test_a_proof_for_another_key_or_route(self, device: Device, key: str, path: str) -> None:
        token = device.tokens["access_token"]
        for route in ("/v1/proxy/maps", "/v1/keys", f"/v1/keys/{key}"):
            proof = device.proof("POST", route, ath=ath(token))
            assert error(device.proxy(key, "GET", path, proof=proof)) == (401, "invalid_dpop_proof")

    def test_a_thief_of_the_token(
        self, device: Device, key: str, upstream: LocalUpstream, path: str
    ) -> None:
        thief = thief_of(device, with_key=False)
        assert thief.proxy(key, "GET", path).status_code == 401
        headers = {"Authorization": f"Bearer {device.tokens['access_token']}"}
        body = {"method": "GET", "path": path}
        route = f"/v1/proxy/{key}"
        for proof in (None, thief.proof("POST", route, ath=ath(device.tokens["access_token"]))):
            stolen = device.call("POST", route, headers=headers, proof=proof, json=body)
            assert stolen.status_code == 401
        assert device.call("POST", route, proof="", json=body).status_code == 401
        assert upstream.at(path) == []


def test_an_ended_session_and_a_disabled_user(
    device: Device,
    new_device: Callable[..., Device],
    username: str,
    operator: Operator,
    key: str,
    upstream: LocalUpstream,
    path: str,
) -> None:
    other = new_device()
    assert other.login(username, PASSWORD).status_code == 200
    assert (
        other.resource("DELETE", f"/v1/sessions/{device.tokens['session_id']}").status_code == 204
    )
    assert error(device.proxy(key, "GET", path)) == (401, "invalid_token")
    operator.do("users.disable", username=username)
    assert error(other.proxy(key, "GET", path)) == (401, "invalid_token")
    assert upstream.at(path) == []


class TestBudget:
    def test_is_never_exceeded(
        self, device: Device, put_key: PutKey, upstream: LocalUpstream, path: str
    ) -> None:
        key = put_key(budget=7)
        with ThreadPoolExecutor(20) as pool:
            sent = [pool.submit(device.proxy, key, "GET", path) for _ in range(20)]
            answers = [each.result() for each in sent]
        assert sorted(each.status_code for each in answers) == [200] * 7 + [429] * 13
        assert len(upstream.at(path)) == 7
        for refused in answers:
            if refused.status_code == 429:
                assert error(refused) == (429, "budget_exhausted")
                assert 0 < int(refused.headers["retry-after"]) <= MONTH

    def test_is_each_users_and_each_keys_own(
        self,
        device: Device,
        new_device: Callable[..., Device],
        username: str,
        operator: Operator,
        put_key: PutKey,
        path: str,
    ) -> None:
        key, another = put_key(budget=1), put_key(budget=1)
        assert device.proxy(key, "GET", path).status_code == 200
        second = new_device()
        assert second.login(username, PASSWORD).status_code == 200
        assert second.proxy(key, "GET", path).status_code == 429, "a second phone is no second user"
        assert device.proxy(another, "GET", path).status_code == 200
        name = f"user-{uuid.uuid4().hex[:12]}"
        operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
        stranger = new_device()
        assert stranger.login(name, PASSWORD).status_code == 200
        assert stranger.proxy(key, "GET", path).status_code == 200

    def test_a_new_window_is_a_new_budget(self, device: Device, put_key: PutKey, path: str) -> None:
        key = put_key(budget=1, budget_seconds=1)
        assert device.proxy(key, "GET", path).status_code == 200
        for _ in range(300):
            again = device.proxy(key, "GET", path)
            if again.status_code == 200:
                break
            assert error(again) == (429, "budget_exhausted")
        assert again.status_code == 200

    def test_a_smaller_budget_is_in_force_at_once(
        self, device: Device, put_key: PutKey, operator: Operator, path: str
    ) -> None:
        key = put_key(budget=100)
        for _ in range(2):
            assert device.proxy(key, "GET", path).status_code == 200
        operator.do("keys.proxy", name=key, upstream={**RULES, "budget": 2})
        assert device.proxy(key, "GET", path).status_code == 429


class TestAnswers:
    def test_errors_of_the_upstream_are_its_own(self, device: Device, key: str) -> None:
        answer = device.proxy(key, "GET", "/v1/fail")
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["body"]) == (500, '{"error": "theirs"}')

    def test_a_redirect_leads_nowhere(self, device: Device, key: str) -> None:
        answer = device.proxy(key, "GET", "/v1/redirect")
        assert (answer.status_code, answer.json()["status"]) == (200, 302)
        assert "169.254" not in answer.text

    @pytest.mark.parametrize(
        ("path", "refusal"),
        [
            ("/v1/echo-key", (502, "upstream_echo")),
            ("/v1/huge", (502, "upstream_answer_too_large")),
            ("/v1/slow", (504, "upstream_timeout")),
        ],
    )
    def test_refused(self, device: Device, key: str, path: str, refusal: tuple[int, str]) -> None:
        answer = device.proxy(key, "GET", path)
        assert error(answer) == refusal
        assert PROXIED not in answer.text

    def test_bytes(self, device: Device, key: str) -> None:
        answer = device.proxy(key, "GET", "/v1/binary").json()
        assert base64.b64decode(answer["body_base64"]) == bytes(range(256))
        sent = {"headers": {"content-type": "image/png"}, "body_base64": answer["body_base64"]}
        assert device.proxy(key, "POST", "/v1/echo-body", **sent).json() == answer

    @pytest.mark.parametrize("text", ['"\\\n\t', "ü€😀", "</script>", "x"])
    def test_text_of_the_largest_size(self, device: Device, key: str, text: str) -> None:
        sent = text * (262_144 // len(text.encode()))
        headers = {"content-type": "text/plain; charset=utf-8"}
        answer = device.proxy(key, "POST", "/v1/echo-body", body=sent, headers=headers)
        assert answer.status_code == 200, answer.text[:300]
        assert answer.json()["body"] == sent

    def test_a_host_that_leads_nowhere(self, device: Device, put_key: PutKey) -> None:
        """The local run's way to this machine is that one host's and port's alone."""
        for rules in ({"host": "other.example.com"}, {"port": 8443}):
            answer = device.proxy(put_key(**rules), "GET", "/v1/x")
            assert answer.json()["error"] in ("upstream_unavailable", "upstream_timeout")


@pytest.mark.parametrize(
    "rules",
    [
        {"host": "169.254.169.254"},
        {"host": "localhost"},
        {"host": "metadata.google.internal"},
        {"host": "user@example.com"},
        {"host": "0x7f.1"},
        {"path_prefix": "v1/"},
        {"methods": []},
        {"methods": ["CONNECT"]},
        {"parameter": "host"},
        {"headers": ["authorization"]},
        {"timeout_seconds": 60},
        {"budget": 0},
        {"unknown": 1},
    ],
    ids=str,
)
def test_the_operator_cannot_set_what_must_not_be(
    operator: Operator, key: str, rules: dict[str, Any]
) -> None:
    answer = operator.invoke("keys.proxy", name=key, upstream={**RULES, **rules})
    assert answer["error"]["error"] == "invalid_request"


def test_a_bearer_client_is_not_served(
    bearer_device: Device, checked_device: Device, bearer_operator: Operator
) -> None:
    """Nothing would tell a recorded request from a new one."""
    bearer_operator.do("keys.proxy", name="maps", upstream=RULES)
    try:
        headers = {"Authorization": f"Bearer {bearer_device.tokens['access_token']}"}
        body = {"method": "GET", "path": "/v1/x"}
        sent: dict[str, Any] = {"headers": headers, "proof": None, "json": body}
        refused = bearer_device.call("POST", "/v1/proxy/maps", **sent)
        assert error(refused) == (403, "proxy_refused")
        # The same stack serves a device key; that stack's own way out ends at no upstream.
        served = checked_device.proxy("maps", "GET", "/v1/x")
        assert served.json()["error"] in ("upstream_unavailable", "upstream_timeout")
    finally:
        bearer_operator.do("keys.proxy", name="maps", upstream=None)


def test_a_warm_request_costs_one_read_and_two_writes(
    device: Device, key: str, stack: LocalStack, path: str
) -> None:
    assert device.proxy(key, "GET", path).status_code == 200
    with stack.count_calls() as calls:
        assert device.proxy(key, "GET", path).status_code == 200
    calls = calls.besides(stack.outputs["KeyringTable"])
    assert dict(calls.dynamodb) == {"BatchGetItem": 1, "PutItem": 1, "UpdateItem": 1}
    assert dict(calls.kms) == {}


def test_the_log_says_who_used_which_key_and_nothing_of_what_was_said(
    device: Device, key: str, stack: LocalStack
) -> None:
    asked, told = f"asked-{uuid.uuid4().hex}", f"told-{uuid.uuid4().hex}"
    path = f"/v1/{asked}/echo-body"
    headers = {"content-type": "text/plain", "x-extra": asked}
    sent: dict[str, Any] = {"query": [["q", asked]], "headers": headers, "body": told}
    assert device.proxy(key, "POST", path, **sent).json()["body"] == told
    assert device.proxy(key, "DELETE", path, **sent).status_code == 403
    assert device.proxy(asked, "GET", path).status_code == 404
    assert device.proxy(key, "GET", f"/v1/{asked}/echo-key").status_code == 502
    log = stack.logs("proxy")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    used = [
        line for line in lines if line.get("message") == "key audit" and key in line.get("keys", {})
    ]
    assert [(line["action"], line["sid"]) for line in used] == [
        ("proxied", device.tokens["session_id"])
    ] * 2
    for secret in (PROXIED, device.tokens["access_token"], device.client_key):
        for spelling in spellings(secret):
            assert spelling not in log
    assert asked not in log
    assert told not in log


def test_the_value_is_in_no_table(device: Device, key: str, stack: LocalStack, path: str) -> None:
    assert device.proxy(key, "GET", path).status_code == 200
    client = stack.boto3_client("dynamodb")
    dump = ""
    for output in ("VaultTable", "BudgetsTable", "ProofsTable"):
        items = client.scan(TableName=stack.outputs[output])["Items"]
        assert items, f"{output} is empty: nothing was searched"
        dump += str(items)
    client.close()
    for spelling in spellings(PROXIED):
        assert spelling not in dump


def test_other_routes_take_no_more_than_before(device: Device) -> None:
    large = replace(device).call("POST", "/v1/login", json={"username": "x" * 20_000})
    assert error(large) == (413, "payload_too_large")


def test_the_reference_client(
    stack: LocalStack, username: str, key: str, upstream: LocalUpstream, path: str
) -> None:
    config = Config(stack.api_url, client_id="ios", client_key=stack.client_keys["ios"], timeout=30)
    client = KeyferryClient(config, SoftwareDeviceKeys.generate(), MemoryStorage())
    client.login(username, PASSWORD, device_name="Phone", app_version="1.0.0")
    answer = client.proxy(key, "POST", path, query=[("a", "b")], body=b"\x00\xff")
    assert (answer.status, answer.body) == (200, b'{"theirs": true}')
    assert [each.body for each in upstream.at(path)] == [b"\x00\xff"]
    with pytest.raises(Rejected, match="proxy_refused"):
        client.proxy(key, "DELETE", path)
    client.close()
