"""The device key: proofs that are missing, wrong, forged, replayed or left away."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from keyferry.dpop.nonce import LIFETIME_SECONDS
from keyferry.dpop.proof import IAT_LEEWAY_SECONDS
from keyferry.edge.telemetry import Metric
from keyferry.jose import base64url
from tests.e2e.conftest import PASSWORD
from tests.e2e.device import ath, jwk_of, new_key
from tests.e2e.test_authorizer import attach_to_an_api
from tests.e2e.test_main_path import is_error
from tests.scenarios.system import THEIRS

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.device import Device
    from tests.scenarios.system import Phone, System


def hs256(phone: Phone) -> str:
    """Signed with the public key as an HMAC secret, which the header invites to do."""
    pem = phone.signing.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header = {"alg": "HS256", "typ": "dpop+jwt", "jwk": jwk_of(phone.signing)}
    payload = phone.proof("POST", "/v1/token").split(".")[1]
    signing_input = f"{base64url.encode(json.dumps(header).encode())}.{payload}"
    mac = hmac.digest(pem, signing_input.encode(), hashlib.sha256)
    return f"{signing_input}.{base64url.encode(mac)}"


def rs512(phone: Phone) -> str:
    key = rsa.generate_private_key(65537, 2048)
    jwk = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return jwt.encode(
        claims_of(phone), key, algorithm="RS512", headers={"typ": "dpop+jwt", "jwk": jwk}
    )


def tiny_rsa(phone: Phone) -> str:
    """512 bits, which can be factored in an afternoon."""
    jwk = {"kty": "RSA", "n": base64url.encode(b"\xc1" * 64), "e": "AQAB"}
    header = {"alg": "RS256", "typ": "dpop+jwt", "jwk": jwk}
    encoded = [base64url.encode(json.dumps(part).encode()) for part in (header, claims_of(phone))]
    return ".".join([*encoded, base64url.encode(b"\1" * 64)])


def unsigned(phone: Phone) -> str:
    headers = {"typ": "dpop+jwt", "jwk": jwk_of(phone.signing)}
    return jwt.encode(claims_of(phone), "", algorithm="none", headers=headers)


def with_header(**header: Any) -> Callable[[Phone], str]:
    return lambda phone: phone.proof("POST", "/v1/token", header=header)


def private_jwk(phone: Phone) -> str:
    private = jwt.algorithms.ECAlgorithm.to_jwk(phone.signing, as_dict=True)
    private.pop("key_ops", None)
    assert "d" in private
    return phone.proof("POST", "/v1/token", header={"jwk": private})


def claims_of(phone: Phone) -> dict[str, Any]:
    proof = phone.proof("POST", "/v1/token")
    claims: dict[str, Any] = jwt.decode(proof, options={"verify_signature": False})
    return claims


BAD_PROOFS: dict[str, Callable[[Phone], str]] = {
    "RS512": rs512,
    "RSA of 512 bits": tiny_rsa,
    "none": unsigned,
    "HS256 with the public key": hs256,
    "private JWK": private_jwk,
    "crit": with_header(crit=["b64"], b64=False),
    "jku": with_header(jku="https://evil.example/jwks.json", jwk=None),
    "x5c": with_header(x5c=["AAAA"], jwk=None),
    "kid of ours": with_header(kid="k", jwk=None),
    "JWK of another key": with_header(jwk=jwk_of(new_key())),
}


class TestProofs:
    @pytest.mark.parametrize("bad", BAD_PROOFS)
    def test_30_bad_proofs(self, system: System, phone: Phone, bad: str) -> None:
        before = system.row(phone)
        proof = BAD_PROOFS[bad](phone)
        calls = len(system.aws.operations())
        is_error(phone.refresh(proof=proof), 400, "invalid_dpop_proof")
        assert "dynamodb:UpdateItem" not in system.aws.operations()[calls:]
        assert system.row(phone) == before
        assert phone.refresh().status_code == 200

    def test_30_no_proof(self, system: System, phone: Phone) -> None:
        before = system.row(phone)
        is_error(phone.refresh(proof=None), 400, "invalid_dpop_proof")
        assert system.row(phone) == before
        assert phone.refresh().status_code == 200

    def test_30_a_wrong_key_raises_the_alarm(self, system: System, phone: Phone) -> None:
        old = phone.tokens["refresh_token"]
        phone.refresh()
        phone.refresh()
        before, thief = system.row(phone), phone.stolen()
        system.metrics()
        for token in (old, phone.tokens["refresh_token"]):
            is_error(thief.refresh(token), 400, "invalid_grant")
        assert system.metrics() == [Metric.REFRESH_WRONG_KEY] * 2
        assert system.row(phone) == before
        assert phone.refresh().status_code == 200

    def test_31_a_wrong_key_a_hundred_times(self, system: System, phone: Phone) -> None:
        before, thief = system.row(phone), phone.stolen()
        for _ in range(100):
            is_error(thief.refresh(), 400, "invalid_grant")
        assert system.row(phone) == before
        assert phone.refresh().status_code == 200
        assert phone.keys().status_code == 200


class TestReplay:
    @pytest.fixture(scope="class")
    @classmethod
    def their_api(cls, stack: LocalStack) -> str:
        return attach_to_an_api(stack)

    def test_32_one_jti_twice_at_once(self, device: Device, their_api: str) -> None:
        """Eight connections, several workers of the authorizer, one that is let in."""
        theirs = replace(device, api_url=their_api)
        token = theirs.tokens["access_token"]
        headers = {
            "Authorization": f"DPoP {token}",
            "DPoP": theirs.proof("POST", "/things", ath=ath(token)),
            "x-api-key": theirs.client_key,
        }

        def send(_: int) -> int:
            return theirs.http.post(f"{their_api}/things", headers=headers).status_code

        with ThreadPoolExecutor(8) as pool:
            assert Counter(pool.map(send, range(8))) == {200: 1, 401: 7}

    def test_32_one_jti_of_two_keys(
        self, device: Device, new_device: Callable[..., Device], username: str, their_api: str
    ) -> None:
        other = new_device()
        other.login(username, PASSWORD)
        for each in (device, other):
            token = each.tokens["access_token"]
            theirs = replace(each, api_url=their_api)
            proof = theirs.proof("GET", "/things", jti="the same", ath=ath(token))
            headers = {"Authorization": f"DPoP {token}"}
            response = theirs.call("GET", "/things", headers=headers, proof=proof)
            assert response.status_code == 200

    def test_32_one_jti_twice_on_our_own_routes(self, system: System, phone: Phone) -> None:
        """They keep no record: a replay yields what the device key alone can use, and moves
        nothing."""
        proof, token = phone.proof("POST", "/v1/token"), phone.tokens["refresh_token"]
        first = phone.refresh(token, proof=proof)
        second = phone.refresh(token, proof=proof)
        assert first.json()["refresh_token"] == second.json()["refresh_token"]
        assert system.row(phone).generation == 1

    @pytest.mark.parametrize("skew", [-IAT_LEEWAY_SECONDS, 0, IAT_LEEWAY_SECONDS])
    def test_33_a_proof_replayed_until_long_after_its_window(
        self, system: System, phone: Phone, skew: int
    ) -> None:
        """By ``iat``: made by a clock as wrong as may be, on either side."""
        proof = self.proof(phone, iat=system.now + skew)
        assert self.status(phone, proof) == 200
        self.replay(system, phone, proof, for_seconds=IAT_LEEWAY_SECONDS + skew)

    def test_33_a_proof_with_a_nonce_replayed_until_long_after_its_window(
        self, system: System, phone: Phone
    ) -> None:
        """By nonce, which needs no clock of the phone's at all."""
        nonce = phone.keys().headers["dpop-nonce"]
        proof = self.proof(phone, iat=0, nonce=nonce)
        assert self.status(phone, proof) == 200
        self.replay(system, phone, proof, for_seconds=LIFETIME_SECONDS - 1)

    def proof(self, phone: Phone, **claims: Any) -> str:
        theirs = replace(phone, api_url=THEIRS)
        return theirs.proof("GET", "/x", ath=ath(phone.tokens["access_token"]), **claims)

    def status(self, phone: Phone, proof: str) -> int:
        headers = {"Authorization": f"DPoP {phone.tokens['access_token']}"}
        theirs = replace(phone, api_url=THEIRS)
        return theirs.call("GET", "/x", headers=headers, proof=proof).status_code

    def replay(self, system: System, phone: Phone, proof: str, *, for_seconds: int) -> None:
        """Replay around each moment that matters. DynamoDB deletes as early as it ever may."""
        table, opened = system.cloud.tables["ProofsTable"], system.now
        for seconds in sorted({0, 1, for_seconds - 1, for_seconds, for_seconds + 1, 420, 600}):
            system.now = opened + max(seconds, 0)
            for item in system.cloud.dynamodb.scan(TableName=table)["Items"]:
                if int(item["expires_at"]["N"]) <= system.now:
                    system.cloud.dynamodb.delete_item(TableName=table, Key={"id": item["id"]})
            fresh = self.fresh_verdict(system, phone, proof)
            assert fresh == (seconds <= for_seconds), "the window is where this test thinks"
            assert self.status(phone, proof) == 401, f"replayed {seconds} s later"

    def fresh_verdict(self, system: System, phone: Phone, proof: str) -> bool:
        """Whether a proof like it that nobody has used would be let in now."""
        claims = jwt.decode(proof, options={"verify_signature": False})
        like = {name: claims[name] for name in ("iat", "nonce") if name in claims}
        return self.status(phone, self.proof(phone, **like)) == 200


class TestBearerDowngrade:
    @pytest.mark.parametrize("admits_bearers", [False, True])
    @pytest.mark.parametrize("with_proof", [False, True])
    def test_34_a_bound_token_used_as_bearer_token(
        self, request: pytest.FixtureRequest, admits_bearers: bool, with_proof: bool
    ) -> None:
        """At every function that takes an access token, on both kinds of stack."""
        name = "open_system" if admits_bearers else "system"
        system: System = request.getfixturevalue(name)
        phone = system.phone()
        headers = {"Authorization": f"Bearer {phone.tokens['access_token']}"}
        proof = "" if with_proof else None
        sid = phone.tokens["session_id"]
        protected = [
            ("GET", "/v1/keys"),
            ("GET", "/v1/keys/maps"),
            ("GET", "/v1/sessions"),
            ("DELETE", "/v1/sessions"),
            ("DELETE", f"/v1/sessions/{sid}"),
            ("PUT", "/v1/device/encryption-key"),
        ]
        for method, path in protected:
            response = phone.call(method, path, headers=headers, proof=proof)
            is_error(response, 401, "invalid_token")
        theirs = replace(phone, api_url=THEIRS)
        assert theirs.call("GET", "/x", headers=headers, proof=proof).status_code == 401
        assert replace(phone, api_url=THEIRS).resource("GET", "/x").status_code == 200
        assert phone.keys().status_code == 200
        assert phone.refresh().status_code == 200
