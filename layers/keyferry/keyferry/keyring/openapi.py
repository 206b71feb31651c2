"""``GET /openapi.json``: the OpenAPI document of the interface, with this stack's URL as its server.

Only where the operator has switched it on (``ServeOpenApi``), and only for callers that IAM lets in. There
is nothing secret in it, but it need not be told to whoever asks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from keyferry.edge.request import Request
from keyferry.edge.response import Response, of_json
from keyferry.keyring.discovery import Discovery


@dataclass(frozen=True, slots=True)
class OpenApi:
    """``document`` is for any stack. The issuer comes from the keyring, as it is what proofs are
    made for, and not from a ``Host`` header."""

    discovery: Discovery
    document: Mapping[str, Any]

    @classmethod
    def from_environ(cls, file: Path, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(Discovery.from_environ(environ), json.loads(file.read_text(encoding="utf-8")))

    def __call__(self, _: Request) -> Response:
        return of_json({**self.document, "servers": [{"url": self.discovery.issuer()}]})
