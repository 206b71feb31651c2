"""What a thief of the tables, the logs or an error body finds: nothing that opens anything."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import PASSWORD, SECRETS
from tests.e2e.device import Device, jwk_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator

FUNCTIONS = (
    *("login", "refresh", "deliver_key", "sessions", "authorizer"),
    *("discovery", "rotate_keyring", "operator"),
)


@pytest.fixture
def lived(
    device: Device, new_device: Callable[..., Device], username: str, operator: Operator
) -> list[str]:
    """A phone that has done everything there is to do, well and badly; all it sent and was given
    in confidence."""
    proofs = [device.proof("POST", "/v1/token") for _ in range(2)]
    secrets = [PASSWORD, *SECRETS.values(), device.client_key, *proofs]
    secrets += [device.tokens["access_token"], device.tokens["refresh_token"]]
    assert device.keys().status_code == 200
    for proof in proofs:
        assert device.refresh(proof=proof).status_code == 200
        secrets += [device.tokens["access_token"], device.tokens["refresh_token"]]
    wrong = "a wrong password that somebody typed"
    errors = [
        new_device().login(username, wrong),
        device.login(username, wrong, otp="x"),
        device.login(username, wrong, device={"encryption_key": wrong}),
        device.call("POST", "/v1/login", content=wrong.encode()),
        device.refresh(secrets[-1][:-3] + "AAA"),
        device.refresh(wrong),
        device.keys(query=f"?names={wrong}"),
    ]
    device.tokens["access_token"] += "AAAA"
    errors.append(device.keys())
    operator.invoke("keys.put", name="x y", value="a value that was refused")
    operator.invoke("users.add", username="\0", password="a password that was refused")
    operator.invoke("keys.put", name="x", valu="a value under a wrong name")
    for error in errors:
        assert error.status_code in (400, 401, 415), error.text
        for secret in (*secrets, wrong, "Traceback", "keyferry/"):
            assert secret not in error.text
    return [*secrets, wrong, "that was refused", "under a wrong name"]


def spellings(secret: str) -> list[str]:
    encoded = secret.encode()
    return [
        secret,
        base64.b64encode(encoded).decode().rstrip("="),
        base64.urlsafe_b64encode(encoded).decode().rstrip("="),
        encoded.hex(),
        json.dumps(secret)[1:-1],
    ]


def test_tables(lived: list[str], stack: LocalStack) -> None:
    client = stack.boto3_client("dynamodb")
    dump = ""
    for output in stack.outputs:
        if output.endswith("Table"):
            items = client.scan(TableName=stack.outputs[output])["Items"]
            # Only the authorizer and the proxy write to these (see test_proxy.py).
            if output not in ("ProofsTable", "BudgetsTable"):
                assert items, f"{output} is empty: nothing was searched"
            dump += str(items) + json.dumps(items, default=readable)
    client.close()
    for secret in lived:
        for spelling in spellings(secret):
            assert spelling not in dump, f"found {spelling[:12]}…"


def test_the_secret_part_of_a_refresh_token_is_in_no_table(
    device: Device, stack: LocalStack
) -> None:
    raw = base64.urlsafe_b64decode(device.tokens["refresh_token"].removeprefix("kfr_"))
    secret, mac = raw[45:61], raw[61:]
    client = stack.boto3_client("dynamodb")
    items = client.scan(TableName=stack.outputs["SessionsTable"])["Items"]
    client.close()
    hashes = [item["secret_hash"]["B"] for item in items]
    assert hashlib.sha256(b"keyferry session secret" + secret).digest() in hashes
    for part in (secret, mac):
        assert all(part not in value for item in items for value in binaries(item))


def test_logs(lived: list[str], stack: LocalStack) -> None:
    logs = {function: stack.logs(function) for function in FUNCTIONS}
    for function in ("login", "refresh", "deliver_key", "operator"):
        assert '"level"' in logs[function], f"{function} logged nothing: nothing was searched"
    for secret in lived:
        for spelling in spellings(secret):
            for function, text in logs.items():
                assert spelling not in text, f"{function} logged {spelling[:12]}…"


def test_logs_name_no_person(lived: list[str], username: str, stack: LocalStack) -> None:
    assert lived
    for function in FUNCTIONS:
        assert username not in stack.logs(function)


def test_audit_log_shows_no_secret_in_an_encryption_context(
    device: Device, stack: LocalStack
) -> None:
    """KMS writes the context to CloudTrail in clear."""
    assert device.keys().status_code == 200
    client = stack.boto3_client("cloudtrail")
    events = client.lookup_events(
        LookupAttributes=[{"AttributeKey": "EventSource", "AttributeValue": "kms.amazonaws.com"}]
    )["Events"]
    client.close()
    assert events
    for event in events:
        for secret in (*SECRETS.values(), PASSWORD):
            assert secret not in event["CloudTrailEvent"]


def readable(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def binaries(item: dict[str, Any]) -> list[bytes]:
    return [value["B"] for value in item.values() if "B" in value]


def test_a_device_can_not_be_given_anothers_keys(
    device: Device, new_device: Callable[..., Device], username: str
) -> None:
    """Nobody but the holder of the encryption key of the session opens a delivery."""
    other = new_device()
    other.login(username, PASSWORD)
    delivered = device.keys()
    assert jwk_of(other.encryption) != jwk_of(device.encryption)
    with pytest.raises(Exception, match=r".+"):
        other.open(delivered)
    assert device.open(delivered)["keys"]
