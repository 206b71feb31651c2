"""The session row."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from keyferry.jose.recipient import Recipient

# Authentication methods as RFC 8176 §2 names them; it has no name for "another issuer says so".
PASSWORD: Final = "pwd"
OTP: Final = "otp"
MFA: Final = "mfa"
FEDERATED: Final = "fed"


class Status(StrEnum):
    """``logged_out`` is an ending that somebody asked for; ``compromised`` is a theft seen."""

    ACTIVE = "active"
    LOGGED_OUT = "logged_out"
    COMPROMISED = "compromised"


@dataclass(frozen=True, slots=True)
class Device:
    """What the app said about the phone at login."""

    name: str
    platform: str
    app_version: str


@dataclass(frozen=True, slots=True)
class Session:
    """One login on one device. Times are seconds since the epoch; nothing here is a secret.

    ``jkt`` is the RFC 7638 thumbprint of the device key, or empty for a bearer client.
    ``encryption_key`` is the device's second key; the device may replace it. ``last_request`` is the
    invocation that made the last rotation. ``attested`` was settled at login and does not change.
    ``suspicion`` and ``suspected_at``, a generation, are explained at `sessions.rotation.suspicion`.
    """

    sub: str
    sid: str
    status: Status
    generation: int
    secret_hash: bytes = field(repr=False)
    mac_kid: str
    client_id: str
    jkt: str
    scope: str
    roles: tuple[str, ...]
    amr: tuple[str, ...]
    device: Device
    encryption_key: Recipient
    created_at: int
    rotated_at: int
    idle_expires_at: int
    absolute_expires_at: int
    last_request: str = ""
    attested: bool = False
    retry_day: int = 0
    retry_count: int = 0
    suspicion: int = 0
    suspected_at: int = 0

    def is_alive(self, now: int) -> bool:
        return self.status is Status.ACTIVE and now < self.refresh_expires_at

    @property
    def refresh_expires_at(self) -> int:
        return min(self.idle_expires_at, self.absolute_expires_at)
