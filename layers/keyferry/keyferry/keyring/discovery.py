"""The public documents: JWK Set, and metadata by OpenID Connect Discovery and RFC 8414.

They say nothing secret and change rarely, so they may be cached; the JWKS for less time than the
*next* signing key is announced before it signs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from keyferry import aws, clock
from keyferry.edge.request import Request
from keyferry.edge.response import Response, of_json
from keyferry.errors import Unavailable
from keyferry.keyring.model import Keyring
from keyferry.keyring.store import KeyringStore

MAX_AGE_SECONDS: Final = 300
"""How long others may keep the documents."""

READ_AGAIN_SECONDS: Final = 60
"""How long this function keeps the row: as long as the others keep theirs."""

_PUBLIC: Final = {"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"}


@dataclass(slots=True)
class Discovery:
    """Reads the keyring row and no key: its function has no right to unwrap one."""

    store: KeyringStore
    now: Callable[[], int]
    _keyring: Keyring | None = None
    _read_at: int = field(default=0)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(KeyringStore(aws.dynamodb(), environ["KEYFERRY_KEYRING_TABLE"]), clock.now)

    def jwks(self, _: Request) -> Response:
        return of_json(self._read().jwks(), headers=_PUBLIC)

    def metadata(self, _: Request) -> Response:
        return of_json(metadata(self._read().issuer), headers=_PUBLIC)

    def issuer(self) -> str:
        return self._read().issuer

    def _read(self) -> Keyring:
        now = self.now()
        if self._keyring is None or not 0 <= now - self._read_at < READ_AGAIN_SECONDS:
            self._keyring = self.store.read()
            self._read_at = now
        if self._keyring is None:
            raise Unavailable("keyring: not there yet")
        return self._keyring


def metadata(issuer: str) -> dict[str, Any]:
    """RFC 8414 §2, with the members of OpenID Connect Discovery §3 that its clients insist on."""
    return {
        "issuer": issuer,
        "token_endpoint": f"{issuer}/v1/token",
        "revocation_endpoint": f"{issuer}/v1/revoke",
        "jwks_uri": f"{issuer}/.well-known/jwks.json",
        "grant_types_supported": ["refresh_token"],
        "response_types_supported": [],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "dpop_signing_alg_values_supported": ["ES256", "EdDSA"],
        "scopes_supported": ["keys"],
        "keyferry_login_endpoint": f"{issuer}/v1/login",
        "keyferry_keys_endpoint": f"{issuer}/v1/keys",
        "keyferry_sessions_endpoint": f"{issuer}/v1/sessions",
    }
