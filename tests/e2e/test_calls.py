"""What a warm request costs in AWS calls, counted at the emulator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.device import Device


@pytest.fixture
def warm(device: Device) -> Device:
    """A phone whose requests have warmed the functions: keyring read, keys unwrapped."""
    assert device.refresh().status_code == 200
    assert device.keys().status_code == 200
    return device


def test_refresh_is_one_write(stack: LocalStack, warm: Device) -> None:
    with stack.count_calls() as calls:
        assert warm.refresh().status_code == 200
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({"UpdateItem": 1}, {})


def test_retry_of_a_lost_reply_is_one_write(stack: LocalStack, warm: Device) -> None:
    token = warm.tokens["refresh_token"]
    assert warm.refresh(token).status_code == 200
    with stack.count_calls() as calls:
        assert warm.refresh(token).status_code == 200
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({"UpdateItem": 1}, {})


def test_delivery_is_one_read(stack: LocalStack, warm: Device) -> None:
    with stack.count_calls() as calls:
        assert warm.keys().status_code == 200
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({"BatchGetItem": 1}, {})


def test_not_modified_is_one_read(stack: LocalStack, warm: Device) -> None:
    etag = warm.keys().headers["etag"]
    with stack.count_calls() as calls:
        assert warm.keys(headers={"If-None-Match": etag}).status_code == 304
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({"BatchGetItem": 1}, {})


def test_login_is_four_calls(
    stack: LocalStack, warm: Device, new_device: Callable[..., Device], username: str
) -> None:
    device = new_device()
    with stack.count_calls() as calls:
        assert device.login(username, PASSWORD).status_code == 200
    assert dict(calls.dynamodb) == {
        "BatchGetItem": 1,
        "UpdateItem": 1,
        "GetItem": 1,
        "TransactWriteItems": 1,
    }
    assert dict(calls.kms) == {}


def test_refused_login_costs_the_same_for_an_unknown_user(
    stack: LocalStack, warm: Device, new_device: Callable[..., Device], username: str
) -> None:
    counts = []
    for name in (username, "nobody"):
        with stack.count_calls() as calls:
            assert new_device().login(name, "wrong").status_code == 400
        counts.append((dict(calls.dynamodb), dict(calls.kms)))
    assert counts[0] == counts[1] == ({"BatchGetItem": 1, "UpdateItem": 2, "GetItem": 1}, {})


def test_forged_refresh_tokens_cost_nothing(stack: LocalStack, warm: Device) -> None:
    token = warm.tokens["refresh_token"]
    flipped = token[:60] + ("A" if token[60] != "A" else "B") + token[61:]
    forged = [flipped, token[:-1], token[:-4], token + "AAAA", "kfr_" + "A" * 124]
    forged += ["", "x", "kfr_", warm.tokens["access_token"], "A" * 10_000, token.swapcase()]
    with stack.count_calls() as calls:
        for each in forged:
            response = warm.refresh(each)
            assert response.status_code == 400
            assert response.json()["error"] in ("invalid_grant", "invalid_request")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    assert warm.refresh().status_code == 200


def test_bad_proofs_cost_nothing(stack: LocalStack, warm: Device) -> None:
    proofs = [
        None,
        "x",
        warm.proof("GET", "/v1/token"),
        warm.proof("POST", "/v1/login"),
        warm.proof("POST", "/v1/token", iat=1),
        warm.proof("POST", "/v1/token", nonce="x"),
    ]
    # The first nonce that is not the current key's makes a function unwrap the next key, once.
    warm.refresh(proof=proofs[-1])
    with stack.count_calls() as calls:
        for proof in proofs:
            response = warm.refresh(proof=proof)
            assert response.status_code == 400
            assert response.json()["error"] in ("invalid_dpop_proof", "use_dpop_nonce")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    assert warm.refresh().status_code == 200


def test_forged_access_tokens_cost_nothing(stack: LocalStack, warm: Device) -> None:
    good = warm.tokens["access_token"]
    head, payload, signature = good.split(".")
    forged = [
        f"{head}.{payload}.",
        f"{head}.{payload}.{signature[:-2]}AA",
        f"{head}.{payload}.{signature}==",
        f"{head}.{payload[:-1]}.{signature}",
        warm.tokens["refresh_token"],
        "x",
    ]
    with stack.count_calls() as calls:
        for each in forged:
            warm.tokens["access_token"] = each
            response = warm.keys()
            assert (response.status_code, response.json()["error"]) == (401, "invalid_token")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    warm.tokens["access_token"] = good
    assert warm.keys().status_code == 200
