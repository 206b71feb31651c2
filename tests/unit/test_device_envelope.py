"""What a delivery travels in: the choice, and that implementations by others open every kind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwe as joserfc_jwe
from joserfc.jwk import JWKRegistry
from jwcrypto import jwe as jwcrypto_jwe
from jwcrypto.jwk import JWK

from keyferry.errors import RequestRefused
from keyferry.jose import base64url
from keyferry.jose.recipient import Recipient
from keyferry.vault.device_envelope import HPKE, JWE, DeviceEnvelope
from keyferry_client import SoftwareDeviceKeys, TamperedDelivery
from keyferry_client.hpke import open_sealed
from keyferry_client.jose import decrypt
from tests.conftest import needs

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJrZXlzIjp7fX0.c2lnbmF0dXJl"

DEVICES = {
    "P-256": SoftwareDeviceKeys.generate(),
    "P-256 key wrap": SoftwareDeviceKeys.generate(key_wrap=True),
    "X25519": SoftwareDeviceKeys.generate("X25519"),
    "X25519 key wrap": SoftwareDeviceKeys.generate("X25519", key_wrap=True),
    "RSA": SoftwareDeviceKeys.generate("RSA"),
}
AGREEING = [name for name in DEVICES if name != "RSA"]

every_device = pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
every_agreeing_device = pytest.mark.parametrize(
    "device", [DEVICES[name] for name in AGREEING], ids=AGREEING
)


def recipient(device: SoftwareDeviceKeys) -> Recipient:
    return Recipient.from_members(device.encryption_jwk, allow_rsa=True)


def sealed(device: SoftwareDeviceKeys, media_type: str = JWE, jwt: str = JWT) -> str:
    return DeviceEnvelope(recipient(device), media_type).seal(jwt, random=os.urandom)


def private_jwk(device: SoftwareDeviceKeys) -> dict[str, Any]:
    """As jwcrypto exports it, so that this is not our own idea of a private JWK."""
    members: dict[str, Any] = JWK.from_pem(
        device.export()["encryption"].encode("ascii")
    ).export_private(as_dict=True)
    members.pop("kid", None)
    return members | {"alg": device.encryption_jwk["alg"]}


class TestChoice:
    @pytest.mark.parametrize(
        "accept",
        [
            (),
            ("*/*",),
            ("application/jose",),
            ("application/json",),
            ("application/jose, */*;q=0.1",),
            ("application/vnd.keyferry.hpke;q=0",),
            ("application/jose, application/vnd.keyferry.hpke;q=0.000",),
            ("application/vnd.keyferry.hpkex",),
            ("",),
            (";q=1,,",),
        ],
        ids=str,
    )
    @every_device
    def test_jwe(self, accept: tuple[str, ...], device: SoftwareDeviceKeys) -> None:
        assert DeviceEnvelope.choose(accept, recipient(device)).media_type == JWE

    @pytest.mark.parametrize(
        "accept",
        [
            ("application/vnd.keyferry.hpke",),
            ("Application/VND.Keyferry.HPKE",),
            ("application/vnd.keyferry.hpke; q=0.5, application/jose",),
            ("application/jose", "application/vnd.keyferry.hpke"),
            ("text/plain ,application/vnd.keyferry.hpke ;q=1.0",),
        ],
        ids=str,
    )
    @every_agreeing_device
    def test_hpke_for_whoever_names_it(
        self, accept: tuple[str, ...], device: SoftwareDeviceKeys
    ) -> None:
        assert DeviceEnvelope.choose(accept, recipient(device)).media_type == HPKE

    def test_there_is_no_hpke_for_rsa(self) -> None:
        with pytest.raises(RequestRefused) as refusal:
            DeviceEnvelope.choose((HPKE,), recipient(DEVICES["RSA"]))
        assert (refusal.value.code, refusal.value.kind.status) == ("not_acceptable", 406)

    @pytest.mark.parametrize("other", ["application/jose", "*/*", "application/*;q=0.1"])
    def test_rsa_gets_a_jwe_where_that_is_accepted_too(self, other: str) -> None:
        chosen = DeviceEnvelope.choose((f"{HPKE}, {other}",), recipient(DEVICES["RSA"]))
        assert chosen.media_type == JWE

    def test_every_envelope_has_a_name_of_its_own(self) -> None:
        envelopes = [DeviceEnvelope(recipient(each), JWE) for each in DEVICES.values()]
        envelopes += [DeviceEnvelope(recipient(DEVICES[name]), HPKE) for name in AGREEING]
        one = private_jwk(DEVICES["P-256"])
        twice = {"kty": "EC", "crv": "P-256", "x": one["x"], "y": one["y"]}
        for alg in ("ECDH-ES", "ECDH-ES+A256KW"):
            key = Recipient.from_members(twice | {"alg": alg}, allow_rsa=False)
            envelopes.append(DeviceEnvelope(key, JWE))
        names = [each.name() for each in envelopes]
        assert len(set(names)) == len(names) - 1  # the first of the last two is DEVICES["P-256"]


class TestJwe:
    @every_device
    def test_joserfc(self, device: SoftwareDeviceKeys) -> None:
        members = private_jwk(device)
        key = JWKRegistry.import_key(members)
        opened = joserfc_jwe.decrypt_compact(
            sealed(device), key, algorithms=[members["alg"], "A256GCM"]
        )
        assert opened.plaintext == JWT.encode()
        assert opened.headers()["kid"] == key.thumbprint()

    @every_device
    def test_jwcrypto(self, device: SoftwareDeviceKeys) -> None:
        members = private_jwk(device)
        opened = jwcrypto_jwe.JWE(algs=[members["alg"], "A256GCM"])
        opened.deserialize(sealed(device), JWK(**members))
        assert opened.payload == JWT.encode()

    @every_device
    def test_reference_client(self, device: SoftwareDeviceKeys) -> None:
        assert decrypt(sealed(device), device) == JWT.encode()

    @given(st.text(st.characters(codec="ascii"), max_size=300))
    @settings(max_examples=20)
    def test_any_length(self, jwt: str) -> None:
        for device in DEVICES.values():
            assert decrypt(sealed(device, jwt=jwt), device) == jwt.encode()

    @pytest.mark.parametrize("name", ["P-256", "P-256 key wrap"])
    def test_debian_jose(self, name: str, tmp_path: Path) -> None:
        """It knows neither X25519 nor RSA-OAEP with A256GCM."""
        jose, key = needs("jose"), tmp_path / "key.jwk"
        key.write_text(json.dumps(private_jwk(DEVICES[name])))
        done = subprocess.run(
            [jose, "jwe", "dec", "-i-", "-k", str(key)],
            input=sealed(DEVICES[name]),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, JWT), done.stderr


class TestHpke:
    @every_agreeing_device
    def test_cryptography(self, device: SoftwareDeviceKeys) -> None:
        header, enc, ciphertext = sealed(device, HPKE).split(".")
        key = device._encryption
        assert isinstance(key, ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey)
        on_p256 = isinstance(key, ec.EllipticCurvePrivateKey)
        suite = hpke.Suite(
            hpke.KEM.P256 if on_p256 else hpke.KEM.X25519,
            hpke.KDF.HKDF_SHA256,
            hpke.AEAD.AES_256_GCM,
        )
        message = base64url.decode(enc) + base64url.decode(ciphertext)
        opened = suite.decrypt(message, key, info=f"keyferry-hpke.{header}".encode())
        assert opened == JWT.encode()

    @every_agreeing_device
    def test_header(self, device: SoftwareDeviceKeys) -> None:
        header, enc, ciphertext = map(base64url.decode, sealed(device, HPKE).split("."))
        on_p256 = device.encryption_jwk["crv"] == "P-256"
        assert json.loads(header) == {
            "typ": "keyferry-hpke",
            "kem": 0x0010 if on_p256 else 0x0020,
            "kdf": 0x0001,
            "aead": 0x0002,
            "kid": recipient(device).thumbprint(),
            "cty": "JWT",
        }
        assert len(enc) == (65 if on_p256 else 32)
        assert len(ciphertext) == len(JWT) + 16

    @every_agreeing_device
    def test_reference_client(self, device: SoftwareDeviceKeys) -> None:
        assert open_sealed(sealed(device, HPKE), device) == JWT.encode()

    @every_agreeing_device
    def test_altered_anywhere(self, device: SoftwareDeviceKeys) -> None:
        parts = sealed(device, HPKE).split(".")
        for index, part in enumerate(parts):
            octets = bytearray(base64url.decode(part))
            for position in {1, len(octets) // 2, len(octets) - 1}:
                changed = octets.copy()
                changed[position] ^= 1
                again = [*parts]
                again[index] = base64url.encode(bytes(changed))
                with pytest.raises(TamperedDelivery):
                    open_sealed(".".join(again), device)

    def test_header_with_white_space_is_another_header(self) -> None:
        device = DEVICES["P-256"]
        header, rest = sealed(device, HPKE).split(".", 1)
        spaced = json.dumps(json.loads(base64url.decode(header))).encode()
        with pytest.raises(TamperedDelivery, match="altered"):
            open_sealed(f"{base64url.encode(spaced)}.{rest}", device)


def test_npm_jose_and_hpke_core(node_modules: Path) -> None:
    cases = [(device, JWE) for device in DEVICES.values()]
    cases += [(DEVICES[name], HPKE) for name in AGREEING]
    request = [
        {"media_type": media_type, "body": sealed(device, media_type), "jwk": private_jwk(device)}
        for device, media_type in cases
    ]
    done = subprocess.run(
        [needs("node"), str(Path(__file__).with_name("open_envelope.mjs")), str(node_modules)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [JWT] * len(cases)


@every_agreeing_device
def test_client_opens_nothing_but_what_it_asked_for(device: SoftwareDeviceKeys) -> None:
    with pytest.raises(TamperedDelivery):
        decrypt(sealed(device, HPKE), device)
    with pytest.raises(TamperedDelivery):
        open_sealed(sealed(device, JWE), device)


@every_device
def test_client_opens_nothing_of_another_algorithm(device: SoftwareDeviceKeys) -> None:
    """Not even where its own key could: the algorithm is the one that it has registered."""
    for other in ("ECDH-ES", "ECDH-ES+A256KW"):
        if device.encryption_jwk["kty"] == "RSA" or device.encryption_jwk["alg"] == other:
            continue
        own = Recipient.from_members({**device.encryption_jwk, "alg": other}, allow_rsa=False)
        token = DeviceEnvelope(own, JWE).seal(JWT, random=os.urandom)
        with pytest.raises(TamperedDelivery, match="another algorithm"):
            decrypt(token, device)
