"""The keyring on DynamoDB and KMS: made once, whoever runs when, and opened only as what it is."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from keyferry.config import DAY, Deployment
from keyferry.edge.telemetry import logger
from keyferry.errors import CommandRefused, Unavailable
from keyferry.jose import rfc7515_jws
from keyferry.keyring.lifecycle import Maintenance, maintain, schedules
from keyferry.keyring.model import Clients, Keyring, Purpose, Standing
from keyferry.keyring.rotate import RotateKeyring
from keyferry.keyring.unwrapped import MAX_AGE_SECONDS, UnwrappedKeyring
from tests.contract.conftest import DEPLOYMENT, Cloud

if TYPE_CHECKING:
    from collections.abc import Callable

SCHEDULES = schedules(idle_seconds=7 * DAY)
ISSUER = "https://api.example.com/test"


def run(cloud: Cloud, now: int = 0, **options: Any) -> Maintenance:
    return maintain(cloud.keyring, cloud.maker, SCHEDULES, now=now, **options)


def create(cloud: Cloud) -> Keyring:
    run(cloud, issuer=ISSUER, clients={"id": "ios"})
    keyring = cloud.keyring.read()
    assert keyring is not None
    return keyring


def unwrapped(cloud: Cloud, clock: Callable[[], int] = lambda: 0) -> UnwrappedKeyring:
    keyring = UnwrappedKeyring(cloud.keyring, cloud.kms, cloud.key_arn, DEPLOYMENT, clock)
    keyring.refresh()
    return keyring


def test_created_once(cloud: Cloud) -> None:
    keyring = create(cloud)
    assert (keyring.revision, keyring.issuer, keyring.clients) == (
        1,
        ISSUER,
        Clients({"id": "ios"}),
    )
    assert len(keyring.keys) == 6
    assert not run(cloud).written
    assert not run(cloud, issuer=ISSUER, clients={"id": "ios"}).written
    assert cloud.keyring.read() == keyring


def test_update_of_the_stack_keeps_the_keys(cloud: Cloud) -> None:
    before = create(cloud)
    assert run(cloud, issuer=ISSUER + "2", clients={"id2": "ios"}).written
    after = cloud.keyring.read()
    clients = Clients({"id2": "ios"})
    assert after == replace(before, revision=2, issuer=ISSUER + "2", clients=clients)


def test_update_of_the_stack_keeps_what_the_operator_did_to_client_keys(cloud: Cloud) -> None:
    create(cloud)
    run(cloud, operated=lambda clients: clients.add("new", "ios"))
    run(cloud, operated=lambda clients: clients.retire("id"))
    assert not run(cloud, issuer=ISSUER, clients={"id": "ios"}).written
    run(cloud, issuer=ISSUER, clients={"id": "ios", "id2": "android"})
    assert unwrapped(cloud).clients == {"new": "ios", "id2": "android"}


def test_a_refused_change_of_client_keys_writes_nothing(cloud: Cloud) -> None:
    before = create(cloud)
    with pytest.raises(CommandRefused):
        run(cloud, operated=lambda clients: clients.add("new", "macos"))
    assert cloud.keyring.read() == before


@pytest.fixture
def function(cloud: Cloud) -> RotateKeyring:
    """The keyring function of a stack with one client."""
    create(cloud)
    return RotateKeyring(cloud.keyring, cloud.maker, SCHEDULES, lambda: 0)


def test_the_operator_adds_and_retires_client_keys(
    cloud: Cloud, function: RotateKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(logger, "info", lambda message, extra: lines.append((message, extra)))
    add = {
        "command": "keyring.add_client",
        "key_id": "k2",
        "client_id": "ios",
        "operator": "ben",
    }
    retire = {"command": "keyring.retire_client", "key_id": "id"}
    about: dict[str, Any]
    for written in (True, False):
        answer = function.command(add)
        assert answer["result"]["clients"] == {"id": "ios", "k2": "ios"}
        assert answer["result"]["template_clients"] == {"id": "ios"}
        about = {
            "action": "added",
            "client_key_id": "k2",
            "client_id": "ios",
            "written": written,
            "operator": "ben",
        }
        assert lines[-1] == ("client key", about)
    for written in (True, False):
        assert function.command(retire)["result"]["clients"] == {"k2": "ios"}
        about = {
            "action": "retired",
            "client_key_id": "id",
            "client_id": None,
            "written": written,
            "operator": "",
        }
        assert lines[-1] == ("client key", about)
    assert unwrapped(cloud).clients == {"k2": "ios"}


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"command": "keyring.add_client", "key_id": "k2", "client_id": "macos"}, "not_found"),
        ({"command": "keyring.add_client", "key_id": "k2"}, "invalid_request"),
        ({"command": "keyring.add_client", "client_id": "ios"}, "invalid_request"),
        ({"command": "keyring.add_client", "key_id": 2, "client_id": "ios"}, "invalid_request"),
        ({"command": "keyring.add_client", "key_id": "", "client_id": "ios"}, "invalid_request"),
        ({"command": "keyring.add_client", "key_id": "k\n", "client_id": "ios"}, "invalid_request"),
        ({"command": "keyring.add_client", "key_id": "k2", "client_id": ""}, "invalid_request"),
        ({"command": "keyring.retire_client"}, "invalid_request"),
        (
            {"command": "keyring.retire_client", "key_id": "id", "client_id": "ios"},
            "invalid_request",
        ),
        ({"command": "keyring.retire_client", "key_id": "id", "more": 1}, "invalid_request"),
        (
            {"command": "keyring.retire_client", "key_id": "id", "operator": "a\nline"},
            "invalid_request",
        ),
        ({"command": "keyring.show", "key_id": "id"}, "invalid_request"),
        ({"command": "keyring.show", "kid": "x"}, "invalid_request"),
        ({"command": "keyring.revoke"}, "invalid_request"),
        ({"command": "keyring.drop"}, "invalid_request"),
    ],
)
def test_commands_that_are_refused_change_nothing(
    cloud: Cloud, function: RotateKeyring, event: dict[str, Any], code: str
) -> None:
    before = cloud.keyring.read()
    answer = function.command(event)
    assert (answer["ok"], answer["error"]["error"]) == (False, code)
    assert cloud.keyring.read() == before


def test_client_keys_added_at_once_by_many(cloud: Cloud) -> None:
    create(cloud)

    def add(number: int) -> Maintenance:
        return run(cloud, operated=lambda clients: clients.add(f"new{number}", "ios"))

    with ThreadPoolExecutor(3) as pool:
        assert all(done.written for done in pool.map(add, range(3)))
    assert set(unwrapped(cloud).clients) == {"id", "new0", "new1", "new2"}


def test_nothing_to_make_one_for(cloud: Cloud) -> None:
    with pytest.raises(LookupError):
        run(cloud)
    with pytest.raises(Unavailable):
        unwrapped(cloud)


def test_run_at_once_by_many(cloud: Cloud) -> None:
    with ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda _: run(cloud, issuer=ISSUER, clients={"id": "ios"}), range(5)))
    assert sum(each.written for each in done) == 1
    keyring = cloud.keyring.read()
    assert keyring is not None
    assert len(keyring.keys) == 6


def test_signing_key_signs_what_its_public_key_verifies(cloud: Cloud) -> None:
    create(cloud)
    keyring = unwrapped(cloud)
    kid, key = keyring.signing_key()
    token = rfc7515_jws.sign_es256(typ="x", kid=kid, claims={}, key=key)
    public = keyring.verification_keys()
    assert rfc7515_jws.parse(token, max_length=500).verify_es256(public[kid])
    assert len(public) == 2


def test_rotation_reaches_a_warm_function(cloud: Cloud) -> None:
    clock = [0]
    create(cloud)
    keyring = unwrapped(cloud, lambda: clock[0])
    old_kid, old_key = keyring.signing_key()
    old_mac = keyring.current_refresh_kid()
    old_mac_key = keyring.refresh_mac_key(old_mac)
    nonce = keyring.dpop_nonce()
    clock[0] = 60 * DAY
    assert run(cloud, now=clock[0]).written
    keyring.refresh()
    new_kid, new_key = keyring.signing_key()
    assert new_kid != old_kid
    assert isinstance(new_key, ec.EllipticCurvePrivateKey)
    assert new_key.private_numbers() != old_key.private_numbers()
    assert old_kid in keyring.verification_keys(), "what it signed still verifies"
    assert keyring.current_refresh_kid() != old_mac
    assert keyring.refresh_mac_key(old_mac) == old_mac_key, "its tokens are still taken"
    assert keyring.dpop_nonce_time(nonce) == 0, "old, but ours"
    clock[0] += 16 * DAY
    assert run(cloud, now=clock[0]).dropped
    keyring.refresh()
    assert old_kid not in keyring.verification_keys()
    assert keyring.refresh_mac_key(old_mac) is None


def test_nonces_cross_a_switch_of_keys_both_ways(cloud: Cloud) -> None:
    clock = [60 * DAY]
    create(cloud)
    late = unwrapped(cloud, lambda: clock[0])
    late.dpop_nonce()
    run(cloud, now=clock[0])
    early = unwrapped(cloud, lambda: clock[0])
    assert early.dpop_nonce() != late.dpop_nonce()
    assert early.dpop_nonce_time(late.dpop_nonce()) == clock[0]
    assert late.dpop_nonce_time(early.dpop_nonce()) == clock[0]
    assert early.dpop_nonce_time("x") is None


def test_read_again_only_when_old(cloud: Cloud) -> None:
    clock = [0]
    create(cloud)
    keyring = unwrapped(cloud, lambda: clock[0])
    run(cloud, issuer=ISSUER + "2", clients={})
    clock[0] = MAX_AGE_SECONDS - 1
    keyring.refresh()
    assert keyring.issuer == ISSUER
    clock[0] = MAX_AGE_SECONDS
    keyring.refresh()
    assert keyring.issuer == ISSUER + "2"


def test_wrapped_keys_open_only_as_what_they_are(cloud: Cloud) -> None:
    keyring = create(cloud)
    (nonce_key,) = keyring.of(Purpose.DPOP_NONCE, Standing.CURRENT)
    for changed in (
        replace(nonce_key, purpose=Purpose.REFRESH_MAC),
        replace(nonce_key, kid="other"),
    ):
        document = replace(keyring, keys=(changed,)).to_json()
        view = unwrapped(cloud)
        with pytest.raises(Unavailable):
            view._unwrap(Keyring.from_json(document, revision=1).keys[0])
    elsewhere = replace(unwrapped(cloud), deployment=Deployment("keyferry", "prod"))
    with pytest.raises(Unavailable):
        elsewhere.signing_key()


def test_nothing_secret_rests_in_clear(cloud: Cloud) -> None:
    create(cloud)
    keyring = unwrapped(cloud)
    _, private = keyring.signing_key()
    mac_key = keyring.refresh_mac_key(keyring.current_refresh_kid())
    scalar = private.private_numbers().private_value.to_bytes(32, "big")
    row = str(cloud.dynamodb.scan(TableName=cloud.tables["KeyringTable"])["Items"])

    for secret in (scalar, mac_key or b""):
        assert len(secret) == 32
        for spelling in (secret.hex(), base64.b64encode(secret).decode(), repr(secret)):
            assert spelling.strip("=") not in row
            assert spelling.strip("=") not in repr(keyring)
