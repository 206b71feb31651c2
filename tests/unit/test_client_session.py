"""Login, refresh, key delivery and logout of the reference client against a server made of one function."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs

import httpx
import pytest
from joserfc import jwe, jws
from joserfc.jwk import ECKey, JWKRegistry

from keyferry_client import (
    Config,
    KeyferryClient,
    LoggedOut,
    MemoryStorage,
    PersistedState,
    Rejected,
    Retryable,
    SoftwareDeviceKeys,
    TamperedDelivery,
)
from keyferry_client.device import Kind
from keyferry_client.jose import b64decode, json_object, thumbprint

ISSUER = "https://api.example/dev"
Reply = Callable[[httpx.Request], httpx.Response]

SHOWN = {
    "id": "session-1",
    "device": "Ana's phone",
    "platform": "ios",
    "app_version": "1.2.0",
    "created_at": 1_000_000,
    "last_used_at": 1_000_060,
    "current": True,
}


KEY = {"value": "AIza-secret", "version": 3, "min_version": 1, "cache_seconds": 300}
"""As the server delivers it."""


@dataclass
class Server:
    """Answers as docs/protocol.md says, and takes what a test puts into `next_replies` first."""

    now: float = 1_000_000.0
    nonce: str | None = None
    generation: int = 0
    requests: list[httpx.Request] = field(default_factory=list)
    next_replies: list[Reply] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)
    token_claims: dict[str, Any] = field(default_factory=dict)
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": "s1"}))
    published: list[ECKey] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    device_jwk: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.published.append(self.key)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path.removeprefix("/dev")
        if path.startswith("/.well-known/") and path != "/.well-known/jwks.json":
            return httpx.Response(200, json=self._metadata())
        if path == "/.well-known/jwks.json":
            keys = [key.as_dict(private=False) | {"use": "sig"} for key in self.published]
            return httpx.Response(
                200, json={"keys": keys}, headers={"Cache-Control": "max-age=300"}
            )
        if self.next_replies:
            return self.next_replies.pop(0)(request)
        if self.nonce and self.proof(request).get("nonce") != self.nonce:
            return self.error(401, "use_dpop_nonce", **{"DPoP-Nonce": self.nonce})
        assert request.headers["x-api-key"] == "client-key"
        if path == "/v1/login":
            self.device_jwk = json.loads(request.content)["device"]["encryption_key"]
            return self.tokens(request)
        if path == "/v1/token":
            return self.tokens(request)
        if path == "/v1/revoke":
            return httpx.Response(200, json={})
        if path == "/v1/device/encryption-key":
            self.device_jwk = json.loads(request.content)["encryption_key"]
            return httpx.Response(200, json={"kid": thumbprint(self.device_jwk)})
        if path.startswith("/v1/sessions"):
            return self.sessions(request)
        return self.delivery(request)

    def calls(self, path: str) -> list[httpx.Request]:
        return [request for request in self.requests if request.url.path == f"/dev{path}"]

    def proof(self, request: httpx.Request) -> dict[str, Any]:
        return json_object(b64decode(request.headers["DPoP"].split(".")[1]))

    def jkt(self, request: httpx.Request) -> str:
        return thumbprint(json_object(b64decode(request.headers["DPoP"].split(".")[0]))["jwk"])

    def error(self, status: int, code: str, **headers: str) -> httpx.Response:
        body = {"error": code, "error_description": "", "request_id": "r"}
        return httpx.Response(status, json=body, headers=headers)

    def tokens(self, request: httpx.Request) -> httpx.Response:
        self.generation += 1
        claims = {
            "iss": ISSUER,
            "sub": "user-1",
            "sid": "session-1",
            "client_id": "ios",
            "iat": self.now,
            "jti": f"a{self.generation}",
            "cnf": {"jkt": self.jkt(request)},
        } | self.token_claims
        header = {"alg": "ES256", "typ": "at+jwt", "kid": str(self.key.kid)}
        return httpx.Response(
            200,
            json={
                "access_token": jws.serialize_compact(header, json.dumps(claims), self.key),
                "token_type": "DPoP",
                "expires_in": 900,
                "refresh_token": f"kfr_{self.generation}",
                "refresh_expires_in": 604800,
                "session_id": "session-1",
                "scope": "keys",
            },
        )

    def delivery(self, request: httpx.Request) -> httpx.Response:
        if request.headers.get("If-None-Match") == '"v1"':
            return httpx.Response(304, headers={"ETag": '"v1"'})
        claims = {
            "iss": ISSUER,
            "sub": "user-1",
            "aud": "ios",
            "sid": "session-1",
            "iat": self.now,
            "proof_jti": self.proof(request)["jti"],
            "encryption_kid": thumbprint(self.device_jwk),
            "keys": {"gemini": KEY},
            "refused": {"maps": "mfa_required"},
        } | self.claims
        header = {"alg": "ES256", "typ": "keyferry-keys+jwt", "kid": str(self.key.kid)}
        inner = jws.serialize_compact(header, json.dumps(claims), self.key)
        protected = {"alg": self.device_jwk["alg"], "enc": "A256GCM", "cty": "JWT"}
        protected["kid"] = thumbprint(self.device_jwk)
        key = JWKRegistry.import_key({**self.device_jwk})
        token = jwe.encrypt_compact(protected, inner, key, algorithms=[*protected.values()])
        headers = {"Content-Type": "application/jose", "ETag": '"v1"'}
        return httpx.Response(200, text=token, headers=headers)

    def sessions(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={"sessions": [SHOWN, SHOWN | {"id": "session-2"}]})
        if request.url.path.endswith("/sessions"):
            return httpx.Response(200, json={"ended": 2})
        return httpx.Response(204)

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": ISSUER,
            "token_endpoint": f"{ISSUER}/v1/token",
            "revocation_endpoint": f"{ISSUER}/v1/revoke",
            "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
        } | self.metadata


@dataclass
class Phone:
    server: Server
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    device: SoftwareDeviceKeys = field(default_factory=SoftwareDeviceKeys.generate)
    slept: list[float] = field(default_factory=list)
    clock_error: float = 0.0
    config: Config = field(
        default_factory=lambda: Config(ISSUER, client_id="ios", client_key="client-key")
    )

    def start(self) -> KeyferryClient:
        return KeyferryClient(
            self.config,
            self.device,
            self.storage,
            http=httpx.Client(transport=httpx.MockTransport(self.server)),
            clock=lambda: self.server.now + self.clock_error,
            sleep=self.slept.append,
        )

    def logged_in(self) -> KeyferryClient:
        client = self.start()
        client.login("ana", "correct horse", device_name="Ana's phone", app_version="1.2.0")
        return client


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def phone(server: Server) -> Phone:
    return Phone(server)


def lost(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("no reply", request=request)


def answer(status: int, body: Any = None, **headers: str) -> Reply:
    return lambda request: httpx.Response(status, json=body, headers=headers)


def invalid_grant(request: httpx.Request) -> httpx.Response:
    return httpx.Response(400, json={"error": "invalid_grant", "error_description": "over"})


# ── login ────────────────────────────────────────────────────────────

DETAILS: dict[str, Any] = {"device_name": "Ana's phone", "app_version": "1.2.0"}


def sent_logins(server: Server) -> list[dict[str, Any]]:
    return [json.loads(request.content) for request in server.calls("/v1/login")]


def test_login_goes_on_with_a_code(phone: Phone, server: Server) -> None:
    asked = answer(403, {"error": "mfa_required", "auth_session": "eyJ.a.s"})
    server.next_replies += [asked, invalid_grant]
    client = phone.start()
    with pytest.raises(Rejected, match="mfa_required") as error:
        client.login("ana", "correct horse", **DETAILS)
    assert error.value.auth_session == "eyJ.a.s"
    with pytest.raises(Rejected, match="invalid_grant"):
        client.login_with_code("eyJ.a.s", "000000", **DETAILS)
    client.login_with_code("eyJ.a.s", "492039", **DETAILS)
    assert client.key("gemini").value == "AIza-secret"
    last = sent_logins(server)[-1]
    assert last.keys() == {"auth_session", "otp", "device"}
    assert (last["auth_session"], last["otp"]) == ("eyJ.a.s", "492039")


def test_login_with_an_id_token(phone: Phone, server: Server) -> None:
    client = phone.start()
    invitation = {"username": "ana@example.com", "code": "abc"}
    client.login_with_id_token("google", "eyJ.i.t", otp="492039", invitation=invitation, **DETAILS)
    client.login_with_id_token("google", "eyJ.i.t", **DETAILS)
    first, second = sent_logins(server)
    assert first.pop("otp") == "492039"
    assert first.pop("invitation") == invitation
    assert first == second
    assert (second["provider"], second["id_token"]) == ("google", "eyJ.i.t")
    jkt = thumbprint(phone.device.signing_jwk)
    assert client.id_token_nonce == hashlib.sha256(jkt.encode()).hexdigest()


def test_every_login_can_carry_an_app_check_token(phone: Phone, server: Server) -> None:
    client = phone.start()
    client.login("ana", "correct horse", app_check="one", otp="492039", **DETAILS)
    client.login_with_code("eyJ.a.s", "492039", app_check="two", **DETAILS)
    client.login_with_id_token("google", "eyJ.i.t", app_check="three", **DETAILS)
    client.login("ana", "correct horse", **DETAILS)
    sent = [request.headers.get("X-Firebase-AppCheck") for request in server.calls("/v1/login")]
    assert sent == ["one", "two", "three", None]
    assert sent_logins(server)[0]["otp"] == "492039"


# ── discovery ────────────────────────────────────────────────────────────


def test_login_discovers_first_and_only_once(phone: Phone, server: Server) -> None:
    phone.logged_in().refresh()
    assert [request.url.path for request in server.requests] == [
        "/dev/.well-known/openid-configuration",
        "/dev/v1/login",
        "/dev/.well-known/jwks.json",
        "/dev/v1/token",
    ]


@pytest.mark.parametrize(
    "document",
    [
        {"issuer": "https://evil.example/dev"},
        {"issuer": f"{ISSUER}/"},
        {"token_endpoint": "https://evil.example/token"},
        {"token_endpoint": "https://api.example/devious/v1/token"},
        {"revocation_endpoint": "https://evil.example/revoke"},
        {"jwks_uri": None},
    ],
)
def test_metadata_of_somebody_else_is_refused_before_the_password_is_sent(
    phone: Phone, server: Server, document: dict[str, Any]
) -> None:
    server.metadata = document
    with pytest.raises(TamperedDelivery):
        phone.logged_in()
    assert server.calls("/v1/login") == []


def test_issuer_must_be_https_except_on_this_machine() -> None:
    for issuer in ("http://api.example/dev", "ftp://api.example"):
        with pytest.raises(ValueError, match="https"):
            Phone(Server(), config=Config(issuer, client_id="ios", client_key="k")).start()
    Phone(
        Server(), config=Config("http://127.0.0.1:9/dev", client_id="ios", client_key="k")
    ).start()


def test_keys_are_fetched_again_when_the_server_has_rotated(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.key = ECKey.generate_key("P-256", {"kid": "s2"})
    server.published.append(server.key)
    assert client.key("gemini").value == "AIza-secret"
    assert len(server.calls("/.well-known/jwks.json")) == 2


def test_signature_by_an_unpublished_key_is_refused(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.key = ECKey.generate_key("P-256", {"kid": "s2"})
    with pytest.raises(TamperedDelivery, match="does not publish"):
        client.key("gemini")


# ── login ────────────────────────────────────────────────────────────────


def test_login_sends_the_device_and_its_encryption_key(phone: Phone, server: Server) -> None:
    state = phone.logged_in().state
    assert json.loads(server.calls("/v1/login")[0].content) == {
        "username": "ana",
        "password": "correct horse",
        "device": {
            "name": "Ana's phone",
            "platform": "ios",
            "app_version": "1.2.0",
            "encryption_key": dict(phone.device.encryption_jwk),
        },
    }
    assert state is not None
    assert (state.subject, state.session_id) == ("user-1", "session-1")
    assert phone.storage.load() == state


def test_wrong_credentials_are_a_refusal_and_not_a_logout(phone: Phone, server: Server) -> None:
    server.next_replies.append(invalid_grant)
    with pytest.raises(Rejected) as refusal:
        phone.logged_in()
    assert refusal.value.code == "invalid_grant"
    assert phone.storage.load() is None


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"client_id": "android"},
        {"sid": "another"},
        {"sub": None},
        {"cnf": {"jkt": "another"}},
        {"cnf": None},
    ],
)
def test_session_of_somebody_else_is_refused(
    phone: Phone, server: Server, claims: dict[str, Any]
) -> None:
    server.token_claims = claims
    with pytest.raises(TamperedDelivery):
        phone.logged_in()
    assert phone.storage.load() is None


def test_bearer_token_is_refused(phone: Phone, server: Server) -> None:
    def bearer(request: httpx.Request) -> httpx.Response:
        body = json.loads(server.tokens(request).content) | {"token_type": "Bearer"}
        return httpx.Response(200, json=body)

    server.next_replies.append(bearer)
    with pytest.raises(TamperedDelivery, match="not bound"):
        phone.logged_in()


def test_session_survives_a_restart_of_the_app(phone: Phone) -> None:
    state = phone.logged_in().state
    assert state is not None
    phone.storage = MemoryStorage(PersistedState.from_json(state.to_json()))
    assert phone.start().key("gemini").value == "AIza-secret"


def test_without_a_session_nothing_is_sent(phone: Phone, server: Server) -> None:
    client = phone.start()
    for call in (client.refresh, client.keys, client.access_token):
        with pytest.raises(LoggedOut):
            call()
    assert server.requests == []


# ── nonces ───────────────────────────────────────────────────────────────


def test_demand_for_a_nonce_is_answered_once_and_the_nonce_kept(
    phone: Phone, server: Server
) -> None:
    server.nonce = "n1"
    client = phone.logged_in()
    assert [server.proof(r).get("nonce") for r in server.calls("/v1/login")] == [None, "n1"]
    client.refresh()
    assert [server.proof(r).get("nonce") for r in server.calls("/v1/token")] == ["n1"]


def test_second_demand_for_a_nonce_is_an_error_and_not_a_loop(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    demand = answer(400, {"error": "use_dpop_nonce"}, **{"DPoP-Nonce": "n"})
    server.next_replies += [demand, demand]
    with pytest.raises(Rejected, match="use_dpop_nonce"):
        client.refresh()
    assert len(server.calls("/v1/token")) == 2


def test_repeated_request_has_a_new_proof(phone: Phone, server: Server) -> None:
    server.nonce = "n1"
    phone.logged_in()
    first, second = (server.proof(request)["jti"] for request in server.calls("/v1/login"))
    assert first != second


# ── refresh ──────────────────────────────────────────────────────────────


def sent_tokens(server: Server) -> list[str]:
    forms = [parse_qs(request.content.decode()) for request in server.calls("/v1/token")]
    return [form["refresh_token"][0] for form in forms]


def test_refresh_replaces_both_tokens(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    before = client.state
    after = client.refresh()
    assert before is not None
    assert after.refresh_token != before.refresh_token
    assert after.access_token != before.access_token
    assert phone.storage.load() == after
    form = parse_qs(server.calls("/v1/token")[0].content.decode())
    assert form == {
        "grant_type": ["refresh_token"],
        "refresh_token": [before.refresh_token],
        "client_id": ["ios"],
    }


def test_access_token_is_renewed_shortly_before_it_expires(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    first = client.access_token()
    server.now += 869
    assert client.access_token() == first
    server.now += 2
    assert client.access_token() != first


def test_lost_reply_is_retried_with_the_same_token(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies += [lost, lost]
    client.refresh()
    assert sent_tokens(server) == ["kfr_1"] * 3
    assert len(phone.slept) == 2


@pytest.mark.parametrize(
    "reply",
    [
        lost,
        answer(500),
        answer(502, {"message": "Internal server error"}),
        answer(503, {"error": "temporarily_unavailable"}),
        answer(504),
        answer(429, {"error": "temporarily_unavailable"}),
        answer(408),
        answer(200, {"message": "welcome to the airport's Wi-Fi"}),
        answer(500, {"error": "invalid_grant"}),
    ],
)
def test_trouble_on_the_way_is_never_a_logout(phone: Phone, server: Server, reply: Reply) -> None:
    client = phone.logged_in()
    before = phone.storage.load()
    server.next_replies += [reply] * 3
    with pytest.raises(Retryable):
        client.refresh()
    assert phone.storage.load() == before
    client.refresh()
    assert sent_tokens(server) == ["kfr_1"] * 4


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, {"error": "invalid_request"}),
        (401, {"error": "invalid_dpop_proof"}),
        (403, {"message": "Forbidden"}),
        (302, None),
        (404, ["not", "an", "object"]),
    ],
)
def test_other_refusals_keep_the_session(
    phone: Phone, server: Server, status: int, body: Any
) -> None:
    client = phone.logged_in()
    before = phone.storage.load()
    server.next_replies.append(answer(status, body))
    with pytest.raises(Rejected):
        client.refresh()
    assert phone.storage.load() == before


def test_invalid_grant_is_the_end(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(invalid_grant)
    with pytest.raises(LoggedOut, match="over"):
        client.refresh()
    assert phone.storage.load() is None
    with pytest.raises(LoggedOut):
        client.keys()
    assert len(server.calls("/v1/token")) == 1


def test_retry_after_is_waited_for_and_not_by_all_alike(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    for _ in range(20):
        server.next_replies.append(answer(429, {"error": "x"}, **{"Retry-After": "5"}))
        client.refresh()
    assert all(5 < wait < 6 for wait in phone.slept)
    assert len(set(phone.slept)) > 1


def test_long_retry_after_is_told_to_the_app(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(503, {"error": "x"}, **{"Retry-After": "120"}))
    with pytest.raises(Retryable) as error:
        client.refresh()
    assert error.value.retry_after == 120
    assert phone.slept == []


def test_retry_after_may_be_a_date(phone: Phone, server: Server) -> None:
    phone.config = replace(phone.config, attempts=1)
    client = phone.logged_in()
    when = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    server.next_replies.append(answer(503, {"error": "x"}, **{"Retry-After": when}))
    with pytest.raises(Retryable) as error:
        client.refresh()
    assert error.value.retry_after is not None
    assert 50 < error.value.retry_after <= 60


def test_unreadable_retry_after_is_ignored(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(503, {"error": "x"}, **{"Retry-After": "soon"}))
    client.refresh()
    assert len(phone.slept) == 1


def test_new_refresh_token_is_stored_before_it_is_used(phone: Phone, server: Server) -> None:
    client = phone.logged_in()

    class FullDisk(MemoryStorage):
        def save(self, state: PersistedState) -> None:
            raise OSError("no space left")

    client._storage = FullDisk(client.state)
    with pytest.raises(OSError, match="no space"):
        client.refresh()
    client._storage = phone.storage
    client.refresh()
    assert sent_tokens(server) == ["kfr_1", "kfr_1"]


def test_two_clients_with_one_storage_are_one_session(phone: Phone, server: Server) -> None:
    """An app and its extension: whoever comes second takes what the first one got."""
    one = phone.logged_in()
    other = phone.start()
    server.now += 900
    token = one.access_token()
    assert other.access_token() == token
    assert sent_tokens(server) == ["kfr_1"]
    other.refresh()
    one.refresh()
    assert sent_tokens(server) == ["kfr_1", "kfr_2", "kfr_3"], "never one that is two behind"
    other.logout()
    with pytest.raises(LoggedOut):
        one.keys()


def test_many_threads_cause_one_refresh(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.now += 900
    threads = 8
    together = threading.Barrier(threads)

    def ask(_: int) -> str:
        together.wait()
        return client.access_token()

    with ThreadPoolExecutor(threads) as pool:
        tokens = set(pool.map(ask, range(threads)))
    assert len(tokens) == 1
    assert len(server.calls("/v1/token")) == 1


# ── keys ─────────────────────────────────────────────────────────────────


def test_keys_are_opened_and_kept_in_memory_as_long_as_they_may_be(
    phone: Phone, server: Server
) -> None:
    client = phone.logged_in()
    assert client.keys()["gemini"].value == "AIza-secret"
    assert client.keys()["gemini"].version == 3
    assert len(server.calls("/v1/keys")) == 1
    request = server.calls("/v1/keys")[0]
    assert request.headers["Authorization"].startswith("DPoP ")
    assert "ath" in server.proof(request)


def test_expired_keys_are_revalidated(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    first = client.keys()
    server.now += 301
    assert client.keys() == first
    assert [r.headers.get("If-None-Match") for r in server.calls("/v1/keys")] == [None, '"v1"']
    assert client.keys() == first
    assert len(server.calls("/v1/keys")) == 2


def test_what_is_withheld_is_told_with_the_reason(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    assert client.withheld() == {"maps": "mfa_required"}
    assert set(client.keys()) == {"gemini"}
    assert len(server.calls("/v1/keys")) == 1, "one answer says both"


def test_offline_a_key_lives_as_long_as_it_may(phone: Phone, server: Server) -> None:
    server.claims = {"keys": {"long": KEY | {"cache_seconds": 600}, "short": KEY}}
    client = phone.logged_in()
    assert set(client.keys()) == {"long", "short"}
    server.now += 300
    server.next_replies += [lost]
    assert set(client.keys()) == {"long"}
    server.next_replies += [
        answer(503, {"error": "temporarily_unavailable"}, **{"Retry-After": "9"})
    ]
    server.now += 299
    assert set(client.keys()) == {"long"}
    server.next_replies += [lost]
    server.now += 1
    with pytest.raises(Retryable):
        client.keys()
    assert set(client.keys()) == {"long", "short"}, "and is asked for again"


def test_offline_nothing_is_made_of_an_answer_that_says_no(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.keys()
    server.now += 301
    server.next_replies += [answer(403, {"error": "attestation_required"})]
    with pytest.raises(Rejected, match="attestation_required"):
        client.keys()


def test_a_version_below_the_minimum_is_dropped(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    assert client.key("gemini").version == 3
    server.claims = {"keys": {"gemini": KEY | {"version": 4, "min_version": 4}}}
    assert client.keys()["gemini"].version == 4
    assert client.key("gemini").version == 4, "what was kept under its name is not used"


def test_not_modified_without_a_verified_copy_is_refused(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(304))
    with pytest.raises(TamperedDelivery):
        client.keys()


def test_named_keys(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.keys(["maps", "gemini"])
    request = server.calls("/v1/keys")[0]
    assert request.url.params["names"] == "gemini,maps"
    assert server.proof(request)["htu"] == f"{ISSUER}/v1/keys"


def test_absent_key_is_a_refusal(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(404, {"error": "not_found"}))
    with pytest.raises(Rejected) as refusal:
        client.key("nothing")
    assert (refusal.value.code, refusal.value.status) == ("not_found", 404)


def test_delivery_without_the_wanted_key_is_refused(phone: Phone) -> None:
    with pytest.raises(TamperedDelivery):
        phone.logged_in().key("maps")


def test_access_token_that_the_server_finds_too_old_is_replaced_once(
    phone: Phone, server: Server
) -> None:
    client = phone.logged_in()
    refused = answer(401, {"error": "invalid_token"})
    server.next_replies.append(refused)
    assert client.key("gemini").value == "AIza-secret"
    assert len(server.calls("/v1/token")) == 1
    client = phone.logged_in()
    server.next_replies += [refused, server.tokens, refused]
    with pytest.raises(Rejected, match="invalid_token"):
        client.key("gemini")


def test_dead_session_ends_at_the_next_delivery(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies += [answer(401, {"error": "invalid_token"}), invalid_grant]
    with pytest.raises(LoggedOut):
        client.keys()


def test_keys_of_one_session_are_not_shown_in_the_next(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.keys()
    client.login("ben", "another", device_name="d", app_version="1")
    client.keys()
    assert len(server.calls("/v1/keys")) == 2


@pytest.mark.parametrize("clock_error", [-3 * 86400.0, 3 * 86400.0])
def test_phone_whose_clock_is_days_off_works(
    phone: Phone, server: Server, clock_error: float
) -> None:
    phone.clock_error = clock_error
    server.nonce = "n1"
    client = phone.logged_in()
    assert client.key("gemini").value == "AIza-secret"
    client.refresh()
    phone.clock_error = -clock_error
    client.refresh()
    assert client.keys()["gemini"].value == "AIza-secret"
    assert len(server.calls("/v1/login")) == 2
    assert len(server.calls("/v1/token")) == 2


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example"},
        {"aud": "android"},
        {"aud": ["ios"]},
        {"sub": "user-2"},
        {"sid": "session-2"},
        {"proof_jti": "the proof of an earlier request"},
        {"proof_jti": None},
        {"encryption_kid": "of somebody in the connection, who encrypted again to this device"},
        {"encryption_kid": None},
        {"keys": None},
        {"keys": {"gemini": "AIza-secret"}},
        {"keys": {"gemini": KEY | {"value": 1}}},
        {"keys": {"gemini": KEY | {"version": None}}},
        {"keys": {"gemini": KEY | {"min_version": "3"}}},
        {"refused": None},
    ],
)
def test_delivery_that_is_not_an_answer_to_this_request_is_refused(
    phone: Phone, server: Server, claims: dict[str, Any]
) -> None:
    client = phone.logged_in()
    server.claims = claims
    with pytest.raises(TamperedDelivery):
        client.keys()


def test_replayed_delivery_is_detected(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    captured: list[httpx.Response] = []

    def capture(request: httpx.Request) -> httpx.Response:
        captured.append(server.delivery(request))
        return captured[0]

    server.next_replies += [capture]
    client.keys()
    client = phone.start()
    server.next_replies += [lambda request: captured[0]]
    with pytest.raises(TamperedDelivery, match="proof_jti"):
        client.keys()


def test_delivery_for_another_phone_is_detected(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.device_jwk = dict(SoftwareDeviceKeys.generate().encryption_jwk)
    with pytest.raises(TamperedDelivery):
        client.keys()


# ── kinds of encryption keys ─────────────────────────────────────────────


@pytest.mark.parametrize("key_wrap", [False, True])
@pytest.mark.parametrize("kind", ["P-256", "X25519", "RSA"])
def test_a_device_chooses_its_key_and_how_it_is_encrypted_to(
    server: Server, kind: Kind, key_wrap: bool
) -> None:
    phone = Phone(server, device=SoftwareDeviceKeys.generate(kind, key_wrap=key_wrap))
    assert phone.logged_in().key("gemini").value == "AIza-secret"
    wanted = "RSA-OAEP" if kind == "RSA" else "ECDH-ES" + "+A256KW" * key_wrap
    assert server.device_jwk["alg"] == wanted
    assert server.calls("/v1/keys/gemini")[0].headers["Accept"] == "application/jose"


@pytest.mark.parametrize("kind", ["P-256", "X25519", "RSA"])
def test_keys_of_every_kind_survive_export(kind: Kind) -> None:
    device = SoftwareDeviceKeys.generate(kind, key_wrap=True)
    restored = SoftwareDeviceKeys.restore(json.loads(json.dumps(device.export())))
    assert restored.signing_jwk == device.signing_jwk
    assert restored.encryption_jwk == device.encryption_jwk


def test_whoever_asks_for_hpke_takes_nothing_else(server: Server) -> None:
    config = Config(ISSUER, client_id="ios", client_key="client-key", hpke=True)
    client = Phone(server, config=config).logged_in()
    with pytest.raises(TamperedDelivery):
        client.key("gemini")
    accepted = server.calls("/v1/keys/gemini")[0].headers["Accept"]
    assert accepted == "application/vnd.keyferry.hpke"


# ── replacing the encryption key ─────────────────────────────────────────


def test_keys_come_to_the_new_key(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.keys()
    phone.device.renew_encryption_key("X25519")
    client.replace_encryption_key()
    (request,) = server.calls("/v1/device/encryption-key")
    assert request.method == "PUT"
    assert json.loads(request.content) == {"encryption_key": dict(phone.device.encryption_jwk)}
    assert "ath" in server.proof(request)
    # What was delivered to the old key is not what is asked about from now on.
    assert client.keys()["gemini"].value == "AIza-secret"
    assert "If-None-Match" not in server.requests[-1].headers


def test_delivery_to_the_old_key_is_refused(phone: Phone) -> None:
    client = phone.logged_in()
    phone.device.renew_encryption_key()
    with pytest.raises(TamperedDelivery, match="another device"):
        client.keys()


@pytest.mark.parametrize(
    "reply",
    [
        lost,
        answer(503, {"error": "temporarily_unavailable"}),
        answer(200, {}),
        answer(200, {"kid": "of another key"}),
        answer(200, ["welcome"]),
    ],
)
def test_replacement_without_its_answer_may_be_repeated(
    phone: Phone, server: Server, reply: Reply
) -> None:
    client = phone.logged_in()
    phone.device.renew_encryption_key()
    server.next_replies.append(reply)
    with pytest.raises(Retryable):
        client.replace_encryption_key()
    client.replace_encryption_key()
    assert client.key("gemini").value == "AIza-secret"


def test_second_replacement_within_a_second_is_to_be_repeated(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    demand = answer(401, {"error": "use_dpop_nonce"}, **{"DPoP-Nonce": "n"})
    server.next_replies += [demand, demand]
    with pytest.raises(Retryable) as asked:
        client.replace_encryption_key()
    assert asked.value.retry_after == 1.0
    assert len(server.calls("/v1/device/encryption-key")) == 2


def test_refused_replacement_is_told(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(400, {"error": "invalid_request"}))
    with pytest.raises(Rejected, match="invalid_request"):
        client.replace_encryption_key()


# ── sessions ─────────────────────────────────────────────────────────────


def test_sessions_are_listed(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(200, {"sessions": [SHOWN | {"new_member": 1}]}))
    (session,) = client.sessions()
    assert asdict(session) == SHOWN
    assert [each.id for each in client.sessions()] == ["session-1", "session-2"]
    request = server.calls("/v1/sessions")[0]
    assert "ath" in server.proof(request)


@pytest.mark.parametrize(
    "body",
    [None, [], {}, {"sessions": {}}, {"sessions": [1]}, {"sessions": [{"id": "x"}]}],
    ids=str,
)
def test_something_else_than_a_list_is_asked_for_again(
    phone: Phone, server: Server, body: Any
) -> None:
    client = phone.logged_in()
    server.next_replies.append(answer(200, body))
    with pytest.raises(Retryable):
        client.sessions()


def test_another_session_is_ended(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.end_session("session-2")
    (request,) = server.calls("/v1/sessions/session-2")
    assert request.method == "DELETE"
    assert phone.storage.load() is not None
    server.next_replies.append(answer(404, {"error": "not_found"}))
    with pytest.raises(Rejected, match="not_found"):
        client.end_session("session-3")


def test_ending_the_own_session_is_a_logout(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    client.end_session("session-1")
    assert phone.storage.load() is None
    with pytest.raises(LoggedOut):
        client.keys()


def test_a_session_id_stays_one_segment_of_the_path(phone: Phone, server: Server) -> None:
    phone.logged_in().end_session("../keys?x=1")
    assert server.requests[-1].url.raw_path == b"/dev/v1/sessions/..%2Fkeys%3Fx%3D1"


def test_the_other_sessions_are_ended(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    assert client.end_other_sessions() == 2
    (request,) = server.calls("/v1/sessions")
    assert (request.method, request.url.query) == ("DELETE", b"except=current")
    assert server.proof(request)["htu"] == f"{ISSUER}/v1/sessions"
    assert phone.storage.load() is not None
    server.next_replies.append(answer(200, {"message": "welcome"}))
    with pytest.raises(Retryable):
        client.end_other_sessions()


# ── logout ───────────────────────────────────────────────────────────────


def test_logout_revokes_the_newest_refresh_token_and_forgets_everything(
    phone: Phone, server: Server
) -> None:
    client = phone.logged_in()
    client.keys()
    client.refresh()
    assert client.logout() is True
    (request,) = server.calls("/v1/revoke")
    form = {"token": ["kfr_2"], "token_type_hint": ["refresh_token"], "client_id": ["ios"]}
    assert parse_qs(request.content.decode()) == form
    assert "Authorization" not in request.headers
    assert (phone.storage.load(), client.state) == (None, None)
    with pytest.raises(LoggedOut):
        client.keys()
    assert client.logout() is True
    assert len(server.calls("/v1/revoke")) == 1


@pytest.mark.parametrize(
    "reply",
    [lost, answer(503), answer(429), answer(403, {"message": "Forbidden"}), answer(500)],
)
def test_logout_without_the_server_is_one_here_and_says_so(
    phone: Phone, server: Server, reply: Reply
) -> None:
    client = phone.logged_in()
    server.next_replies.append(reply)
    assert client.logout() is False
    assert (phone.storage.load(), client.state) == (None, None)


def test_logout_while_even_discovery_fails(phone: Phone, server: Server) -> None:
    phone.logged_in()
    client = phone.start()  # a new process, which has discovered nothing yet
    server.metadata = {"issuer": "https://evil.example"}
    assert client.logout() is False
    assert phone.storage.load() is None
    assert server.calls("/v1/revoke") == []


def test_logout_during_a_refresh_is_not_undone_by_it(phone: Phone, server: Server) -> None:
    client = phone.logged_in()
    asked, answered = threading.Event(), threading.Event()

    def slowly(request: httpx.Request) -> httpx.Response:
        asked.set()
        assert answered.wait(10)
        return server.tokens(request)

    server.next_replies.append(slowly)
    with ThreadPoolExecutor(2) as pool:
        refreshed = pool.submit(client.refresh)
        assert asked.wait(10)
        logged_out = pool.submit(client.logout)
        time.sleep(0.05)
        answered.set()
        refreshed.result()
        assert logged_out.result() is True
    assert (phone.storage.load(), client.state) == (None, None)
    assert parse_qs(server.calls("/v1/revoke")[0].content.decode())["token"] == ["kfr_2"]


# ── secrets ──────────────────────────────────────────────────────────────


def texts(*values: object) -> Iterator[str]:
    for value in values:
        yield repr(value)
        yield str(value)


def test_nothing_secret_is_printed_by_accident(phone: Phone) -> None:
    client = phone.logged_in()
    state = client.state
    assert state is not None
    printed = " ".join(texts(state, client.keys(), phone.config))
    for secret in (state.access_token, state.refresh_token, "AIza-secret", "client-key"):
        assert secret not in printed
