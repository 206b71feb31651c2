"""An operator's day with keys: the `keyferry` command, run as a process, and a phone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from keyferry_cli.local.command import keyferry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator
    from tests.e2e.device import Device

ROOT = Path(__file__).resolve().parents[2]
ANYBODY = ("--role", "*", "--platform", "*")
VALUE = "AIza-of-the-key-commands-{}"


@pytest.fixture(autouse=True)
def only_for_the_test(operator: Operator) -> Iterator[None]:
    """Other tests look at all the keys that there are."""
    before = {each["name"] for each in operator.do("keys.list")["keys"]}
    yield
    for each in operator.do("keys.list")["keys"]:
        if each["name"] not in before:
            operator.do("keys.delete", name=each["name"])


def delivered(device: Device, name: str) -> str | None:
    """The value that the phone gets now."""
    response = device.keys(query=f"?names={name}")
    assert response.status_code == 200, response.text
    found = device.open(response)["keys"].get(name)
    return found["value"] if found is not None else None


def audited(stack: LocalStack, name: str, count: int) -> list[dict[str, Any]]:
    """What is logged of a key, as soon as there are so many lines."""
    deadline = time.monotonic() + 30
    while True:
        events: list[dict[str, Any]] = keyferry(stack, "keys", "audit", name)["events"]
        if len(events) >= count or time.monotonic() > deadline:
            return events
        time.sleep(0.5)


def run(stack: LocalStack, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "keyferry_cli", *arguments],
        env=os.environ
        | stack.environment
        | {"KEYFERRY_STACK": stack.stack_name, "COLUMNS": "100"}
        | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_key_from_put_to_audit(stack: LocalStack, device: Device, tmp_path: Path) -> None:
    name = "audited-key"
    one, two = (VALUE.format(n) for n in (1, 2))
    assert delivered(device, name) is None

    pending = keyferry(stack, "keys", "put", name, *ANYBODY, secret=one)["pending"]["number"]
    assert delivered(device, name) is None, "pending"
    keyferry(stack, "keys", "promote", name, "--version", str(pending))
    assert delivered(device, name) == one

    second = keyferry(stack, "keys", "put", name, secret=two)["pending"]["number"]
    assert delivered(device, name) == one
    keyferry(stack, "keys", "promote", name)
    assert delivered(device, name) == two
    rolled_back = keyferry(stack, "keys", "rollback", name)
    assert rolled_back["current"]["number"] == pending
    assert rolled_back["pending"]["number"] == second
    assert delivered(device, name) == one

    keyferry(stack, "keys", "policy", name, *ANYBODY, "--attested")
    assert delivered(device, name) is None

    events = audited(stack, name, 12)
    actions = [(each["action"], each["version"]) for each in reversed(events)]
    assert [each for each in actions if each[0] != "delivered"] == [
        ("put", f"pending={pending}"),
        ("promoted", f"current={pending}"),
        ("put", f"current={pending} pending={second}"),
        ("promoted", f"current={second} previous={pending}"),
        ("rolled_back", f"current={pending} pending={second}"),
        ("policy_set", f"current={pending} pending={second}"),
    ]
    got = [each for each in actions if each[0] == "delivered"]
    numbers = [None, pending, pending, second, pending, None]
    assert got == [("delivered", str(n) if n else None) for n in numbers]
    by_phone = [each for each in events if each["action"] == "delivered"]
    token = jwt.decode(device.tokens["access_token"], options={"verify_signature": False})
    assert {(each["sub"], each["sid"]) for each in by_phone} == {(token["sub"], token["sid"])}
    assert by_phone[0]["reason"] == "attestation_required"
    operators = {each["operator"] for each in events if "operator" in each}
    caller = stack.boto3_client("sts").get_caller_identity()["Arn"]
    assert operators == {caller}

    # Wide enough for the numbers of versions, which have grown with the tests before.
    shown = run(stack, "keys", "audit", name, "--limit", "3", COLUMNS="140")
    assert shown.returncode == 0, shown.stderr
    assert "refused" in shown.stdout
    assert "attestation_required" in shown.stdout
    assert token["sid"] in shown.stdout
    assert "the newest 3" in shown.stderr
    for value in (one, two):
        assert value not in shown.stdout + json.dumps(events)


def test_a_teams_env_file_becomes_keys(stack: LocalStack, device: Device, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    values = {f"IMPORTED_{n}": VALUE.format(f"imported-{n}") for n in range(60)}
    text = "".join(f"export {name}='{value}'\n" for name, value in values.items())
    file.write_text(f"# the keys of the app\n{text}PORT=8080\nUNUSED=your-api-key\n")
    options = (str(file), "--only", "IMPORTED_*", *ANYBODY)
    dry = keyferry(stack, "keys", "import", *options, "--dry-run")
    assert len(dry["stored"]) == 60
    assert not any(each["name"] in values for each in keyferry(stack, "keys", "list")["keys"])
    report = keyferry(stack, "keys", "import", *options, "--promote")
    assert len(report["stored"]) == 60
    assert report["refused"] == []
    names = ("IMPORTED_0", "IMPORTED_59")
    response = device.keys(query="?names=" + ",".join(names))
    opened = device.open(response)["keys"]
    assert {name: opened[name]["value"] for name in names} == {n: values[n] for n in names}
    refused = run(stack, "keys", "import", str(file))
    assert refused.returncode == 1
    assert "line 62: looks like a placeholder: it has fewer" in refused.stderr
    assert "line 63: looks like a placeholder" in refused.stderr
    for name in values:
        assert name in refused.stdout, "each has a new pending version"
    again = run(stack, "keys", "import", str(file), "--only", "IMPORTED_*")
    assert again.returncode == 1
    assert again.stderr.count("is pending") == 60


def test_two_operators_at_once_lose_nothing(stack: LocalStack) -> None:
    def put(number: int) -> str:
        try:
            keyferry(stack, "keys", "put", f"both-{number}", secret=VALUE.format(number))
            keyferry(stack, "keys", "put", "both-want-it", secret=VALUE.format(number))
        except RuntimeError as refused:
            return str(refused)
        return ""

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(put, range(2)))
    assert outcomes[0] == ""
    assert "conflict: both-want-it has a pending version" in outcomes[1]
    listed = {each["name"]: each for each in keyferry(stack, "keys", "list")["keys"]}
    assert {"both-0", "both-1", "both-want-it"} <= set(listed)
    versions = [listed[name]["pending"]["number"] for name in ("both-0", "both-1", "both-want-it")]
    assert len(set(versions)) == 3


def test_what_cannot_be_undone_is_asked_about(stack: LocalStack) -> None:
    keyferry(stack, "keys", "put", "precious-key", "--promote", secret=VALUE.format("precious"))
    refused = run(stack, "keys", "delete", "precious-key")
    assert refused.returncode == 1
    assert "cannot be undone" in refused.stderr
    assert keyferry(stack, "keys", "get", "precious-key", "--metadata")["current"] is not None
    keyferry(stack, "keys", "delete", "precious-key", "--yes")
    gone = run(stack, "keys", "get", "precious-key", "--metadata")
    assert "not_found" in gone.stderr


@pytest.mark.parametrize(
    ("words", "found"),
    [("keys promote comp", ["complete-me"]), ("keys get --json comp", ["complete-me"])],
)
def test_names_complete_in_a_shell(stack: LocalStack, words: str, found: list[str]) -> None:
    keyferry(stack, "keys", "put", "complete-me", "--replace-pending", secret=VALUE.format("c"))
    asked = {
        "_KEYFERRY_COMPLETE": "complete_bash",
        "COMP_WORDS": f"keyferry {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    completed = run(stack, **asked)
    assert completed.stdout.split() == found
    elsewhere = run(stack, **asked, KEYFERRY_STACK="no-such-stack")
    assert (elsewhere.stdout.strip(), elsewhere.stderr) == ("", "")


def documented_policy(stack: LocalStack) -> dict[str, Any]:
    """What docs/keys.md says that AWS must allow, for this stack."""
    text = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    block = text.partition("```json\n")[2].partition("```")[0]
    account = stack.boto3_client("sts").get_caller_identity()["Account"]
    for name, value in {
        "REGION": stack.environment["AWS_REGION"],
        "ACCOUNT": account,
        "keyferry-dev": stack.stack_name,
        "the stack's output OperatorFunction": stack.outputs["OperatorFunction"],
    }.items():
        assert name in block
        block = block.replace(name, value)
    policy: dict[str, Any] = json.loads(block)
    for statement in policy["Statement"]:
        if statement["Action"] == "logs:StartQuery":
            groups = {each.rpartition(":log-group:")[2] for each in statement["Resource"]}
            named = stack.outputs["AuditLogGroups"].split(",")
            assert groups == {f"{name}{end}" for name in named for end in ("", ":*")}
            # The emulator takes a query of several log groups for one of all that there are.
            statement["Resource"] = "*"
    return policy


def test_the_documented_rights_are_what_an_operator_needs(stack: LocalStack) -> None:
    iam = stack.boto3_client("iam")
    iam.create_user(UserName="key-operator")
    key = iam.create_access_key(UserName="key-operator")["AccessKey"]
    credentials = {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }
    policy = documented_policy(stack)

    def allow(statements: list[dict[str, Any]]) -> None:
        document = json.dumps({**policy, "Statement": statements})
        iam.put_user_policy(UserName="key-operator", PolicyName="p", PolicyDocument=document)

    keyferry(stack, "keys", "put", "of-an-operator", secret=VALUE.format("operator"))
    close: tuple[str, ...] = ("keys", "policy", "of-an-operator", "--nobody")
    audit: tuple[str, ...] = ("keys", "audit", "of-an-operator")
    allow(policy["Statement"])
    for command in (close, audit):
        done = run(stack, *command, **credentials)
        assert done.returncode == 0, done.stderr
    events = audited(stack, "of-an-operator", 2)
    assert events[0]["operator"].endswith(":user/key-operator")
    for missing, command in enumerate((close, close, audit, audit)):
        allow([each for n, each in enumerate(policy["Statement"]) if n != missing])
        denied = run(stack, *command, **credentials)
        assert denied.returncode == 1
        assert "access denied: these AWS credentials may not do" in denied.stderr
