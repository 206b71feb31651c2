"""One logged-in app: login, refresh, keys, sessions, logout.

Threads may share a client, and clients a `Storage`: its lock lets one of them refresh at a time.
"""

from __future__ import annotations

import base64
import hashlib
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx

from . import hpke
from .config import Config
from .connection import Connection, Exchange, json_body
from .delivery import TYP, CachedDelivery, DeliveredKey, Delivery, Expected, open_delivery
from .device import DeviceKeys
from .discovery import Discovery
from .errors import KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery
from .jose import thumbprint, verify_jwt
from .replies import ProxiedResponse, Session, proxied_response, session_list, token_reply
from .state import PersistedState, Storage

# Ask for a new access token a little before the old one ends, so that no request dies on the way.
_EXPIRY_MARGIN_SECONDS = 30.0


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
        self._clock = clock
        self._sleep = sleep
        # Redirects are not followed (httpx's default): a proof is good for one URI, and a token
        # must not wander.
        http = http or httpx.Client(timeout=config.timeout)
        self._connection = Connection(http, device, config.client_key, clock)
        self._discovery = Discovery(config.issuer, self._connection.get_public, clock)
        self._issuer = config.issuer.rstrip("/")
        # Delivered keys live here and nowhere else: a new process asks again.
        # The session is part of the name: what one user was given is never another's.
        self._deliveries: dict[tuple[str, tuple[str, ...]], CachedDelivery] = {}

    @property
    def state(self) -> PersistedState | None:
        """The session, as whoever shares the storage has left it."""
        return self._storage.load()

    def close(self) -> None:
        self._connection.close()

    # ── login ────────────────────────────────────────────────────────────

    def login(
        self,
        username: str,
        password: str,
        *,
        device_name: str,
        app_version: str,
        otp: str | None = None,
        app_check: str | None = None,
    ) -> PersistedState:
        """Open a session that is bound to this device's keys.

        Wrong credentials are `Rejected("invalid_grant")`. `Rejected("mfa_required")` asks for a code
        and has an `auth_session` to go on with. A lost reply is not repeated here: it costs an unused
        session, and the user is there to press again. `app_check` is a Firebase App Check token, here
        and in the other two ways in.
        """
        given = {"username": username, "password": password} | _present(otp=otp)
        return self._open_session(given, device_name, app_version, app_check)

    def login_with_code(
        self,
        auth_session: str,
        otp: str,
        *,
        device_name: str,
        app_version: str,
        app_check: str | None = None,
    ) -> PersistedState:
        """Go on after `mfa_required`. After a wrong code, `Rejected("invalid_grant")`, the same
        `auth_session` is good for the next one, for five minutes after the password.
        """
        given = {"auth_session": auth_session, "otp": otp}
        return self._open_session(given, device_name, app_version, app_check)

    def login_with_id_token(
        self,
        provider: str,
        id_token: str,
        *,
        device_name: str,
        app_version: str,
        otp: str | None = None,
        invitation: Mapping[str, str] | None = None,
        app_check: str | None = None,
    ) -> PersistedState:
        """Log in with what a provider's SDK gave, asked for with `id_token_nonce`.

        `mfa_required` has no `auth_session` here: send the same `id_token` again, with `otp`.
        `invitation` is `{"username", "code"}`.
        """
        given = {"provider": provider, "id_token": id_token}
        given |= _present(otp=otp, invitation=invitation)
        return self._open_session(given, device_name, app_version, app_check)

    @property
    def id_token_nonce(self) -> str:
        """What to give to a provider's SDK as `nonce`: it makes the ID token good on this device
        only.
        """
        jkt = thumbprint(self._device.signing_jwk)
        return hashlib.sha256(jkt.encode("ascii")).hexdigest()

    def _open_session(
        self, given: Mapping[str, Any], device_name: str, app_version: str, app_check: str | None
    ) -> PersistedState:
        # First, because what follows needs it: better to fail before a session exists than after.
        self._discovery.metadata()
        device = {
            "name": device_name,
            "platform": self._config.client_id,
            "app_version": app_version,
            "encryption_key": dict(self._device.encryption_jwk),
        }
        exchange = self._connection.send(
            "POST",
            f"{self._issuer}/v1/login",
            headers={"X-Firebase-AppCheck": app_check} if app_check is not None else None,
            json={**given, "device": device},
        )
        reply = token_reply(exchange.response)
        claims = self._verified_access_token(reply)
        state = PersistedState(
            subject=claims["sub"],
            session_id=claims["sid"],
            **self._token_fields(reply),
        )
        # Under the lock: a refresh of the session before, if one is under way, would else put that one
        # back in the place of this one.
        with self._storage.lock:
            self._storage.save(state)
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
        """Trade the refresh token for its successor (RFC 6749 §6), one at a time.

        `instead_of` is the access token that the caller found wanting: when somebody else has
        replaced it in the meantime, a thread or another process with the same storage, the result is
        shared and nothing is sent.
        """
        with self._storage.lock:
            state = self._session()
            if instead_of is not None and state.access_token != instead_of:
                return state
            reply = self._refresh_until_answered(state.refresh_token)
            state = replace(state, **self._token_fields(reply))
            # Stored first, used after. A crash in between loses nothing, because the server still
            # accepts the old refresh token until it has seen the new one.
            self._storage.save(state)
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
                exchange = self._connection.send(
                    "POST", self._discovery.metadata().token_endpoint, form=form
                )
                return token_reply(exchange.response)
            except Retryable as error:
                asked_for = error.retry_after or 0.0
                if attempt == self._config.attempts or asked_for > self._config.longest_wait:
                    raise
                # Jitter, so that a million phones do not come back in the same second.
                jitter = random.uniform(0.5, 1.5)  # noqa: S311 - it protects no secret
                wait = asked_for + 0.5 * 2 ** (attempt - 1) * jitter
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
        self._deliveries[kept_at] = CachedDelivery(delivery, etag, self._clock())
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
        if (json_body(exchange.response) or {}).get("kid") != thumbprint(jwk):
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
        return proxied_response(self._send_authorized("POST", url, json=wanted).response)

    # ── sessions ────────────────────────────────────────────────────────────

    def sessions(self) -> list[Session]:
        """This user's sessions on all devices, the oldest first."""
        exchange = self._send_authorized("GET", f"{self._issuer}/v1/sessions")
        return session_list(exchange.response)

    def end_session(self, session_id: str) -> None:
        """End one of this user's sessions, a lost phone's perhaps: no refresh and no key from now
        on. `Rejected("not_found")` says that there is none, or that it has ended already.
        """
        url = f"{self._issuer}/v1/sessions/{quote(session_id, safe='')}"
        response = self._send_authorized("DELETE", url).response
        if response.status_code != 204:
            raise Retryable("the reply does not say that the session has ended")
        with self._storage.lock:
            state = self._storage.load()
            if state is not None and state.session_id == session_id:
                self._forget()

    def end_other_sessions(self) -> int:
        """End all of this user's sessions but this one. Return how many."""
        url = f"{self._issuer}/v1/sessions?except=current"
        match json_body(self._send_authorized("DELETE", url).response):
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
        with self._storage.lock:
            state = self._storage.load()
            if state is None:
                return True
            form = {
                "token": state.refresh_token,
                "token_type_hint": "refresh_token",
                "client_id": self._config.client_id,
            }
            try:
                url = self._discovery.metadata().revocation_endpoint
                reply = self._connection.send("POST", url, form=form).response
                return json_body(reply) is not None
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
            return self._connection.send(
                method, url, headers=headers, json=json, access_token=token
            )
        except Rejected as error:
            if error.code != "invalid_token":
                raise
        token = self.refresh(instead_of=token).access_token
        return self._connection.send(method, url, headers=headers, json=json, access_token=token)

    # ── state ────────────────────────────────────────────────────────────

    def _session(self) -> PersistedState:
        state = self._storage.load()
        if state is None:
            raise LoggedOut("there is no session")
        return state

    def _token_fields(self, reply: Mapping[str, Any]) -> dict[str, Any]:
        now = self._clock()
        return {
            "access_token": reply["access_token"],
            "access_expires_at": now + reply["expires_in"],
            "refresh_token": reply["refresh_token"],
            "refresh_expires_at": now + reply.get("refresh_expires_in", 0),
        }

    def _forget(self) -> None:
        self._storage.clear()
        self._deliveries.clear()


def _present(**members: Any) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
