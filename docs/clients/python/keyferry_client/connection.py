"""One request: proof, nonce, and what a refusal means."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from .device import DeviceKeys
from .dpop import NonceCache, make_proof
from .errors import Rejected, Retryable
from .jose import thumbprint


@dataclass(frozen=True, slots=True)
class Exchange:
    """A response, with the `jti` of the proof that asked for it."""

    response: httpx.Response
    proof_jti: str


class Connection:
    def __init__(
        self,
        http: httpx.Client,
        device: DeviceKeys,
        client_key: str,
        clock: Callable[[], float],
    ) -> None:
        self._http = http
        self._device = device
        self._client_key = client_key
        self._clock = clock
        self._nonces = NonceCache()

    def close(self) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        access_token: str | None = None,
        json: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Exchange:
        """One request with a fresh proof. A demand for a nonce is answered once (RFC 9449 §8)."""
        for answering in (False, True):
            proof = make_proof(
                self._device,
                method,
                url,
                issued_at=int(self._clock()),
                nonce=self._nonces.get(url),
                access_token=access_token,
                # In every proof: it is of use in the two requests that send the key.
                encryption_kid=thumbprint(self._device.encryption_jwk),
            )
            sent = {"x-api-key": self._client_key, "DPoP": proof.header, **(headers or {})}
            if access_token is not None:
                sent["Authorization"] = f"DPoP {access_token}"
            try:
                response = self._http.request(method, url, headers=sent, json=json, data=form)
            except httpx.RequestError as error:
                raise Retryable(f"no reply: {type(error).__name__}") from error
            self._nonces.remember(response)
            if not answering and _asks_for_nonce(response):
                continue
            break
        _raise_for_refusal(response)
        return Exchange(response, proof.jti)

    def get_public(self, url: str) -> httpx.Response:
        """Metadata and JWKS, which need nothing."""
        try:
            response = self._http.get(url, headers={"Accept": "application/json"})
        except httpx.RequestError as error:
            raise Retryable(f"no reply: {type(error).__name__}") from error
        _raise_for_refusal(response)
        return response


def json_body(response: httpx.Response) -> dict[str, Any] | None:
    """The object in a body; None for anything else, such as the page of a captive portal."""
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _asks_for_nonce(response: httpx.Response) -> bool:
    return (
        response.status_code in (400, 401)
        and "DPoP-Nonce" in response.headers
        and (json_body(response) or {}).get("error") == "use_dpop_nonce"
    )


def _raise_for_refusal(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 204, 304):
        return
    if status in (408, 429) or status >= 500:
        raise Retryable(f"the server answered {status}", retry_after=_retry_after(response))
    texts = {name: it for name, it in (json_body(response) or {}).items() if isinstance(it, str)}
    raise Rejected(
        texts.get("error", "unrecognized_reply"),
        texts.get("error_description", ""),
        status=status,
        auth_session=texts.get("auth_session"),
    )


def _retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds; RFC 9110 §10.2.3 also allows a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
