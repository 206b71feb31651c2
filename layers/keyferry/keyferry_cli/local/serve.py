"""`make serve`: keep a local stack up, with lines to copy that talk to it."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from keyferry_cli.local.command import keyferry
from keyferry_cli.local.emulator import termination_as_exit
from keyferry_cli.local.environments import ROOT, EnvironmentFailedError
from keyferry_cli.local.reference_page import files, served
from keyferry_cli.local.stack import LocalStack, LocalStackError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

USERNAME = "ana"


def prepare(
    stack: LocalStack, folder: Path, *, username: str = USERNAME, key: str = "gemini"
) -> None:
    """A user, a key, and a folder from which the lines of `curl_lines` work."""
    password = secrets.token_urlsafe(12)
    keyferry(stack, "users", "add", username, "--role", "analyst", secret=password)
    policy = ("--role", "analyst", "--platform", "*")
    keyferry(
        stack, "keys", "put", key, *policy, "--promote", secret="AIza" + secrets.token_urlsafe(26)
    )
    (folder / "password.txt").write_text(password + "\n")
    settings = {
        "URL": stack.api_url,
        "KEY": stack.client_keys["ios"],
        "ANDROID_KEY": stack.client_keys["android"],
    }
    (folder / "settings").write_text(
        "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())
    )
    _script(folder / "phone", "keyferry_client", {})
    _script(
        folder / "keyferry",
        "keyferry_cli",
        {**stack.environment, "KEYFERRY_STACK": stack.stack_name},
    )


def curl_lines(stack: LocalStack, folder: Path, *, username: str = USERNAME) -> str:
    """A login, a delivery and a refresh for a shell, each a line of its own.

    `./phone` is `python -m keyferry_client`: it signs the DPoP proof, which curl can not, and hands
    it over in curl's configuration format.
    """
    post = 'curl -sS -K - -H "x-api-key: $KEY"'
    return f"""\
cd {shlex.quote(str(folder))}
URL={stack.api_url}
KEY={stack.client_keys["ios"]}
./phone login-body {username} < password.txt > login.json
./phone proof POST $URL/v1/login | {post} -H 'content-type: application/json' -d @login.json -o session.json $URL/v1/login
./phone proof GET $URL/v1/keys --session session.json | {post} -o keys.jwe $URL/v1/keys
./phone open keys.jwe --session session.json --issuer $URL
./phone proof POST $URL/v1/token --refresh session.json | {post} -f -o next.json $URL/v1/token && mv next.json session.json
./keyferry keys list
./keyferry sessions revoke {username}
"""


@contextmanager
def reached_by(link: Path, folder: Path) -> Iterator[None]:
    """``link`` leads to ``folder``; afterwards to where it led before, if that is there still. Of
    several stacks the last one to be started has it."""
    link.parent.mkdir(exist_ok=True)
    before = link.readlink() if link.is_symlink() else None
    link.unlink(missing_ok=True)
    link.symlink_to(folder, target_is_directory=True)
    try:
        yield
    finally:
        if link.is_symlink() and link.readlink() == folder:
            link.unlink()
            if before is not None and before.is_dir():
                link.symlink_to(before, target_is_directory=True)


def _script(path: Path, module: str, environment: Mapping[str, str]) -> None:
    wanted = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry), **environment}
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in wanted.items())
    path.write_text(f'#!/bin/sh\n{settings} exec {shlex.quote(sys.executable)} -m {module} "$@"\n')
    path.chmod(0o700)


def main() -> int:
    try:
        with (
            termination_as_exit(),
            LocalStack.start(progress=print) as stack,
            # Readable by its owner only, and gone at the end.
            tempfile.TemporaryDirectory(prefix="keyferry-") as name,
        ):
            folder = Path(name)
            prepare(stack, folder)
            print("interface: preparing its page", flush=True)
            with (
                reached_by(ROOT / ".cache" / "serve", folder),
                _interface(stack) as interface,
            ):
                print(_welcome(stack, folder, interface), flush=True)
                # A signal that comes just before a wait without an end would never end it.
                while not threading.Event().wait(1):
                    pass
    except (LocalStackError, RuntimeError) as failure:
        print(f"serve: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing is left running, and the stack's data is gone.")
    return 0


@contextmanager
def _interface(stack: LocalStack) -> Iterator[str]:
    """Where the interface can be read while the block runs, or why it can not."""
    try:
        content = files(stack.api_url)
    except EnvironmentFailedError as failure:
        yield f"docs/openapi.json; no page: {failure}"
        return
    with served(content) as url:
        yield url


def _welcome(stack: LocalStack, folder: Path, interface: str) -> str:
    password = (folder / "password.txt").read_text().strip()
    return f"""
URL                  {stack.api_url}
client key, ios      {stack.client_keys["ios"]}
client key, android  {stack.client_keys["android"]}
login                {USERNAME} / {password}
interface, to read   {interface}
AWS endpoint         {stack.endpoint_url}  (credentials test / test, region us-east-1)
logs                 {stack.folder}

In another terminal, `cd .cache/serve && . ./settings` is the beginning of the guides in docs/mobile; or copy these:

{curl_lines(stack, folder)}
Ctrl-C ends it."""


if __name__ == "__main__":
    sys.exit(main())
