"""docs/mobile/vectors.json is right, and the code of docs/mobile/android.md reproduces it on a JVM."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keyferry.dpop.proof import verify
from keyferry.jose.rfc7517_jwk import EcJwk
from keyferry_client.delivery import Expected, open_delivery
from keyferry_client.device import SoftwareDeviceKeys
from keyferry_client.dpop import access_token_hash
from keyferry_client.jose import concat_kdf, decrypt, thumbprint
from tests.conftest import ROOT, needs
from tests.mobile.make_vectors import ISSUER, VECTORS

GIVEN: Final[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))
HERE: Final = Path(__file__).parent


def plain(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def private(part: str, name: str = "private_pkcs8") -> Any:
    return load_der_private_key(base64.b64decode(GIVEN[part][name]), None)


DEVICE = SoftwareDeviceKeys(private("device_key"), private("encryption_key"))


def test_the_keys_are_those_of_their_thumbprints() -> None:
    assert dict(DEVICE.signing_jwk) == GIVEN["device_key"]["jwk"]
    assert dict(DEVICE.encryption_jwk) == GIVEN["encryption_key"]["jwk"]
    assert GIVEN["device_key"]["jkt"] == thumbprint(GIVEN["device_key"]["jwk"])
    assert GIVEN["encryption_key"]["kid"] == thumbprint(GIVEN["encryption_key"]["jwk"])
    jkt = GIVEN["device_key"]["jkt"].encode("ascii")
    assert GIVEN["provider_nonce"] == hashlib.sha256(jkt).hexdigest()


def test_concat_kdf() -> None:
    one = GIVEN["concat_kdf"]
    derived = concat_kdf(plain(one["shared_secret"]), one["algorithm"], one["bits"])
    assert derived == plain(one["derived"])


def test_the_proof_is_one_for_the_server() -> None:
    one = GIVEN["proof"]
    # The value that RFC 9449 §7.1 has in its example.
    assert one["ath"] == access_token_hash(one["access_token"])
    assert one["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"
    header, claims, signature = one["dpop"].split(".")
    assert len(plain(signature)) == 64
    assert json.loads(plain(header)) == {
        "typ": "dpop+jwt",
        "alg": "ES256",
        "jwk": GIVEN["device_key"]["jwk"],
    }
    assert json.loads(plain(claims)) == {
        "jti": "the-jti-of-this-proof",
        "htm": one["method"],
        "htu": f"{ISSUER}/v1/keys",
        "iat": 1_795_334_400,
        "nonce": "a-nonce-of-the-server",
        "ath": one["ath"],
    }
    proof = verify(
        one["dpop"],
        method="GET",
        url=one["url"],
        now=1_795_334_400,
        nonce_time={"a-nonce-of-the-server": 1_795_334_400}.get,
        access_token=one["access_token"],
    )
    assert (proof.jkt, proof.jti) == (GIVEN["device_key"]["jkt"], "the-jti-of-this-proof")


@pytest.mark.parametrize("envelope", ["jwe", "hpke"])
def test_the_delivery_is_opened_by_the_reference_client(envelope: str) -> None:
    one = GIVEN["delivery"]
    expected = Expected(ISSUER, "android", "a-user", "a-session", "the-jti-of-this-proof")
    opened = open_delivery(
        one[envelope],
        DEVICE,
        expected,
        signing_key=lambda _: one["signing_jwk"],
        hpke=envelope == "hpke",
    )
    assert opened.keys["gemini"].value == "AIza-not-a-real-key"
    assert opened.refused == {"maps": "app_version_too_old"}


def test_the_delivery_to_an_old_phone() -> None:
    old = SoftwareDeviceKeys(private("device_key"), private("delivery", "rsa_private_pkcs8"))
    assert decrypt(GIVEN["delivery"]["rsa_jwe"], old).decode() == GIVEN["delivery"]["jwt"]


def test_the_pin_is_that_of_openssl() -> None:
    openssl = needs("openssl")

    def run(arguments: str, given: bytes) -> bytes:
        return subprocess.run(
            [openssl, *arguments.split()], input=given, capture_output=True, check=True, timeout=30
        ).stdout

    public = run("x509 -pubkey -noout", GIVEN["pin"]["certificate"].encode("ascii"))
    der = run("pkey -pubin -outform der", public)
    assert base64.b64encode(run("dgst -sha256 -binary", der)).decode() == GIVEN["pin"]["sha256"]


def test_the_java_of_the_android_guide(tmp_path: Path) -> None:
    javac, java = needs("javac"), needs("java")
    page = (ROOT / "docs" / "mobile" / "android.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"^```java\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (tmp_path / "KeyferryCrypto.java").write_text(source, encoding="utf-8")
    delivery = GIVEN["delivery"]
    epk = json.loads(plain(delivery["jwe"].split(".")[0]))["epk"]
    given = {
        "shared_secret": GIVEN["concat_kdf"]["shared_secret"],
        "asn1": GIVEN["signature"]["asn1"],
        "jose": GIVEN["signature"]["jose"],
        "encryption_key": GIVEN["encryption_key"]["private_pkcs8"],
        "device_key": GIVEN["device_key"]["private_pkcs8"],
        "rsa_key": delivery["rsa_private_pkcs8"],
        "epk_x": epk["x"],
        "epk_y": epk["y"],
        "jwe": delivery["jwe"],
        "rsa_jwe": delivery["rsa_jwe"],
        "certificate": GIVEN["pin"]["certificate"].replace("\n", "\\n"),
    }
    properties = "".join(f"{name}={value}\n" for name, value in given.items())
    (tmp_path / "given").write_text(properties, encoding="ascii")
    subprocess.run(
        [
            javac,
            "-Xlint:all",
            "-Werror",
            "-d",
            ".",
            "KeyferryCrypto.java",
            HERE / "RunVectors.java",
        ],
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    finished = subprocess.run(
        [java, "-cp", ".", "RunVectors", "given"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    made = dict(line.split("=", 1) for line in finished.stdout.splitlines())
    key = x509.load_pem_x509_certificate(GIVEN["pin"]["certificate"].encode()).public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert made == {
        "derived": GIVEN["concat_kdf"]["derived"],
        "jose": GIVEN["signature"]["jose"],
        "asn1": GIVEN["signature"]["asn1"],
        "jwe": delivery["jwt"],
        "rsa_jwe": delivery["jwt"],
        "pin": GIVEN["pin"]["sha256"],
        "thumbprint": EcJwk.from_key(key).thumbprint(),
        "agree": "300",
        "tampered": "refused",
    }
