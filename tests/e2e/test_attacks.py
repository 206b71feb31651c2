"""What strangers, thieves and broken clients can send, and what they get for it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest

from tests.e2e.conftest import PASSWORD
from tests.e2e.device import Device, jwk_of, new_key
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack


def thief_of(device: Device, *, with_key: bool) -> Device:
    """A copy of all that a phone holds, with or without its device key."""
    thief = Device(device.http, device.api_url, device.client_key, tokens=dict(device.tokens))
    if with_key:
        thief.signing = device.signing
    return thief


class TestThief:
    def test_token_without_the_key_is_worth_nothing_and_hurts_nobody(self, device: Device) -> None:
        old = dict(device.tokens)
        device.refresh()
        device.refresh()
        thief = thief_of(device, with_key=False)
        for token in (old["refresh_token"], device.tokens["refresh_token"]):
            is_error(thief.refresh(token), 400, "invalid_grant")
        is_error(thief.keys(), 401, "invalid_token")
        assert device.refresh().status_code == 200, "a thief can not log the owner out"
        assert device.keys().status_code == 200

    def test_a_hundred_wrong_keys(self, device: Device) -> None:
        thief = thief_of(device, with_key=False)
        assert {thief.refresh().status_code for _ in range(100)} == {400}
        assert device.refresh().status_code == 200

    def test_a_cloned_phone_is_seen_and_the_session_dies(self, device: Device) -> None:
        clone = thief_of(device, with_key=True)
        device.refresh()
        device.refresh()
        assert device.keys().status_code == 200
        is_error(clone.refresh(), 400, "invalid_grant")
        is_error(device.keys(), 401, "invalid_token")
        is_error(device.refresh(), 400, "invalid_grant")

    def test_a_clone_that_goes_first_is_found_out_by_the_owner(self, device: Device) -> None:
        clone = thief_of(device, with_key=True)
        clone.refresh()
        clone.refresh()
        is_error(device.refresh(), 400, "invalid_grant")
        is_error(clone.keys(), 401, "invalid_token")
        is_error(clone.refresh(), 400, "invalid_grant")

    def test_a_recorded_request_ends_nothing(self, device: Device) -> None:
        """Token and proof, sent again by somebody who has not the key to make another proof."""
        token, proof = device.tokens["refresh_token"], device.proof("POST", "/v1/token")
        device.refresh(proof=proof)
        device.refresh()
        device.refresh()
        for _ in range(3):
            is_error(device.refresh(token, proof=proof, keep=False), 400, "use_dpop_nonce")
        assert device.refresh().status_code == 200

    def test_the_users_other_phone_goes_on(
        self, device: Device, new_device: Callable[..., Device], username: str
    ) -> None:
        other = new_device()
        other.login(username, PASSWORD)
        clone = thief_of(device, with_key=True)
        device.refresh()
        device.refresh()
        clone.refresh()
        assert other.refresh().status_code == 200
        assert other.keys().status_code == 200

    def test_a_proof_for_one_thing_is_none_for_another(self, device: Device) -> None:
        access_token = device.tokens["access_token"]
        headers = {"Authorization": f"DPoP {access_token}"}
        without_ath = device.proof("GET", "/v1/keys")
        response = device.call("GET", "/v1/keys", headers=headers, proof=without_ath)
        is_error(response, 401, "invalid_dpop_proof")
        other_host = device.proof("POST", "/v1/token", htu="https://evil.example/v1/token")
        is_error(device.refresh(proof=other_host), 400, "invalid_dpop_proof")

    def test_a_bound_token_is_no_bearer_token(self, device: Device) -> None:
        headers = {"Authorization": f"Bearer {device.tokens['access_token']}"}
        for proof in ("", None):
            response = device.call("GET", "/v1/keys", headers=headers, proof=proof)
            is_error(response, 401, "invalid_token")

    def test_a_refresh_token_is_no_access_token_and_the_other_way_round(
        self, device: Device
    ) -> None:
        tokens = dict(device.tokens)
        is_error(device.refresh(tokens["access_token"]), 400, "invalid_grant")
        device.tokens["access_token"] = tokens["refresh_token"]
        is_error(device.keys(), 401, "invalid_token")


class TestClients:
    def test_no_client_key(self, device: Device) -> None:
        device.client_key = "unknown"
        for response in (device.refresh(), device.keys(), device.login("x", "y")):
            is_error(response, 403, "invalid_client")

    def test_a_token_of_another_client(self, device: Device, stack: LocalStack) -> None:
        ios = device.client_key
        device.client_key = stack.client_keys["android"]
        is_error(device.refresh(), 400, "invalid_grant")
        is_error(device.keys(), 401, "invalid_token")
        device.client_key = ios
        assert device.refresh().status_code == 200

    def test_client_id_of_another_client(self, device: Device) -> None:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": device.tokens["refresh_token"],
            "client_id": "android",
        }
        is_error(device.call("POST", "/v1/token", data=form), 401, "invalid_client")


FORM = "application/x-www-form-urlencoded"


class TestBadInput:
    @pytest.mark.parametrize(
        ("content", "media_type", "status", "code"),
        [
            (b"", FORM, 400, "invalid_request"),
            (b"grant_type=refresh_token", FORM, 400, "invalid_request"),
            (b"grant_type=password&refresh_token=x", FORM, 400, "unsupported_grant_type"),
            (b"grant_type=refresh_token&refresh_token=x&a=1", FORM, 400, "invalid_request"),
            (b"grant_type=refresh_token&grant_type=x", FORM, 400, "invalid_request"),
            (b"grant_type=refresh_token&refresh_token=%FF", FORM, 400, "invalid_request"),
            (b"{}", "application/json", 400, "invalid_request"),
            (b"{", "application/json", 400, "invalid_request"),
            (b"[" * 9000, "application/json", 400, "invalid_request"),
            (b'{"grant_type":"refresh_token","refresh_token":7}', "application/json", 400, ""),
            (b"\xff\xfe", "application/json", 400, "invalid_request"),
            (b"x", "text/plain", 415, "unsupported_media_type"),
            (b"x" * 17_000, FORM, 413, "payload_too_large"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_token(
        self, device: Device, content: bytes, media_type: str, status: int, code: str
    ) -> None:
        headers = {"Content-Type": media_type}
        response = device.call("POST", "/v1/token", content=content, headers=headers)
        is_error(response, status, code or "invalid_request")
        assert device.refresh().status_code == 200, "nothing was lost by it"

    @pytest.mark.parametrize(
        "change",
        [
            {"username": ""},
            {"username": "x" * 255},
            {"username": "a\0b"},
            {"username": None},
            {"password": ""},
            {"password": "hunter2" * 200},
            {"password": 7},
            {"password": "\ud800"},
            {"otp": "1"},
            {"otp": 123456},
            {"auth_session": "x"},
            {"unknown": "field"},
            {"device": {}},
            {"device": "x"},
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_login(self, new_device: Callable[..., Device], change: dict[str, Any]) -> None:
        device = new_device()
        body = {
            "username": "x",
            "password": "hunter2",
            "device": {
                "name": "x",
                "platform": "ios",
                "app_version": "1",
                "encryption_key": jwk_of(device.encryption),
            },
            **change,
        }
        headers = {"Content-Type": "application/json"}
        response = device.call(
            "POST", "/v1/login", content=json.dumps(body).encode(), headers=headers
        )
        is_error(response, 400, "invalid_request")
        assert "hunter2" not in response.text

    @pytest.mark.parametrize(
        "change",
        [
            {"crv": "P-384"},
            {"kty": "RSA"},
            {"d": "AAAA"},
            {"use": "sig"},
            {"x": "AAAA"},
            {"y": "A" * 43},
            {"x": 1},
        ],
        ids=str,
    )
    def test_encryption_key(
        self, new_device: Callable[..., Device], change: dict[str, Any], username: str
    ) -> None:
        device = new_device()
        details = {
            "name": "x",
            "platform": "ios",
            "app_version": "1",
            "encryption_key": {**jwk_of(device.encryption), **change},
        }
        is_error(device.login(username, PASSWORD, device=details), 400, "invalid_request")

    @pytest.mark.parametrize("names", ["", ",", "a,,b", "a b", "../x", "a%231", "%00", "x" * 65])
    def test_names(self, device: Device, names: str) -> None:
        is_error(device.keys(query=f"?names={names}"), 400, "invalid_request")

    def test_two_proofs(self, device: Device) -> None:
        response = device.http.post(
            f"{device.api_url}/v1/token",
            headers=[
                ("x-api-key", device.client_key),
                ("DPoP", device.proof("POST", "/v1/token")),
                ("DPoP", device.proof("POST", "/v1/token")),
            ],
            data={
                "grant_type": "refresh_token",
                "refresh_token": device.tokens["refresh_token"],
            },
        )
        assert response.status_code == 400
        assert device.refresh().status_code == 200

    def test_no_such_route(self, device: Device) -> None:
        assert device.call("GET", "/v1/token").status_code in (403, 404, 405)
        assert device.call("GET", "/v2/keys").status_code in (403, 404)


class TestProofAlgorithms:
    @pytest.mark.parametrize(
        "header",
        [
            {"typ": "JWT"},
            {"jwk": {**jwk_of(new_key()), "d": "AAAA"}},
            {"jwk": jwk_of(new_key())},
            {"jku": "https://evil.example/jwks", "jwk": None},
            {"crit": ["x"], "x": 1},
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_refused(self, device: Device, header: dict[str, Any]) -> None:
        proof = device.proof("POST", "/v1/token", header=header)
        is_error(device.refresh(proof=proof), 400, "invalid_dpop_proof")

    def test_none_and_hmac(self, device: Device) -> None:
        claims = jwt.decode(device.proof("POST", "/v1/token"), options={"verify_signature": False})
        headers = {"typ": "dpop+jwt", "jwk": jwk_of(device.signing)}
        for key, algorithm in (("", "none"), ("k" * 32, "HS256")):
            proof = jwt.encode(claims, key, algorithm=algorithm, headers=headers)
            is_error(device.refresh(proof=proof), 400, "invalid_dpop_proof")


def test_throttled_by_the_usage_plan(stack: LocalStack, new_device: Callable[..., Device]) -> None:
    """Last in this file: it empties the login bucket of one platform."""
    device = new_device("android")
    statuses = []
    for _ in range(60):
        response = device.http.post(
            f"{stack.api_url}/v1/login",
            headers={"x-api-key": device.client_key, "Content-Type": "application/json"},
            content=b"{}",
        )
        statuses.append(response.status_code)
        if response.status_code == 429:
            break
    assert statuses[-1] == 429, statuses
    is_error(response, 429, "temporarily_unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert httpx.codes.is_client_error(429)
    time.sleep(1.1)
    assert device.login("x", "y").status_code == 400, "it is throttled, not locked"
