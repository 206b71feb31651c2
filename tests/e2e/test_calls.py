"""What a warm request costs in AWS calls, counted at the emulator.

The table of docs/calls.md is made here: `KEYFERRY_WRITE_DOCS=1` and this test write it, and without
that it has to be as it was counted.
"""

from __future__ import annotations

import base64
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keyferry.users import totp
from keyferry.users.guessing import _id as counter_id
from keyferry.users.model import canonical_username
from tests.e2e.conftest import PASSWORD, PutKey
from tests.e2e.device import Device, jwk_of, new_key
from tests.e2e.test_accounts import change, new_name, redeem, register
from tests.e2e.test_federated_login import log_in, person, sign_in
from tests.e2e.test_second_factor import code, enrol, go_on, this_step
from tests.unit.test_stored_hashes import django

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import At, Operator

PAGE = Path(__file__).parents[2] / "docs" / "calls.md"
WRITE = "KEYFERRY_WRITE_DOCS" in os.environ
SESSIONS = 10
"""The template's `MaxSessionsPerUser`."""

BEGIN, END = "<!-- counted: begin -->\n", "<!-- counted: end -->\n"


@pytest.fixture
def warm(device: Device) -> Device:
    """A phone whose requests have warmed the functions: keyring read, keys unwrapped."""
    assert device.refresh().status_code == 200
    assert device.keys().status_code == 200
    return device


def new_device_of(new_device: Callable[..., Device], operator: Operator) -> Device:
    """A phone of a user of its own, logged in."""
    name, device = new_name(), new_device()
    operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
    assert device.login(name, PASSWORD).status_code == 200
    return device


@dataclass
class Table:
    """The rows of the page: what was asked, what it was answered with, what that took."""

    stack: LocalStack
    rows: list[str] = field(default_factory=list)

    def count(
        self,
        request: str,
        status: int,
        send: Callable[[], httpx.Response],
        *,
        kms: int = 0,
        at: LocalStack | None = None,
    ) -> tuple[httpx.Response, dict[str, int]]:
        stack = at or self.stack
        with stack.count_calls() as calls:
            response = send()
        # Once a minute a request also reads the keyring row.
        calls = calls.besides(stack.outputs["KeyringTable"])
        assert response.status_code == status, response.text
        assert sum(calls.kms.values()) == kms, request
        counted = {name: calls.dynamodb[name] for name in sorted(calls.dynamodb)}
        cell = ", ".join(f"{n} {name}" for name, n in counted.items()) or "none"
        reads, writes = calls.units
        self.rows.append(
            f"| {request} | {status} | {sum(counted.values())} | {cell} | {reads} | {writes} | {kms} |"
        )
        return response, counted

    def text(self) -> str:
        head = [
            "| request | answer | DynamoDB | which | read units | write units | KMS |",
            "|---|--:|--:|---|--:|--:|--:|",
        ]
        return "\n".join([*head, *self.rows, ""])


def test_the_calls_of_every_path(
    stack: LocalStack,
    warm: Device,
    new_device: Callable[..., Device],
    username: str,
    http: httpx.Client,
    configured: tuple[At, At, At],
    operator: Operator,
    bearer_stack: LocalStack,
    bearer_operator: Operator,
    put_key: PutKey,
) -> None:
    proxied_key = put_key()
    count = (table := Table(stack)).count
    phone, stranger = new_device(), new_device()

    _, login = count("login with a password", 200, lambda: phone.login(username, PASSWORD))
    assert sum(login.values()) == 4

    def fails(request: str, name: str, *, right: bool = False) -> dict[str, int]:
        # The first failure in a minute also reads which kinds of hashes were imported.
        stranger.login(new_name(), "wrong password")
        password = PASSWORD if right else "wrong password"
        return count(request, 400, lambda: stranger.login(name, password))[1]

    wrong = fails("login, wrong password", username)
    nobody = fails("login, unknown user", "nobody")
    assert wrong == nobody
    disabled = new_name()
    operator.do("users.add", username=disabled, password=PASSWORD)
    operator.do("users.disable", username=disabled)
    barred = fails("login with a password, disabled user", disabled, right=True)
    imported = new_name()
    row = {"username": imported, "password_hash": django(PASSWORD.encode(), "salt", 1_000)}
    operator.do("users.import", users=[row])
    foreign = fails("login, wrong password, imported hash", imported)
    assert barred == foreign == wrong
    _, upgraded = count(
        "login with a password, imported hash", 200, lambda: new_device().login(imported, PASSWORD)
    )
    assert sum(upgraded.values()) == 4
    waiting = new_name()
    stack.boto3_client("dynamodb").put_item(
        TableName=stack.outputs["GuessesTable"],
        Item={
            "id": {"S": counter_id("account", canonical_username(waiting))},
            "failures": {"N": "100"},
            "last_at": {"N": str(int(time.time()))},
            "expires_at": {"N": str(int(time.time()) + 900)},
        },
    )
    details = {"name": "x", "platform": "ios", "app_version": "1"}
    key = jwk_of(stranger.encryption)
    body = {"username": waiting, "password": PASSWORD, "device": {**details, "encryption_key": key}}
    _, turned_away = count(
        "login, too many attempts",
        429,
        lambda: http.post(  # once: `Device` would wait
            f"{stranger.api_url}/v1/login",
            headers={"x-api-key": stranger.client_key, "DPoP": stranger.proof("POST", "/v1/login")},
            json=body,
        ),
    )
    assert turned_away == {"BatchGetItem": 1}

    at, someone = configured[1], person()
    for _ in range(2):  # the first makes the user
        again = new_device()
        assert log_in(again, at.provider, sign_in(again, at, someone)).status_code == 200
    other = new_device()
    id_token = sign_in(other, at, someone)
    _, federated = count(
        "login with an ID token", 200, lambda: log_in(other, at.provider, id_token)
    )
    assert sum(federated.values()) <= 4
    newest = new_device()
    id_token = sign_in(newest, at, person())
    _, provisioned = count(
        "the first one, where anybody may", 200, lambda: log_in(newest, at.provider, id_token)
    )
    assert sum(provisioned.values()) <= 4
    unlinked = new_device()
    closed_token = sign_in(unlinked, configured[0], person())
    log_in(unlinked, configured[0].provider, closed_token)
    count(
        "login with an ID token, of nobody's",
        400,
        lambda: log_in(unlinked, configured[0].provider, closed_token),
    )
    invited, name, newcomer = configured[2], new_name(), new_device()
    code_for = operator.do("users.invite", username=name)["code"]
    invitation = {"username": name, "code": code_for}
    id_token = sign_in(newcomer, invited, person())
    # One that opens nothing makes the function fetch this issuer's keys and read the providers.
    warming = new_device()
    log_in(warming, invited.provider, sign_in(warming, invited, person()))
    _, first = count(
        "the first one, with an invitation",
        200,
        lambda: log_in(newcomer, invited.provider, id_token, invitation=invitation),
    )
    assert sum(first.values()) <= 4

    _, refreshed = count("refresh", 200, warm.refresh)
    assert refreshed == {"UpdateItem": 1}
    lost = warm.tokens["refresh_token"]
    assert warm.refresh().status_code == 200
    # Counted as a generation that was asked for twice, once; and by the instance that made the
    # rotation, which knows how it left the session. Another one needs a second UpdateItem.
    _, retried = count("refresh, the reply was lost", 200, lambda: warm.refresh(lost))
    assert retried == {"UpdateItem": 1}
    _, again_retried = count("refresh, it was lost again", 200, lambda: warm.refresh(lost))
    assert again_retried == {"UpdateItem": 1}

    delivered, delivery = count("delivery of all keys", 200, warm.keys)
    assert delivery == {"BatchGetItem": 1}
    same = {"If-None-Match": delivered.headers["etag"]}
    _, unchanged = count("delivery, nothing new", 304, lambda: warm.keys(headers=same))
    assert unchanged == {"BatchGetItem": 1}

    warm.proxy(proxied_key, "GET", "/v1/x")
    _, proxied = count("proxied request", 200, lambda: warm.proxy(proxied_key, "GET", "/v1/x"))
    assert proxied == {"BatchGetItem": 1, "PutItem": 1, "UpdateItem": 1}
    spent = put_key(budget=1)
    warm.proxy(spent, "GET", "/v1/x")
    count("proxied request, no budget left", 429, lambda: warm.proxy(spent, "GET", "/v1/x"))
    _, withheld = count(
        "proxied request, not for this user", 404, lambda: warm.proxy("maps", "GET", "/v1/x")
    )
    assert withheld == {"BatchGetItem": 1}

    warm.resource("GET", "/v1/sessions")
    count("list of own sessions", 200, lambda: warm.resource("GET", "/v1/sessions"))

    renewed = {"encryption_key": jwk_of(new_key())}
    replace = partial(warm.resource, "PUT", "/v1/device/encryption-key", json=renewed)
    _, replaced = count("another encryption key", 200, replace)
    assert replaced == {"UpdateItem": 1}

    def revoke(device: Device) -> httpx.Response:
        form = {"token": device.tokens["refresh_token"]}
        return device.call("POST", "/v1/revoke", data=form, proof=None)

    revoke(again)
    count("revocation by token", 200, lambda: revoke(phone))
    last = new_device()
    assert last.login(username, PASSWORD).status_code == 200
    session = f"/v1/sessions/{last.tokens['session_id']}"
    count("end of one session", 204, lambda: warm.resource("DELETE", session))

    guest = new_name()
    code_for = operator.do("users.invite", username=guest)["code"]
    redeem(phone, new_name(), "warm up")
    _, unknown = count(
        "redemption of an invitation, no such one",
        400,
        lambda: redeem(phone, new_name(), code_for),
    )
    _, wrong = count(
        "redemption of an invitation, wrong code", 400, lambda: redeem(phone, guest, "wrong")
    )
    assert unknown == wrong
    count("redemption of an invitation", 200, lambda: redeem(phone, guest, code_for))
    register(phone, new_name())
    crowded = new_name()
    operator.do("users.add", username=crowded, password=PASSWORD, roles=["user"])
    for _ in range(SESSIONS):
        assert phone.login(crowded, PASSWORD).status_code == 200
    # The one login that takes five: which of the others still live decides whom it ends.
    _, full = count(
        "login with a password, no session left", 200, lambda: phone.login(crowded, PASSWORD)
    )
    assert sum(full.values()) == 5

    _, closed = count("registration, where it is closed", 404, lambda: register(phone, new_name()))
    assert closed == {}
    elsewhere = Device(http, bearer_stack.api_url, bearer_stack.client_keys["ios"])
    register(elsewhere, new_name())
    count("registration", 200, lambda: register(elsewhere, new_name()), at=bearer_stack)
    taken = new_name()
    register(elsewhere, taken)
    count("registration, name taken", 409, lambda: register(elsewhere, taken), at=bearer_stack)
    change(warm, "warm up")
    count("password change, wrong current one", 403, lambda: change(warm, "wrong"))
    count("password change", 200, lambda: change(warm, PASSWORD, PASSWORD))

    enrol(new_device_of(new_device, operator))  # the function is warm from here on
    begun, _ = count(
        "second factor: a secret", 200, lambda: warm.resource("POST", "/v1/mfa/totp"), kms=1
    )
    secret, step = base64.b32decode(begun.json()["secret"]), this_step() - 1
    first_code = {"code": totp.code_at(secret, step)}
    confirmed, _ = count(
        "second factor: confirmed",
        200,
        lambda: warm.resource("POST", "/v1/mfa/totp/confirm", json=first_code),
        kms=1,
    )
    recovery = confirmed.json()["recovery_codes"]
    second = new_device()
    asked, _ = count("login, a code is asked for", 403, lambda: second.login(username, PASSWORD))
    now = code(secret, after=step)
    # Its secret is sealed: the one request that needs KMS each time.
    auth_session = asked.json()["auth_session"]
    count("and the code", 200, lambda: go_on(second, auth_session, now), kms=1)
    count(
        "login, wrong code",
        400,
        lambda: second.login(username, PASSWORD, otp="000000"),
        kms=1,
    )
    count(
        "login with a password and a recovery code",
        200,
        lambda: second.login(username, PASSWORD, otp=recovery[0]),
    )
    linked, someone = new_device(), person()
    operator.do("users.link", username=username, provider=at.provider, subject=someone)
    id_token = sign_in(linked, at, someone)
    count(
        "login with an ID token, a code is asked for",
        403,
        lambda: log_in(linked, at.provider, id_token),
    )
    count(
        "login with an ID token and a recovery code",
        200,
        lambda: log_in(linked, at.provider, id_token, otp=recovery[1]),
    )
    removal = {"code": recovery[2]}
    count(
        "second factor: removed",
        204,
        lambda: warm.resource("POST", "/v1/mfa/totp/remove", json=removal),
    )

    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    written, after = rest.split(END)
    if WRITE:
        PAGE.write_text(before + BEGIN + table.text() + END + after, encoding="utf-8")
    else:
        assert written == table.text()


def test_forged_refresh_tokens_cost_nothing(stack: LocalStack, warm: Device) -> None:
    token = warm.tokens["refresh_token"]
    flipped = token[:60] + ("A" if token[60] != "A" else "B") + token[61:]
    forged = [flipped, token[:-1], token[:-4], token + "AAAA", "kfr_" + "A" * 124]
    forged += ["", "x", "kfr_", warm.tokens["access_token"], "A" * 10_000, token.swapcase()]
    with stack.count_calls() as calls:
        for each in forged:
            response = warm.refresh(each)
            assert response.status_code == 400
            assert response.json()["error"] in ("invalid_grant", "invalid_request")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    assert warm.refresh().status_code == 200


def test_bad_proofs_cost_nothing(stack: LocalStack, warm: Device) -> None:
    proofs = [
        None,
        "x",
        warm.proof("GET", "/v1/token"),
        warm.proof("POST", "/v1/login"),
        warm.proof("POST", "/v1/token", iat=1),
        warm.proof("POST", "/v1/token", nonce="x"),
    ]
    # The first nonce that is not the current key's makes a function unwrap the next key, once.
    warm.refresh(proof=proofs[-1])
    with stack.count_calls() as calls:
        for proof in proofs:
            response = warm.refresh(proof=proof)
            assert response.status_code == 400
            assert response.json()["error"] in ("invalid_dpop_proof", "use_dpop_nonce")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    assert warm.refresh().status_code == 200


def test_forged_access_tokens_cost_nothing(stack: LocalStack, warm: Device) -> None:
    good = warm.tokens["access_token"]
    head, payload, signature = good.split(".")
    forged = [
        f"{head}.{payload}.",
        f"{head}.{payload}.{signature[:-2]}AA",
        f"{head}.{payload}.{signature}==",
        f"{head}.{payload[:-1]}.{signature}",
        warm.tokens["refresh_token"],
        "x",
    ]
    with stack.count_calls() as calls:
        for each in forged:
            warm.tokens["access_token"] = each
            response = warm.keys()
            assert (response.status_code, response.json()["error"]) == (401, "invalid_token")
    assert (dict(calls.dynamodb), dict(calls.kms)) == ({}, {})
    warm.tokens["access_token"] = good
    assert warm.keys().status_code == 200
