"""Fixtures shared by all suites: a clean environment, one emulator, one deployed stack."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyferry_cli.local.emulator import Emulator

ROOT = Path(__file__).resolve().parents[1]
NODE_PROJECT = ROOT / "tests" / "env" / "node"


def needs(program: str) -> str:
    """The path of a program; without it the test is skipped, but never in CI."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{message}, and CI skips nothing")
        pytest.skip(message)
    return path


@pytest.fixture(autouse=True)
def clean_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may see, or reach, a real AWS account."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "KEYFERRY_", "POWERTOOLS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """An emulator without a stack: DynamoDB and KMS for the store tests."""
    from keyferry_cli.local.emulator import Emulator
    from keyferry_cli.local.environments import make_environments

    make_environments(("emulator",), root=ROOT)
    with Emulator.start(tmp_path_factory.mktemp("emulator") / "emulator.log") as started:
        yield started


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder with the locked npm packages that the tests need."""
    return npm_packages(NODE_PROJECT)


def npm_packages(project: Path) -> Path:
    """Install what a project has locked, once for each state of the lock."""
    from keyferry_cli.local.node_packages import make_node_packages

    needs("node")
    needs("npm")
    return make_node_packages(project)
