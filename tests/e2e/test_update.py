"""A stack with sessions on it is updated, and rolled back: nobody is logged out.

From the newest commit that would deploy something else than this tree does, to this tree, and back.
What is asked of each phone each time is what phones do all day.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from keyferry.sessions.model import Status
from keyferry.sessions.store import session_from_item
from keyferry_cli.local.sam import SOURCES
from tests.conftest import ROOT, needs
from tests.e2e.conftest import PASSWORD, SECRETS, Operator
from tests.e2e.device import Device, jwk_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from keyferry_cli.local.stack import LocalStack

pytestmark = pytest.mark.xdist_group("update stack")

T = TypeVar("T")
R = TypeVar("R")

USERS = 20
SESSIONS_OF_EACH = 10  # as many as a user may have
SIMULTANEOUS = 4
KEPT = ("Url", "Table", "KeyArn", "KeyId")
"""Outputs that are addresses and data: what they name may not be replaced."""


def git(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a container the clone is often somebody else's, whom git would not trust.
    command = [needs("git"), "-c", f"safe.directory={ROOT}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def previous_commit() -> str:
    """The newest commit of this branch whose deployed sources are not those of this tree.

    A copy without history (a shallow clone, an archive) has none: the test is skipped there, and
    says so. The workflow of CI fetches the history.
    """
    for commit in git("rev-list", "--first-parent", "HEAD").stdout.split():
        if git("diff", "--quiet", commit, "--", *SOURCES).returncode == 1:
            return commit
    pytest.skip("no earlier commit to update from: this needs a clone with its history")


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree of then, to be built with the tools of today."""
    commit = previous_commit()
    archive = tmp_path_factory.mktemp("previous") / "tree.tar"
    assert git("archive", f"--output={archive}", commit).returncode == 0
    # Always the same folder, as SAM keeps what it has built by folder and contents.
    tree = ROOT / ".cache" / "previous"
    shutil.rmtree(tree, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(tree, filter="data")
    for lock in (ROOT / "tests" / "env").glob("*.txt"):
        shutil.copy(lock, tree / "tests" / "env")
    (tree / ".cache").mkdir()
    for shared in ("env", "build", "sam"):
        (ROOT / ".cache" / shared).mkdir(exist_ok=True)
        (tree / ".cache" / shared).symlink_to(ROOT / ".cache" / shared)
    return tree


@pytest.fixture(scope="module")
def old_stack(previous: Path) -> Iterator[LocalStack]:
    from keyferry_cli.local.stack import LocalStack

    with LocalStack.start(progress=lambda _: None, root=previous) as started:
        yield started


def all_of(work: Callable[[T], R], items: list[T]) -> list[R]:
    with ThreadPoolExecutor(SIMULTANEOUS) as pool:
        return list(pool.map(work, items))


@dataclass
class Phone(Device):
    platform: str = "ios"


def sign_in(stack: LocalStack, operator: Operator, http: httpx.Client) -> list[Phone]:
    """Sessions of both platforms, as many as a user may have, of every user."""

    def one(number: int) -> list[Phone]:
        name = f"user-{uuid.uuid4().hex[:12]}"
        operator.do("users.add", username=name, password=PASSWORD, roles=["user"])
        platform = ("ios", "android")[number % 2]
        phones = []
        for _ in range(SESSIONS_OF_EACH):
            phone = Phone(http, stack.api_url, stack.client_keys[platform], platform=platform)
            details = {
                "name": "Test phone",
                "platform": platform,
                "app_version": "1.2.3",
                "encryption_key": jwk_of(phone.encryption),
            }
            response = phone.login(name, PASSWORD, device=details)
            assert response.status_code == 200, response.text
            phones.append(phone)
        return phones

    return [phone for phones in all_of(one, list(range(USERS))) for phone in phones]


def goes_on(phone: Phone) -> None:
    """The access token from before is still good, the session is refreshed, and keys are had."""
    before = phone.keys()
    assert before.status_code == 200, before.text
    refreshed = phone.refresh()
    assert refreshed.status_code == 200, refreshed.text
    keys = phone.keys()
    assert keys.status_code == 200, keys.text


def is_delivered(phone: Phone) -> None:
    """The phone can open what it is sent, and verify it against the published keys."""
    claims = phone.open(phone.keys(), platform=phone.platform)
    assert claims["keys"]["maps"]["value"] == SECRETS["maps"]


def test_no_session_is_lost(old_stack: LocalStack, previous: Path, http: httpx.Client) -> None:
    stack = old_stack
    operator = Operator(stack.boto3_client("lambda"), stack.outputs["OperatorFunction"])
    policy = {"roles": ["user"]}
    operator.do("keys.put", name="maps", value=SECRETS["maps"], policy=policy, promote=True)
    phones = sign_in(stack, operator, http)
    assert len(phones) == USERS * SESSIONS_OF_EACH
    outputs, client_keys, deployed = stack.outputs, stack.client_keys, template_of(stack)

    stack.deploy(lambda _: None, root=ROOT)
    assert template_of(stack) != deployed
    kept = {name: value for name, value in outputs.items() if name.endswith(KEPT)}
    assert kept.items() <= stack.outputs.items()
    assert stack.client_keys == client_keys
    dynamodb = stack.boto3_client("dynamodb")
    pages = dynamodb.get_paginator("scan").paginate(TableName=outputs["SessionsTable"])
    rows = [session_from_item(item) for page in pages for item in page["Items"]]
    assert {row.sid for row in rows} == {phone.tokens["session_id"] for phone in phones}
    assert {row.status for row in rows} == {Status.ACTIVE}
    all_of(goes_on, phones)
    all_of(is_delivered, phones[::SESSIONS_OF_EACH])

    stack.deploy(lambda _: None, root=previous)
    assert template_of(stack) == deployed
    assert stack.outputs == outputs
    all_of(goes_on, phones)
    all_of(is_delivered, phones[::SESSIONS_OF_EACH])


def template_of(stack: LocalStack) -> dict[str, Any]:
    """Of the deployed resources, all but what gets a new name each time (AlwaysDeploy): uploaded code
    is in it under a name made of its contents."""
    client = stack.boto3_client("cloudformation")
    resources = client.get_template(StackName=stack.stack_name)["TemplateBody"]["Resources"]
    found = {}
    for name, resource in resources.items():
        properties = dict(resource.get("Properties", {}))
        properties.pop("DeploymentId", None)
        if resource["Type"] != "AWS::ApiGateway::Deployment":
            found[name] = {**resource, "Properties": properties}
    return found
