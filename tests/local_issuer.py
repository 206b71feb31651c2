"""A real OpenID Connect issuer on this machine, and people who sign in to apps with it."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

REDIRECT_URI = "com.example.app:/callback"
_STEPS = 12


@dataclass(frozen=True)
class LocalIssuer:
    url: str

    @classmethod
    @contextmanager
    def start(cls, node: str, modules: Path, clients: Mapping[str, str]) -> Iterator[Self]:
        """``clients``: the algorithm of its ID tokens by client id."""
        script = Path(__file__).with_suffix(".mjs")
        with subprocess.Popen(
            [node, str(script), str(modules), json.dumps(clients)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            try:
                url = process.stdout.readline().strip()
                assert url, "the issuer did not start"
                yield cls(url)
            finally:
                process.stdin.close()

    @property
    def metadata(self) -> dict[str, Any]:
        url = f"{self.url}/.well-known/openid-configuration"
        found: dict[str, Any] = httpx.get(url, trust_env=False).json()
        return found

    def sign_in(self, client_id: str, person: str, *, nonce: str | None = None) -> dict[str, Any]:
        """What the app ``client_id`` gets when ``person`` signs in: the token response, after the
        authorization code flow with PKCE (RFC 7636) in a browser of its own."""
        verifier = secrets.token_urlsafe(32)
        digest = hashlib.sha256(verifier.encode()).digest()
        request = {
            "client_id": client_id,
            "response_type": "code",
            "redirect_uri": REDIRECT_URI,
            "scope": "openid email profile",
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            **({"nonce": nonce} if nonce is not None else {}),
        }
        with httpx.Client(base_url=self.url, trust_env=False) as browser:
            grant = {
                "grant_type": "authorization_code",
                "code": self._code(browser, browser.get("/auth", params=request), person),
                "redirect_uri": REDIRECT_URI,
                "client_id": client_id,
                "code_verifier": verifier,
            }
            response = browser.post("/token", data=grant)
        assert response.status_code == 200, response.text
        tokens: dict[str, Any] = response.json()
        return tokens

    def _code(self, browser: httpx.Client, response: httpx.Response, person: str) -> str:
        """Fill in the forms that the issuer shows, until it sends the browser back to the app."""
        for _ in range(_STEPS):
            if response.is_redirect:
                location = response.headers["location"]
                if location.startswith(REDIRECT_URI):
                    (code,) = parse_qs(urlsplit(location).query)["code"]
                    return code
                response = browser.get(location)
                continue
            assert response.status_code == 200, response.text
            form = {"prompt": "consent"}
            if 'name="login"' in response.text:
                form = {"prompt": "login", "login": person, "password": "any"}
            response = browser.post(str(response.url), data=form)
        raise AssertionError("the sign-in does not end")
