"""The system's clock and randomness, as everything else here takes them: by parameter."""

from __future__ import annotations

import os
import time


def now() -> int:
    """Seconds since the epoch."""
    return int(time.time())


# The kernel's generator and no other: it is the one that a restored SnapStart microVM reseeds.
random = os.urandom
