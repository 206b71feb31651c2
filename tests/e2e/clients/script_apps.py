"""Apps with the TypeScript client, for the scenarios: on Node, and in a page in Chromium.

The script asks the proxy for each step and gives it the outcome, so that nothing else is needed to drive
a browser.
"""

from __future__ import annotations

import json
import mimetypes
import os
import queue
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.conftest import ROOT, needs
from tests.prose import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.e2e.fault_proxy import FaultProxy

CLIENT = ROOT / "docs" / "clients" / "typescript"
APPS = Path(__file__).with_name("typescript_apps")

_POLL_SECONDS = 5.0
_STEP_SECONDS = 60.0


def build(modules: Path, folder: Path) -> Path:
    """Compile client, apps and the examples of its README, strictly, in ``folder``: the client as the
    package that its users get."""
    package = folder / "keyferry-client"
    shutil.copytree(CLIENT, package, ignore=shutil.ignore_patterns("node_modules", "dist"))
    (package / "node_modules").symlink_to(modules / "node_modules")
    source = shutil.copytree(APPS, folder / "source")
    for block in blocks(CLIENT / "README.md"):
        if block.language == "ts":
            (source / f"readme_{block.line}.ts").write_text(block.text, encoding="utf-8")
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "keyferry-client").symlink_to(package)
    compiler = package / "node_modules" / ".bin" / "tsc"
    for command, at in (
        ([needs("npm"), "run", "build"], package),
        ([compiler], source),
    ):
        done = subprocess.run(
            command, cwd=at, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(APPS / "page.html", folder)
    return folder


@dataclass
class ScriptApps:
    """One script that runs somewhere, and the site that it is served from."""

    folder: Path
    commands: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    outcomes: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)

    def run(self, app: Mapping[str, Any], do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        self.commands.put({"app": app, "do": do, "with": given})
        return self.outcomes.get(timeout=_STEP_SECONDS)

    def site(self, method: str, path: str, body: bytes) -> httpx.Response:
        match method, path.removeprefix("/-/"):
            case "GET", "next":
                try:
                    return httpx.Response(200, json=self.commands.get(timeout=_POLL_SECONDS))
                except queue.Empty:
                    return httpx.Response(204)
            case "POST", "done":
                self.outcomes.put(json.loads(body))
                return httpx.Response(204)
            case "GET", name if (file := self.folder / name).is_file() and ".." not in name:
                kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
                return httpx.Response(
                    200, headers={"Content-Type": kind}, content=file.read_bytes()
                )
            case _:
                return httpx.Response(404)

    @classmethod
    @contextmanager
    def on_node(cls, folder: Path, proxy: FaultProxy, kind: str) -> Iterator[ScriptApps]:
        """``kind``: where the keys are, `webcrypto` or `native`."""
        script = folder / "apps" / "node.js"
        with cls(folder)._running(proxy, [needs("node"), str(script), proxy.url, kind]) as apps:
            yield apps

    @classmethod
    @contextmanager
    def in_chromium(cls, folder: Path, proxy: FaultProxy, profile: Path) -> Iterator[ScriptApps]:
        """A page of the issuer's own origin. All that the browser asks for goes to the proxy, so URLs are the
        issuer's and so are the proofs about them; a page from elsewhere could not ask the API, which has
        no CORS.
        """
        origin = str(httpx.URL(proxy.issuer).copy_with(path="/-/page.html"))
        options = [
            "--headless=new",
            "--no-sandbox",  # of which root has none; there is no page but this one
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-extensions",
            "--disable-sync",
            "--no-first-run",
            "--password-store=basic",
            f"--user-data-dir={profile}",
            f"--proxy-server={proxy.url}",
            "--proxy-bypass-list=<-loopback>",  # by default the proxy is not asked for 127.0.0.1
        ]
        with cls(folder)._running(proxy, [_browser(), *options, origin]) as apps:
            yield apps

    @contextmanager
    def _running(self, proxy: FaultProxy, command: list[str]) -> Iterator[ScriptApps]:
        proxy.site = self.site
        environment = {n: v for n, v in os.environ.items() if "proxy" not in n.lower()}
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                yield self
            finally:
                process.terminate()


def _browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    return needs("chromium")
