"""The locks: every package pinned and hashed, nothing that ties them to one machine or registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyferry_cli.local.environments import ROOT

LOCKS = {
    path.name if path.parent.name == "env" else "layers/deps": path
    for path in [
        ROOT / "layers" / "deps" / "requirements.txt",
        *sorted((ROOT / "tests" / "env").glob("*.txt")),
    ]
}
REQUIREMENT = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", re.MULTILINE)


def requirements(lock: str) -> list[str]:
    """The logical lines of a lock: one package each, with its hashes."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*$", "", lock, flags=re.MULTILINE)).splitlines()
    return [line for line in lines if line.strip()]


def pins(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in REQUIREMENT.findall(lock):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_every_package_is_pinned_and_hashed(name: str) -> None:
    lines = requirements(LOCKS[name].read_text(encoding="utf-8"))
    assert lines
    for line in lines:
        assert REQUIREMENT.match(line), line
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", line), line


@pytest.mark.parametrize("name", sorted(LOCKS))
def test_no_registry_and_no_machine_is_named(name: str) -> None:
    lock = LOCKS[name].read_text(encoding="utf-8")
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|https?:|file:", lock)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|opt|work|usr)/", lock)


NPM_LOCKS = (
    ROOT / "tests" / "env" / "node" / "package-lock.json",
    ROOT / "docs" / "clients" / "typescript" / "package-lock.json",
)


@pytest.mark.parametrize("lock", NPM_LOCKS, ids=lambda path: path.parent.name)
def test_npm_packages_have_hashes_and_no_address(lock: Path) -> None:
    packages = json.loads(lock.read_text(encoding="utf-8"))["packages"]
    del packages[""]  # the project itself
    assert packages
    for name, package in packages.items():
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name


def test_the_tests_run_with_what_ships() -> None:
    shipped = pins(LOCKS["layers/deps"].read_text(encoding="utf-8"))
    tested = pins(LOCKS["dev.txt"].read_text(encoding="utf-8"))
    assert shipped == {name: tested[name] for name in shipped}


def test_every_wanted_package_is_locked() -> None:
    wanted = (ROOT / "layers" / "deps" / "requirements.in").read_text(encoding="utf-8")
    names = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    assert set(names) <= pins(LOCKS["layers/deps"].read_text(encoding="utf-8")).keys()


def test_a_changed_wheel_fails_the_build_of_the_layer(tmp_path: Path) -> None:
    source = tmp_path / "deps"
    shutil.copytree(ROOT / "layers" / "deps", source)
    lock = source / "requirements.txt"
    (six,) = [
        line for line in requirements(lock.read_text(encoding="utf-8")) if line.startswith("six==")
    ]
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", six) + "\n", encoding="utf-8")
    done = subprocess.run(
        ["make", "build-DepsLayer", f"ARTIFACTS_DIR={tmp_path / 'out'}"],
        cwd=source,
        env={**os.environ, "KEYFERRY_PYTHON": sys.executable, "KEYFERRY_LAYER_TARGET": "lambda"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stdout + done.stderr
