"""Fixtures shared by all suites: a clean environment, one emulator, one deployed stack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keyferry_cli.local.emulator import Emulator

ROOT = Path(__file__).resolve().parents[1]


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
