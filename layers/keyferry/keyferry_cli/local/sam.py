"""`sam build` and `sam deploy`, as an operator would run them, against the emulator."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keyferry_cli.local.emulator import REGION, clean_environment
from keyferry_cli.local.environments import environment_program, exclusive
from keyferry_cli.local.template import for_emulator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SOURCES = (
    "template.yaml",
    "functions",
    "layers/deps",
    "layers/keyferry/Makefile",
    "layers/keyferry/keyferry",
)
"""Everything that ends up in a built artefact, or decides how it is built."""

LOCAL_CODE = ("sam.py", "template.py")
BUILDS_KEPT = 3


class SamFailedError(Exception):
    """A `sam` command failed; the message ends with what it printed."""


@dataclass(frozen=True, slots=True)
class Sam:
    """The SAM command line of the project's own environment."""

    root: Path
    log: Path
    progress: Callable[[str], None]

    def build(self) -> Path:
        """Build for this machine and return the template to deploy; a build of the same sources is used again."""
        builds = self.root / ".cache" / "build"
        builds.mkdir(parents=True, exist_ok=True)
        with exclusive(builds / "lock"):
            target = builds / self._source_digest()
            template = target / "template-local.yaml"
            if template.exists():
                self.progress("sam build: sources unchanged, using the build at hand")
                target.touch()  # so that it is the last one to be pruned
            else:
                self._build(target)
                self._prune(builds)
            return template

    def _build(self, target: Path) -> None:
        self.progress("sam build: functions and layers")
        unfinished = target.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The makefiles build the layers for this machine's Python instead of Lambda's. SAM keys its cache by source
        # folder alone, so these builds have a cache of their own for each Python.
        cache = self.root / ".cache" / "sam" / f"host-{platform.python_version()}"
        self._run(
            [
                "build",
                f"--template-file={self.root / 'template.yaml'}",
                f"--build-dir={unfinished}",
                f"--cache-dir={cache}",
                "--cached",
                "--parallel",
            ],
            cwd=self.root,
            environment={"KEYFERRY_LAYER_TARGET": "host", "KEYFERRY_PYTHON": sys.executable},
        )
        for_emulator(unfinished / "template.yaml")
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)

    def deploy(
        self,
        template: Path,
        *,
        stack: str,
        bucket: str,
        endpoint: str,
        parameters: Mapping[str, str],
    ) -> None:
        """Create or update the stack and wait until it is complete."""
        self.progress("sam deploy: creating the stack in the emulator")
        self._run(
            [
                "deploy",
                f"--template-file={template}",
                f"--stack-name={stack}",
                f"--s3-bucket={bucket}",
                f"--region={REGION}",
                "--capabilities=CAPABILITY_IAM",
                "--no-confirm-changeset",
                "--no-fail-on-empty-changeset",
                "--no-progressbar",
                "--disable-rollback",  # a function's log would go with it, and with that the reason
                "--parameter-overrides",
                *(f"{name}={value}" for name, value in parameters.items()),
            ],
            cwd=template.parent,  # not where samconfig.toml is: those are the settings for AWS
            environment={"AWS_ENDPOINT_URL": endpoint, "SAM_CLI_POLL_DELAY": "0.2"},
        )

    def _run(self, arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str]) -> None:
        command = [str(environment_program("sam", "sam", self.root)), *arguments]
        settings = {**clean_environment(), "SAM_CLI_TELEMETRY": "0", **environment}
        output: list[str] = []
        with (
            self.log.open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                cwd=cwd,
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # make and pip, which it starts, are ended with it
            ) as sam,
        ):
            log.write(f"$ sam {' '.join(arguments)}\n")
            try:
                for line in sam.stdout or ():
                    output.append(line)
                    log.write(line)
                    log.flush()
                    if line.startswith("Building layer"):
                        self.progress(f"sam build: {line.strip().removeprefix('Building ')}")
            except BaseException:
                os.killpg(sam.pid, signal.SIGKILL)
                raise
        if sam.returncode:
            tail = "".join(output[-40:])
            raise SamFailedError(f"sam {arguments[0]} failed (status {sam.returncode}):\n{tail}")

    def _source_digest(self) -> str:
        digest = hashlib.sha256(f"{platform.python_version()} {platform.platform()}".encode())
        for name, path in sorted(self._source_files().items()):
            digest.update(f"\0{name}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:20]

    def _source_files(self) -> dict[str, Path]:
        """By their names in the tree; this program's own parts are not always of the tree that it builds."""
        files = {f"local/{name}": Path(__file__).with_name(name) for name in LOCAL_CODE}
        for source in SOURCES:
            root = self.root / source
            for path in [root] if root.is_file() else root.rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    files[path.relative_to(self.root).as_posix()] = path
        return files

    @staticmethod
    def _prune(builds: Path) -> None:
        by_age = sorted(
            (path for path in builds.iterdir() if path.is_dir()),
            key=lambda path: path.stat().st_mtime,
        )
        for old in by_age[:-BUILDS_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
