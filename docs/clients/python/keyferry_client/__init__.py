"""The reference client of Keyferry: what a phone does, in Python, to be read and ported.

Read in this order: `device` (the two key pairs), `dpop` (proofs), `connection` (one request), `client`
(login, refresh, keys, proxied calls, sessions), `replies`, `delivery`, `jose` and `hpke` (what it takes
to trust a delivered key), `discovery`, `state`, `errors`.
"""

from .client import KeyferryClient
from .config import Config
from .delivery import DeliveredKey
from .device import DeviceKeys, SoftwareDeviceKeys
from .errors import KeyferryError, LoggedOut, Rejected, Retryable, TamperedDelivery
from .replies import ProxiedResponse, Session
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
