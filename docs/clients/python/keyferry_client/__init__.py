"""The reference client of Keyferry: what a phone does, in Python, to be read and ported.

Read in this order: `device` (the two key pairs), `dpop` (proofs), `client` (login, refresh, keys,
proxied calls, sessions), `delivery`, `jose` and `hpke` (what it takes to trust a delivered key),
`discovery`, `state`, `errors`.
"""

from .client import Config, KeyferryClient, ProxiedResponse, Session
from .delivery import DeliveredKey
from .device import DeviceKeys, SoftwareDeviceKeys
from .errors import KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery
from .state import MemoryStorage, PersistedState, Storage

__all__ = [
    "Config",
    "DeliveredKey",
    "DeviceKeys",
    "KeyferryClient",
    "KeyferryError",
    "LoggedOut",
    "MemoryStorage",
    "PersistedState",
    "ProxiedResponse",
    "Rejected",
    "Retryable",
    "Session",
    "SoftwareDeviceKeys",
    "Storage",
    "TamperedDelivery",
]
