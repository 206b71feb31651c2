"""Opening a delivery in the reference client: whoever can encrypt to the device is not thereby the
server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwe, jws
from joserfc.jwk import ECKey, OctKey

from keyferry_client import SoftwareDeviceKeys, TamperedDelivery
from keyferry_client.delivery import TYP, Delivery, Expected, open_delivery
from keyferry_client.jose import thumbprint
from tests.e2e.device import jwk_of, new_key

DEVICE = SoftwareDeviceKeys.generate()
SERVER = new_key()
EXPECTED = Expected("https://issuer", "ios", "u1", "s1", "jti-1")
CLAIMS = {
    "iss": "https://issuer",
    "aud": "ios",
    "sub": "u1",
    "sid": "s1",
    "proof_jti": "jti-1",
    "encryption_kid": thumbprint(DEVICE.encryption_jwk),
    "min_fetch_interval": 60,
    "keys": {"maps": {"value": "v", "version": 1, "min_version": 0, "cache_seconds": 60}},
    "refused": {"gemini": "mfa_required"},
}


def signed(
    claims: dict[str, Any] = CLAIMS, key: ec.EllipticCurvePrivateKey = SERVER, typ: str = TYP
) -> str:
    header = {"alg": "ES256", "typ": typ, "kid": "published"}
    return jws.serialize_compact(header, json.dumps(claims), ECKey.import_key(key))


def opened(inner: str) -> Delivery:
    """As it comes to a device that it was encrypted to."""
    recipient = ECKey.import_key({**DEVICE.encryption_jwk})
    header = {"alg": "ECDH-ES", "enc": "A256GCM", "cty": "JWT", "kid": recipient.thumbprint()}
    token = jwe.encrypt_compact(header, inner, recipient)
    return open_delivery(token, DEVICE, EXPECTED, signing_key=lambda _: jwk_of(SERVER))


def with_another_payload() -> str:
    """The signature of one delivery under another."""
    _, payload, _ = signed({**CLAIMS, "refused": {}}).split(".")
    header, _, signature = signed().split(".")
    return f"{header}.{payload}.{signature}"


def by_hmac() -> str:
    """Under the public key as if it were a shared one."""
    key = OctKey.import_key(json.dumps(jwk_of(SERVER)).encode())
    header = {"alg": "HS256", "typ": TYP, "kid": "published"}
    return jws.serialize_compact(header, json.dumps(CLAIMS), key, algorithms=["HS256"])


FORGED: dict[str, Callable[[], str]] = {
    "by another key": lambda: signed(key=new_key()),
    "another payload": with_another_payload,
    "no signature": lambda: signed().rpartition(".")[0] + ".",
    "alg none": lambda: jwt.encode(CLAIMS, "", algorithm="none", headers={"typ": TYP, "kid": "k"}),
    "by HMAC": by_hmac,
    "another kind of token": lambda: signed(typ="at+jwt"),
    "no JWT": lambda: json.dumps(CLAIMS),
}


def test_a_good_one() -> None:
    delivery = opened(signed())
    assert delivery.keys["maps"].value == "v"
    assert delivery.refused == {"gemini": "mfa_required"}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_one(how: str) -> None:
    with pytest.raises(TamperedDelivery):
        opened(FORGED[how]())


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "sid", "proof_jti", "encryption_kid"])
@pytest.mark.parametrize("value", ["another", None, ["ios"]], ids=str)
def test_one_that_is_about_something_else(name: str, value: object) -> None:
    for claims in ({**CLAIMS, name: value}, {k: v for k, v in CLAIMS.items() if k != name}):
        with pytest.raises(TamperedDelivery, match=name):
            opened(signed(claims))
