"""Refreshes at once, from separate processes over HTTP, into separate Lambda workers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.device import Device

SCRIPT = Path(__file__).with_name("one_request.py")


def at_once(device: Device, tokens: list[str]) -> list[dict[str, Any]]:
    """Refresh with each of ``tokens`` from a process of its own, all let go together."""
    with ExitStack() as exits:
        processes = []
        for token in tokens:
            process = exits.enter_context(
                subprocess.Popen(
                    [sys.executable, "-S", "-E", str(SCRIPT)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            exits.callback(process.kill)
            form = {"grant_type": "refresh_token", "refresh_token": token}
            request = {
                "url": f"{device.api_url}/v1/token",
                "headers": {
                    "x-api-key": device.client_key,
                    "Content-Type": "application/x-www-form-urlencoded",
                    "DPoP": device.proof("POST", "/v1/token", nonce=nonce(device)),
                },
                "body": urlencode(form),
            }
            assert process.stdin
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            processes.append(process)
        for process in processes:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=280)[0]) for process in processes]


def nonce(device: Device) -> str:
    return device.http.get(
        f"{device.api_url}/v1/keys", headers={"x-api-key": device.client_key}
    ).headers["dpop-nonce"]


def generation(stack: LocalStack, device: Device) -> tuple[int, str]:
    client = stack.boto3_client("dynamodb")
    items = client.scan(TableName=stack.outputs["SessionsTable"], ConsistentRead=True)["Items"]
    client.close()
    (row,) = (item for item in items if item["sid"]["S"] == device.tokens["session_id"])
    return int(row["generation"]["N"]), row["status"]["S"]


def test_fifty_refreshes_of_one_token(stack: LocalStack, device: Device) -> None:
    """The counter moves once, all get the same refresh token, and nothing fails."""
    assert device.refresh().status_code == 200
    before, _ = generation(stack, device)
    answers = at_once(device, [device.tokens["refresh_token"]] * 50)
    assert Counter(answer["status"] for answer in answers) == {200: 50}
    tokens = [json.loads(answer["body"]) for answer in answers]
    assert len({token["refresh_token"] for token in tokens}) == 1
    assert len({token["access_token"] for token in tokens}) == 50
    assert generation(stack, device) == (before + 1, "active")
    assert device.refresh(tokens[0]["refresh_token"]).status_code == 200


def test_replays_of_an_ancestor_beside_honest_refreshes(stack: LocalStack, device: Device) -> None:
    """However they fall, the session ends up dead: never two lineages, never a live token."""
    ancestor = device.tokens["refresh_token"]
    device.refresh()
    device.refresh()
    live = device.tokens["refresh_token"]
    answers = at_once(device, [ancestor, live] * 4)
    assert {answer["status"] for answer in answers} <= {200, 400}
    # Those whose proof may be older than the last refresh were only asked for a nonce.
    assert device.refresh(ancestor, keep=False).json()["error"] == "invalid_grant"
    assert generation(stack, device)[1] == "compromised"
    given = {json.loads(a["body"])["refresh_token"] for a in answers if a["status"] == 200}
    assert len(given) <= 1
    for token in (live, *given):
        assert device.refresh(token, keep=False).json()["error"] == "invalid_grant"
    assert device.keys().status_code == 401
