"""The servers, each a process (with its children) on 127.0.0.1, and who speaks to them."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, build_opener

import httpx
import jwt

from keyferry_cli.local.emulator import clean_environment
from keyferry_cli.local.environments import environment_program
from tests.bench.deployment import Deployment, Phone, counts, store
from tests.bench.startup import artefacts

HERE: Final = Path(__file__).parent
START_SECONDS: Final = 30.0
SERVERS: Final = {
    "Keyferry": "DPoP, JWT ES256; DynamoDB's emulator",
    "oidc-provider, DPoP": "DPoP, JWT ES256; memory",
    "oidc-provider": "no DPoP, JWT ES256; memory",
    "django-oauth-toolkit": "no DPoP, opaque; SQLite",
    "the front alone": "none: granian and an application that answers `{}`",
}
"""By name: what a refresh is there, and where the tokens are kept. Each one rotates, but the last."""


@dataclass
class Peer(ABC):
    """One client of one server: a chain of refresh tokens over one kept connection."""

    url: str
    process: int
    token: str
    path: str
    seconds: list[float] = field(default_factory=list)
    old: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        address = urlsplit(self.url)
        self.connection = http.client.HTTPConnection(
            address.hostname or "", address.port or 0, timeout=30
        )

    @abstractmethod
    def headers(self) -> dict[str, str]: ...

    def form(self, token: str) -> dict[str, str]:
        return {"grant_type": "refresh_token", "refresh_token": token}

    def send(self, token: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        body = urlencode(self.form(token)).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self.headers()}
        started = time.perf_counter()
        self.connection.request("POST", self.path, body, headers)
        response = self.connection.getresponse()
        answer = response.read()
        self.seconds.append(time.perf_counter() - started)
        told = {name.lower(): value for name, value in response.getheaders()}
        return response.status, json.loads(answer), told

    def refresh(self) -> None:
        """Raise `AssertionError` unless the answer is right; then the new token is the next one."""
        status, tokens, headers = self.send(self.token)
        assert status == 200, tokens
        assert tokens["refresh_token"] not in (self.token, *self.old[-3:])
        self.check(tokens, headers)
        self.old.append(self.token)
        self.token = tokens["refresh_token"]

    @abstractmethod
    def check(self, tokens: dict[str, Any], headers: Mapping[str, str]) -> None: ...

    def finish(self) -> None:
        """Each token was good once: one from before the last is refused."""
        status, answer, _ = self.send(self.old[-2])
        assert status == 400, answer
        assert answer["error"] in ("invalid_grant", "use_dpop_nonce"), answer
        self.connection.close()


@dataclass
class KeyferryPeer(Peer):
    deployment: Deployment | None = None
    phone: Phone | None = None

    def headers(self) -> dict[str, str]:
        assert self.phone is not None
        return {"x-api-key": "ios-key", "DPoP": self.phone.proof("POST", "/v1/token")}

    def check(self, tokens: dict[str, Any], headers: Mapping[str, str]) -> None:
        assert self.deployment is not None
        assert self.phone is not None
        told = {"DPoP-Nonce": headers["dpop-nonce"]}
        answer = {"statusCode": 200, "headers": told, "body": json.dumps(tokens)}
        self.deployment.check_tokens(self.phone, answer)


@dataclass
class NodePeer(Peer):
    client_id: str = "bearer"
    phone: Phone | None = None
    keys: dict[str, Any] = field(default_factory=dict)

    def headers(self) -> dict[str, str]:
        return {"DPoP": self.phone.proof("POST", self.path)} if self.phone else {}

    def form(self, token: str) -> dict[str, str]:
        return {**super().form(token), "client_id": self.client_id}

    def check(self, tokens: dict[str, Any], headers: Mapping[str, str]) -> None:
        access = tokens["access_token"]
        key = self.keys[jwt.get_unverified_header(access)["kid"]]
        claims = jwt.decode(
            access, key, algorithms=["ES256"], audience="https://api.example.com", issuer=self.url
        )
        bound = {"jkt": self.phone.jkt} if self.phone else None
        assert claims.get("cnf") == bound
        if self.phone:
            self.phone.nonce = headers.get("dpop-nonce", self.phone.nonce)


@dataclass
class ToolkitPeer(Peer):
    def headers(self) -> dict[str, str]:
        return {}

    def form(self, token: str) -> dict[str, str]:
        return {**super().form(token), "client_id": "app"}

    def check(self, tokens: dict[str, Any], headers: Mapping[str, str]) -> None:
        assert tokens["token_type"] == "Bearer"
        assert tokens["scope"] == "keys"
        assert len(tokens["access_token"]) >= 30


@dataclass
class FrontPeer(Peer):
    """The HTTP share of the servers that granian serves."""

    def headers(self) -> dict[str, str]:
        return {"DPoP": "x" * 600, "x-api-key": "ios-key"}

    def refresh(self) -> None:
        status, answer, _ = self.send(self.token)
        assert (status, answer) == (200, {})

    def check(self, tokens: dict[str, Any], headers: Mapping[str, str]) -> None: ...

    def finish(self) -> None:
        self.connection.close()


# ---------------------------------------------------------------- processes


@contextmanager
def granian(
    application: str, paths: Sequence[Path], environment: Mapping[str, str], log: Path
) -> Iterator[tuple[str, int]]:
    """One worker with one thread for Python, and connections that are kept: its URL and its process.

    HTTP is spoken by native code here as it is by Node.js: what is compared is what answers."""
    python = environment_program("peers", "python")
    port = free_port()
    command = [str(python), "-m", "granian", "--interface=wsgi", "--host=127.0.0.1"]
    command += [f"--port={port}", "--workers=1", "--blocking-threads=1", "--runtime-threads=1"]
    command += ["--http=1", "--no-ws", "--runtime-mode=st", application]
    settings = {
        **clean_environment(),
        **environment,
        "PYTHONPATH": os.pathsep.join(map(str, [HERE, *paths])),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, env=settings, cwd=log.parent, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until_open(port, process, log)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()


@contextmanager
def keyferry(folder: Path) -> Iterator[tuple[KeyferryPeer, int]]:
    """The built refresh function behind WSGI; and the process of its store."""
    built = artefacts(folder / "sam.log")
    paths = [built / "RefreshFunction"]
    paths += [built / layer / "python" for layer in ("KeyferryLayer", "DepsLayer")]
    with store() as endpoint, Deployment.create(endpoint, keys=1) as deployment:
        (phone,) = deployment.phones(1)
        log = folder / "keyferry.log"
        with granian("front:application", paths, deployment.environment, log) as (url, process):
            yield (
                KeyferryPeer(
                    url,
                    process,
                    phone.tokens["refresh_token"],
                    "/v1/token",
                    deployment=deployment,
                    phone=phone,
                ),
                counts(endpoint)["process"],
            )


@contextmanager
def oidc_provider(node: str, modules: Path) -> Iterator[list[NodePeer]]:
    phone = Phone(httpx.Client(), "", "")
    with subprocess.Popen(
        [node, str(HERE / "oidc_provider.mjs"), str(modules), phone.jkt],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            told = json.loads(process.stdout.readline() or "{}")
            assert told, "oidc-provider did not start"
            phone.api_url = told["url"]
            opener = build_opener(ProxyHandler({}))
            with opener.open(f"{told['url']}/jwks") as answer:
                keys = {each["kid"]: jwt.PyJWK(each).key for each in json.load(answer)["keys"]}
            yield [
                NodePeer(
                    told["url"],
                    process.pid,
                    token,
                    "/token",
                    client_id=client_id,
                    phone=phone if client_id == "bound" else None,
                    keys=keys,
                )
                for client_id, token in told["tokens"].items()
            ]
        finally:
            process.stdin.close()
            phone.http.close()


@contextmanager
def toolkit(folder: Path) -> Iterator[ToolkitPeer]:
    environment = {"PEER_DATABASE": str(folder / "toolkit.sqlite")}
    log = folder / "toolkit.log"
    with granian("toolkit:application", [], environment, log) as (url, process):
        yield ToolkitPeer(url, process, "first", "/o/token/")


@contextmanager
def front_alone(folder: Path) -> Iterator[FrontPeer]:
    with granian("empty:application", [], {}, folder / "empty.log") as (url, process):
        yield FrontPeer(url, process, "x" * 128, "/v1/token")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_open(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """The worker has loaded its application: granian listens before that."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            time.sleep(0.1)
        else:
            return
        finally:
            connection.close()
    raise AssertionError(log.read_text(errors="replace"))


def tree(process: int) -> list[int]:
    """A process and those below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(folder.name)] = int(after_name[1])
    found = [process]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def processor_seconds(process: int) -> float:
    """Of all threads that there are in the tree, from the scheduler's own account."""
    spent = 0
    for each in tree(process):
        for thread in Path(f"/proc/{each}/task").iterdir():
            spent += int((thread / "schedstat").read_text().split()[0])
    return spent / 1e9


def peak_mib(process: int) -> float:
    peaks = []
    for each in tree(process):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                peaks.append(int(line.split()[1]) / 1024)
    return sum(peaks)
