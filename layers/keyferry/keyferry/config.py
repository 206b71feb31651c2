"""What the stack tells its functions through the environment. Names and numbers, never a secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

DAY: Final = 86_400
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Which deployment this is; part of every KMS encryption context."""

    app: str
    stage: str

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(app=environ["KEYFERRY_APP"], stage=environ["KEYFERRY_STAGE"])


def allows_rsa_oaep(environ: Mapping[str, str]) -> bool:
    """Whether a device's encryption key may be an RSA key. Only the exact word allows it."""
    return environ["KEYFERRY_ALLOW_RSA_OAEP"] == "true"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Lifetimes in seconds, and whether bearer clients are admitted."""

    access_seconds: int = 900
    idle_seconds: int = 7 * DAY
    absolute_seconds: int = 90 * DAY
    require_dpop: bool = True

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            access_seconds=int(environ["KEYFERRY_ACCESS_TOKEN_SECONDS"]),
            idle_seconds=cls.idle_from_environ(environ),
            absolute_seconds=int(environ["KEYFERRY_REFRESH_ABSOLUTE_DAYS"]) * DAY,
            # Only the exact word turns the proof off: a typing error must not.
            require_dpop=environ["KEYFERRY_REQUIRE_DPOP"] != "false",
        )

    @staticmethod
    def idle_from_environ(environ: Mapping[str, str]) -> int:
        """Alone, for the function that keeps the keyring: it issues no token, but must know how
        long one lives."""
        return int(environ["KEYFERRY_REFRESH_IDLE_DAYS"]) * DAY
