"""`make demo`: the whole system at work on this machine, told step by step.

A stack is deployed to a local emulator of AWS. An operator creates a user and a key with the
`keyferry` command. Then a phone, which is the reference client of docs/clients/python, goes through
a day of its life over HTTP, with lost replies, thieves and throttling. Every step checks what it
claims; the exit status is 0 only if all of it held.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from keyferry_cli.local.command import keyferry
from keyferry_cli.local.demo_page import page
from keyferry_cli.local.emulator import termination_as_exit
from keyferry_cli.local.environments import ROOT
from keyferry_cli.local.stack import LocalStack, LocalStackError
from keyferry_client import (
    Config,
    KeyferryClient,
    KeyferryError,
    LoggedOut,
    MemoryStorage,
    PersistedState,
    SoftwareDeviceKeys,
)

_USERNAME = "ana"
_KEY_NAME = "gemini"
_DOCUMENTS = {
    "/.well-known/openid-configuration": "metadata",
    "/.well-known/jwks.json": "JWKS",
}
_FLOOD = 80  # logins; the usage plan of stage dev lets 20 through at once, then 5 a second


class DidNotHold(Exception):
    """A step of the demonstration saw something else than it should have."""


def require(claim: str, holds: bool) -> None:
    # Not `assert`, which `python -O` removes.
    if not holds:
        raise DidNotHold(claim)


def shortened(secret: str) -> str:
    return f"{secret[:4]}…{secret[-4:]}"


@dataclass(slots=True)
class Wire(httpx.BaseTransport):
    """The phone's network: remembers what went over it, and can lose a reply on the way back."""

    inner: httpx.BaseTransport = field(default_factory=httpx.HTTPTransport)
    exchanges: list[tuple[httpx.Request, httpx.Response]] = field(default_factory=list)
    lose_reply_of: str | None = None
    """Path whose next reply is lost."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self.inner.handle_request(request)
        # The server has done its part by now; only then can its reply be lost.
        response.read()
        self.exchanges.append((request, response))
        if self.lose_reply_of and request.url.path.endswith(self.lose_reply_of):
            self.lose_reply_of = None
            raise httpx.ReadTimeout("the reply was lost", request=request)
        return response

    def close(self) -> None:
        self.inner.close()


@dataclass(slots=True)
class Phone:
    """An app on a device: its keys, its secure storage, its network."""

    config: Config
    device: SoftwareDeviceKeys = field(default_factory=SoftwareDeviceKeys.generate)
    storage: MemoryStorage = field(default_factory=MemoryStorage)
    wire: Wire = field(default_factory=Wire)

    def start(self) -> KeyferryClient:
        """Start the app; what it held in memory only is gone."""
        http = httpx.Client(transport=self.wire, timeout=self.config.timeout)
        return KeyferryClient(
            self.config, self.device, self.storage, http=http, sleep=lambda _: None
        )

    def stored(self) -> PersistedState:
        state = self.storage.load()
        if state is None:
            raise DidNotHold("the phone has a session in its storage")
        return state


@dataclass(slots=True)
class Step:
    """One row of the summary."""

    title: str
    seen: str = ""
    http: str = ""
    dynamodb: Counter[str] = field(default_factory=Counter)
    kms: Counter[str] = field(default_factory=Counter)


class Demonstration:
    """The steps, in order. Each leaves a row in `steps`."""

    def __init__(self, stack: LocalStack, console: Console) -> None:
        self._stack = stack
        self._console = console
        self.steps: list[Step] = []
        self._password = secrets.token_urlsafe(18)
        self._value = "AIza" + secrets.token_urlsafe(26)
        self._wire = Wire()
        self._phone = self._new_phone("ios")
        self._tablet = self._new_phone("ios")

    def run(self) -> None:
        for act in (
            self._operator_prepares,
            self._phone_logs_in,
            self._key_is_delivered,
            self._phone_refreshes,
            self._same_again_warm,
            self._reply_is_lost,
            self._thief_without_device_key,
            self._thief_with_cloned_device,
            self._flood_is_throttled,
        ):
            act()

    # ── scaffolding ────────────────────────────────────────────────────────────

    def _new_phone(self, platform: str) -> Phone:
        config = Config(
            issuer=self._stack.api_url,
            client_id=platform,
            client_key=self._stack.client_keys[platform],
            timeout=30,
        )
        return Phone(config, wire=self._wire)

    @contextmanager
    def _step(self, title: str) -> Iterator[Step]:
        step = Step(title)
        self._wire.exchanges.clear()
        with self._console.status(f"{title} …"), self._stack.count_calls() as calls:
            yield step
        step.dynamodb, step.kms = calls.dynamodb, calls.kms
        step.http = step.http or _lines(self._answers())
        self.steps.append(step)
        self._console.print(f"[green]✓[/] [bold]{escape(title)}[/]")
        self._console.print(Padding(Text(step.seen), (0, 0, 0, 2)))

    def _answers(self) -> list[tuple[str, int]]:
        """What the API was asked in this step, and how it answered; discovery is left out."""
        return [
            answer for answer in self._all_answers() if not answer[0].startswith("/.well-known")
        ]

    def _all_answers(self) -> list[tuple[str, int]]:
        below = len(httpx.URL(self._stack.api_url).path)
        return [
            (request.url.path[below:].removeprefix("/v1/"), response.status_code)
            for request, response in self._wire.exchanges
        ]

    def _logged_out(self, call: Callable[[], object], claim: str) -> None:
        try:
            call()
        except LoggedOut:
            return
        raise DidNotHold(claim)

    # ── steps ────────────────────────────────────────────────────────────

    def _operator_prepares(self) -> None:
        with self._step("The operator adds a user and a key") as step:
            user = keyferry(
                self._stack, "users", "add", _USERNAME, "--role", "analyst", secret=self._password
            )
            policy = ("--role", "analyst", "--platform", "*")
            put = ("keys", "put", _KEY_NAME, *policy)
            pending = keyferry(self._stack, *put, secret=self._value)["pending"]["number"]
            key = keyferry(self._stack, "keys", "promote", _KEY_NAME, "--version", str(pending))
            listed = keyferry(self._stack, "keys", "list")
            require("the user exists", user["username"] == _USERNAME)
            require("the key is listed", [row["name"] for row in listed["keys"]] == [_KEY_NAME])
            require("no value is listed", self._value not in str(listed))
            step.http = "IAM"
            step.seen = (
                f"keyferry users add {_USERNAME} --role analyst; keyferry keys put {_KEY_NAME}"
                f" --role analyst --platform '*'; keyferry keys promote {_KEY_NAME}"
                f" → version {key['current']['number']}"
            )

    def _phone_logs_in(self) -> None:
        with self._step("Discovery and login") as step:
            client = self._phone.start()
            state = client.login(
                _USERNAME, self._password, device_name="Ana's phone", app_version="1.0.0"
            )
            require("the tokens are bound to the device", state == self._phone.stored())
            require("the refresh token has its prefix", state.refresh_token.startswith("kfr_"))
            step.http = _lines(
                (_DOCUMENTS.get(path, path), status) for path, status in self._all_answers()
            )
            step.seen = (
                f"refresh token {shortened(state.refresh_token)}, access token"
                f" {shortened(state.access_token)} with a good signature, bound to the device key"
            )

    def _key_is_delivered(self) -> None:
        with self._step("The key arrives encrypted and is opened") as step:
            client = self._phone.start()
            key = client.key(_KEY_NAME)
            require("the value is the operator's", key.value == self._value)
            body = self._delivered_body()
            require("the value is not in the reply", self._value not in body)
            step.seen = (
                f"JWE {shortened(body)} decrypted, signature and sender verified:"
                f" {_KEY_NAME} = {shortened(key.value)}"
            )

    def _delivered_body(self) -> str:
        for request, response in self._wire.exchanges:
            if "/v1/keys" in request.url.path and response.status_code == 200:
                return response.text
        raise DidNotHold("a key was delivered")

    def _phone_refreshes(self) -> None:
        with self._step("Refresh") as step:
            before = self._phone.stored()
            after = self._phone.start().refresh()
            require("the refresh token is another one", after.refresh_token != before.refresh_token)
            require("the access token is another one", after.access_token != before.access_token)
            require("the session is the same", after.session_id == before.session_id)
            step.seen = f"{shortened(before.refresh_token)} → {shortened(after.refresh_token)}"

    def _same_again_warm(self) -> None:
        client = self._tablet.start()
        with self._step("Login of a second device, warm") as step:
            client.login(_USERNAME, self._password, device_name="Tablet", app_version="1.0.0")
            step.seen = "the functions are warm now; this is what a call costs from here on"
        require("a warm login makes at most 4 DynamoDB calls", step.dynamodb.total() <= 4)
        require("a warm login makes no KMS call", not step.kms)
        with self._step("Key delivery, warm") as step:
            require("the value arrives", client.key(_KEY_NAME).value == self._value)
            step.seen = "session, user and policy are read again; the opened key was in memory"
        require("a warm delivery makes no KMS call", not step.kms)
        with self._step("Refresh, warm") as step:
            client.refresh()
            step.seen = "one conditional write decides everything"
        require("a warm refresh is one write", step.dynamodb == {"UpdateItem": 1})
        require("a warm refresh makes no KMS call", not step.kms)

    def _reply_is_lost(self) -> None:
        with self._step("A reply is lost and asked for again") as step:
            before = self._phone.stored()
            client = self._phone.start()
            self._wire.lose_reply_of = "/v1/token"
            after = client.refresh()
            replies = [
                (request.content, response.json()["refresh_token"])
                for request, response in self._wire.exchanges
                if request.url.path.endswith("/v1/token")
            ]
            require("the request was sent twice", len(replies) == 2)
            require("with the same token", replies[0][0] == replies[1][0])
            require("the successor is the same", replies[0][1] == replies[1][1])
            require("the phone moved on", after.refresh_token == replies[0][1])
            require("and was not logged out", after.session_id == before.session_id)
            step.seen = (
                f"the same token sent twice, both replies hold {shortened(after.refresh_token)}"
            )

    def _thief_without_device_key(self) -> None:
        with self._step("Stolen token, no device key") as step:
            stolen = self._phone.stored()
            thief = self._new_phone("ios")
            thief.storage = MemoryStorage(stolen)
            self._logged_out(thief.start().refresh, "the thief is refused")
            require("with an error of the token endpoint", self._answers() == [("token", 400)])
            after = self._phone.start().refresh()
            require("the owner goes on", after.session_id == stolen.session_id)
            step.seen = "invalid_grant for the thief; the owner refreshes as if nothing had been"

    def _thief_with_cloned_device(self) -> None:
        with self._step("Stolen old token, cloned device") as step:
            old = self._phone.stored()
            owner = self._phone.start()
            for _ in range(2):
                owner.refresh()
            # A nonce of the second in which the session moved on last is no newer than that.
            time.sleep(1.1)
            self._wire.exchanges.clear()
            clone = replace(self._phone, storage=MemoryStorage(old))
            self._logged_out(clone.start().refresh, "the old token is refused")
            self._logged_out(self._phone.start().keys, "no key is delivered any more")
            require(
                "replay (asked for a nonce first), delivery and refresh are refused, in that order",
                self._answers() == [("token", 400), ("token", 400), ("keys", 401), ("token", 400)],
            )
            require("the app knows that it is logged out", self._phone.storage.load() is None)
            step.seen = "reuse detected: the session is dead for both, and delivers no key"

    def _flood_is_throttled(self) -> None:
        with self._step(f"{_FLOOD} logins in a rush") as step:
            url = f"{self._stack.api_url}/v1/login"
            headers = {"x-api-key": self._stack.client_keys["android"]}
            with httpx.Client(timeout=30, trust_env=False) as http, ThreadPoolExecutor(4) as pool:
                replies = list(
                    pool.map(lambda _: http.post(url, headers=headers, json={}), range(_FLOOD))
                )
            statuses = Counter(reply.status_code for reply in replies)
            require("some attempts were throttled", statuses[429] > 0)
            require("the others were answered", statuses[400] + statuses[429] == _FLOOD)
            throttled = next(reply for reply in replies if reply.status_code == 429)
            told = throttled.json()
            require("with an error of ours", told["error"] == "temporarily_unavailable")
            require("and a time to wait", int(throttled.headers["Retry-After"]) > 0)
            self._tablet.start().refresh()
            step.http = "\n".join(
                f"{count} times {status}" for status, count in sorted(statuses.items())
            )
            step.seen = (
                f"429 {told['error']}, Retry-After {throttled.headers['Retry-After']}, from the"
                " usage plan of android; a phone of the ios plan goes on"
            )


def _lines(answers: Iterable[tuple[str, int]]) -> str:
    return "\n".join(f"{path} {status}" for path, status in answers)


def _cost(calls: Counter[str]) -> str:
    return "\n".join(f"{count} {operation}" for operation, count in sorted(calls.items())) or "none"


def summary(steps: list[Step]) -> Table:
    """What happened, and what each step cost."""
    table = Table(
        Column("step", min_width=20),
        *(Column(name, no_wrap=True) for name in ("HTTP", "DynamoDB calls", "KMS calls")),
        title="What happened, and what it cost",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption="A function's first call, and each container more that parallel calls start,"
        " also reads and unwraps the keyring. Warm calls do not.",
    )
    for step in steps:
        cells = (step.title, step.http, _cost(step.dynamodb), _cost(step.kms))
        table.add_row(*(Text(cell) for cell in cells), end_section=True)
    return table


def main() -> int:
    console = Console(highlight=False)
    started = time.monotonic()
    try:
        with termination_as_exit(), _stack(console) as stack:
            demonstration = Demonstration(stack, console)
            demonstration.run()
    except (LocalStackError, DidNotHold, KeyferryError, RuntimeError, httpx.HTTPError) as failure:
        console.print(
            Text(f"✗ {type(failure).__name__}: {failure}", style="bold red"), soft_wrap=True
        )
        return 1
    except KeyboardInterrupt:
        console.print("Stopped; nothing is left running.")
        return 130
    console.print(summary(demonstration.steps))
    seconds = time.monotonic() - started
    told = ROOT / ".cache" / "demo.html"
    told.write_text(
        page(demonstration.steps, seconds=seconds, pictures=ROOT / "docs" / "img"),
        encoding="utf-8",
    )
    console.print(f"Everything held, in {seconds:.0f} s; nothing is left running.")
    console.print(f"To look at in a browser: {told.as_uri()}", soft_wrap=True)
    return 0


@contextmanager
def _stack(console: Console) -> Iterator[LocalStack]:
    started = time.monotonic()
    with console.status("starting …") as status:

        def progress(message: str) -> None:
            status.update(escape(message))
            console.print(
                f"[dim]{time.monotonic() - started:5.1f} s  {escape(message)}[/]", soft_wrap=True
            )

        stack = LocalStack.start(progress=progress)
    with stack:
        yield stack


if __name__ == "__main__":
    sys.exit(main())
