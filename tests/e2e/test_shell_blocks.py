"""Whoever follows the README and the guides literally gets there: their shell blocks are run.

In a clean folder, which is what a clone has; with `make serve` started from there, as the pages say;
page by page, the blocks of one page in one shell. Caches alone are shared, so that nothing is fetched
twice. Whoever is asked a question by a command says yes.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, needs
from tests.prose import Block, blocks, pages

pytestmark = pytest.mark.xdist_group("shell blocks")

TAKEN_FOR_GRANTED = {
    "docs/keys.md": (
        "printf 'GEMINI=AIza-one\\nMAPS_IOS=AIza-two\\n' > .env\n"
        'for name in gemini new ios test maps; do printf "AIza-of-$name" > $name.key; done\n'
    ),
    "docs/proxy.md": (
        "printf AIza-of-gemini > gemini.key\nprintf a-payment-key | keyferry keys put payments\n"
    ),
}
"""What whoever reads a page has: files of theirs, and keys that other pages put there."""

SAYS = {
    "README.md": ("maps", "could not look, so nothing is known"),
    "docs/mobile/flutter.md": ("gemini\tversion ", '"jwks_uri"', "invalid_grant"),
    "docs/keys.md": ("GEMINI", "gemini"),
}
"""What the shell prints, among other things, on the way through a page."""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` would give of the working tree."""
    git = needs("git")
    folder = tmp_path_factory.mktemp("clone") / "keyferry"
    listed = subprocess.run(
        [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    (folder / ".cache").mkdir()
    for name in ("env", "build", "sam"):
        (ROOT / ".cache" / name).mkdir(exist_ok=True)
        (folder / ".cache" / name).symlink_to(ROOT / ".cache" / name)
    return folder


def environment() -> dict[str, str]:
    local = "127.0.0.1,localhost"
    return os.environ | {"COLUMNS": "140", "NO_PROXY": local, "no_proxy": local}


def served() -> Block:
    """The one block that starts the server, the same on every page."""
    (command,) = {block.text for page in pages() for block in blocks(page) if block.said == "serve"}
    return Block(ROOT / "README.md", 0, "sh", "serve", command)


@pytest.fixture(scope="module")
def server(clone: Path) -> Iterator[None]:
    log = clone.parent / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {served().text}"],
            cwd=clone,
            env=environment() | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        for _ in range(3_000):
            if "Ctrl-C ends it." in log.read_text() or process.poll() is not None:
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
        assert "Ctrl-C ends it." in log.read_text(), log.read_text()
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=120)
    assert not (clone / ".cache" / "serve").exists()


def runnable() -> list[Path]:
    """The ways in come first, as they find the stack as it was made."""
    found = [page for page in pages() if any(block.is_run for block in blocks(page))]
    return sorted(found, key=lambda page: (page.name != "README.md", page.parent.name != "mobile"))


def test_the_ways_in_are_among_them() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in runnable()}
    assert {"README.md", "docs/mobile/flutter.md", "docs/keys.md"} <= names
    assert TAKEN_FOR_GRANTED.keys() | SAYS.keys() <= names


@pytest.mark.parametrize("page", runnable(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_shell_blocks_of(page: Path, clone: Path, server: None) -> None:
    needs("curl")
    name = page.relative_to(ROOT).as_posix()
    script = "".join(
        # A comment of the page's own, so that a failure tells where it happened.
        f": {block}\n{block.text}"
        for block in blocks(page)
        if block.is_run
    )
    finished = subprocess.run(
        ["bash", "-xeuo", "pipefail", "-c", TAKEN_FOR_GRANTED.get(name, "") + script],
        cwd=clone,
        env=environment() | {"PATH": f"{clone}/.cache/serve:{os.environ['PATH']}"},
        input="y\n" * 100,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    for said in SAYS.get(name, ()):
        assert said in finished.stdout
