"""Implementations by others: JOSE libraries that open a delivery, and an OAuth client that does the
whole of it unmodified."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hpke
from jwcrypto.common import base64url_decode
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK, JWKSet
from jwcrypto.jwt import JWT
from jwt.algorithms import ECAlgorithm

from tests.conftest import needs
from tests.e2e.conftest import PASSWORD, SECRETS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.device import Device


def is_right(claims: dict[str, Any], device: Device) -> None:
    assert {name: key["value"] for name, key in claims["keys"].items()} == {
        name: SECRETS[name] for name in ("gemini", "maps")
    }
    assert claims["sid"] == device.tokens["session_id"]


def jwks(device: Device) -> dict[str, Any]:
    document: dict[str, Any] = device.http.get(f"{device.api_url}/.well-known/jwks.json").json()
    return document


def run_node(script: str, modules: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Run a script of this folder with ``request`` as its input; return its JSON answer."""
    done = subprocess.run(
        [needs("node"), str(Path(__file__).with_name(script)), str(modules)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_npm_jose(device: Device, node_modules: Path) -> None:
    request = {
        "jwe": device.keys().text,
        "encryption_key": device.private_encryption_jwk(),
        "jwks": jwks(device),
        "issuer": device.api_url,
    }
    answer = run_node("open_delivery.mjs", node_modules, request)
    is_right(answer["payload"], device)
    assert answer["protectedHeader"]["cty"] == "JWT"


def test_debian_jose(device: Device, tmp_path: Path) -> None:
    jose = needs("jose")
    (tmp_path / "encryption.jwk").write_text(json.dumps(device.private_encryption_jwk()))
    (tmp_path / "jwks.json").write_text(json.dumps(jwks(device)))

    def run(*arguments: str, content: str) -> str:
        done = subprocess.run(
            [jose, *arguments],
            input=content,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    signed = run("jwe", "dec", "-i-", "-k", "encryption.jwk", content=device.keys().text)
    payload = run("jws", "ver", "-i-", "-k", "jwks.json", "-O-", content=signed)
    is_right(json.loads(payload), device)


def test_jwcrypto(device: Device) -> None:
    opened = JWE()
    opened.deserialize(device.keys().text, JWK(**device.private_encryption_jwk()))
    keys = JWKSet.from_json(json.dumps(jwks(device)))
    token = JWT(jwt=opened.payload.decode(), key=keys, algs=["ES256"], expected_type="JWS")
    is_right(json.loads(token.claims), device)


def test_hpke_of_cryptography(device: Device) -> None:
    response = device.keys(headers={"Accept": "application/vnd.keyferry.hpke"})
    header, enc, ciphertext = response.text.split(".")
    suite = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    signed = suite.decrypt(
        base64url_decode(enc) + base64url_decode(ciphertext),
        device.encryption,
        info=f"keyferry-hpke.{header}".encode(),
    )
    keys = JWKSet.from_json(json.dumps(jwks(device)))
    token = JWT(jwt=signed.decode(), key=keys, algs=["ES256"], expected_type="JWS")
    is_right(json.loads(token.claims), device)


class TestOpenidClient:
    """npm ``openid-client``, unmodified but for the client-key header."""

    @pytest.fixture
    def tokens(self, device: Device, new_device: Callable[..., Device], username: str) -> list[str]:
        """The refresh tokens of two sessions on one device."""
        again = new_device(signing=device.signing)
        again.login(username, PASSWORD)
        return [device.tokens["refresh_token"], again.tokens["refresh_token"]]

    def test_whole_life_of_a_session(
        self, device: Device, tokens: list[str], node_modules: Path
    ) -> None:
        members: dict[str, Any] = ECAlgorithm.to_jwk(device.signing, as_dict=True)
        members.pop("key_ops", None)
        request = {
            "issuer": device.api_url,
            "client_key": device.client_key,
            "device_key": members,
            "algorithm": "oidc",
            "tokens": tokens,
        }
        answer = run_node("openid_client.mjs", node_modules, request)
        assert answer["steps"] == [
            "discovery",
            "refresh",
            "fetch",
            "rotated refresh",
            "revoked",
            "revoked again",
            "reuse refused",
        ]
        asked = [each["path"] for each in answer["requests"]]
        assert asked[0] == "/.well-known/openid-configuration"
        assert "/v1/revoke" in asked
        assert 401 not in {each["status"] for each in answer["requests"]}, "never challenged"
