"""AWS credentials of a function: from its environment, or from the endpoint that the environment names.

Lambda sets the three variables itself. A function that is restored from a snapshot (SnapStart), and
every container, has instead an address on its own machine to ask, so that nothing that expires, and
no secret, is in the snapshot. Both are read at the first call, and never at the start.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

REFRESH_SECONDS: Final = 600
"""How long before they expire new credentials are asked for; botocore's mandatory refresh."""

FETCH_SECONDS: Final = 2.0
MAX_BYTES: Final = 64 * 1024

# The SDKs' own list: what is not a loopback address must be ECS's or EKS's (SDKs and Tools Reference
# Guide, "Container credential provider").
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_CONTAINERS: Final = frozenset({"169.254.170.2", "169.254.170.23", "fd00:ec2::23"})


class NoCredentials(Exception):
    """There are none. The text is a constant of ours."""


@dataclass(frozen=True, slots=True, eq=False)
class Credentials:
    """``expires_at`` is in seconds since the epoch, or None for what the environment holds."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    expires_at: float | None = None


@dataclass(slots=True)
class CredentialSource:
    """``now`` is in seconds since the epoch."""

    environ: Mapping[str, str] = field(repr=False)
    now: Callable[[], float]
    _held: Credentials | None = field(default=None, repr=False)

    def get(self) -> Credentials:
        """Raise `NoCredentials`."""
        held = self._held
        if held is None:
            held = self._held = self._from_environ() or self._fetched()
        elif held.expires_at is not None and held.expires_at - self.now() < REFRESH_SECONDS:
            held = self._held = self._renewed(held)
        return held

    def _from_environ(self) -> Credentials | None:
        access_key = self.environ.get("AWS_ACCESS_KEY_ID")
        secret_key = self.environ.get("AWS_SECRET_ACCESS_KEY")
        if not access_key or not secret_key:
            return None
        return Credentials(access_key, secret_key, self.environ.get("AWS_SESSION_TOKEN") or None)

    def _renewed(self, held: Credentials) -> Credentials:
        """New ones, or, should the endpoint fail, the old ones for as long as they are good."""
        try:
            return self._fetched()
        except NoCredentials:
            if held.expires_at is not None and held.expires_at > self.now():
                return held
            raise

    def _fetched(self) -> Credentials:
        host, port, target = _address(self.environ)
        headers = {"Accept": "application/json", **_authorization(self.environ)}
        try:
            document = _get(host, port, target, headers)
            return _credentials(json.loads(document))
        except (OSError, ValueError, KeyError, TypeError) as error:
            # The type alone: a text could quote the document.
            raise NoCredentials(f"container endpoint: {type(error).__name__}") from None


def _address(environ: Mapping[str, str]) -> tuple[str, int, str]:
    """Host, port and target of the endpoint. Raise `NoCredentials` for none, and for one that is not
    of this machine: whatever the environment says, a secret is asked for nowhere else."""
    relative = environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    full = environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    if not relative and not full:
        raise NoCredentials("neither in the environment nor at a container endpoint")
    parts = urlsplit(f"http://169.254.170.2{relative}" if relative else full or "")
    try:
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        raise NoCredentials("container endpoint: port") from None
    if parts.scheme != "http" or host not in _LOOPBACK | _CONTAINERS:
        raise NoCredentials("container endpoint: not of this machine")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or not target.isprintable() or " " in target:
        raise NoCredentials("container endpoint: path")
    return host, port, target


def _authorization(environ: Mapping[str, str]) -> dict[str, str]:
    """A file is read each time: whoever runs the container writes a new token into it."""
    token: str | None
    file = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
    try:
        token = Path(file).read_text("utf-8") if file else None
    except (OSError, ValueError):
        raise NoCredentials("container authorization: file") from None
    if token is None:
        token = environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if not token:
        return {}
    if not token.isascii() or not token.isprintable():
        raise NoCredentials("container authorization: not a header's value")
    return {"Authorization": token}


def _get(host: str, port: int, target: str, headers: Mapping[str, str]) -> bytes:
    # At the first need: with credentials in the environment, http.client is never loaded.
    import socket
    import time
    from http.client import HTTPException

    from keyferry import outgoing

    connected = outgoing.connect(
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), seconds=FETCH_SECONDS
    )
    try:
        with outgoing.exchange(
            connected,
            host=host,
            port=port,
            secure=False,
            deadline=time.monotonic() + FETCH_SECONDS,
            max_bytes=MAX_BYTES,
            method="GET",
            target=target,
            headers=headers,
        ) as response:
            if response.status != 200:
                raise ValueError("status")
            return outgoing.read_body(response, max_bytes=MAX_BYTES)
    except HTTPException as error:
        raise ValueError(type(error).__name__) from None


def _credentials(document: Mapping[str, Any]) -> Credentials:
    texts = [document[name] for name in ("AccessKeyId", "SecretAccessKey", "Token", "Expiration")]
    if not all(isinstance(each, str) and each and each.isprintable() for each in texts):
        raise ValueError("members")
    access_key, secret_key, token, expiration = texts
    expires_at = datetime.fromisoformat(expiration)
    if expires_at.tzinfo is None:
        raise ValueError("time without a zone")
    return Credentials(access_key, secret_key, token, expires_at.timestamp())
