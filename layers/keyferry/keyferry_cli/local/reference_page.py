"""The interface as a page to browse, for as long as `make serve` runs, on 127.0.0.1 alone.

Everything on it comes from this process: the document, and Redoc from the npm package of the linter. The page
may load nothing from anywhere else, by its Content-Security-Policy.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from keyferry_cli.local.environments import EnvironmentFailedError
from keyferry_cli.local.node_packages import make_node_packages
from keyferry_cli.openapi.document import text

BUNDLE: Final = Path("node_modules", "@redocly", "cli", "lib", "chunks", "redoc.standalone.js")

_HTML: Final = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Keyferry: the interface</title>
<style>body { margin: 0 }</style>
</head>
<body>
<div id="reference"></div>
<script type="module" src="/page.js"></script>
</body>
</html>
"""

_SCRIPT: Final = """\
import { init } from "/redoc.js";

const definition = await (await fetch("/openapi.json")).json();
init(definition, {disableTelemetry: true}, document.getElementById("reference"));
"""

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src 'self' data:;"
    " font-src data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)

Files = Mapping[str, tuple[str, bytes]]
"""Path to media type and content."""


def files(api_url: str) -> Files:
    """What the page consists of, for a stack. Raise `EnvironmentFailedError` where npm is missing."""
    bundle = make_node_packages() / BUNDLE
    if not bundle.is_file():
        raise EnvironmentFailedError(f"{BUNDLE} is not there: has the package changed?")
    return {
        "/": ("text/html; charset=utf-8", _HTML.encode()),
        "/page.js": ("text/javascript; charset=utf-8", _SCRIPT.encode()),
        "/redoc.js": ("text/javascript; charset=utf-8", bundle.read_bytes()),
        "/openapi.json": ("application/json", text(api_url).encode()),
    }


@contextmanager
def served(content: Files) -> Iterator[str]:
    """Serve some files while the block runs; gives the URL."""

    class Handler(_Handler):
        files = content

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    files: Files

    def do_GET(self) -> None:
        port = self.server.server_address[1]  # type: ignore[index]
        # A name that somebody's DNS lets point here must not make this page part of theirs.
        if self.headers.get("Host") != f"127.0.0.1:{port}":
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return
        if self.path not in self.files:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        media_type, body = self.files[self.path]
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- as in the base
        pass
