"""docs/openapi.json in the hands of others: a linter, and a generator of clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.conftest import ROOT

DOCUMENT = ROOT / "docs" / "openapi.json"
RULES = ROOT / "tests" / "env" / "node" / "redocly.yaml"
CLIENT = Path(__file__).with_name("openapi_client.ts")


def run(node_modules: Path, program: str, *arguments: str, cwd: Path) -> None:
    done = subprocess.run(
        [str(node_modules / "node_modules" / ".bin" / program), *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "REDOCLY_TELEMETRY": "off",
            "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_has_no_fault_that_the_linter_knows(
    node_modules: Path, tmp_path: Path
) -> None:
    arguments = ["lint", f"--config={RULES}", "--format=stylish", str(DOCUMENT)]
    run(node_modules, "redocly", *arguments, cwd=tmp_path)


def test_a_client_in_typescript_is_made_of_it_and_finds_mistakes(
    node_modules: Path, tmp_path: Path
) -> None:
    run(node_modules, "openapi-typescript", str(DOCUMENT), "--output=schema.ts", cwd=tmp_path)
    shutil.copy(CLIENT, tmp_path)
    arguments = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--skipLibCheck"]
    modules = ["--module", "esnext", "--moduleResolution", "bundler", "--target", "es2022"]
    run(node_modules, "tsc", *arguments, *modules, CLIENT.name, cwd=tmp_path)
