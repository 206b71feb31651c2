"""Replacing the encryption key: who may, what a recording of it is worth, and what it must not touch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ReadTimeoutError

from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.dpop.proof import IAT_LEEWAY_SECONDS
from keyferry.edge.telemetry import Metric
from keyferry.sessions.model import Status
from keyferry_client import SoftwareDeviceKeys
from keyferry_client.jose import decrypt, thumbprint
from tests.e2e.device import ath, jwk_of, new_key
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    import httpx
    from cryptography.hazmat.primitives.asymmetric import ec

    from keyferry_client.device import Kind
    from tests.scenarios.system import Phone, System

    Key = ec.EllipticCurvePrivateKey

PATH = "/v1/device/encryption-key"
GOOD = {  # RFC 7518 Appendix C, Bob's
    "kty": "EC",
    "crv": "P-256",
    "x": "weNJy2HscCSM6AEDTDg04biOvhFhyyWvOHQfeF_PxMQ",
    "y": "e8lnCO-AlStT-NJVX-crhB7QRYhiix03illJOVAOyck",
}


def prove(phone: Phone, **claims: Any) -> str:
    return phone.proof("PUT", PATH, **{"ath": ath(phone.tokens["access_token"]), **claims})


def put(phone: Phone, key: Key | Mapping[str, str], *, proof: str | None = None) -> httpx.Response:
    """With a proof that carries a nonce of now, unless another one is given."""
    if proof is None:
        proof = prove(phone, nonce=nonce(phone))
    headers = {"Authorization": f"DPoP {phone.tokens['access_token']}"}
    jwk = key if isinstance(key, Mapping) else jwk_of(key)
    return phone.call("PUT", PATH, headers=headers, proof=proof, json={"encryption_key": jwk})


def nonce(phone: Phone) -> str:
    return phone.call("GET", "/v1/keys", proof=None).headers["dpop-nonce"]


def goes_to(phone: Phone, key: Key) -> None:
    """Deliveries are to this key: it opens them, and they name it."""
    response = phone.keys()
    assert response.status_code == 200
    assert set(replace(phone, encryption=key).open(response)["keys"]) == {"maps"}


def members(system: System, phone: Phone) -> dict[str, str]:
    return system.row(phone).encryption_key.jwk.members()


class TestReplacement:
    def test_the_next_delivery_goes_to_the_new_key(self, system: System, phone: Phone) -> None:
        goes_to(phone, phone.encryption)
        etag = {"If-None-Match": phone.keys().headers["etag"]}
        assert phone.keys(headers=etag).status_code == 304
        new, before = new_key(), system.row(phone)
        system.metrics()
        response = put(phone, new)
        assert response.status_code == 200
        assert response.json() == {"kid": system.row(phone).encryption_key.thumbprint()}
        assert system.metrics() == [Metric.ENCRYPTION_KEY_REPLACED]
        assert members(system, phone) == jwk_of(new)
        assert replace(system.row(phone), encryption_key=before.encryption_key) == before
        assert phone.keys(headers=etag).status_code == 200
        goes_to(phone, new)

    def test_a_refresh_leaves_the_new_key(self, system: System, phone: Phone) -> None:
        new, lost = new_key(), phone.tokens["refresh_token"]
        assert phone.refresh().status_code == 200
        assert put(phone, new).status_code == 200
        assert phone.refresh(lost).status_code == 200
        assert phone.refresh().status_code == 200
        goes_to(phone, new)

    def test_a_refresh_at_the_same_moment(self, system: System, phone: Phone) -> None:
        new = new_key()
        proofs = prove(phone), phone.proof("POST", "/v1/token")
        with ThreadPoolExecutor(2) as pool:
            putting = pool.submit(put, phone, new, proof=proofs[0])
            refreshing = pool.submit(phone.refresh, keep=False, proof=proofs[1])
        assert (putting.result().status_code, refreshing.result().status_code) == (200, 200)
        assert (members(system, phone), system.row(phone).generation) == (jwk_of(new), 1)

    def test_one_kind_after_another(self, system: System, phone: Phone) -> None:
        """The row holds one key at a time, however each kind is written."""
        keys = SoftwareDeviceKeys.generate()
        kinds: list[tuple[Kind, bool]] = [("X25519", False), ("P-256", True), ("P-256", False)]
        for kind, key_wrap in kinds * 2:
            keys.renew_encryption_key(kind, key_wrap=key_wrap)
            system.sleep(1)
            jwk = dict(keys.encryption_jwk)
            assert put(phone, jwk).json() == {"kid": thumbprint(jwk)}
            assert system.row(phone).encryption_key.members() == jwk
            assert decrypt(phone.keys().text, keys)
            assert phone.refresh().status_code == 200
            held = {name for name in system.item(phone) if name.startswith("encryption_")}
            default = (kind, key_wrap) == ("P-256", False)
            names = {"encryption_x", "encryption_y"} if default else {"encryption_key"}
            assert held == {*names, "encryption_key_set_at"}

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"encryption_key": None},
            {"encryption_key": "x"},
            {"encryption_key": {}},
            {"encryption_key": {"kty": "RSA", "n": "AQAB", "e": "AQAB"}},
            {"encryption_key": {**GOOD, "use": "sig"}},
            {"encryption_key": {**GOOD, "d": "AAAA"}},
            {"encryption_key": {**GOOD, "alg": "RSA1_5"}},
            {"encryption_key": GOOD, "sid": "another"},
        ],
        ids=str,
    )
    def test_what_is_no_key(self, system: System, phone: Phone, body: dict[str, Any]) -> None:
        before = system.item(phone)
        is_error(phone.resource("PUT", PATH, json=body), 400, "invalid_request")
        assert system.item(phone) == before

    def test_json_only(self, phone: Phone) -> None:
        response = phone.resource("PUT", PATH, data={"encryption_key": "x"})
        is_error(response, 415, "unsupported_media_type")


class TestWhoMay:
    def test_a_thief_without_the_device_key(self, system: System, phone: Phone) -> None:
        thief, before = phone.stolen(), system.item(phone)
        is_error(put(thief, new_key()), 401, "invalid_token")
        is_error(put(thief, new_key(), proof=prove(phone, ath="x")), 401, "invalid_dpop_proof")
        headers = {"Authorization": f"Bearer {phone.tokens['access_token']}"}
        body = {"encryption_key": jwk_of(new_key())}
        for proof in (None, prove(phone)):
            response = phone.call("PUT", PATH, headers=headers, proof=proof, json=body)
            is_error(response, 401, "invalid_token")
        assert system.item(phone) == before

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", PATH), ("POST", PATH), ("PUT", "/v1/keys"), ("GET", "/v1/keys")],
    )
    def test_a_proof_of_another_request(
        self, system: System, phone: Phone, method: str, path: str
    ) -> None:
        before = system.item(phone)
        proof = phone.proof(method, path, ath=ath(phone.tokens["access_token"]))
        is_error(put(phone, new_key(), proof=proof), 401, "invalid_dpop_proof")
        assert system.item(phone) == before

    def test_another_session_of_the_same_device(self, system: System, phone: Phone) -> None:
        """Its access token is its own: a proof says which one it goes with."""
        other = system.phone(phone.username)
        recorded = prove(phone)
        is_error(put(other, new_key(), proof=recorded), 401, "invalid_dpop_proof")

    def test_an_ended_session(self, system: System, phone: Phone) -> None:
        system.put(replace(system.row(phone), status=Status.LOGGED_OUT))
        before = system.item(phone)
        is_error(put(phone, new_key()), 401, "invalid_token")
        is_error(put(phone, phone.encryption), 401, "invalid_token")
        assert system.item(phone) == before

    def test_an_expired_session(self, system: System, phone: Phone) -> None:
        alive = system.row(phone)
        for expired in (
            replace(alive, idle_expires_at=system.now),
            replace(alive, absolute_expires_at=system.now),
        ):
            system.put(expired)
            is_error(put(phone, new_key()), 401, "invalid_token")
        system.put(replace(alive, idle_expires_at=system.now + 1))
        assert put(phone, new_key()).status_code == 200

    def test_a_session_that_is_gone(self, system: System, phone: Phone) -> None:
        system.delete(phone)
        is_error(put(phone, new_key()), 401, "invalid_token")
        is_error(put(phone, phone.encryption), 401, "invalid_token")

    def test_a_bearer_client_by_its_token_alone(self, open_system: System, bearer: Phone) -> None:
        for _ in range(2):
            new = new_key()
            body = {"encryption_key": jwk_of(new)}
            assert bearer.resource("PUT", PATH, json=body).status_code == 200
            assert members(open_system, bearer) == jwk_of(new)
        bearer.resource("DELETE", f"/v1/sessions/{bearer.tokens['session_id']}")
        is_error(bearer.resource("PUT", PATH, json=body), 401, "invalid_token")


class TestRecordings:
    """Somebody has the bytes of a request, can send them again, and can hold them back."""

    @pytest.mark.parametrize("with_nonce", [False, True])
    def test_the_newest_again_is_harmless(
        self, system: System, phone: Phone, with_nonce: bool
    ) -> None:
        new, claims = new_key(), {"nonce": nonce(phone)} if with_nonce else {}
        proof = prove(phone, **claims)
        assert put(phone, new, proof=proof).status_code == 200
        after = system.item(phone)
        system.metrics()
        system.sleep(IAT_LEEWAY_SECONDS)
        response = put(phone, new, proof=proof)
        assert (response.status_code, response.json()) == (
            200,
            {"kid": system.row(phone).encryption_key.thumbprint()},
        )
        assert (system.item(phone), system.metrics()) == (after, [])

    @pytest.mark.parametrize("with_nonce", [False, True])
    @pytest.mark.parametrize("seconds", [0, 1, 59])
    def test_an_older_one_brings_no_key_back(
        self, system: System, phone: Phone, with_nonce: bool, seconds: int
    ) -> None:
        first, second = new_key(), new_key()
        claims = {"nonce": nonce(phone)} if with_nonce else {}
        recorded = prove(phone, **claims)
        assert put(phone, first, proof=recorded).status_code == 200
        system.sleep(1)
        assert put(phone, second).status_code == 200
        system.sleep(seconds)
        assert claims or seconds + 1 <= IAT_LEEWAY_SECONDS, "the proof is still a good one"
        before = system.item(phone)
        is_error(put(phone, first, proof=recorded), 401, "use_dpop_nonce")
        assert system.item(phone) == before
        goes_to(phone, second)

    @pytest.mark.parametrize("with_nonce", [False, True])
    def test_nor_one_that_was_held_back(
        self, system: System, phone: Phone, with_nonce: bool
    ) -> None:
        claims = {"nonce": nonce(phone)} if with_nonce else {}
        held, first, second = prove(phone, **claims), new_key(), new_key()
        system.sleep(5)
        assert put(phone, second).status_code == 200
        is_error(put(phone, first, proof=held), 401, "use_dpop_nonce")
        goes_to(phone, second)

    def test_nor_one_with_a_nonce_from_a_clock_ahead(self, system: System, phone: Phone) -> None:
        system.sleep(3)
        ahead = nonce(phone)
        system.sleep(-3)
        recorded, first, second = prove(phone, nonce=ahead), new_key(), new_key()
        assert put(phone, first, proof=recorded).status_code == 200
        system.sleep(2)
        is_error(put(phone, second), 401, "use_dpop_nonce")
        system.sleep(2)
        assert put(phone, second).status_code == 200
        is_error(put(phone, first, proof=recorded), 401, "use_dpop_nonce")
        goes_to(phone, second)

    def test_and_after_its_window_it_is_no_proof_at_all(self, system: System, phone: Phone) -> None:
        recorded, new = prove(phone, iat=0, nonce=nonce(phone)), new_key()
        assert put(phone, new, proof=recorded).status_code == 200
        system.sleep(LIFETIME_SECONDS)
        is_error(put(phone, new, proof=recorded), 401, "use_dpop_nonce")

    def test_a_second_replacement_takes_a_nonce_of_after_the_first(
        self, system: System, phone: Phone
    ) -> None:
        assert put(phone, new_key()).status_code == 200
        second = new_key()
        is_error(put(phone, second), 401, "use_dpop_nonce")  # in the same second
        system.sleep(1)
        asked = put(phone, second, proof=prove(phone))
        is_error(asked, 401, "use_dpop_nonce")
        proof = prove(phone, nonce=asked.headers["dpop-nonce"])
        assert put(phone, second, proof=proof).status_code == 200
        goes_to(phone, second)

    def test_of_two_at_once_one_wins(self, system: System, phone: Phone) -> None:
        keys = [new_key() for _ in range(8)]
        assert put(phone, phone.encryption).status_code == 200
        system.sleep(1)
        proofs = [prove(phone, nonce=nonce(phone)) for _ in keys]
        with ThreadPoolExecutor(len(keys)) as pool:
            answers = list(pool.map(lambda *each: put(phone, each[0], proof=each[1]), keys, proofs))
        assert Counter(each.status_code for each in answers) == {200: 1, 401: len(keys) - 1}
        (winner,) = [
            key for key, answer in zip(keys, answers, strict=True) if answer.status_code == 200
        ]
        assert members(system, phone) == jwk_of(winner)


class TestFailures:
    @pytest.mark.parametrize("done", [False, True])
    def test_a_lost_reply_is_asked_for_again(
        self, system: System, phone: Phone, done: bool
    ) -> None:
        new, proof = new_key(), prove(phone)
        timeout = ReadTimeoutError(endpoint_url="dynamodb")
        with system.failing("dynamodb:UpdateItem", timeout, done=done):
            is_error(put(phone, new, proof=proof), 503, "temporarily_unavailable")
        assert (members(system, phone) == jwk_of(new)) == done
        assert put(phone, new).status_code == 200
        goes_to(phone, new)
