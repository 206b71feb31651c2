"""Login by a real issuer's ID token (npm ``oidc-provider``) at the deployed stack."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from keyferry.federation.id_token import nonce_digest
from keyferry.jose.rfc7517_jwk import EcJwk
from tests.e2e.conftest import OTHER_APP, OUR_APP, PASSWORD
from tests.e2e.device import jwk_of
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.e2e.conftest import At, Operator
    from tests.e2e.device import Device


@pytest.fixture
def closed(configured: tuple[At, At]) -> At:
    """A provider whose people have to be linked by the operator."""
    return configured[0]


@pytest.fixture
def anybody(configured: tuple[At, At]) -> At:
    """A provider that makes users of whoever comes."""
    return configured[1]


def sign_in(device: Device, at: At, person: str, *, app: str = OUR_APP, nonce: str = "") -> str:
    """The ID token that an app on this device gets, bound to the device key by its nonce."""
    jkt = EcJwk.from_key(device.signing.public_key()).thumbprint()
    token: str = at.issuer.sign_in(app, person, nonce=nonce or nonce_digest(jkt))["id_token"]
    return token


def log_in(device: Device, provider: str, id_token: str, /, **more: Any) -> httpx.Response:
    details = {
        "name": "Test phone",
        "platform": "ios",
        "app_version": "1.2.3",
        "encryption_key": jwk_of(device.encryption),
    }
    body = {"provider": provider, "id_token": id_token, "device": details} | more
    return device._keep(device.call("POST", "/v1/login", json=body))


def person() -> str:
    return f"person-{uuid.uuid4().hex[:12]}"


def test_a_linked_person(
    new_device: Callable[..., Device],
    closed: At,
    operator: Operator,
    username: str,
) -> None:
    someone, device = person(), new_device()
    is_error(
        log_in(device, closed.provider, sign_in(device, closed, someone)), 400, "invalid_grant"
    )
    operator.do("users.link", username=username, provider=closed.provider, subject=someone)
    response = log_in(device, closed.provider, sign_in(device, closed, someone))
    assert response.status_code == 200, response.text
    claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
    assert claims["amr"] == ["fed"]
    assert device.open(device.keys())["keys"]["maps"]
    by_password = new_device()
    by_password.login(username, PASSWORD)
    assert by_password.tokens
    same = jwt.decode(by_password.tokens["access_token"], options={"verify_signature": False})
    assert same["sub"] == claims["sub"], "two ways in, one user"
    assert device.refresh().status_code == 200


def test_a_person_nobody_knows_yet(new_device: Callable[..., Device], anybody: At) -> None:
    someone = person()
    subs = set()
    for _ in range(2):
        device = new_device()
        response = log_in(device, anybody.provider, sign_in(device, anybody, someone))
        assert response.status_code == 200, response.text
        access = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
        subs.add(access["sub"])
        assert access["roles"] == ["user"]
    assert len(subs) == 1


def test_a_token_of_another_device(new_device: Callable[..., Device], anybody: At) -> None:
    stolen = sign_in(new_device(), anybody, person())
    is_error(log_in(new_device(), anybody.provider, stolen), 400, "invalid_grant")


def test_a_token_for_another_app(new_device: Callable[..., Device], anybody: At) -> None:
    device = new_device()
    token = sign_in(device, anybody, person(), app=OTHER_APP)
    is_error(log_in(device, anybody.provider, token), 400, "invalid_grant")


@pytest.mark.parametrize("provider", ["", "nobody", "PROVIDERS"])
def test_unknown_providers(new_device: Callable[..., Device], anybody: At, provider: str) -> None:
    device = new_device()
    response = log_in(device, provider, sign_in(device, anybody, person()))
    is_error(response, 400, "invalid_grant")


def test_an_address_like_a_users_name_opens_nothing(
    new_device: Callable[..., Device],
    anybody: At,
    username: str,
) -> None:
    """Identities are linked by issuer and subject: a subject spelt like a user is somebody else."""
    device, owner = new_device(), new_device()
    assert log_in(device, anybody.provider, sign_in(device, anybody, username)).status_code == 200
    owner.login(username, PASSWORD)
    subs = {
        jwt.decode(each.tokens["access_token"], options={"verify_signature": False})["sub"]
        for each in (device, owner)
    }
    assert len(subs) == 2


@pytest.mark.parametrize(
    "more",
    [
        {"username": "ana", "password": "x"},
        {"username": "ana"},
        {"auth_session": "x", "otp": "123456"},
        {"id_token": None},
        {"provider": None},
        {"id_token": 7},
    ],
    ids=str,
)
def test_one_way_in_at_a_time(
    new_device: Callable[..., Device], anybody: At, more: dict[str, Any]
) -> None:
    is_error(log_in(new_device(), anybody.provider, "x", **more), 400, "invalid_request")


def test_a_disabled_user(
    new_device: Callable[..., Device],
    closed: At,
    operator: Operator,
    username: str,
) -> None:
    someone, device = person(), new_device()
    operator.do("users.link", username=username, provider=closed.provider, subject=someone)
    operator.do("users.disable", username=username)
    is_error(
        log_in(device, closed.provider, sign_in(device, closed, someone)), 400, "invalid_grant"
    )


def test_a_user_whom_a_provider_brought_is_named_by_sub(
    new_device: Callable[..., Device], anybody: At, operator: Operator
) -> None:
    someone, device = person(), new_device()

    def again() -> httpx.Response:
        return log_in(device, anybody.provider, sign_in(device, anybody, someone))

    assert again().status_code == 200
    claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
    sub = claims["sub"]
    assert operator.do("users.disable", sub=sub)["revoked"] == 1
    is_error(device.refresh(), 400, "invalid_grant")
    is_error(again(), 400, "invalid_grant")
    operator.do("users.enable", sub=sub)
    assert again().status_code == 200
    identity = {"provider": anybody.provider, "subject": someone}
    assert operator.do("users.unlink", sub=sub, **identity)["revoked"] == 1
    is_error(device.refresh(), 400, "invalid_grant")
    assert operator.invoke("users.unlink", sub=sub, **identity)["error"]["error"] == "not_found"
    # Unlinked, and nobody's: a provider that makes users of whoever comes makes another one.
    assert again().status_code == 200
    claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
    assert claims["sub"] != sub


def test_an_identity_opens_one_user(closed: At, operator: Operator, username: str) -> None:
    someone = person()
    operator.invoke("users.add", username="other-user", password=PASSWORD)
    operator.do("users.link", username=username, provider=closed.provider, subject=someone)
    operator.do("users.link", username=username, provider=closed.provider, subject=someone)
    answer = operator.invoke(
        "users.link", username="other-user", provider=closed.provider, subject=someone
    )
    assert answer["error"]["error"] == "already_exists"


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("oidc", {}),
        (
            "oidc",
            {
                "name": "x",
                "issuer": "http://evil.example",
                "client_ids": ["a"],
                "jwks_uri": "https://x.example",
            },
        ),
        ("firebase", {"project_id": "../x"}),
        ("google", {"client_ids": []}),
        ("google", {"client_ids": ["a"], "nonce": "sometimes"}),
        ("google", {"client_ids": ["a"], "unknown": 1}),
    ],
    ids=str,
)
def test_providers_that_can_not_be_right(
    operator: Operator, kind: str, settings: dict[str, Any]
) -> None:
    answer = operator.invoke("providers.put", kind=kind, settings=settings)
    assert (answer["ok"], answer["error"]["error"]) == (False, "invalid_request"), answer


def test_a_lost_second_factor_is_reset_by_the_operator(operator: Operator, username: str) -> None:
    assert operator.do("users.reset_second_factor", username=username)["second_factor"] is False
