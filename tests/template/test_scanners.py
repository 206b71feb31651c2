"""cfn-lint and checkov on the template as it is written and as CloudFormation sees it: no finding
without a reason, which stands beside the resource."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyferry_cli.local.environments import ROOT, environment_program, make_environments
from tests.unit.test_events import resources as source_resources

MADE_BY_SAM = {("AWS::ApiGateway::Stage.ApiStage", "CKV_AWS_120")}
"""SAM makes the stage of the API and leaves the API's reason with the API."""


NESTED_BY_SAM = "W1028"
"""SAM puts the condition of a function around its path, its method and its integration, one inside of
the other; so what is for the condition's other value is not reachable in the inner two."""


@pytest.fixture(scope="module")
def transformed(
    variants: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("transformed") / "prod.json"
    path.write_text(json.dumps(variants["prod"]), encoding="utf-8")
    return path


def test_cfn_lint(transformed: Path) -> None:
    """`sam validate --lint`, which test_template.py runs, is cfn-lint on the source."""
    make_environments(("sam",), root=ROOT)
    done = subprocess.run(
        [
            environment_program("sam", "cfn-lint"),
            "--ignore-checks",
            NESTED_BY_SAM,
            "--",
            transformed,
        ],
        env={**os.environ, "AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.fixture(scope="module")
def unconditional(variants: dict[str, dict[str, Any]], transformed: Path) -> Path:
    """Everything that a condition may leave out, which checkov would not look at."""
    template = copy.deepcopy(variants["prod"])
    for resource in template["Resources"].values():
        resource.pop("Condition", None)
    path = transformed.with_name("everything.json")
    path.write_text(json.dumps(template), encoding="utf-8")
    return path


def test_checkov(unconditional: Path) -> None:
    make_environments(("scan",), root=ROOT)
    done = subprocess.run(
        [str(environment_program("scan", "checkov")), "--skip-download", "--compact"]
        + ["--framework=cloudformation", "--output=json"]
        + ["--file", str(ROOT / "template.yaml"), str(unconditional)],
        cwd=unconditional.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    results = report["results"]
    failed = {(each["resource"], each["check_id"]) for each in results["failed_checks"]}
    assert failed == MADE_BY_SAM
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 300  # of both templates: it has looked
    skipped = {(each["resource"], each["check_id"]) for each in results["skipped_checks"]}
    for resource, check, _ in reasons():
        assert any(name.endswith(f".{resource}") and check == id_ for name, id_ in skipped), (
            f"{resource} passes {check}, so its reason can go"
        )


def test_a_reason_is_a_reason() -> None:
    found = list(reasons())
    assert ("Api", "CKV_AWS_120") in {(resource, check) for resource, check, _ in found}
    for resource, check, comment in found:
        assert len(comment.split()) >= 6, (resource, check)


def reasons() -> Iterator[tuple[str, str, str]]:
    for name, resource in source_resources().items():
        for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
            yield name, skip["id"], skip["comment"]
