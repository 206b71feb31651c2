"""The operator replaces the client key of an app that is in use, and nobody is shut out who is not
to be.

A stack of its own: the keys that come and go here are those of every other test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from keyferry.keyring.unwrapped import MAX_AGE_SECONDS
from tests.e2e.conftest import PASSWORD, Operator
from tests.e2e.device import Device
from tests.e2e.rights import used_rights
from tests.e2e.test_main_path import is_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from keyferry_cli.local.stack import LocalStack

pytestmark = pytest.mark.xdist_group("clients stack")


@pytest.fixture(scope="module")
def clients_stack() -> Iterator[LocalStack]:
    from keyferry_cli.local.stack import LocalStack

    with LocalStack.start(progress=lambda _: None) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(clients_stack: LocalStack) -> Iterator[Any]:
    client = clients_stack.boto3_client("apigateway")
    yield client
    client.close()


@pytest.fixture(scope="module")
def phone_with(clients_stack: LocalStack, http: httpx.Client) -> Iterator[Callable[[str], Device]]:
    """Makes phones whose app has the client key of this value, each with a user of its own."""
    client = clients_stack.boto3_client("lambda")
    operator = Operator(client, clients_stack.outputs["OperatorFunction"])

    def make(client_key: str) -> Device:
        name = f"user-{uuid.uuid4().hex[:12]}"
        operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
        return Device(http, clients_stack.api_url, client_key, username=name)

    yield make
    client.close()


def keyferry(
    stack: LocalStack, *arguments: str, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """The `keyferry clients` command, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "keyferry_cli", "clients", *arguments, "--stack", stack.stack_name],
        input=stdin,
        capture_output=True,
        text=True,
        env=os.environ | stack.environment | {"COLUMNS": "140"},
        timeout=60,
        check=False,
    )


def done(stack: LocalStack, *arguments: str) -> dict[str, Any]:
    finished = keyferry(stack, *arguments, "--json")
    assert finished.returncode == 0, finished.stderr
    result: dict[str, Any] = json.loads(finished.stdout)
    return result


def listed(stack: LocalStack) -> dict[str, dict[str, Any]]:
    return {key["key_id"]: key for key in done(stack, "list")["clients"]}


def value_of(stack: LocalStack, key_id: str) -> str:
    return str(done(stack, "list", "--show-value", key_id)["value"])


def deploy_again(stack: LocalStack) -> None:
    """What CloudFormation sends to the keyring when a deployment changes a property of it."""
    answers: list[dict[str, Any]] = []

    class CloudFormation(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), CloudFormation)
    threading.Thread(target=server.serve_forever).start()
    event = {
        "RequestType": "Update",
        "ResponseURL": f"http://127.0.0.1:{server.server_port}/",
        "StackId": "stack",
        "RequestId": "request",
        "LogicalResourceId": "Keyring",
        "ResourceProperties": {
            "Issuer": stack.api_url,
            "Clients": {
                "ios": [stack.outputs["IosClientKeyId"]],
                "android": [stack.outputs["AndroidClientKeyId"]],
            },
        },
    }
    client = stack.boto3_client("lambda")
    try:
        client.invoke(
            FunctionName=stack.outputs["KeyringFunction"], Payload=json.dumps(event).encode()
        )
    finally:
        client.close()
        server.shutdown()
        server.server_close()
    assert [answer["Status"] for answer in answers] == ["SUCCESS"]


def eventually(holds: Callable[[], bool]) -> None:
    """Within the time that a warm function may hold an old keyring, and a little for this machine."""
    deadline = time.monotonic() + MAX_AGE_SECONDS + 15
    while not holds():
        assert time.monotonic() < deadline, "not within the age of the functions' copy"
        time.sleep(1)


# The order is that of a story. The first login comes after the first rotation, so that it need not
# wait for functions that have read the keyring before.


def test_what_a_deployment_has_made(clients_stack: LocalStack) -> None:
    keys = listed(clients_stack)
    outputs = clients_stack.outputs
    ios, android = outputs["IosClientKeyId"], outputs["AndroidClientKeyId"]
    assert {key_id: key["platform"] for key_id, key in keys.items()} == {
        ios: "ios",
        android: "android",
    }
    for key in keys.values():
        assert all(key[is_so] for is_so in ("from_template", "known", "in_plan", "enabled"))
        assert (key["requests"], key["last_used"]) == (0, None)
    shown = keyferry(clients_stack, "list")
    assert shown.returncode == 0, shown.stderr
    values = clients_stack.client_keys
    assert value_of(clients_stack, ios) == values["ios"]
    for text in (shown.stdout + shown.stderr, json.dumps(keys)):
        assert values["ios"] not in text
        assert values["android"] not in text


def test_a_rotation_shuts_nobody_out(
    clients_stack: LocalStack, phone_with: Callable[[str], Device], gateway: Any
) -> None:
    old_id, old = clients_stack.outputs["IosClientKeyId"], clients_stack.client_keys["ios"]
    rotated = done(clients_stack, "rotate", "ios")
    assert rotated["replaces"] == [old_id]
    new_id = rotated["key_id"]
    new = value_of(clients_stack, new_id)
    described = gateway.get_api_key(apiKey=new_id)
    tags = {"keyferry:stack": clients_stack.stack_name, "keyferry:platform": "ios"}
    assert described["tags"] == tags
    assert described["name"].startswith(f"{clients_stack.stack_name}-ios-")
    assert new_id != new != old

    # Old and new app, and one that is updated: with another client key the session goes on.
    one, other = phone_with(old), phone_with(new)
    assert one.login(one.username, PASSWORD).status_code == 200
    assert other.login(other.username, PASSWORD).status_code == 200
    one.client_key = new
    assert one.refresh().status_code == 200

    deploy_again(clients_stack)
    keys = listed(clients_stack)
    assert [keys[key_id]["known"] for key_id in (old_id, new_id)] == [True, True]
    assert [keys[key_id]["from_template"] for key_id in (old_id, new_id)] == [True, False]
    assert keys[old_id]["requests"] > 0
    assert keys[old_id]["last_used"] == keys[new_id]["last_used"] is not None

    lines = [
        json.loads(line)
        for line in clients_stack.logs("rotate_keyring").splitlines()
        if line.startswith("{") and new_id in line
    ]
    fields = ("message", "action", "client_key_id", "client_id")
    assert [tuple(line[name] for name in fields) for line in lines] == [
        ("client key", "added", new_id, "ios")
    ]
    assert new not in clients_stack.logs("rotate_keyring")


def test_a_retired_key_is_refused_and_the_new_one_goes_on(
    clients_stack: LocalStack, phone_with: Callable[[str], Device], gateway: Any
) -> None:
    old_id, old = clients_stack.outputs["IosClientKeyId"], clients_stack.client_keys["ios"]
    (new_id,) = {
        key_id
        for key_id, key in listed(clients_stack).items()
        if key["platform"] == "ios" and key_id != old_id
    }
    new = value_of(clients_stack, new_id)
    phone = phone_with(old)
    assert phone.login(phone.username, PASSWORD).status_code == 200

    asked = keyferry(clients_stack, "retire", old_id, stdin="n\n")
    assert asked.returncode == 1
    assert "requests in the last 7 days" in asked.stderr
    assert phone.refresh().status_code == 200, "nothing was done without a yes"
    refused = keyferry(clients_stack, "retire", old_id, "--delete", "--yes")
    assert (refused.returncode, "belongs to the stack" in refused.stderr) == (1, True)
    assert phone.refresh().status_code == 200

    retired = keyferry(clients_stack, "retire", old_id, stdin="y\n")
    assert retired.returncode == 0, retired.stderr
    is_error(phone.call("POST", "/v1/token", data={}), 403, "invalid_client")
    phone.client_key = new
    assert phone.refresh().status_code == 200, "and the session goes on in the new app"

    # The template still names it. Neither a deployment nor a hand at API Gateway brings it back.
    deploy_again(clients_stack)
    key = listed(clients_stack)[old_id]
    assert (key["known"], key["enabled"], key["from_template"]) == (False, False, True)
    enable = {"op": "replace", "path": "/enabled", "value": "true"}
    gateway.update_api_key(apiKey=old_id, patchOperations=[enable])
    phone.client_key = old
    body = {"grant_type": "refresh_token", "refresh_token": phone.tokens["refresh_token"]}
    eventually(lambda: phone.call("POST", "/v1/token", data=body).status_code == 401)
    is_error(phone.call("POST", "/v1/token", data=body), 401, "invalid_client")
    phone.client_key = new
    assert phone.refresh().status_code == 200


def test_a_restored_key_and_an_added_one_that_is_deleted(
    clients_stack: LocalStack, phone_with: Callable[[str], Device]
) -> None:
    restored = clients_stack.outputs["IosClientKeyId"]
    done(clients_stack, "restore", restored)
    added = done(clients_stack, "add", "ios")["key_id"]
    keys = listed(clients_stack)
    for key_id in (restored, added):
        assert all(keys[key_id][is_so] for is_so in ("known", "in_plan", "enabled"))
    phone = phone_with(value_of(clients_stack, added))
    eventually(lambda: phone.login(phone.username, PASSWORD).status_code == 200)
    phone.client_key = clients_stack.client_keys["ios"]
    eventually(lambda: phone.refresh().status_code == 200)

    phone.client_key = value_of(clients_stack, added)
    done(clients_stack, "retire", added, "--delete", "--yes")
    is_error(phone.call("POST", "/v1/token", data={}), 403, "invalid_client")
    assert added not in listed(clients_stack)
    again = keyferry(clients_stack, "retire", added, "--yes")
    assert (again.returncode, "not_found" in again.stderr) == (1, True)


def test_keys_and_platforms_that_are_not_of_this_stack(
    clients_stack: LocalStack, gateway: Any
) -> None:
    before = listed(clients_stack)
    unknown = keyferry(clients_stack, "add", "macos")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "no usage plan for macos, only for android, ios" in unknown.stderr
    tags = {"keyferry:stack": "another", "keyferry:platform": "ios"}
    other = gateway.create_api_key(name="x", enabled=True, tags=tags)["id"]
    for arguments in (
        ("retire", other, "--yes", "--delete"),
        ("restore", other),
        ("list", "--show-value", other),
    ):
        refused = keyferry(clients_stack, *arguments)
        assert (refused.returncode, refused.stdout) == (1, ""), arguments
        assert "not_found" in refused.stderr
    assert gateway.get_api_key(apiKey=other)["enabled"]
    assert listed(clients_stack) == before
    gateway.delete_api_key(apiKey=other)


def test_a_key_that_was_made_and_no_more_can_be_taken_away(
    clients_stack: LocalStack, gateway: Any
) -> None:
    tags = {"keyferry:stack": clients_stack.stack_name, "keyferry:platform": "ios"}
    made = gateway.create_api_key(name="half", enabled=True, tags=tags)["id"]
    assert made not in listed(clients_stack)
    finished = keyferry(clients_stack, "retire", made, "--delete")
    assert finished.returncode == 0, finished.stderr
    with pytest.raises(gateway.exceptions.NotFoundException):
        gateway.get_api_key(apiKey=made)


def test_every_aws_call_of_this_stack_was_allowed(
    clients_stack: LocalStack, resources: dict[str, Any]
) -> None:
    """Last, as test_least_privilege.py is for the other stacks."""
    used = used_rights(clients_stack, resources)
    assert "dynamodb:PutItem" in {r.action for r in used if r.function == "rotate_keyring"}
