"""How often one session may have keys delivered anew.

Counted in memory by each function instance: it costs no write, and it is there to slow a broken
app down, not an attacker, who is stopped elsewhere. An app that keeps to the interval it is told,
or sends the ETag that it has, never meets it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

BURST: Final = 20
"""Deliveries in one interval: an app may fetch its keys one by one, and be started again."""

_MAX_SESSIONS: Final = 10_000


@dataclass(slots=True)
class FetchBudget:
    """``interval`` is in seconds; 0 allows everything."""

    interval: int
    now: Callable[[], int]
    _taken: dict[str, tuple[int, int]] = field(default_factory=dict)

    def take(self, sid: str) -> int:
        """Count one delivery. Return 0, or in how many seconds the next one is allowed."""
        if not self.interval:
            return 0
        now = self.now()
        start, taken = self._taken.pop(sid, (now, 0))
        if not 0 <= now - start < self.interval:  # over, or the clock was set back
            start, taken = now, 0
        while len(self._taken) >= _MAX_SESSIONS:
            del self._taken[next(iter(self._taken))]  # the one that was asked for longest ago
        self._taken[sid] = (start, min(taken + 1, BURST))
        return start + self.interval - now if taken >= BURST else 0
