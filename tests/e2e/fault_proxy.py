"""A proxy on this machine between a client and the API, that loses, delays, refuses and alters replies.

Clients reach it in one of two ways: as an HTTP proxy, or as the server itself, by a transport that sends
there what is for the issuer. Either way the proof names the issuer, which is what the server checks.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

import httpx

_PATIENCE = 20.0
"""Seconds that a reply is held for at most, if the client does not give up before."""

_OF_THE_CONNECTION = {
    "connection",
    "content-encoding",  # a body is read, and then sent as it is
    "content-length",
    "date",
    "host",
    "proxy-connection",
    "transfer-encoding",
}

Swap = Callable[[httpx.Response], httpx.Response]
Site = Callable[[str, str, bytes], httpx.Response]
"""What the proxy serves by itself, by method, path and body."""


@dataclass(frozen=True)
class Drop:
    """The server has done it all, and its reply is lost."""


@dataclass(frozen=True)
class Hold:
    """The server has done it all, and its reply does not come while the client waits."""


@dataclass(frozen=True)
class Answer:
    """The server is not asked: what a gateway or a captive portal says in its place."""

    status: int
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Replace:
    """The server is asked, and the client gets something else."""

    swap: Swap


@dataclass(frozen=True)
class Rewrite:
    """The server gets another body."""

    rewrite: Callable[[bytes], bytes]


Fault = Drop | Hold | Answer | Replace | Rewrite


@dataclass
class Seen:
    """One request, and what the client got for it. ``at`` is by a clock that never steps."""

    route: str
    at: float
    status: int | None = None
    """None while there is no reply, and for ever when none was given."""


@dataclass
class FaultProxy:
    issuer: str
    url: str = ""
    site: Site | None = None
    """Asked for whatever is below `/-/`: a page, from the same origin as the API."""

    swap: Swap = lambda response: response
    """What becomes of every delivery that no fault is for."""

    rewrite: Callable[[bytes], bytes] = lambda body: body
    seen: list[Seen] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)
    """As they went to the server."""

    deliveries: list[httpx.Response] = field(default_factory=list)
    """As they came from the server."""

    swapped: int = 0
    faults: dict[str, deque[Fault | None]] = field(default_factory=dict)
    """By route, the next one first; None lets one request through."""

    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    @contextmanager
    def start(cls, issuer: str) -> Iterator[Self]:
        proxy = cls(issuer)
        with (
            httpx.Client(timeout=60, trust_env=False) as http,
            ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, http)) as server,
        ):
            proxy.url = f"http://127.0.0.1:{server.server_port}"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            thread.start()
            try:
                yield proxy
            finally:
                server.shutdown()
                thread.join()

    def inject(self, route: str, *faults: Fault | None) -> None:
        """For the next requests to ``route``, such as `POST /v1/token`, in this order."""
        with self._lock:
            self.faults.setdefault(route, deque()).extend(faults)

    def arrived(self, method: str, path: str) -> tuple[Seen, Fault | None]:
        route = f"{method} {path.removeprefix(urlsplit(self.issuer).path).partition('?')[0]}"
        with self._lock:
            seen = Seen(route, time.monotonic())
            self.seen.append(seen)
            waiting = self.faults.get(route)
            return seen, waiting.popleft() if waiting else None

    def forward(
        self, http: httpx.Client, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> httpx.Response:
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(self.issuer))
        while True:
            request = http.build_request(method, origin + path, headers=headers, content=body)
            response = http.send(request)
            # The usage plan of the local stack is for all tests together. Its refusals, which alone
            # have no nonce, are not what is looked at here.
            if response.status_code != 429 or "DPoP-Nonce" in response.headers:
                break
            time.sleep(float(response.headers.get("Retry-After", "1")))
        self.requests.append(request)
        return response

    def exchange(
        self,
        http: httpx.Client,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        *,
        hold: Callable[[], None],
    ) -> tuple[httpx.Response | None, Seen]:
        """The reply that the client is to get. None: the connection is to end without one, which
        ``hold`` puts off.
        """
        seen, fault = self.arrived(method, path)
        match fault:
            case Answer(status, text, more):
                return httpx.Response(status, text=text, headers=more), seen
            case Rewrite(rewrite):
                body = rewrite(body)
        response = self.forward(http, method, path, headers, self.rewrite(body))
        delivery = seen.route.startswith("GET /v1/keys") and response.status_code == httpx.codes.OK
        if delivery:
            self.deliveries.append(response)
        match fault:
            case Drop():
                return None, seen
            case Hold():
                hold()
                return None, seen
            case Replace(swap):
                self.swapped += 1
                return swap(response), seen
        if delivery:
            changed = self.swap(response)
            self.swapped += changed is not response
            return changed, seen
        return response, seen


def _handler(proxy: FaultProxy, http: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            # The form of a request to a proxy (RFC 9112 §3.2.2), or that to a server.
            parts = urlsplit(self.path)
            if parts.netloc and parts.netloc != urlsplit(proxy.issuer).netloc:
                self.send_error(502)  # a browser's own ideas
                return
            path = parts.path + (f"?{parts.query}" if parts.query else "")
            if proxy.site is not None and path.startswith("/-/"):
                self.reply(proxy.site(self.command, path, body))
                return
            headers = {n: v for n, v in self.headers.items() if n.lower() not in _OF_THE_CONNECTION}
            response, seen = proxy.exchange(
                http, self.command, path, headers, body, hold=self.wait_until_gone
            )
            if response is None:
                return
            # Before it is sent: whoever has the reply may look at once.
            seen.status = response.status_code
            self.reply(response)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 -- called by these names

        def wait_until_gone(self) -> None:
            """The client closes the connection: then there is something to read, namely nothing."""
            select.select([self.connection], [], [], _PATIENCE)

        def reply(self, response: httpx.Response) -> None:
            self.send_response(response.status_code)
            for name, value in response.headers.items():
                if name not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.content)))
            with suppress(ConnectionError):  # whoever asked has left
                self.end_headers()
                self.wfile.write(response.content)

        def log_message(self, *_: object) -> None:
            """Nothing: what passes here are credentials."""

    return Handler
