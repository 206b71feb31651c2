"""Opened keys in memory, bounded in age, uses and number.

The three bounds are those of the AWS Encryption SDK's caching materials manager: age says how long
a withdrawn KMS right may go unnoticed, uses and number how much one function holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyferry.vault.model import ValueId

MAX_AGE_SECONDS: Final = 300
MAX_USES: Final = 10_000
MAX_ENTRIES: Final = 1_000


@dataclass(slots=True)
class _Opened:
    value: bytes = field(repr=False)
    until: int
    uses_left: int


@dataclass(slots=True)
class OpenedKeys:
    """A value never changes under its id, so nothing here goes stale. Threads may share it."""

    now: Callable[[], int]
    _opened: dict[ValueId, _Opened] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def get(self, value_id: ValueId) -> bytes | None:
        with self._lock:
            opened = self._opened.get(value_id)
            if opened is None:
                return None
            remaining = opened.until - self.now()
            # More than the full age remains only when the clock was set back.
            if not 0 < remaining <= MAX_AGE_SECONDS or opened.uses_left <= 0:
                del self._opened[value_id]
                return None
            opened.uses_left -= 1
            return opened.value

    def put(self, value_id: ValueId, value: bytes) -> None:
        now = self.now()
        with self._lock:
            for old in [key for key, opened in self._opened.items() if opened.until <= now]:
                del self._opened[old]
            while len(self._opened) >= MAX_ENTRIES:
                del self._opened[next(iter(self._opened))]  # the oldest: a dict keeps its order
            self._opened[value_id] = _Opened(value, now + MAX_AGE_SECONDS, MAX_USES)
