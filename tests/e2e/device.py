"""A phone for the tests: says exactly what it is told to, right or wrong, and hides nothing.

Built on PyJWT and joserfc, so that no line of the product checks itself. Every answer is held against
docs/openapi.json.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwe
from joserfc.jwk import ECKey
from jwt.algorithms import ECAlgorithm

from tests.described import hold, hold_delivery


def jwk_of(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    members: dict[str, Any] = ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    members.pop("key_ops", None)
    return members


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ath(access_token: str) -> str:
    digest = hashlib.sha256(access_token.encode()).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


@dataclass
class Device:
    """One app installation: two key pairs, a client key, and what it was given last."""

    http: httpx.Client = field(repr=False)
    api_url: str
    client_key: str
    signing: ec.EllipticCurvePrivateKey = field(default_factory=new_key, repr=False)
    encryption: ec.EllipticCurvePrivateKey = field(default_factory=new_key, repr=False)
    clock_offset: int = 0
    tokens: dict[str, Any] = field(default_factory=dict, repr=False)
    last_jti: str = ""
    username: str = ""

    def proof(self, method: str, path: str, *, header: Any = None, **claims: Any) -> str:
        self.last_jti = str(uuid.uuid4())
        payload = {
            "jti": self.last_jti,
            "htm": method,
            "htu": self.api_url + path,
            "iat": int(time.time()) + self.clock_offset,
            **claims,
        }
        headers = {"typ": "dpop+jwt", "jwk": jwk_of(self.signing), **(header or {})}
        return jwt.encode(payload, self.signing, algorithm="ES256", headers=headers)

    def call(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        proof: str | None = "",
        **options: Any,
    ) -> httpx.Response:
        """``proof`` "" makes a good one, None sends none. Waits when the usage plan says so."""
        sent = {"x-api-key": self.client_key, **(headers or {})}
        while True:
            if proof is not None:
                sent["DPoP"] = proof or self.proof(method, path)
            response = self.http.request(
                method, self.api_url + path + query, headers=sent, **options
            )
            hold(method, path, response)
            if response.status_code != 429 or "budget_exhausted" in response.text:
                return response
            time.sleep(float(response.headers.get("retry-after", "1")))

    def login(
        self, username: str, password: str, *, proof: str | None = "", **changes: Any
    ) -> httpx.Response:
        device = {
            "name": "Test phone",
            "platform": "ios",
            "app_version": "1.2.3",
            "encryption_key": jwk_of(self.encryption),
        }
        body = {"username": username, "password": password, "device": device, **changes}
        response = self.call("POST", "/v1/login", proof=proof, json=body)
        return self._keep(response)

    def refresh(
        self, token: str | None = None, *, keep: bool = True, **options: Any
    ) -> httpx.Response:
        form = {
            "grant_type": "refresh_token",
            "refresh_token": token if token is not None else self.tokens["refresh_token"],
        }
        response = self.call("POST", "/v1/token", data=form, **options)
        if "proof" not in options and response.json().get("error") == "use_dpop_nonce":
            # A nonce of the second in which the session moved on last is no newer than that.
            time.sleep(1.1)
            response = self.call("POST", "/v1/token", data=form)
            nonce = response.headers["dpop-nonce"]
            proof = self.proof("POST", "/v1/token", nonce=nonce)
            response = self.call("POST", "/v1/token", data=form, proof=proof)
        return self._keep(response) if keep else response

    def keys(
        self, path: str = "/v1/keys", *, query: str = "", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        return self.resource("GET", path, query=query, headers=headers)

    def resource(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Call a protected resource with the access token and a proof that is about it."""
        token = self.tokens["access_token"]
        return self.call(
            method,
            path,
            query=query,
            headers={"Authorization": f"DPoP {token}", **(headers or {})},
            proof=self.proof(method, path, ath=ath(token)),
            **options,
        )

    def proxy(
        self, key: str, method: str, path: str, *, proof: str = "", **members: Any
    ) -> httpx.Response:
        """Have a request sent to the key's upstream."""
        route, body = f"/v1/proxy/{key}", {"method": method, "path": path, **members}
        if not proof:
            return self.resource("POST", route, json=body)
        headers = {"Authorization": f"DPoP {self.tokens['access_token']}"}
        return self.call("POST", route, headers=headers, proof=proof, json=body)

    def open(self, response: httpx.Response, *, platform: str = "ios") -> dict[str, Any]:
        """Decrypt a delivery, verify its signature against the JWKS, and return its claims."""
        key = ECKey.import_key(json.loads(json.dumps(self.private_encryption_jwk())))
        opened = jwe.decrypt_compact(response.text, key, algorithms=["ECDH-ES", "A256GCM"])
        assert opened.headers()["cty"] == "JWT"
        signed = (opened.plaintext or b"").decode()
        header = jwt.get_unverified_header(signed)
        assert header["typ"] == "keyferry-keys+jwt"
        jwks = self.http.get(self.api_url + "/.well-known/jwks.json").json()
        (public,) = (jwk for jwk in jwks["keys"] if jwk["kid"] == header["kid"])
        claims: dict[str, Any] = jwt.decode(
            signed,
            jwt.PyJWK(public).key,
            algorithms=["ES256"],
            audience=platform,
            issuer=self.api_url,
            options={"verify_iat": False},
        )
        hold_delivery(claims)
        return claims

    def private_encryption_jwk(self) -> dict[str, Any]:
        members: dict[str, Any] = ECAlgorithm.to_jwk(self.encryption, as_dict=True)
        members.pop("key_ops", None)
        return members

    def _keep(self, response: httpx.Response) -> httpx.Response:
        if response.status_code == 200:
            self.tokens = response.json()
        return response
