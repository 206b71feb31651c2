"""The operator rotates the keyring, and takes keys out of it, with phones logged in.

A stack of its own: a warm function may serve a published key set from before a revocation, which
would be in the way of other tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from keyferry.config import DAY
from keyferry.keyring.unwrapped import MAX_AGE_SECONDS
from tests.e2e.conftest import PASSWORD, SECRETS, Operator
from tests.e2e.device import Device
from tests.e2e.rights import used_rights
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from keyferry_cli.local.stack import LocalStack

pytestmark = pytest.mark.xdist_group("keyring stack")

Keys = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def keyring_stack() -> Iterator[LocalStack]:
    from keyferry_cli.local.stack import LocalStack

    with LocalStack.start(progress=lambda _: None) as started:
        yield started


def keyferry(
    stack: LocalStack, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The `keyferry keyring` command, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keyferry_cli", "keyring", *arguments, "--stack", stack.stack_name],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | stack.environment | {"COLUMNS": "120"},
        timeout=60,
        check=False,
    )


def shown(stack: LocalStack) -> Keys:
    """The one key of each purpose and standing that there is; of previous ones, the last."""
    done = keyferry(stack, "show", "--json")
    assert done.returncode == 0, done.stderr
    return {(key["purpose"], key["standing"]): key for key in json.loads(done.stdout)["keys"]}


def published(stack: LocalStack, http: httpx.Client) -> set[str]:
    response = http.get(f"{stack.api_url}/.well-known/jwks.json")
    assert response.headers["cache-control"] == "public, max-age=300"
    return {key["kid"] for key in response.json()["keys"]}


def signed_by(device: Device) -> str:
    kid: str = jwt.get_unverified_header(device.tokens["access_token"])["kid"]
    return kid


def eventually(holds: Callable[[], bool]) -> None:
    """Within the time that a warm function may hold an old keyring, and a little for this machine."""
    deadline = time.monotonic() + MAX_AGE_SECONDS + 15
    while not holds():
        assert time.monotonic() < deadline, "not within the age of the functions' copy"
        time.sleep(1)


def announced_days_ago(stack: LocalStack, days: int) -> None:
    """Let time go by for the next keys, by what the row says of them."""
    client = stack.boto3_client("dynamodb")
    table, row = stack.outputs["KeyringTable"], {"id": {"S": "KEYRING"}}
    document = json.loads(client.get_item(TableName=table, Key=row)["Item"]["document"]["S"])
    for key in document["keys"]:
        if key["standing"] == "next":
            key["since"] -= days * DAY
    client.update_item(
        TableName=table,
        Key=row,
        UpdateExpression="SET document = :document",
        ExpressionAttributeValues={":document": {"S": json.dumps(document)}},
    )
    client.close()


@pytest.fixture(scope="module")
def keyring_operator(keyring_stack: LocalStack) -> Iterator[Operator]:
    client = keyring_stack.boto3_client("lambda")
    operator = Operator(client, keyring_stack.outputs["OperatorFunction"])
    operator.do(
        "keys.put", name="maps", value=SECRETS["maps"], policy={"roles": ["*"]}, promote=True
    )
    yield operator
    client.close()


@pytest.fixture(scope="module")
def new_phone(
    keyring_stack: LocalStack, keyring_operator: Operator, http: httpx.Client
) -> Callable[[], Device]:
    """Makes phones that have just logged in, each with a user of its own."""

    def make() -> Device:
        name = f"user-{uuid.uuid4().hex[:12]}"
        keyring_operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
        device = Device(http, keyring_stack.api_url, keyring_stack.client_keys["ios"])
        assert device.login(name, PASSWORD).status_code == 200
        return device

    return make


@pytest.fixture(scope="module")
def sleeper(new_phone: Callable[[], Device]) -> Device:
    """A phone that logs in before the first rotation and does not refresh."""
    return new_phone()


# The order is that of a story. It begins while only the login function has read the keyring, so that
# a rotation is seen at once; a minute's wait is left for what must be shown of warm functions.


def test_show_is_a_table_without_secrets(keyring_stack: LocalStack) -> None:
    done = keyferry(keyring_stack, "show")
    assert done.returncode == 0, done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if "20" in line]
    purposes = ("dpop-nonce", "refresh-mac", "token-signing")
    assert rows == [[purpose, standing] for purpose in purposes for standing in ("current", "next")]
    raw = json.loads(keyferry(keyring_stack, "show", "--json").stdout)
    assert raw["issuer"] == keyring_stack.api_url
    assert all(set(key) == {"kid", "purpose", "standing", "since"} for key in raw["keys"])


def test_no_key_is_used_before_it_has_been_announced(keyring_stack: LocalStack) -> None:
    before = shown(keyring_stack)
    done = keyferry(keyring_stack, "rotate", "--now")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("keyferry: nothing was rotated")
    ready = before["token-signing", "next"]["since"] + 2 * DAY
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(ready))
    assert f"token-signing from {when} UTC" in done.stderr
    assert shown(keyring_stack) == before
    scheduled = keyferry(keyring_stack, "rotate")
    assert (scheduled.returncode, scheduled.stdout) == (0, "Nothing was due.\n")
    assert shown(keyring_stack) == before


def test_an_unknown_key_cannot_be_revoked(keyring_stack: LocalStack) -> None:
    before = shown(keyring_stack)
    done = keyferry(keyring_stack, "revoke", "AAAAAAAAAAA", "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "not_found" in done.stderr
    client = keyring_stack.boto3_client("lambda")
    event = {"command": "keyring.revoke", "kid": "AAAAAAAAAAA"}
    response = client.invoke(
        FunctionName=keyring_stack.outputs["KeyringFunction"], Payload=json.dumps(event).encode()
    )
    assert json.loads(response["Payload"].read())["error"]["error"] == "not_found"
    client.close()
    assert shown(keyring_stack) == before


def test_a_rotation_in_its_time_is_noticed_by_nobody(
    keyring_stack: LocalStack, new_phone: Callable[[], Device], sleeper: Device
) -> None:
    phone = new_phone()
    before = shown(keyring_stack)
    announced_days_ago(keyring_stack, 3)
    done = keyferry(keyring_stack, "rotate", "--now")
    assert (done.returncode, done.stderr) == (0, "")
    after = shown(keyring_stack)
    for purpose in ("token-signing", "refresh-mac", "dpop-nonce"):
        assert after[purpose, "current"]["kid"] == before[purpose, "next"]["kid"]
        assert after[purpose, "previous"]["kid"] == before[purpose, "current"]["kid"]
        assert after[purpose, "next"]["kid"] not in {key["kid"] for key in before.values()}

    old, new = (keys["token-signing", "current"]["kid"] for keys in (before, after))
    assert signed_by(phone) == signed_by(sleeper) == old
    assert phone.keys().status_code == 200, "a previous key is still good for what it has signed"

    def rotated() -> bool:
        assert phone.refresh().status_code == 200, "and the previous MAC key for its tokens"
        return bool(signed_by(phone) == new)

    eventually(rotated)
    assert phone.keys().status_code == 200
    again = keyferry(keyring_stack, "rotate", "--now")
    assert again.returncode == 1
    assert "nothing was rotated" in again.stderr


def test_revoked_keys_are_refused_within_a_minute(
    keyring_stack: LocalStack,
    new_phone: Callable[[], Device],
    sleeper: Device,
    http: httpx.Client,
) -> None:
    phone = new_phone()
    before = shown(keyring_stack)
    leaked, following = (before["token-signing", which]["kid"] for which in ("current", "next"))
    assert phone.refresh().status_code == 200
    assert signed_by(phone) == leaked
    assert phone.keys().status_code == 200, "warm functions that hold the keyring"

    asked = keyferry(keyring_stack, "revoke", leaked, stdin="n\n")
    assert (asked.returncode, shown(keyring_stack)) == (1, before)
    assert "Nobody is logged out" in asked.stderr
    assert "published minutes ago" in asked.stderr
    done = keyferry(keyring_stack, "revoke", leaked, stdin="y\n")
    assert done.returncode == 0, done.stderr
    assert f"{following} is the current token-signing key now." in done.stdout
    done = keyferry(keyring_stack, "revoke", "--yes", before["refresh-mac", "previous"]["kid"])
    assert done.returncode == 0, done.stderr
    assert "has to log in again" in done.stderr

    after = shown(keyring_stack)
    assert after["token-signing", "current"]["kid"] == following
    assert ("refresh-mac", "previous") not in after
    kids = {key["kid"] for (purpose, _), key in after.items() if purpose == "token-signing"}
    assert leaked not in kids
    assert published(keyring_stack, http) == kids

    eventually(lambda: phone.keys().status_code == 401)
    is_error(phone.keys(), 401, "invalid_token")

    def refreshed() -> bool:
        assert phone.refresh().status_code == 200, "never a logout"
        return bool(signed_by(phone) == following)

    eventually(refreshed)
    eventually(lambda: phone.keys().status_code == 200)
    assert phone.open(phone.keys())["keys"]["maps"]["value"] == SECRETS["maps"]

    is_error(sleeper.refresh(), 400, "invalid_grant")
    assert sleeper.keys().status_code == 200, "an access token is good for as long as it was"
    eventually(lambda: new_phone().refresh().status_code == 200)


def test_every_aws_call_of_this_stack_was_allowed(
    keyring_stack: LocalStack, resources: dict[str, Any]
) -> None:
    """Last, as test_least_privilege.py is for the other stacks."""
    used = used_rights(keyring_stack, resources)
    assert {right.action for right in used if right.function == "rotate_keyring"} >= {
        "dynamodb:PutItem",
        "kms:GenerateDataKeyPairWithoutPlaintext",
        "kms:GenerateDataKeyWithoutPlaintext",
    }
