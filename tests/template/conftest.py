"""The template after the SAM transform, in the variants that the tests compare."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from keyferry_cli.local.environments import environment_program, make_environments

ROOT = Path(__file__).resolve().parents[2]

VARIANTS: dict[str, dict[str, Any]] = {
    "dev": {"parameters": {}, "artifacts": {}},
    "prod": {"parameters": {"Stage": "prod"}, "artifacts": {}},
    "new DepsLayer": {"parameters": {}, "artifacts": {"DepsLayer": "s3://bucket/changed"}},
    "new KeyferryLayer": {"parameters": {}, "artifacts": {"KeyferryLayer": "s3://bucket/changed"}},
}


def transformed(
    variants: dict[str, dict[str, Any]], template: Path = ROOT / "template.yaml"
) -> dict[str, dict[str, Any]]:
    """A template as CloudFormation sees it after the SAM transform, for each of the variants."""
    make_environments(("sam",), root=ROOT)
    done = subprocess.run(
        [environment_program("sam", "python"), Path(__file__).with_name("transform.py")],
        input=json.dumps({"template": str(template), "variants": variants}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="session")
def variants() -> dict[str, dict[str, Any]]:
    return transformed(VARIANTS)


@pytest.fixture(scope="session")
def template(variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return variants["dev"]


@pytest.fixture(scope="session")
def resources(template: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = template["Resources"]
    return found
