"""Proxy mode on a clock that the tests set, and on AWS calls that fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keyferry.edge.telemetry import Metric
from tests.e2e.conftest import PROXIED, RULES
from tests.e2e.device import ath
from tests.local_upstream import LocalUpstream
from tests.scenarios.system import Crash, Reply
from tests.scenarios.test_delivery import audited

if TYPE_CHECKING:
    import httpx

    from tests.scenarios.system import Phone, System

THROTTLED = Reply(400, "ThrottlingException")


@pytest.fixture
def key(system: System, upstream: LocalUpstream, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of three requests in every hour."""
    monkeypatch.setenv("KEYFERRY_PROXY_CONNECT_TO", upstream.connect_to)
    upstream.received.clear()
    put(system, "proxied")
    return "proxied"


def put(system: System, name: str, value: str = PROXIED) -> None:
    system.operate("keys.put", name=name, value=value, policy={"roles": ["*"]}, promote=True)
    rules = {**RULES, "budget": 3, "budget_seconds": 3_600}
    system.operate("keys.proxy", name=name, upstream=rules)


def error(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]


def test_windows(system: System, phone: Phone, key: str) -> None:
    system.now += 3_600 - system.now % 3_600 - 10  # ten seconds before a window ends
    assert phone.refresh().status_code == 200
    system.metrics()
    for _ in range(3):
        assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    refused = phone.proxy(key, "GET", "/v1/x")
    assert error(refused) == (429, "budget_exhausted")
    assert refused.headers["retry-after"] == "10"
    assert system.metrics() == [Metric.REQUEST_PROXIED] * 3 + [Metric.BUDGET_EXHAUSTED]
    system.sleep(9)
    assert phone.proxy(key, "GET", "/v1/x").headers["retry-after"] == "1"
    system.sleep(1)
    for _ in range(3):
        assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    assert phone.proxy(key, "GET", "/v1/x").headers["retry-after"] == "3600"


def test_counters_are_forgotten_after_their_window(system: System, phone: Phone, key: str) -> None:
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    table = system.cloud.tables["BudgetsTable"]
    (row,) = system.cloud.dynamodb.scan(TableName=table)["Items"]
    left = int(row["expires_at"]["N"]) - system.now
    assert 60 < left <= 3_600 + 60


@pytest.mark.parametrize("failure", [THROTTLED, Reply(503), Reply(400, "AccessDeniedException")])
def test_a_key_that_cannot_be_opened_costs_neither_proof_nor_budget(
    system: System, phone: Phone, key: str, upstream: LocalUpstream, failure: Reply
) -> None:
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200  # the keyring is unwrapped
    put(system, "another")
    token = phone.tokens["access_token"]
    proof = phone.proof("POST", "/v1/proxy/another", ath=ath(token))
    with system.failing("kms:Decrypt", failure):
        refused = phone.proxy("another", "GET", "/v1/x", proof=proof)
    assert error(refused) == (503, "temporarily_unavailable")
    assert "retry-after" in refused.headers
    assert len(upstream.received) == 1
    assert phone.proxy("another", "GET", "/v1/x", proof=proof).status_code == 200
    for _ in range(2):
        assert phone.proxy("another", "GET", "/v1/x").status_code == 200


@pytest.mark.parametrize(
    ("operation", "table"),
    [
        ("dynamodb:BatchGetItem", "SessionsTable"),
        ("dynamodb:PutItem", "ProofsTable"),
        ("dynamodb:UpdateItem", "BudgetsTable"),
    ],
)
def test_without_its_tables_nothing_is_sent(
    system: System,
    phone: Phone,
    key: str,
    upstream: LocalUpstream,
    operation: str,
    table: str,
) -> None:
    """A limit that is off while DynamoDB is overloaded could be switched off by overloading it."""
    name = system.cloud.tables[table]
    with system.failing(operation, THROTTLED, naming=name):
        assert error(phone.proxy(key, "GET", "/v1/x")) == (503, "temporarily_unavailable")
    assert upstream.received == []
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200


def test_a_crash_before_the_request_goes_out(
    system: System, phone: Phone, key: str, upstream: LocalUpstream
) -> None:
    """The proof is used up. A new one is good, and the first request never was sent."""
    token = phone.tokens["access_token"]
    proof = phone.proof("POST", f"/v1/proxy/{key}", ath=ath(token))
    with system.failing("dynamodb:UpdateItem", Crash()), pytest.raises(Crash):
        phone.proxy(key, "POST", "/v1/x", proof=proof)
    assert error(phone.proxy(key, "POST", "/v1/x", proof=proof)) == (401, "invalid_dpop_proof")
    assert upstream.received == []
    assert phone.proxy(key, "POST", "/v1/x").status_code == 200


def test_a_new_version_is_used_from_its_promotion_on(
    system: System, phone: Phone, key: str, upstream: LocalUpstream
) -> None:
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    system.operate("keys.put", name=key, value="another-value")
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    system.operate("keys.promote", name=key)
    assert phone.proxy(key, "GET", "/v1/x").status_code == 200
    sent = [each.headers["x-api-key"] for each in upstream.received]
    assert sent == [PROXIED, PROXIED, "another-value"]


def test_a_key_that_is_no_headers_value(
    system: System, phone: Phone, key: str, upstream: LocalUpstream
) -> None:
    assert key
    put(system, "lines", "one\r\nX-Injected: two")
    assert error(phone.proxy("lines", "GET", "/v1/x")) == (502, "upstream_unavailable")
    assert upstream.received == []


def test_a_key_whose_row_is_lost(
    system: System,
    phone: Phone,
    key: str,
    upstream: LocalUpstream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    number = system.operate("keys.get", name=key)["current"]["number"]
    table = system.cloud.tables["VaultTable"]
    system.cloud.dynamodb.delete_item(TableName=table, Key={"id": {"S": f"{key}#{number}"}})
    caplog.clear()
    assert error(phone.proxy(key, "GET", "/v1/x")) == (503, "temporarily_unavailable")
    (line,) = audited(caplog)
    assert (line["action"], line["refused"]) == ("refused", {key: "temporarily_unavailable"})
    assert upstream.received == []


def test_a_proof_that_a_clock_far_off_made(system: System, phone: Phone, key: str) -> None:
    phone.clock_offset = -3 * 86_400
    assert error(phone.proxy(key, "GET", "/v1/x")) == (401, "use_dpop_nonce")
    nonce = phone.keys().headers["dpop-nonce"]
    token = phone.tokens["access_token"]
    proof = phone.proof("POST", f"/v1/proxy/{key}", ath=ath(token), nonce=nonce)
    assert phone.proxy(key, "GET", "/v1/x", proof=proof).status_code == 200
    assert error(phone.proxy(key, "GET", "/v1/x", proof=proof)) == (401, "invalid_dpop_proof")
    system.sleep(301)  # the row may be gone by then, and the nonce is
    assert phone.proxy(key, "GET", "/v1/x", proof=proof).status_code == 401
