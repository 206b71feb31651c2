"""A proxy that sits in the connection between the phone and the API, and reads and writes in it.

That is what an intercepting proxy does whose certificate the phone trusts, as on a company's phone.
It has seen the login, so it knows the device's public keys and every token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
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
from tests.e2e.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator


@pytest.fixture
def interceptor(stack: LocalStack) -> Iterator[FaultProxy]:
    with FaultProxy.start(stack.api_url) as proxy:
        yield proxy


@pytest.fixture
def phone(
    stack: LocalStack, operator: Operator, username: str, interceptor: FaultProxy
) -> Iterator[KeyferryClient]:
    """The reference client, signed in through the proxy."""
    http = httpx.Client(proxy=interceptor.url, trust_env=False, timeout=60)
    config = Config(stack.api_url, client_id="ios", client_key=stack.client_keys["ios"])
    client = KeyferryClient(config, SoftwareDeviceKeys.generate(), MemoryStorage(), http=http)
    client.login(username, PASSWORD, device_name="Phone", app_version="1.0")
    yield client
    client.close()


def encryption_jwk(interceptor: FaultProxy) -> dict[str, Any]:
    """The device's public encryption key, as it was in the last login that passed by."""
    *_, login = (each for each in interceptor.requests if each.url.path.endswith("/v1/login"))
    jwk: dict[str, Any] = json.loads(login.content)["device"]["encryption_key"]
    return jwk


def forged(
    interceptor: FaultProxy,
    key: ec.EllipticCurvePrivateKey,
    kid: str,
    *,
    claims: Mapping[str, Any] | None = None,
    jws_header: Mapping[str, Any] | None = None,
    jwe_header: Mapping[str, Any] | None = None,
) -> httpx.Response:
    """A delivery of the proxy's own making, with everything right that it can get right, and these
    changes."""
    recipient = ECKey.import_key(encryption_jwk(interceptor))
    request = interceptor.requests[-1]
    proof = jwt.decode(request.headers["DPoP"], options={"verify_signature": False})
    token = request.headers["Authorization"].partition(" ")[2]
    access = jwt.decode(token, options={"verify_signature": False})
    right = {
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
    headers = {"typ": "keyferry-keys+jwt", "kid": kid, **(jws_header or {})}
    headers = {name: value for name, value in headers.items() if value is not None}
    inner = jwt.encode(right | dict(claims or {}), key, algorithm="ES256", headers=headers)
    protected = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT", "kid": recipient.thumbprint()}
    protected |= jwe_header or {}
    allowed = [protected["alg"], protected["enc"], "DEF"]
    text = jwe.encrypt_compact(protected, inner, recipient, algorithms=allowed)
    return httpx.Response(200, headers={"Content-Type": "application/jose"}, text=text)


def published_kid(stack: LocalStack) -> str:
    jwks = httpx.get(f"{stack.api_url}/.well-known/jwks.json", trust_env=False).json()
    return str(jwks["keys"][0]["kid"])


def test_it_passes_on_what_it_leaves_alone(phone: KeyferryClient, interceptor: FaultProxy) -> None:
    assert phone.key("maps").value == SECRETS["maps"]
    assert len(interceptor.deliveries) == 1
    assert SECRETS["maps"].encode() not in interceptor.deliveries[0].content


def test_it_cannot_read_what_it_passes_on(phone: KeyferryClient, interceptor: FaultProxy) -> None:
    phone.key("maps")
    own = ECKey.import_key(new_key())
    with pytest.raises(JoseError):
        jwe.decrypt_compact(interceptor.deliveries[0].text, own)


@pytest.mark.parametrize("kid", ["published", "unknown"])
def test_its_own_delivery_is_detected(
    stack: LocalStack, phone: KeyferryClient, interceptor: FaultProxy, kid: str
) -> None:
    named = published_kid(stack) if kid == "published" else "no-such-key"
    interceptor.swap = lambda _: forged(interceptor, new_key(), named)
    with pytest.raises(TamperedDelivery):
        phone.key("maps")
    assert interceptor.swapped == 1
    interceptor.swap = lambda response: response
    assert phone.key("maps").value == SECRETS["maps"], "nothing of it was kept"


def test_an_older_delivery_is_detected(
    operator: Operator, phone: KeyferryClient, interceptor: FaultProxy
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
    phone: KeyferryClient, interceptor: FaultProxy, cut: int
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
    phone: KeyferryClient, interceptor: FaultProxy, username: str, own: ECKey
) -> None:
    """A proof does not cover a body, but it names the key: at login and when the key is replaced."""
    interceptor.rewrite = with_own_key(own)
    with pytest.raises(Rejected, match="invalid_dpop_proof"):
        phone.login(username, PASSWORD, device_name="Phone", app_version="1.0")
    with pytest.raises(Rejected, match="invalid_dpop_proof"):
        phone.replace_encryption_key()


def test_what_was_encrypted_to_the_proxy_and_again_to_the_phone_is_detected(
    phone: KeyferryClient,
    interceptor: FaultProxy,
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
