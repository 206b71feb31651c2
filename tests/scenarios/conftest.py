"""Scenarios run on the deployed stack, as the end-to-end tests do, or on the functions in process."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.conftest import make_cloud, table_schemas
from tests.e2e import conftest as e2e
from tests.e2e.conftest import (  # noqa: F401 -- pytest finds fixtures by name in this module
    device,
    http,
    new_device,
    operator,
    resources,
    stack,
    upstream,
    username,
)
from tests.e2e.test_secrets import lived  # noqa: F401
from tests.scenarios.system import Clients, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from keyferry_cli.local.emulator import Emulator
    from tests.contract.conftest import Cloud
    from tests.scenarios.system import Phone, System


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before xdist looks at the groups, also when this folder is named on the command line."""
    e2e.pytest_collection_modifyitems(items)


@pytest.fixture
def metrics(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[str]]:
    """The names of the metrics counted since the last call, in order."""

    def taken() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [
            metric["Name"]
            for event in events
            if "_aws" in event
            for directive in event["_aws"]["CloudWatchMetrics"]
            for metric in directive["Metrics"]
        ]

    return taken


@pytest.fixture(scope="session")
def first_cloud(emulator: Emulator) -> Cloud:
    return make_cloud(emulator.endpoint_url)


@pytest.fixture(scope="session")
def schemas() -> dict[str, dict[str, Any]]:
    return table_schemas()


@pytest.fixture(scope="session")
def clients(emulator: Emulator) -> Iterator[Clients]:
    clients = Clients(emulator.endpoint_url)
    yield clients
    clients.close()


@pytest.fixture
def cloud(first_cloud: Cloud, schemas: dict[str, dict[str, Any]]) -> Cloud:
    """Tables that nobody else uses; clients are made once, which takes longer than the tables."""
    tables = {name: f"{name}-{uuid.uuid4().hex[:8]}" for name in schemas}
    for name, table in tables.items():
        first_cloud.dynamodb.create_table(
            TableName=table, BillingMode="PAY_PER_REQUEST", **schemas[name]
        )
    return replace(first_cloud, tables=tables)


@pytest.fixture
def system(
    clients: Clients,
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    metrics: Callable[[], list[str]],
) -> Iterator[System]:
    with running(clients, cloud, monkeypatch, metrics) as system:
        yield system


@pytest.fixture
def open_system(
    clients: Clients,
    cloud: Cloud,
    monkeypatch: pytest.MonkeyPatch,
    metrics: Callable[[], list[str]],
) -> Iterator[System]:
    """As a stack with ``RequireDPoP=false``: bearer clients are admitted beside bound ones."""
    with running(clients, cloud, monkeypatch, metrics, require_dpop=False) as system:
        yield system


@pytest.fixture
def phone(system: System) -> Phone:
    return system.phone()


@pytest.fixture
def bearer(open_system: System) -> Phone:
    """A phone without a device key."""
    return open_system.phone(bound=False)
