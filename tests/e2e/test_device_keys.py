"""Every kind of encryption key on a deployed stack, both envelopes, and replacing the key."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from keyferry_client import (
    Config,
    KeyferryClient,
    MemoryStorage,
    Rejected,
    Retryable,
    SoftwareDeviceKeys,
    TamperedDelivery,
)
from keyferry_client.jose import thumbprint
from tests.e2e.conftest import PASSWORD, SECRETS
from tests.e2e.device import Device, ath, jwk_of, new_key
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from keyferry_client.device import Kind
    from tests.e2e.conftest import Operator

HPKE = "application/vnd.keyferry.hpke"
PATH = "/v1/device/encryption-key"


def put(device: Device, jwk: Any, *, proof: str | None = None) -> httpx.Response:
    token = device.tokens["access_token"]
    if proof is None:
        nonce = device.call("GET", "/v1/keys", proof=None).headers["dpop-nonce"]
        proof = device.proof("PUT", PATH, ath=ath(token), nonce=nonce)
    headers = {"Authorization": f"DPoP {token}"}
    return device.call("PUT", PATH, headers=headers, proof=proof, json={"encryption_key": jwk})


@pytest.fixture
def client(stack: LocalStack, username: str) -> Iterator[Callable[..., KeyferryClient]]:
    """The reference client, logged in with keys of some kind."""
    made: list[KeyferryClient] = []

    def log_in(keys: SoftwareDeviceKeys, *, hpke: bool = False) -> KeyferryClient:
        made.append(app(stack, keys, hpke=hpke))
        made[-1].login(username, PASSWORD, device_name="Phone", app_version="1.0.0")
        return made[-1]

    yield log_in
    for each in made:
        each.close()


def app(stack: LocalStack, keys: SoftwareDeviceKeys, *, hpke: bool = False) -> KeyferryClient:
    config = Config(
        stack.api_url,
        client_id="ios",
        client_key=stack.client_keys["ios"],
        timeout=30,
        hpke=hpke,
    )
    return KeyferryClient(config, keys, MemoryStorage())


class TestKinds:
    @pytest.mark.parametrize("hpke", [False, True], ids=["jwe", "hpke"])
    @pytest.mark.parametrize("key_wrap", [False, True], ids=["direct", "key wrap"])
    @pytest.mark.parametrize("kind", ["P-256", "X25519"])
    def test_the_reference_client_receives(
        self, client: Callable[..., KeyferryClient], kind: Kind, key_wrap: bool, hpke: bool
    ) -> None:
        keys = SoftwareDeviceKeys.generate(kind, key_wrap=key_wrap)
        received = client(keys, hpke=hpke).keys()
        assert {name: key.value for name, key in received.items()} == {
            name: SECRETS[name] for name in ("gemini", "maps")
        }

    def test_rsa_only_where_it_is_allowed(self, client: Callable[..., KeyferryClient]) -> None:
        with pytest.raises(Rejected, match="key type not accepted") as refusal:
            client(SoftwareDeviceKeys.generate("RSA"))
        assert refusal.value.code == "invalid_request"

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"alg": "RSA1_5"}, "alg not accepted"),
            ({"alg": "dir"}, "alg not accepted"),
            ({"use": "sig"}, "another use"),
            ({"d": "AAAA"}, "private key"),
            ({"x": "A" * 43}, "not on the curve"),
            ({"x": "A" * 44}, "length"),
        ],
        ids=str,
    )
    def test_refusals_say_why(
        self, device: Device, change: dict[str, Any], why: str, username: str
    ) -> None:
        jwk = {**jwk_of(device.encryption), **change}
        details = {"name": "x", "platform": "ios", "app_version": "1", "encryption_key": jwk}
        for response in (
            device.login(username, PASSWORD, device=details),
            put(device, jwk),
        ):
            is_error(response, 400, "invalid_request")
            assert why in response.json()["error_description"]


class TestRsa:
    """On the stack with ``AllowRsaOaep=true``."""

    @pytest.fixture
    def device_keys(self) -> SoftwareDeviceKeys:
        return SoftwareDeviceKeys.generate("RSA")

    @pytest.fixture
    def user(self, bearer_operator: Operator) -> str:
        name = f"user-{uuid.uuid4().hex[:12]}"
        bearer_operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
        return name

    def test_a_delivery(
        self, bearer_stack: LocalStack, device_keys: SoftwareDeviceKeys, user: str
    ) -> None:
        phone = app(bearer_stack, device_keys)
        phone.login(user, PASSWORD, device_name="Old phone", app_version="1.0.0")
        assert phone.key("maps").value == SECRETS["maps"]
        device_keys.renew_encryption_key("RSA")
        phone.replace_encryption_key()
        assert phone.key("maps").value == SECRETS["maps"]
        phone.close()

    def test_there_is_no_hpke_for_it(
        self, bearer_stack: LocalStack, device_keys: SoftwareDeviceKeys, checked_device: Device
    ) -> None:
        assert put(checked_device, dict(device_keys.encryption_jwk)).status_code == 200
        with bearer_stack.count_calls() as calls:
            response = checked_device.keys(headers={"Accept": HPKE})
        is_error(response, 406, "not_acceptable")
        assert dict(calls.kms) == {}
        either = checked_device.keys(headers={"Accept": f"{HPKE}, application/jose"})
        assert either.headers["content-type"] == "application/jose"
        opened = JWE(algs=["RSA-OAEP", "A256GCM"])
        key = JWK.from_pem(device_keys.export()["encryption"].encode())
        opened.deserialize(either.text, key)
        assert opened.payload.count(b".") == 2


class TestEnvelopes:
    def test_each_has_its_own_etag(self, device: Device) -> None:
        jwe, hpke = device.keys(), device.keys(headers={"Accept": HPKE})
        assert jwe.headers["content-type"] == "application/jose"
        assert hpke.headers["content-type"] == HPKE
        assert (jwe.text.count("."), hpke.text.count(".")) == (4, 2)
        assert jwe.headers["etag"] != hpke.headers["etag"]
        for response, accept in ((jwe, "*/*"), (hpke, HPKE)):
            assert response.headers["vary"] == "Accept"
            headers = {"If-None-Match": response.headers["etag"], "Accept": accept}
            again = device.keys(headers=headers)
            assert (again.status_code, again.headers["vary"]) == (304, "Accept")
        crossed = {"If-None-Match": jwe.headers["etag"], "Accept": HPKE}
        assert device.keys(headers=crossed).status_code == 200


class TestReplacement:
    def test_a_reinstalled_app(
        self, client: Callable[..., KeyferryClient], stack: LocalStack
    ) -> None:
        keys = SoftwareDeviceKeys.generate()
        phone = client(keys)
        assert phone.key("maps").value == SECRETS["maps"]
        keys.renew_encryption_key("X25519")
        with pytest.raises(TamperedDelivery):
            phone.keys()
        phone.replace_encryption_key()
        assert phone.keys()["maps"].value == SECRETS["maps"]
        phone.refresh()
        assert phone.key("maps").value == SECRETS["maps"]
        lines = [json.loads(line) for line in stack.logs("sessions").splitlines() if "{" in line]
        (line,) = [each for each in lines if each.get("kid") == thumbprint(keys.encryption_jwk)]
        assert line["message"] == "encryption key replaced"

    def test_twice_takes_two_seconds(self, client: Callable[..., KeyferryClient]) -> None:
        keys = SoftwareDeviceKeys.generate()
        phone = client(keys)
        for kind in ("X25519", "P-256", "X25519"):
            keys.renew_encryption_key("X25519" if kind == "X25519" else "P-256")
            try:
                phone.replace_encryption_key()
            except Retryable as again:
                time.sleep((again.retry_after or 0) + 0.1)
                phone.replace_encryption_key()
            assert phone.keys()["maps"].value == SECRETS["maps"]

    def test_the_old_etag_is_worth_nothing(self, device: Device) -> None:
        old = {"If-None-Match": device.keys().headers["etag"]}
        assert device.keys(headers=old).status_code == 304
        device.encryption = new_key()
        answer = put(device, jwk_of(device.encryption))
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        delivered = device.keys(headers=old)
        assert delivered.status_code == 200
        assert set(device.open(delivered)["keys"]) == {"gemini", "maps"}

    def test_a_recording_brings_no_key_back(self, device: Device) -> None:
        first, second = new_key(), new_key()
        token = device.tokens["access_token"]
        recorded = device.proof("PUT", PATH, ath=ath(token))
        assert put(device, jwk_of(first), proof=recorded).status_code == 200
        assert put(device, jwk_of(first), proof=recorded).status_code == 200
        time.sleep(1.1)
        assert put(device, jwk_of(second)).status_code == 200
        is_error(put(device, jwk_of(first), proof=recorded), 401, "use_dpop_nonce")
        device.encryption = second
        assert set(device.open(device.keys())["keys"]) == {"gemini", "maps"}

    def test_a_thief_without_the_device_key(
        self, device: Device, new_device: Callable[..., Device]
    ) -> None:
        thief = new_device(tokens=dict(device.tokens))
        is_error(put(thief, jwk_of(thief.encryption)), 401, "invalid_token")
        body = {"encryption_key": jwk_of(thief.encryption)}
        headers = {"Authorization": f"Bearer {device.tokens['access_token']}"}
        response = thief.call("PUT", PATH, headers=headers, proof=None, json=body)
        is_error(response, 401, "invalid_token")
        for method, path in (("GET", PATH), ("PUT", "/v1/keys"), ("GET", "/v1/keys")):
            proof = device.proof(method, path, ath=ath(device.tokens["access_token"]))
            response = put(thief, body["encryption_key"], proof=proof)
            is_error(response, 401, "invalid_dpop_proof")
        assert set(device.open(device.keys())["keys"]) == {"gemini", "maps"}

    def test_an_ended_session(self, device: Device) -> None:
        form = {"token": device.tokens["refresh_token"]}
        assert device.call("POST", "/v1/revoke", data=form, proof=None).status_code == 200
        is_error(put(device, jwk_of(new_key())), 401, "invalid_token")

    def test_without_a_client_key(self, device: Device) -> None:
        device.client_key = "x"
        is_error(device.resource("PUT", PATH, json={}), 403, "invalid_client")

    def test_a_bearer_client(self, bearer_device: Device) -> None:
        bearer_device.encryption = new_key()
        headers = {"Authorization": f"Bearer {bearer_device.tokens['access_token']}"}
        body = {"encryption_key": jwk_of(bearer_device.encryption)}
        replaced = bearer_device.call("PUT", PATH, headers=headers, proof=None, json=body)
        assert replaced.status_code == 200
        delivered = bearer_device.call("GET", "/v1/keys", headers=headers, proof=None)
        assert "maps" in bearer_device.open(delivered)["keys"]
