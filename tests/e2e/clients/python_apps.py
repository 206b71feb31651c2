"""Apps with the Python client, for the scenarios."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx

from keyferry_client import (
    Config,
    KeyferryClient,
    LoggedOut,
    MemoryStorage,
    Rejected,
    Retryable,
    SoftwareDeviceKeys,
    TamperedDelivery,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DETAILS: dict[str, Any] = {"app_version": "1.0.0"}


@dataclass
class Phone:
    """What outlives the app."""

    keys: SoftwareDeviceKeys = field(default_factory=SoftwareDeviceKeys.generate)
    storage: MemoryStorage = field(default_factory=MemoryStorage)


@dataclass
class PythonApps:
    proxy: str
    phones: dict[str, Phone] = field(default_factory=dict)
    running: dict[str, KeyferryClient] = field(default_factory=dict)
    clock_offset: float = 0.0

    def close(self) -> None:
        for app in self.running.values():
            app.close()
        self.running.clear()

    def run(self, app: Mapping[str, Any], do: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """One step. The outcome is `{"value": …}` or `{"error": …}`."""
        self.clock_offset = app["clock"]
        try:
            return {"value": _STEPS[do](self, app, **given)}
        except LoggedOut:
            return {"error": "LoggedOut"}
        except TamperedDelivery:
            return {"error": "TamperedDelivery"}
        except Retryable as error:
            return {"error": "Retryable", "retry_after": error.retry_after}
        except Rejected as error:
            return {"error": "Rejected", "code": error.code, "auth_session": error.auth_session}

    def phone(self, app: Mapping[str, Any]) -> Phone:
        return self.phones.setdefault(app["device"], Phone())

    def client(self, app: Mapping[str, Any]) -> KeyferryClient:
        if app["id"] not in self.running:
            options = {"timeout": app["timeout"], "attempts": app["attempts"]}
            config = Config(app["issuer"], "ios", app["client_key"], **options)
            http = httpx.Client(proxy=self.proxy, trust_env=False, timeout=config.timeout)
            phone = self.phone(app)
            self.running[app["id"]] = KeyferryClient(
                config, phone.keys, phone.storage, http=http, clock=self.clock
            )
        return self.running[app["id"]]

    def clock(self) -> float:
        return time.time() + self.clock_offset

    def restart(self, app: Mapping[str, Any]) -> None:
        client = self.running.pop(app["id"], None)
        if client:
            client.close()

    def login(self, app: Mapping[str, Any], **given: str) -> bool:
        details = DETAILS | {"device_name": app["name"]}
        return self.client(app).login(**given, **details) is not None

    def login_with_code(self, app: Mapping[str, Any], **given: str) -> bool:
        details = DETAILS | {"device_name": app["name"]}
        return self.client(app).login_with_code(**given, **details) is not None

    def login_with_id_token(self, app: Mapping[str, Any], **given: Any) -> bool:
        details = DETAILS | {"device_name": app["name"]}
        return self.client(app).login_with_id_token(**given, **details) is not None

    def replace_encryption_key(self, app: Mapping[str, Any], *, new: bool) -> bool:
        if new:
            self.phone(app).keys.renew_encryption_key()
        self.client(app).replace_encryption_key()
        return True

    def proxy_request(self, app: Mapping[str, Any], **given: Any) -> list[Any]:
        answer = self.client(app).proxy(**given)
        return [answer.status, answer.body.decode()]

    def together(
        self, _: Mapping[str, Any], *, apps: list[Mapping[str, Any]], times: int, do: str
    ) -> dict[str, int]:
        for app in apps:
            self.client(app)
        with ThreadPoolExecutor(times * len(apps)) as pool:
            found = set(pool.map(lambda app: _STEPS[do](self, app), apps * times))
        return {"different": len(found)}


_STEPS: dict[str, Callable[..., Any]] = {
    "restart": PythonApps.restart,
    "login": PythonApps.login,
    "login_with_code": PythonApps.login_with_code,
    "login_with_id_token": PythonApps.login_with_id_token,
    "id_token_nonce": lambda apps, app: apps.client(app).id_token_nonce,
    "access_token": lambda apps, app: apps.client(app).access_token(),
    "refresh": lambda apps, app: apps.client(app).refresh() is not None,
    "keys": lambda apps, app, names=(): {
        name: key.value for name, key in apps.client(app).keys(names).items()
    },
    "withheld": lambda apps, app, names=(): apps.client(app).withheld(names),
    "key": lambda apps, app, name: apps.client(app).key(name).value,
    "replace_encryption_key": PythonApps.replace_encryption_key,
    "proxy": PythonApps.proxy_request,
    # Sorted: which of two that began in one second is the older one is nobody's to say.
    "sessions": lambda apps, app: sorted(
        [session.device, session.current] for session in apps.client(app).sessions()
    ),
    "end_other_sessions": lambda apps, app: apps.client(app).end_other_sessions(),
    "logout": lambda apps, app: apps.client(app).logout(),
    "together": PythonApps.together,
}
