"""What the app keeps between two starts, in its secure storage (Keychain, or a file encrypted with
a Keystore key).

The device keys are not here: they stay in the hardware, and the app keeps only their names.
"""

from __future__ import annotations

import json
import threading
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Protocol, Self


@dataclass(frozen=True, slots=True)
class PersistedState:
    """One logged-in session. Replaced as a whole, never edited in place."""

    subject: str
    session_id: str
    access_token: str = field(repr=False)
    access_expires_at: float
    refresh_token: str = field(repr=False)
    refresh_expires_at: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


class Storage(Protocol):
    """Where the app keeps `PersistedState`. Each call is durable and atomic when it returns.

    Apps with several processes (an iOS app and its extension) share one, with its lock.
    """

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held while a session is changed, by whoever uses this storage: a lock of threads, or, with
        several processes, one across them. Of two that refresh at once with one token, one would
        fall behind, and a token that is two behind counts as stolen.
        """

    def load(self) -> PersistedState | None: ...

    def save(self, state: PersistedState) -> None: ...

    def clear(self) -> None: ...


class MemoryStorage:
    """Forgets with the process; for tests and demonstrations."""

    def __init__(self, state: PersistedState | None = None) -> None:
        self._state = state
        self.lock = threading.Lock()

    def load(self) -> PersistedState | None:
        return self._state

    def save(self, state: PersistedState) -> None:
        self._state = state

    def clear(self) -> None:
        self._state = None
