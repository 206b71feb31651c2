""".github/workflows: what a fork runs, with the least rights and without a stored credential.

`make lint` has them checked by zizmor too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path: Path) -> dict[Any, Any]:
    loaded: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in load(path)["jobs"].values() for step in job["steps"]]


def test_nothing_is_permitted_but_by_a_job(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        wanted = {"contents": "read"} | ({"id-token": "write"} if name == "deploy" else {})
        assert job["permissions"] == wanted
        assert job["timeout-minutes"] <= 60


def test_no_secret_is_stored(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "secrets." not in text
    assert not re.search(r"access[-_]key|AKIA", text, re.IGNORECASE)


def test_an_action_is_one_commit(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    for each in used:
        assert re.fullmatch(r"(actions|aws-actions)/[a-z-]+@[0-9a-f]{40}", each), each
    for line in re.findall(r"uses: .*", path.read_text(encoding="utf-8")):
        assert re.search(r" # v\d+\.\d+\.\d+$", line), "and says which version that is"


def test_the_checkout_keeps_no_token(path: Path) -> None:
    (checkout,) = [s for s in steps(path) if s.get("uses", "").startswith("actions/checkout@")]
    assert checkout["with"]["persist-credentials"] is False


def test_where_the_tests_run_there_is_the_history(path: Path) -> None:
    (checkout,) = [s for s in steps(path) if s.get("uses", "").startswith("actions/checkout@")]
    tested = any(step.get("run") == ".ci/run" for step in steps(path))
    assert tested == (checkout["with"].get("fetch-depth") == 0)


def test_no_script_is_put_together_from_what_somebody_wrote(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", "")


def test_what_it_runs_is_there(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for step in steps(path):
        run = step.get("run", "")
        if run.startswith("make "):
            words = [word for word in run.split()[1:] if "=" not in word]
            assert set(words) <= targets
        elif run:
            assert (ROOT / run).is_file()


def test_deployment_is_asked_for_approved_and_from_main(path: Path) -> None:
    workflow = load(path)
    jobs = workflow["jobs"]
    if "deploy" not in jobs:
        pull_requests = workflow[True]["pull_request"]  # YAML 1.1 reads `on` as a boolean
        assert pull_requests is None
        return
    assert set(workflow[True]) == {"workflow_dispatch"}
    (job,) = jobs.values()
    assert job["environment"] == "${{ inputs.environment }}"
    assert job["if"] == "github.ref == 'refs/heads/main'"
    before = [step.get("uses", step.get("run", "")).partition("@")[0] for step in job["steps"]]
    built = before.index("make validate build")
    assert built < before.index("aws-actions/configure-aws-credentials"), "no build sees them"
