"""DPoP proofs of the reference client (RFC 9449), checked by an unrelated library."""

from __future__ import annotations

import httpx
import pytest
from joserfc import jws
from joserfc.jwk import ECKey

from keyferry_client.device import SoftwareDeviceKeys
from keyferry_client.dpop import NonceCache, access_token_hash, make_proof, target_uri
from keyferry_client.jose import b64decode, json_object, thumbprint

# RFC 9449 §4.1 and §7.1.
RFC_9449_KEY = {
    "kty": "EC",
    "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
    "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA",
    "crv": "P-256",
}


def test_rfc_9449_key_thumbprint() -> None:
    assert thumbprint(RFC_9449_KEY) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def test_rfc_9449_access_token_hash() -> None:
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    assert access_token_hash(token) == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


@pytest.mark.parametrize(
    ("url", "htu"),
    [
        ("https://host/prod/v1/keys?names=a,b", "https://host/prod/v1/keys"),
        ("https://host/prod/v1/keys#part", "https://host/prod/v1/keys"),
        ("http://127.0.0.1:4566/restapis/x/dev/y", "http://127.0.0.1:4566/restapis/x/dev/y"),
    ],
)
def test_htu_is_the_uri_without_query_and_fragment(url: str, htu: str) -> None:
    assert target_uri(url) == htu


def test_proof_has_the_members_of_rfc_9449_section_4_2() -> None:
    device = SoftwareDeviceKeys.generate()
    proof = make_proof(
        device, "GET", "https://host/v1/keys?names=a", issued_at=7, nonce="n", access_token="t"
    )
    verified = jws.deserialize_compact(
        proof.header, ECKey.import_key({**device.signing_jwk}), algorithms=["ES256"]
    )
    jwk = dict(device.signing_jwk)
    assert verified.headers() == {"typ": "dpop+jwt", "alg": "ES256", "jwk": jwk}
    assert json_object(verified.payload) == {
        "jti": proof.jti,
        "htm": "GET",
        "htu": "https://host/v1/keys",
        "iat": 7,
        "nonce": "n",
        "ath": access_token_hash("t"),
    }


def test_optional_claims_are_absent_when_there_is_nothing_to_say() -> None:
    proof = make_proof(SoftwareDeviceKeys.generate(), "POST", "https://host/x", issued_at=7)
    claims = json_object(b64decode(proof.header.split(".")[1]))
    assert claims.keys() == {"jti", "htm", "htu", "iat"}


def test_no_two_proofs_share_an_identifier() -> None:
    device = SoftwareDeviceKeys.generate()
    proofs = {make_proof(device, "POST", "https://h/x", issued_at=7).jti for _ in range(50)}
    assert len(proofs) == 50
    assert all(len(jti) == 43 for jti in proofs)


def test_private_keys_survive_export() -> None:
    device = SoftwareDeviceKeys.generate()
    again = SoftwareDeviceKeys.restore(device.export())
    assert again.signing_jwk == device.signing_jwk
    assert again.encryption_jwk == device.encryption_jwk
    assert device.signing_jwk != device.encryption_jwk


def test_nonces_belong_to_an_origin_and_the_newest_counts() -> None:
    nonces = NonceCache()

    def remember(url: str, **headers: str) -> None:
        nonces.remember(httpx.Response(200, headers=headers, request=httpx.Request("GET", url)))

    remember("https://a.example/one", **{"DPoP-Nonce": "first"})
    remember("https://a.example/two", **{"DPoP-Nonce": "second"})
    remember("https://a.example/two")
    assert nonces.get("https://a.example/three?q") == "second"
    assert nonces.get("https://b.example/one") is None
    assert nonces.get("https://a.example:8443/one") is None
    assert nonces.get("http://a.example/one") is None
