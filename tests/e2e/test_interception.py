"""A proxy that sits in the connection between the phone and the API, and reads and writes in it.

That is what an intercepting proxy does whose certificate the phone trusts, as on a company's phone.
It has seen the login, so it knows the device's public keys and every token.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwe
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from keyferry_client import (
    Config,
    KeyferryClient,
    MemoryStorage,
    Rejected,
    SoftwareDeviceKeys,
    TamperedDelivery,
)
from keyferry_client import connection as connection_module
from keyferry_client.dpop import make_proof
from tests.e2e.conftest import PASSWORD, SECRETS
from tests.e2e.device import new_key

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator

Swap = Callable[[httpx.Response], httpx.Response]


@dataclass
class Interceptor:
    """Passes everything on, and hands each delivery to ``swap`` first."""

    swap: Swap = lambda response: response
    rewrite: Callable[[bytes], bytes] = lambda body: body
    seen: list[httpx.Request] = field(default_factory=list)
    deliveries: list[httpx.Response] = field(default_factory=list)
    swapped: int = 0

    def exchange(self, method: str, url: str, headers: Any, body: bytes) -> httpx.Response:
        sent = {name: value for name, value in headers.items() if name.lower() != "host"}
        with httpx.Client(timeout=60, trust_env=False) as client:
            body = self.rewrite(body)
            sent = {n: v for n, v in sent.items() if n.lower() != "content-length"}
            request = client.build_request(method, url, headers=sent, content=body)
            self.seen.append(request)
            response = client.send(request)
        if "/v1/keys" not in url or response.status_code != httpx.codes.OK:
            return response
        self.deliveries.append(response)
        changed = self.swap(response)
        self.swapped += changed is not response
        return changed


def handler_of(interceptor: Interceptor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            response = interceptor.exchange(self.command, self.path, self.headers, body)
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in ("content-length", "connection", "transfer-encoding", "date"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            self.wfile.write(response.content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 -- called by these names

        def log_message(self, *_: object) -> None:
            """Nothing: what passes here are credentials."""

    return Handler


@pytest.fixture
def interceptor() -> Interceptor:
    return Interceptor()


@pytest.fixture
def phone(
    stack: LocalStack, operator: Operator, username: str, interceptor: Interceptor
) -> Iterator[KeyferryClient]:
    """The reference client, signed in through the proxy."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler_of(interceptor)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        proxy = f"http://127.0.0.1:{server.server_port}"
        http = httpx.Client(proxy=proxy, trust_env=False, timeout=60)
        config = Config(stack.api_url, client_id="ios", client_key=stack.client_keys["ios"])
        device = SoftwareDeviceKeys.generate()
        client = KeyferryClient(config, device, MemoryStorage(), http=http)
        client.login(username, PASSWORD, device_name="Phone", app_version="1.0")
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


def encryption_jwk(interceptor: Interceptor) -> dict[str, Any]:
    """The device's public encryption key, as it was in the login that passed by."""
    (login,) = (each for each in interceptor.seen if each.url.path.endswith("/v1/login"))
    jwk: dict[str, Any] = json.loads(login.content)["device"]["encryption_key"]
    return jwk


def forged(
    interceptor: Interceptor, response: httpx.Response, key: ec.EllipticCurvePrivateKey, kid: str
) -> httpx.Response:
    """A delivery of the proxy's own making, with everything right that it can get right."""
    recipient = ECKey.import_key(encryption_jwk(interceptor))
    request = interceptor.seen[-1]
    proof = jwt.decode(request.headers["DPoP"], options={"verify_signature": False})
    token = request.headers["Authorization"].partition(" ")[2]
    access = jwt.decode(token, options={"verify_signature": False})
    claims = {
        "iss": access["iss"],
        "sub": access["sub"],
        "aud": "ios",
        "sid": access["sid"],
        "iat": access["iat"],
        "proof_jti": proof["jti"],
        "encryption_kid": recipient.thumbprint(),
        "min_fetch_interval": 60,
        "keys": {
            "maps": {
                "value": "the proxy's own",
                "version": 9,
                "min_version": 0,
                "cache_seconds": 300,
            }
        },
        "refused": {},
    }
    headers = {"typ": "keyferry-keys+jwt", "kid": kid}
    inner = jwt.encode(claims, key, algorithm="ES256", headers=headers)
    thumbprint = recipient.thumbprint()
    protected = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT", "kid": thumbprint}
    text = jwe.encrypt_compact(protected, inner, recipient)
    return httpx.Response(200, headers={"Content-Type": "application/jose"}, text=text)


def published_kid(stack: LocalStack) -> str:
    jwks = httpx.get(f"{stack.api_url}/.well-known/jwks.json", trust_env=False).json()
    return str(jwks["keys"][0]["kid"])


def test_it_passes_on_what_it_leaves_alone(phone: KeyferryClient, interceptor: Interceptor) -> None:
    assert phone.key("maps").value == SECRETS["maps"]
    assert len(interceptor.deliveries) == 1
    assert SECRETS["maps"].encode() not in interceptor.deliveries[0].content


def test_it_cannot_read_what_it_passes_on(phone: KeyferryClient, interceptor: Interceptor) -> None:
    phone.key("maps")
    own = ECKey.import_key(new_key())
    with pytest.raises(JoseError):
        jwe.decrypt_compact(interceptor.deliveries[0].text, own)


@pytest.mark.parametrize("kid", ["published", "unknown"])
def test_its_own_delivery_is_detected(
    stack: LocalStack, phone: KeyferryClient, interceptor: Interceptor, kid: str
) -> None:
    named = published_kid(stack) if kid == "published" else "no-such-key"
    interceptor.swap = lambda response: forged(interceptor, response, new_key(), named)
    with pytest.raises(TamperedDelivery):
        phone.key("maps")
    assert interceptor.swapped == 1
    interceptor.swap = lambda response: response
    assert phone.key("maps").value == SECRETS["maps"], "nothing of it was kept"


def test_an_older_delivery_is_detected(
    operator: Operator, phone: KeyferryClient, interceptor: Interceptor
) -> None:
    operator.do("keys.put", name="turned", value="old", policy={"roles": ["*"]}, promote=True)
    assert phone.key("turned").value == "old"
    operator.do("keys.put", name="turned", value="new", promote=True)
    old = interceptor.deliveries[-1]
    interceptor.swap = lambda _: httpx.Response(200, headers=old.headers, content=old.content)
    phone._deliveries.clear()  # a new start of the app
    with pytest.raises(TamperedDelivery):
        phone.key("turned")
    assert interceptor.swapped == 1
    operator.do("keys.delete", name="turned")


@pytest.mark.parametrize("cut", [0, 10, -1, -20])
def test_a_damaged_delivery_is_detected(
    phone: KeyferryClient, interceptor: Interceptor, cut: int
) -> None:
    def damage(response: httpx.Response) -> httpx.Response:
        changed = bytearray(response.content)
        changed[cut] = ord("A") if changed[cut] != ord("A") else ord("B")
        return httpx.Response(200, headers=response.headers, content=bytes(changed))

    interceptor.swap = damage
    with pytest.raises(TamperedDelivery):
        phone.key("maps")
    assert interceptor.swapped == 1


@pytest.fixture
def own() -> ECKey:
    """An encryption key of the proxy's own."""
    return ECKey.import_key(new_key())


def with_own_key(own: ECKey) -> Callable[[bytes], bytes]:
    """Puts the proxy's encryption key into whatever body has one."""

    def rewrite(body: bytes) -> bytes:
        if b'"encryption_key"' not in body:
            return body
        members = json.loads(body)
        members.get("device", members)["encryption_key"] = own.as_dict(private=False)
        return json.dumps(members).encode()

    return rewrite


def test_a_swapped_encryption_key_is_refused(
    phone: KeyferryClient, interceptor: Interceptor, username: str, own: ECKey
) -> None:
    """A proof does not cover a body, but it names the key: at login and when the key is replaced."""
    interceptor.rewrite = with_own_key(own)
    with pytest.raises(Rejected, match="invalid_dpop_proof"):
        phone.login(username, PASSWORD, device_name="Phone", app_version="1.0")
    with pytest.raises(Rejected, match="invalid_dpop_proof"):
        phone.replace_encryption_key()


def test_what_was_encrypted_to_the_proxy_and_again_to_the_phone_is_detected(
    phone: KeyferryClient,
    interceptor: Interceptor,
    username: str,
    own: ECKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a client whose proofs do not name the key: the session is the phone's, and the proxy reads.
    What it hands on is signed, and says whose key it was for."""

    def make(*given: Any, encryption_kid: str, **named: Any) -> Any:
        return make_proof(*given, **named)

    monkeypatch.setattr(connection_module, "make_proof", make)
    mine = encryption_jwk(interceptor)
    interceptor.rewrite = with_own_key(own)
    phone.login(username, PASSWORD, device_name="Phone", app_version="1.0")
    read = []

    def again(response: httpx.Response) -> httpx.Response:
        inner = jwe.decrypt_compact(response.text, own).plaintext or b""
        read.append(jwt.decode(inner.decode(), options={"verify_signature": False})["keys"])
        recipient = ECKey.import_key(mine)
        protected = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT"}
        protected["kid"] = recipient.thumbprint()
        return httpx.Response(200, text=jwe.encrypt_compact(protected, inner, recipient))

    interceptor.swap = again
    with pytest.raises(TamperedDelivery, match="encryption_kid"):
        phone.key("maps")
    assert read[0]["maps"]["value"] == SECRETS["maps"]
