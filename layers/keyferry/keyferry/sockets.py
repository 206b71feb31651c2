"""Connecting to one of several addresses, all of them together within a time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Any

AddressInfo = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]
"""What `socket.getaddrinfo` gives a list of."""


def connect(addresses: Iterable[AddressInfo], *, seconds: float) -> socket.socket:
    """Connect to the first address that answers, all of them together within ``seconds``.

    Raise `OSError` when none does.
    """
    deadline = time.monotonic() + seconds
    failure: OSError = TimeoutError("no time left") if seconds <= 0 else OSError("no address")
    for family, kind, protocol, _, address in addresses:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            break
        peer = socket.socket(family, kind, protocol)
        peer.settimeout(remaining)
        try:
            peer.connect(address)
        except OSError as error:
            peer.close()
            failure = error
        else:
            return peer
    raise failure
