"""ID tokens that a real issuer made (npm ``oidc-provider``), fetched keys and all."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from keyferry.errors import RequestRefused
from keyferry.federation.id_token import Identity, nonce_digest, verify
from keyferry.federation.jwks import Jwks
from keyferry.federation.providers import Nonce, Provider, oidc
from tests.conftest import needs
from tests.local_issuer import LocalIssuer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLIENTS = {
    "app-rs256": "RS256",
    "app-es256": "ES256",
    "app-eddsa": "EdDSA",
    "app-ps256": "PS256",
    "another-app": "RS256",
}
OURS = ("app-rs256", "app-es256", "app-eddsa", "app-ps256")
DEVICE = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
NONCE = nonce_digest(DEVICE)


@pytest.fixture(scope="module")
def issuer(node_modules: Path) -> Iterator[LocalIssuer]:
    with LocalIssuer.start(needs("node"), node_modules, CLIENTS) as started:
        yield started


@pytest.fixture(scope="module")
def provider(issuer: LocalIssuer) -> Provider:
    metadata = issuer.metadata
    algorithms = ("RS256", "ES256", "EdDSA")
    return oidc("local", metadata["issuer"], OURS, metadata["jwks_uri"], algorithms=algorithms)


@pytest.fixture(scope="module")
def jwks() -> Jwks:
    return Jwks()


def check(
    token: str, provider: Provider, jwks: Jwks, *, nonce: str | None = DEVICE, later: int = 0
) -> Identity:
    now = int(time.time()) + later
    return verify(token, provider, now=now, jwks=jwks, expected_nonce=nonce)


def refusal(token: str, provider: Provider, jwks: Jwks, *, later: int = 0) -> str:
    with pytest.raises(RequestRefused) as refused:
        check(token, provider, jwks, later=later)
    assert refused.value.code == "invalid_grant"
    return refused.value.reason


@pytest.mark.parametrize("client_id", ["app-rs256", "app-es256", "app-eddsa"])
def test_accepted(issuer: LocalIssuer, provider: Provider, jwks: Jwks, client_id: str) -> None:
    tokens = issuer.sign_in(client_id, "jane", nonce=NONCE)
    assert check(tokens["id_token"], provider, jwks) == Identity(
        issuer=issuer.url,
        subject="jane",
        email="jane@example.com",
        email_verified=False,
        name="The jane",
    )


def test_for_another_client(issuer: LocalIssuer, provider: Provider, jwks: Jwks) -> None:
    tokens = issuer.sign_in("another-app", "jane", nonce=NONCE)
    assert refusal(tokens["id_token"], provider, jwks) == "id token: aud"
    theirs = replace(provider, audiences=("another-app",))
    assert check(tokens["id_token"], theirs, jwks).subject == "jane", "it was a good one"


def test_in_an_algorithm_that_is_not_pinned(
    issuer: LocalIssuer, provider: Provider, jwks: Jwks
) -> None:
    tokens = issuer.sign_in("app-ps256", "jane", nonce=NONCE)
    assert refusal(tokens["id_token"], provider, jwks) == "id token: alg"


def test_nonce(issuer: LocalIssuer, provider: Provider, jwks: Jwks) -> None:
    without = issuer.sign_in("app-rs256", "jane")["id_token"]
    assert refusal(without, provider, jwks) == "id token: nonce is missing"
    assert check(without, replace(provider, nonce=Nonce.NONE), jwks, nonce=None).subject == "jane"
    of_another_device = issuer.sign_in("app-rs256", "jane", nonce=nonce_digest("x"))["id_token"]
    assert refusal(of_another_device, provider, jwks) == "id token: nonce of another login"


def test_old(issuer: LocalIssuer, provider: Provider, jwks: Jwks) -> None:
    token = issuer.sign_in("app-rs256", "jane", nonce=NONCE)["id_token"]
    later = provider.max_age + 5
    assert refusal(token, provider, jwks, later=later) == "id token: iat too long ago"
    assert refusal(token, provider, jwks, later=86_400) == "id token: expired"


def test_the_other_tokens_of_the_response(
    issuer: LocalIssuer, provider: Provider, jwks: Jwks
) -> None:
    tokens = issuer.sign_in("app-rs256", "jane", nonce=NONCE)
    refusal(tokens["access_token"], provider, jwks)


def test_another_issuer_with_the_same_clients_and_people(
    issuer: LocalIssuer, provider: Provider, jwks: Jwks, node_modules: Path
) -> None:
    with LocalIssuer.start(needs("node"), node_modules, CLIENTS) as other:
        tokens = other.sign_in("app-rs256", "jane", nonce=NONCE)
        # Same kid, other key.
        assert refusal(tokens["id_token"], provider, jwks) == "id token: signature"
        theirs = replace(provider, issuer=other.url, jwks_uri=other.metadata["jwks_uri"])
        there = check(tokens["id_token"], theirs, jwks)
    here = check(issuer.sign_in("app-rs256", "jane", nonce=NONCE)["id_token"], provider, jwks)
    assert (there.subject, there.email) == (here.subject, here.email)
    assert there.issuer != here.issuer
