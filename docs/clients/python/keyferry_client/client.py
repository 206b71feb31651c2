"""One logged-in app: login, refresh, keys, sessions, logout.

Threads may share a client. Apps with several processes (an iOS app and its extension) give them one
`Storage` and one lock across processes in place of `threading.Lock`.
"""

from __future__ import annotations

import base64
import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any
from urllib.parse import quote

import httpx

from . import hpke
from .delivery import TYP, DeliveredKey, Delivery, Expected, open_delivery
from .device import DeviceKeys
from .discovery import Discovery
from .dpop import NonceCache, make_proof
from .errors import KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery
from .jose import thumbprint, verify_jwt
from .state import PersistedState, Storage

# Ask for a new access token a little before the old one ends, so that no request dies on the way.
_EXPIRY_MARGIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Config:
    """What is built into the app. None of it is a secret: anybody can read it in the package."""

    issuer: str
    """The stack's output `ApiUrl`, for example
    `https://abc123.execute-api.eu-central-1.amazonaws.com/prod`.
    """

    client_id: str
    """`ios` or `android`: the audience that delivered keys are signed for."""

    client_key: str = field(repr=False)
    """The `x-api-key` of the platform's usage plan. It names and throttles the app; it protects
    nothing.
    """

    timeout: float = 10.0
    attempts: int = 3
    """How often a refresh is sent when replies are lost, before the app hears `Retryable`."""

    hpke: bool = False
    """Whether to ask for deliveries as HPKE (RFC 9180) and not as JWE: where the platform has the one
    and not the other. An RSA key can not receive them.
    """

    longest_wait: float = 5.0
    """A `Retry-After` beyond this is the app's business: it is raised, not slept."""


@dataclass(frozen=True, slots=True)
class Session:
    """One login of this user on one device, for a screen like "your devices"."""

    id: str
    device: str
    platform: str
    app_version: str
    created_at: int
    """Seconds since the epoch, by the server's clock."""

    last_used_at: int
    current: bool
    """Whether it is the session of this very app."""


@dataclass(frozen=True, slots=True)
class ProxiedResponse:
    """What an upstream answered, whatever it was: a `status` of 500 is the upstream's own."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    """By lower-case name; the few that the server passes on."""

    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A response, with the `jti` of the proof that asked for it."""

    response: httpx.Response
    proof_jti: str


@dataclass(frozen=True, slots=True)
class _CachedDelivery:
    """``verified_at`` is when the server last said that this is what there is."""

    delivery: Delivery
    etag: str | None
    verified_at: float

    def usable(self, now: float) -> Delivery:
        """Without the keys whose time is over."""
        keys = {
            name: key
            for name, key in self.delivery.keys.items()
            if now < self.verified_at + key.cache_seconds
        }
        return replace(self.delivery, keys=keys)

    def is_fresh(self, now: float) -> bool:
        keys = self.delivery.keys
        return bool(keys) and len(self.usable(now).keys) == len(keys)

    def is_outdated_by(self, newer: Delivery) -> bool:
        return any(
            name in self.delivery.keys and self.delivery.keys[name].version < key.min_version
            for name, key in newer.keys.items()
        )


class KeyferryClient:
    def __init__(
        self,
        config: Config,
        device: DeviceKeys,
        storage: Storage,
        *,
        http: httpx.Client | None = None,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config = config
        self._device = device
        self._storage = storage
        # Redirects are not followed (httpx's default): a proof is good for one URI, and a token
        # must not wander.
        self._http = http or httpx.Client(timeout=config.timeout)
        self._clock = clock
        self._sleep = sleep
        self._nonces = NonceCache()
        self._discovery = Discovery(config.issuer, self._get_public, clock)
        self._issuer = config.issuer.rstrip("/")
        self._state = storage.load()
        self._refreshing = threading.Lock()
        # Delivered keys live here and nowhere else: a new process asks again.
        # The session is part of the name: what one user was given is never another's.
        self._deliveries: dict[tuple[str, tuple[str, ...]], _CachedDelivery] = {}

    @property
    def state(self) -> PersistedState | None:
        return self._state

    def close(self) -> None:
        self._http.close()

    # ── login ────────────────────────────────────────────────────────────

    def login(
        self, username: str, password: str, *, device_name: str, app_version: str
    ) -> PersistedState:
        """Open a session that is bound to this device's keys.

        Wrong credentials are `Rejected("invalid_grant")`. A lost reply is not repeated here: it
        costs an unused session, and the user is there to press again.
        """
        # First, because what follows needs it: better to fail before a session exists than after.
        self._discovery.metadata()
        body = {
            "username": username,
            "password": password,
            "device": {
                "name": device_name,
                "platform": self._config.client_id,
                "app_version": app_version,
                "encryption_key": dict(self._device.encryption_jwk),
            },
        }
        exchange = self._send("POST", f"{self._issuer}/v1/login", json=body)
        reply = _token_reply(exchange.response)
        claims = self._verified_access_token(reply)
        state = PersistedState(
            subject=claims["sub"],
            session_id=claims["sid"],
            **self._token_fields(reply),
        )
        # Under the lock: a refresh of the session before, if one is under way, would else put that one
        # back in the place of this one.
        with self._refreshing:
            self._remember(state)
            self._deliveries.clear()
        return state

    def _verified_access_token(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        """Check the first access token: everything later is compared with the session it names.

        Later ones stay opaque, as RFC 9068 §6 wants it.
        """
        token = reply["access_token"]
        claims = verify_jwt(token, typ="at+jwt", jwk=self._discovery.key_for(token, typ="at+jwt"))
        confirmation = claims.get("cnf")
        if (
            claims.get("iss") != self._issuer
            or claims.get("client_id") != self._config.client_id
            or claims.get("sid") != reply.get("session_id")
            or not isinstance(claims.get("sub"), str)
            or not isinstance(confirmation, dict)
            or confirmation.get("jkt") != thumbprint(self._device.signing_jwk)
        ):
            raise TamperedDelivery("the session was opened for somebody else")
        return claims

    # ── refresh ────────────────────────────────────────────────────────────

    def access_token(self) -> str:
        """An access token that is good for at least half a minute."""
        state = self._session()
        if self._clock() < state.access_expires_at - _EXPIRY_MARGIN_SECONDS:
            return state.access_token
        return self.refresh(instead_of=state.access_token).access_token

    def refresh(self, *, instead_of: str | None = None) -> PersistedState:
        """Trade the refresh token for its successor (RFC 6749 §6), one thread at a time.

        `instead_of` is the access token that the caller found wanting: when another thread has
        replaced it in the meantime, its result is shared and nothing is sent.
        """
        with self._refreshing:
            state = self._session()
            if instead_of is not None and state.access_token != instead_of:
                return state
            reply = self._refresh_until_answered(state.refresh_token)
            state = replace(state, **self._token_fields(reply))
            self._remember(state)
            return state

    def _refresh_until_answered(self, refresh_token: str) -> dict[str, Any]:
        """Send the SAME refresh token until a reply arrives.

        When a reply is lost on the way, the server has moved on and the phone has not. Sending the
        same token again is safe: the server gives the same successor to the same device until that
        successor has been used.
        """
        form = {
            "grant_type": "refresh_token",
            "refresh_token": refresh_token,
            "client_id": self._config.client_id,
        }
        for attempt in range(1, self._config.attempts + 1):
            try:
                exchange = self._send("POST", self._discovery.metadata().token_endpoint, form=form)
                return _token_reply(exchange.response)
            except Retryable as error:
                # Jitter, so that a million phones do not come back in the same second.
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - it protects no secret
                backoff = 0.5 * 2 ** (attempt - 1) * jitter
                wait = max(error.retry_after or 0.0, backoff)
                if attempt == self._config.attempts or wait > self._config.longest_wait:
                    raise
                self._sleep(wait)
            except Rejected as error:
                if error.code != "invalid_grant":
                    raise
                # The one answer that ends a session (RFC 6749 §5.2).
                self._forget()
                raise LoggedOut(error.description or "the session has ended") from error
        raise AssertionError("unreachable: the last attempt raises")

    # ── keys ────────────────────────────────────────────────────────────

    def keys(self, names: Iterable[str] = ()) -> dict[str, DeliveredKey]:
        """The API keys that this user may have on this device: all of them, or the named ones.

        While the server cannot be reached, those that may still be used: without a word from it a
        key lives for its `cache_seconds` and no longer. `Retryable` when there are none.
        """
        return self._all(names).keys

    def withheld(self, names: Iterable[str] = ()) -> dict[str, str]:
        """Why other keys are not among `keys`, by name: `app_version_too_old`, `mfa_required`, …"""
        return self._all(names).refused

    def key(self, name: str) -> DeliveredKey:
        """One API key. `Rejected` says why it is withheld; `not_found` that there is none, or none
        that this user may know of."""
        delivered = self._deliver((name,), f"{self._issuer}/v1/keys/{quote(name, safe='')}").keys
        if name not in delivered:
            raise TamperedDelivery("the delivery does not hold the key that was asked for")
        return delivered[name]

    def _all(self, names: Iterable[str]) -> Delivery:
        wanted = tuple(sorted(names))
        # A name by itself is another answer than the same name in a list.
        url = f"{self._issuer}/v1/keys" + (f"?names={','.join(wanted)}" if wanted else "")
        return self._deliver(("", *wanted), url)

    def _deliver(self, place: tuple[str, ...], url: str) -> Delivery:
        """``place`` is where the answer is kept, beside the session's id."""
        kept_at = (self._session().session_id, place)
        cached = self._deliveries.get(kept_at)
        if cached and cached.is_fresh(self._clock()):
            return cached.delivery
        headers = {"Accept": hpke.MEDIA_TYPE if self._config.hpke else "application/jose"}
        if cached and cached.etag:
            headers["If-None-Match"] = cached.etag
        try:
            exchange = self._send_authorized("GET", url, headers=headers)
        except Retryable:
            usable = cached.usable(self._clock()) if cached else None
            if usable is None or not usable.keys:
                raise
            return usable
        if cached and exchange.response.status_code == 304:
            # A 304 carries no signature. It can only prolong what this process has itself opened
            # and verified.
            delivery, etag = cached.delivery, cached.etag
        else:
            delivery = self._open(exchange)
            etag = exchange.response.headers.get("ETag")
            self._drop_outdated(delivery)
        self._deliveries[kept_at] = _CachedDelivery(delivery, etag, self._clock())
        return delivery

    def _drop_outdated(self, newer: Delivery) -> None:
        """A key that was asked for by name may be kept there in a version that is not to be used."""
        for kept_at, cached in list(self._deliveries.items()):
            if cached.is_outdated_by(newer):
                self._deliveries.pop(kept_at, None)

    def _open(self, exchange: Exchange) -> Delivery:
        state = self._session()
        expected = Expected(
            issuer=self._issuer,
            client_id=self._config.client_id,
            subject=state.subject,
            session_id=state.session_id,
            proof_jti=exchange.proof_jti,
        )
        return open_delivery(
            exchange.response.text,
            self._device,
            expected,
            signing_key=lambda token: self._discovery.key_for(token, typ=TYP),
            hpke=self._config.hpke,
        )

    def replace_encryption_key(self) -> None:
        """Have keys delivered to the encryption key that this device has now: it was lost with a
        reinstallation or a migration, and is a new one.

        After `Retryable` call it again: the same key may be sent any number of times. Until the
        server has heard of it, deliveries are to the old key, and `TamperedDelivery` here.
        """
        jwk = self._device.encryption_jwk
        url = f"{self._issuer}/v1/device/encryption-key"
        try:
            exchange = self._send_authorized("PUT", url, json={"encryption_key": dict(jwk)})
        except Rejected as error:
            if error.code != "use_dpop_nonce":
                raise
            # The server counts in seconds, and has replaced the key in this very one.
            raise Retryable("the key was replaced a moment ago", retry_after=1.0) from error
        if _json_object(exchange.response).get("kid") != thumbprint(jwk):
            raise Retryable("the reply does not name the key")
        self._deliveries.clear()

    def proxy(
        self,
        key: str,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
    ) -> ProxiedResponse:
        """Have the server send a request to the key's upstream, with the key, which does not come
        here.

        It is sent once. `Retryable` after no reply, or after status 502, 503 or 504, does not say
        that the upstream has done nothing: repeat what may be done twice, and nothing else. With
        429 the budget of this user is used up (`retry_after`), or the app is throttled.
        `Rejected("proxy_refused")` says that the key is not for such a request.
        """
        wanted: dict[str, Any] = {"method": method, "path": path}
        if query:
            wanted["query"] = [list(pair) for pair in query]
        if headers:
            wanted["headers"] = dict(headers)
        if isinstance(body, str):
            wanted["body"] = body
        elif body is not None:
            wanted["body_base64"] = base64.b64encode(body).decode("ascii")
        url = f"{self._issuer}/v1/proxy/{quote(key, safe='')}"
        return _proxied(self._send_authorized("POST", url, json=wanted).response)

    # ── sessions ────────────────────────────────────────────────────────────

    def sessions(self) -> list[Session]:
        """This user's sessions on all devices, the oldest first."""
        exchange = self._send_authorized("GET", f"{self._issuer}/v1/sessions")
        return _session_list(exchange.response)

    def end_session(self, session_id: str) -> None:
        """End one of this user's sessions, a lost phone's perhaps: no refresh and no key from now
        on. `Rejected("not_found")` says that there is none, or that it has ended already.
        """
        url = f"{self._issuer}/v1/sessions/{quote(session_id, safe='')}"
        response = self._send_authorized("DELETE", url).response
        if response.status_code != 204:
            raise Retryable("the reply does not say that the session has ended")
        with self._refreshing:
            if self._state is not None and self._state.session_id == session_id:
                self._forget()

    def end_other_sessions(self) -> int:
        """End all of this user's sessions but this one. Return how many."""
        url = f"{self._issuer}/v1/sessions?except=current"
        match _json_object(self._send_authorized("DELETE", url).response):
            case {"ended": int(ended)}:
                return ended
            case _:
                raise Retryable("the reply does not say how many sessions have ended")

    def logout(self) -> bool:
        """End this session, here in any case and on the server if it can be reached (RFC 7009).

        False says that the server has not confirmed it. Nobody can go on with the session from
        here, as its tokens are gone; on the server it lasts until its idle time is over, or until
        the user ends it on another device.
        """
        # Under the lock: a refresh that is under way would else store a new session after this one
        # was forgotten. It also leaves the newest token to revoke.
        with self._refreshing:
            if self._state is None:
                return True
            form = {
                "token": self._state.refresh_token,
                "token_type_hint": "refresh_token",
                "client_id": self._config.client_id,
            }
            try:
                url = self._discovery.metadata().revocation_endpoint
                return _is_json_object(self._send("POST", url, form=form).response)
            except KeyferryError:
                return False
            finally:
                self._forget()

    # ── one request ────────────────────────────────────────────────────────────

    def _send_authorized(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Mapping[str, Any] | None = None,
    ) -> Exchange:
        """A request with the access token, and once more with a new one if that is too old."""
        token = self.access_token()
        try:
            return self._send(method, url, headers=headers, json=json, access_token=token)
        except Rejected as error:
            if error.code != "invalid_token":
                raise
        token = self.refresh(instead_of=token).access_token
        return self._send(method, url, headers=headers, json=json, access_token=token)

    def _send(
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
            sent = {"x-api-key": self._config.client_key, "DPoP": proof.header, **(headers or {})}
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

    def _get_public(self, url: str) -> httpx.Response:
        try:
            response = self._http.get(url, headers={"Accept": "application/json"})
        except httpx.RequestError as error:
            raise Retryable(f"no reply: {type(error).__name__}") from error
        _raise_for_refusal(response)
        return response

    # ── state ────────────────────────────────────────────────────────────

    def _session(self) -> PersistedState:
        if self._state is None:
            raise LoggedOut("there is no session")
        return self._state

    def _token_fields(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        now = self._clock()
        return {
            "access_token": reply["access_token"],
            "access_expires_at": now + reply["expires_in"],
            "refresh_token": reply["refresh_token"],
            "refresh_expires_at": now + reply.get("refresh_expires_in", 0),
        }

    def _remember(self, state: PersistedState) -> None:
        # Stored first, used after. A crash in between loses nothing, because the server still
        # accepts the old refresh token until it has seen the new one.
        self._storage.save(state)
        self._state = state

    def _forget(self) -> None:
        self._storage.clear()
        self._state = None
        self._deliveries.clear()


def _asks_for_nonce(response: httpx.Response) -> bool:
    return (
        response.status_code in (400, 401)
        and "DPoP-Nonce" in response.headers
        and _json_object(response).get("error") == "use_dpop_nonce"
    )


def _raise_for_refusal(response: httpx.Response) -> None:
    status = response.status_code
    if status in (200, 204, 304):
        return
    if status in (408, 429) or status >= 500:
        raise Retryable(f"the server answered {status}", retry_after=_retry_after(response))
    body = _json_object(response)
    code = body.get("error")
    if not isinstance(code, str):
        code = "unrecognized_reply"
    description = body.get("error_description")
    raise Rejected(code, description if isinstance(description, str) else "", status=status)


def _is_json_object(response: httpx.Response) -> bool:
    """Which the page of a captive portal is not."""
    try:
        return isinstance(response.json(), dict)
    except ValueError:
        return False


def _json_object(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json() if _is_json_object(response) else {}
    return body


def _retry_after(response: httpx.Response) -> float | None:
    """`Retry-After` in seconds; RFC 9110 §10.2.3 also allows a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _token_reply(response: httpx.Response) -> dict[str, Any]:
    """A token response (RFC 6749 §5.1); anything else with status 200 is a captive portal."""
    body = _json_object(response)
    match body:
        case {
            "access_token": str(),
            "refresh_token": str(),
            "expires_in": int() | float(),
            "token_type": str(kind),
        }:
            if kind.lower() != "dpop":
                # A bearer token would be good for every thief (RFC 9449 §5: the client must check
                # this).
                raise TamperedDelivery("the server gave a token that is not bound to this device")
            return body
        case _:
            raise Retryable("the reply was not a token response")


def _session_list(response: httpx.Response) -> list[Session]:
    match _json_object(response):
        case {"sessions": list(rows)}:
            pass
        case _:
            # Status 200 and something else: a captive portal, as for tokens.
            raise Retryable("the reply was not a list of sessions")
    try:
        # What a later server adds is left out.
        return [Session(**{each.name: row[each.name] for each in fields(Session)}) for row in rows]
    except (KeyError, TypeError) as error:
        raise Retryable("the reply was not a list of sessions") from error


def _proxied(response: httpx.Response) -> ProxiedResponse:
    try:
        match _json_object(response):
            case {"status": int(status), "headers": dict(headers), "body": str(text)}:
                return ProxiedResponse(status, headers, text.encode("utf-8"))
            case {"status": int(status), "headers": dict(headers), "body_base64": str(encoded)}:
                return ProxiedResponse(status, headers, base64.b64decode(encoded, validate=True))
    except ValueError:  # no text, or no Base64
        pass
    # Status 200 and something else: a captive portal, as for tokens.
    raise Retryable("the reply was not an upstream's answer")


__all__ = ["Config", "KeyferryClient", "KeyferryError", "ProxiedResponse", "Session"]
