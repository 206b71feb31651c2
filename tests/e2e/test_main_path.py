"""One phone, from discovery to refresh, over HTTP."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest

from tests.e2e.conftest import PASSWORD, SECRETS, Operator
from tests.e2e.device import Device, jwk_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack

TOKEN_MEMBERS = {
    "access_token",
    "token_type",
    "expires_in",
    "refresh_token",
    "refresh_expires_in",
    "session_id",
    "scope",
}


def is_credential(response: httpx.Response) -> None:
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["dpop-nonce"]


def is_error(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.json()["error"]) == (status, code), response.text
    assert set(response.json()) == {"error", "error_description", "request_id"}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"


class TestDiscovery:
    def get(self, stack: LocalStack, name: str) -> httpx.Response:
        return httpx.get(f"{stack.api_url}/.well-known/{name}", trust_env=False)

    def test_metadata_needs_no_client_key(self, stack: LocalStack) -> None:
        documents = [
            self.get(stack, name).json()
            for name in ("openid-configuration", "oauth-authorization-server")
        ]
        assert documents[0] == documents[1]
        assert documents[0]["issuer"] == stack.api_url
        assert documents[0]["token_endpoint"] == f"{stack.api_url}/v1/token"

    def test_jwks_is_public_and_cacheable(self, stack: LocalStack) -> None:
        response = self.get(stack, "jwks.json")
        assert response.headers["cache-control"] == "public, max-age=300"
        assert len(response.json()["keys"]) == 2
        assert all("d" not in jwk for jwk in response.json()["keys"])


class TestLogin:
    def test_token_response(self, stack: LocalStack, device: Device) -> None:
        tokens = device.tokens
        assert set(tokens) == TOKEN_MEMBERS
        assert tokens["token_type"] == "DPoP"
        assert 873 <= tokens["expires_in"] <= 900
        assert tokens["refresh_expires_in"] in (7 * 86_400, 7 * 86_400 - 1)  # a second may pass
        assert re.fullmatch(r"kfr_[A-Za-z0-9_-]{124}", tokens["refresh_token"])
        claims = jwt.decode(tokens["access_token"], options={"verify_signature": False})
        assert set(claims) == {
            *("iss", "aud", "sub", "sid", "client_id", "scope"),
            *("roles", "amr", "jti", "iat", "exp", "cnf"),
        }
        assert claims["iss"] == claims["aud"] == stack.api_url
        assert (claims["client_id"], claims["roles"], claims["amr"]) == ("ios", ["user"], ["pwd"])
        assert claims["sid"] == tokens["session_id"]

    def test_headers(self, new_device: Callable[..., Device], username: str) -> None:
        is_credential(new_device().login(username, PASSWORD))

    def test_names_are_compared_as_people_read_them(
        self, new_device: Callable[..., Device], username: str
    ) -> None:
        assert new_device().login(f" {username.upper()} ", PASSWORD).status_code == 200

    def test_every_failure_reads_alike(
        self, new_device: Callable[..., Device], username: str
    ) -> None:
        answers = []
        for name, password in (("nobody", PASSWORD), (username, "wrong")):
            response = new_device().login(name, password)
            is_error(response, 400, "invalid_grant")
            body = response.json()
            del body["request_id"]
            headers = dict(response.headers.items())
            for varying in ("date", "x-amzn-requestid", "x-amz-request-id", "dpop-nonce"):
                del headers[varying]  # the nonce is the time's
            answers.append((body, headers))
        assert answers[0] == answers[1]

    def test_a_clock_three_days_off_costs_one_more_round(
        self, new_device: Callable[..., Device], username: str
    ) -> None:
        device = new_device(clock_offset=-3 * 86_400)
        challenged = device.login(username, PASSWORD)
        is_error(challenged, 400, "use_dpop_nonce")
        proof = device.proof("POST", "/v1/login", nonce=challenged.headers["dpop-nonce"])
        body = {
            "username": username,
            "password": PASSWORD,
            "device": {
                "name": "x",
                "platform": "ios",
                "app_version": "1",
                "encryption_key": jwk_of(device.encryption),
            },
        }
        assert device.call("POST", "/v1/login", json=body, proof=proof).status_code == 200


class TestDelivery:
    def test_all_that_the_caller_may_have(self, device: Device) -> None:
        response = device.keys()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "application/jose"
        is_credential(response)
        claims = device.open(response)
        assert {name: key["value"] for name, key in claims["keys"].items()} == {
            name: SECRETS[name] for name in ("gemini", "maps")
        }
        assert claims["keys"]["maps"]["cache_seconds"] == 60
        assert claims["sid"] == device.tokens["session_id"]
        assert claims["proof_jti"] == device.last_jti

    def test_narrowed(self, device: Device) -> None:
        assert set(device.open(device.keys(query="?names=maps"))["keys"]) == {"maps"}
        assert set(device.open(device.keys("/v1/keys/gemini"))["keys"]) == {"gemini"}
        both = device.keys(query="?names=maps,admin-only,nothing")
        assert set(device.open(both)["keys"]) == {"maps"}

    @pytest.mark.parametrize("name", ["admin-only", "android-only", "no-policy", "nothing"])
    def test_refused_and_unknown_read_alike(self, device: Device, name: str) -> None:
        is_error(device.keys(f"/v1/keys/{name}"), 404, "not_found")

    def test_not_modified(self, device: Device) -> None:
        first = device.keys()
        etag = first.headers["etag"]
        assert etag.startswith("W/"), "the same keys, but other bytes each time"
        for match in (etag, f'{etag.removeprefix("W/")}, "other"', "*"):
            again = device.keys(headers={"If-None-Match": match})
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["etag"] == etag
        assert device.keys(headers={"If-None-Match": '"other"'}).status_code == 200

    def test_a_new_version_and_a_withdrawn_key_show_at_once(
        self, device: Device, operator: Operator
    ) -> None:
        policy = {"roles": ["user"]}
        operator.do("keys.put", name="moving", value="one", policy=policy, promote=True)
        first = device.keys("/v1/keys/moving")
        assert device.open(first)["keys"]["moving"]["value"] == "one"
        operator.do("keys.put", name="moving", value="two", promote=True)
        second = device.keys("/v1/keys/moving", headers={"If-None-Match": first.headers["etag"]})
        assert device.open(second)["keys"]["moving"]["value"] == "two"
        operator.do("keys.delete", name="moving")
        is_error(device.keys("/v1/keys/moving"), 404, "not_found")


class TestRefresh:
    def test_rotates(self, device: Device) -> None:
        before = dict(device.tokens)
        response = device.refresh()
        assert response.status_code == 200
        is_credential(response)
        assert set(response.json()) == TOKEN_MEMBERS
        assert response.json()["refresh_token"] != before["refresh_token"]
        assert response.json()["session_id"] == before["session_id"]
        assert device.keys().status_code == 200

    def test_json_body(self, device: Device) -> None:
        body = {
            "grant_type": "refresh_token",
            "refresh_token": device.tokens["refresh_token"],
            "client_id": "ios",
        }
        assert device.call("POST", "/v1/token", json=body).status_code == 200

    def test_lost_reply(self, device: Device) -> None:
        token = device.tokens["refresh_token"]
        lost = device.refresh(token, keep=False).json()["refresh_token"]
        again = device.refresh(token)
        assert again.json()["refresh_token"] == lost
        assert device.refresh().status_code == 200

    def test_nonce_challenge_does_not_touch_the_token(self, device: Device) -> None:
        device.clock_offset = 3 * 86_400
        challenged = device.refresh(proof=device.proof("POST", "/v1/token"))
        is_error(challenged, 400, "use_dpop_nonce")
        proof = device.proof("POST", "/v1/token", nonce=challenged.headers["dpop-nonce"])
        assert device.refresh(proof=proof).status_code == 200


class TestOperator:
    def test_revoked_sessions_get_nothing_at_once(
        self, device: Device, username: str, operator: Operator
    ) -> None:
        assert device.keys().status_code == 200
        assert operator.do("sessions.revoke", username=username) == {"revoked": 1}
        is_error(device.keys(), 401, "invalid_token")
        is_error(device.refresh(), 400, "invalid_grant")
        assert operator.do("sessions.revoke", username=username) == {"revoked": 0}

    def test_one_session_of_two(
        self,
        new_device: Callable[..., Device],
        device: Device,
        username: str,
        operator: Operator,
    ) -> None:
        other = new_device()
        other.login(username, PASSWORD)
        sid = device.tokens["session_id"]
        assert operator.do("sessions.revoke", username=username, sid=sid) == {"revoked": 1}
        is_error(device.refresh(), 400, "invalid_grant")
        assert other.refresh().status_code == 200

    @pytest.mark.parametrize(
        ("command", "arguments", "code"),
        [
            ("nothing", {}, "invalid_request"),
            ("users.add", {}, "invalid_request"),
            ("users.add", {"username": "a\0", "password": "x"}, "invalid_request"),
            ("users.add", {"username": "a", "password": "x" * 2000}, "invalid_request"),
            ("users.add", {"username": "a", "password": "x", "admin": True}, "invalid_request"),
            ("keys.put", {"name": "a#1", "value": "hunter2"}, "invalid_request"),
            ("keys.put", {"name": "MANIFEST\n", "value": "hunter2"}, "invalid_request"),
            ("keys.put", {"name": "a", "value": "é" * 3000}, "invalid_request"),
            ("keys.put", {"name": "a", "value": "x", "policy": {}}, "invalid_request"),
            ("keys.put", {"name": "a", "value": "x", "cache_seconds": -1}, "invalid_request"),
            ("keys.put", {"name": "a", "value": ["hunter2"]}, "invalid_request"),
            ("keys.delete", {"name": "nothing"}, "not_found"),
            ("sessions.revoke", {}, "invalid_request"),
            ("sessions.revoke", {"username": "nobody-at-all"}, "not_found"),
        ],
    )
    def test_bad_commands(
        self, operator: Operator, command: str, arguments: dict[str, Any], code: str
    ) -> None:
        answer = operator.invoke(command, **arguments)
        assert (answer["ok"], answer["error"]["error"]) == (False, code), answer
        assert "hunter2" not in str(answer)

    def test_user_names_are_taken_once(self, operator: Operator, username: str) -> None:
        answer = operator.invoke("users.add", username=username.upper(), password="other")
        assert answer["error"]["error"] == "already_exists"
