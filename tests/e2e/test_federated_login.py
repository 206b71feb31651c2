"""Login by a real issuer's ID token (npm ``oidc-provider``) at the deployed stack."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from keyferry.federation.id_token import nonce_digest
from keyferry.jose.rfc7517_jwk import EcJwk
from tests.e2e.conftest import OTHER_APP, OUR_APP, PASSWORD, At
from tests.e2e.device import jwk_of
from tests.e2e.test_accounts import expire, new_name, redeem
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator
    from tests.e2e.device import Device


@pytest.fixture
def closed(configured: tuple[At, At, At]) -> At:
    """A provider whose people have to be linked by the operator."""
    return configured[0]


@pytest.fixture
def anybody(configured: tuple[At, At, At]) -> At:
    """A provider that makes users of whoever comes."""
    return configured[1]


@pytest.fixture
def invited(configured: tuple[At, At, At]) -> At:
    """A provider whose people need an invitation, the first time."""
    return configured[2]


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


def test_a_token_of_another_device_by_its_thumbprint(
    new_device: Callable[..., Device], anybody: At
) -> None:
    """Thumbprints are no secret: to name one is not to have its key."""
    owner = new_device()
    stolen = sign_in(owner, anybody, person())
    jkt = EcJwk.from_key(owner.signing.public_key()).thumbprint()
    is_error(log_in(new_device(), anybody.provider, stolen, nonce=jkt), 400, "invalid_grant")
    assert log_in(owner, anybody.provider, stolen, nonce=jkt).status_code == 200


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
        {"invitation": {"username": "ana"}},
        {"invitation": {"username": "ana", "code": "x" * 65}},
        {"invitation": {"username": "ana", "code": "x", "roles": ["admin"]}},
    ],
    ids=str,
)
def test_one_way_in_at_a_time(
    new_device: Callable[..., Device], anybody: At, more: dict[str, Any]
) -> None:
    is_error(log_in(new_device(), anybody.provider, "x", **more), 400, "invalid_request")


class TestInvitation:
    def redeem(
        self, device: Device, at: At, username: str, code: str, someone: str = ""
    ) -> httpx.Response:
        invitation = {"username": username, "code": code}
        id_token = sign_in(device, at, someone or person())
        return log_in(device, at.provider, id_token, invitation=invitation)

    def test_name_and_roles_are_those_of_the_invitation(
        self, new_device: Callable[..., Device], invited: At, operator: Operator
    ) -> None:
        name, someone, device = new_name(), person(), new_device()
        code = operator.do("users.invite", username=name, roles=["user"])["code"]
        is_error(
            log_in(device, invited.provider, sign_in(device, invited, someone)),
            400,
            "invalid_grant",
        )
        response = self.redeem(device, invited, name.upper(), code.lower(), someone)
        assert response.status_code == 200, response.text
        claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
        assert (claims["amr"], claims["roles"]) == (["fed"], ["user"])
        assert device.open(device.keys())["keys"]["maps"]
        shown = operator.do("users.show", username=name)
        assert (shown["sub"], shown["username"], shown["password"]) == (claims["sub"], name, False)
        # From now on without it; and a second redemption, as after a lost reply, is a login.
        again = new_device()
        login = log_in(again, invited.provider, sign_in(again, invited, someone))
        assert login.status_code == 200
        assert self.redeem(again, invited, name, code, someone).status_code == 200
        assert operator.do("users.show", username=name)["sessions"] == 3

    def test_spent_either_way_and_once(
        self, new_device: Callable[..., Device], invited: At, operator: Operator
    ) -> None:
        by_provider, by_password, device = new_name(), new_name(), new_device()
        codes = {
            name: operator.do("users.invite", username=name)["code"]
            for name in (by_provider, by_password)
        }
        assert self.redeem(device, invited, by_provider, codes[by_provider]).status_code == 200
        is_error(redeem(device, by_provider, codes[by_provider]), 400, "invalid_grant")
        assert redeem(device, by_password, codes[by_password]).status_code == 200
        is_error(
            self.redeem(device, invited, by_password, codes[by_password]), 400, "invalid_grant"
        )

    def test_every_refusal_is_the_same(
        self,
        new_device: Callable[..., Device],
        invited: At,
        closed: At,
        anybody: At,
        operator: Operator,
        stack: LocalStack,
    ) -> None:
        device, name, old = new_device(), new_name(), new_name()
        code, late = (operator.do("users.invite", username=each)["code"] for each in (name, old))
        expire(stack, old)
        answers = [
            log_in(device, invited.provider, sign_in(device, invited, person())),
            self.redeem(device, invited, new_name(), code),
            self.redeem(device, invited, name, late),
            self.redeem(device, invited, old, late),
            self.redeem(device, invited, "a\u200bb", code),
            # Who shows an invitation is not let in without it, even where everybody is.
            self.redeem(device, anybody, name, late),
            self.redeem(device, closed, name, code),
            self.redeem(device, At(invited.issuer, "nobody"), name, code),
        ]
        for answer in answers:
            is_error(answer, 400, "invalid_grant")
        bodies = [{**answer.json(), "request_id": ""} for answer in answers]
        assert all(body == bodies[0] for body in bodies)
        response = self.redeem(device, anybody, name, code)
        assert response.status_code == 200, "and nothing of that has spent it"
        assert operator.do("users.show", username=name)["username"] == name

    def test_of_many_at_once_one_wins(
        self, new_device: Callable[..., Device], invited: At, operator: Operator
    ) -> None:
        name = new_name()
        code = operator.do("users.invite", username=name)["code"]
        devices = [new_device() for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(lambda device: self.redeem(device, invited, name, code), devices)
            )
        statuses = [answer.status_code for answer in answers]
        assert statuses.count(200) == 1
        assert set(statuses) <= {200, 400, 503}
        assert operator.do("users.show", username=name)["sessions"] == 1

    def test_the_name_is_theirs(
        self, new_device: Callable[..., Device], invited: At, operator: Operator
    ) -> None:
        name, device = new_name(), new_device()
        code = operator.do("users.invite", username=name)["code"]
        assert self.redeem(device, invited, name, code).status_code == 200
        sub = operator.do("users.show", username=name.lower())["sub"]
        for command, more in (("users.invite", {}), ("users.add", {"password": PASSWORD})):
            answer = operator.invoke(command, username=name.upper(), **more)
            assert answer["error"]["error"] == "already_exists"
        is_error(device.login(name, PASSWORD), 400, "invalid_grant")
        assert operator.do("users.set_password", username=name, password=PASSWORD)["sub"] == sub
        assert device.login(name, PASSWORD).status_code == 200

    def test_nobody_is_called_like_a_providers_user(
        self, new_device: Callable[..., Device], anybody: At, operator: Operator
    ) -> None:
        device = new_device()
        log_in(device, anybody.provider, sign_in(device, anybody, person()))
        claims = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
        name = operator.do("users.show", sub=claims["sub"])["username"]
        for command, more in (("users.invite", {}), ("users.add", {"password": PASSWORD})):
            answer = operator.invoke(command, username=name, **more)
            assert answer["error"]["error"] == "invalid_request"

    def test_the_code_is_not_logged(
        self, new_device: Callable[..., Device], invited: At, operator: Operator, stack: LocalStack
    ) -> None:
        name, device = new_name(), new_device()
        code = operator.do("users.invite", username=name)["code"]
        for _ in range(2):
            self.redeem(device, invited, name, code)
        logs = stack.logs("login")
        assert "redeemed" in logs
        for secret in (code, code.replace("-", ""), name):
            assert secret not in logs


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
