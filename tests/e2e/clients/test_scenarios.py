"""All clients do the same, and what it says in `scenarios.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import npm_packages
from tests.e2e.clients.play import SCENARIOS, Play
from tests.e2e.clients.python_apps import PythonApps
from tests.e2e.clients.script_apps import CLIENT, ScriptApps, build
from tests.e2e.fault_proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import At, Operator, PutKey

scenarios = pytest.mark.parametrize("scenario", SCENARIOS, ids=[each["name"] for each in SCENARIOS])


ABOUT_KEYS = {
    "login and keys",
    "a provider's ID token",
    "a clock three days ahead",
    "an altered delivery",
    "deliveries that are signed and wrong",
    "another encryption key",
}
"""Scenarios in which the client's two keys are all that makes a difference."""


@pytest.fixture(scope="module")
def proxy(stack: LocalStack) -> Iterator[FaultProxy]:
    with FaultProxy.start(stack.api_url) as started:
        yield started


@pytest.fixture
def play(
    stack: LocalStack,
    operator: Operator,
    configured: tuple[At, At, At],
    put_key: PutKey,
    forgiven: None,
) -> Play:
    _, anybody, _ = configured
    return Play(stack, operator, anybody, put_key)


@pytest.fixture(scope="module")
def forgiven(stack: LocalStack) -> Iterator[None]:
    """Every client fails to log in a few times, from the one address that other tests fail from too."""
    yield
    guesses = stack.boto3_client("dynamodb")
    table = stack.outputs["GuessesTable"]
    for row in guesses.scan(TableName=table)["Items"]:
        if row["id"]["S"].startswith("network#"):
            guesses.delete_item(TableName=table, Key={"id": row["id"]})
    guesses.close()


@scenarios
def test_python(play: Play, proxy: FaultProxy, scenario: dict[str, Any]) -> None:
    apps = PythonApps(proxy.url)
    play.scenario(apps, proxy, scenario)
    apps.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TypeScript client and its apps, compiled strictly."""
    return build(npm_packages(CLIENT), tmp_path_factory.mktemp("typescript"))


@pytest.fixture(scope="module")
def node(stack: LocalStack, built: Path) -> Iterator[tuple[ScriptApps, FaultProxy]]:
    with (
        FaultProxy.start(stack.api_url) as proxy,
        ScriptApps.on_node(built, proxy, "webcrypto") as apps,
    ):
        yield apps, proxy


@scenarios
def test_typescript_on_node(
    play: Play, node: tuple[ScriptApps, FaultProxy], scenario: dict[str, Any]
) -> None:
    play.scenario(*node, scenario)


@pytest.fixture(scope="module")
def native(stack: LocalStack, built: Path) -> Iterator[tuple[ScriptApps, FaultProxy]]:
    with (
        FaultProxy.start(stack.api_url) as proxy,
        ScriptApps.on_node(built, proxy, "native") as apps,
    ):
        yield apps, proxy


@pytest.mark.parametrize("name", sorted(ABOUT_KEYS))
def test_typescript_with_keys_of_a_native_module(
    play: Play, native: tuple[ScriptApps, FaultProxy], name: str
) -> None:
    """On Node, with the module's calls in software. The rest is what `test_typescript_on_node` runs."""
    (scenario,) = (each for each in SCENARIOS if each["name"] == name)
    play.scenario(*native, scenario)


@pytest.fixture(scope="module")
def chromium(
    stack: LocalStack, built: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ScriptApps, FaultProxy]]:
    with (
        FaultProxy.start(stack.api_url) as proxy,
        ScriptApps.in_chromium(built, proxy, tmp_path_factory.mktemp("profile")) as apps,
    ):
        yield apps, proxy


@scenarios
def test_typescript_in_chromium(
    play: Play, chromium: tuple[ScriptApps, FaultProxy], scenario: dict[str, Any]
) -> None:
    play.scenario(*chromium, scenario)


def test_chromium_keeps_keys_and_gives_none_away(
    play: Play, chromium: tuple[ScriptApps, FaultProxy]
) -> None:
    """The private keys survive a reload of the page, and WebCrypto exports none of them."""
    export = {"do": "steal_private_keys", "expect": {"value": ["InvalidAccessError"] * 4}}
    reload = {"do": "restart", "requests": {}}
    before = {"do": "thumbprint", "save": {"thumbprint": "value"}, "requests": {}}
    after = {"do": "thumbprint", "expect": {"value": "$thumbprint"}, "requests": {}}
    steps = [export | {"requests": {}}, before, reload, after, export | {"requests": {}}]
    play.scenario(*chromium, {"name": "keys in a browser", "logged_in": True, "steps": steps})
