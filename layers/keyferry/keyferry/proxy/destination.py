"""Where a proxied request may go: to a public address of the one host that the key's entry names.

A name is looked up once, and what was found is what is connected to. A resolver that gives another
answer a moment later (DNS rebinding) is not asked again, and one bad address among good ones makes
the name a bad one.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry.vault.upstream import checked_host

if TYPE_CHECKING:
    from keyferry.sockets import AddressInfo

RESOLVE_SECONDS: Final = 2.0

_SPECIAL_V4: Final = tuple(
    IPv4Network(network)
    for network in (
        # https://www.iana.org/assignments/iana-ipv4-special-registry, and RFC 5771, 1112
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
)
_GLOBAL_UNICAST_V6: Final = IPv6Network("2000::/3")
"""All that has been given out (RFC 4291 §2.4). Outside of it are loopback, link-local, unique local
(fd00:ec2::254 among them) and multicast addresses, and those that hold an IPv4 address: mapped,
compatible, and NAT64's 64:ff9b::/96 and 64:ff9b:1::/48."""

_SPECIAL_V6: Final = tuple(
    IPv6Network(network)
    for network in (
        # https://www.iana.org/assignments/iana-ipv6-special-registry: protocols (Teredo among
        # them), documentation, 6to4, documentation
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
    )
)

_CONNECT_TO: Final = re.compile(r"([a-z0-9.-]+):([0-9]{1,5}):127\.0\.0\.1:([0-9]{1,5})")


class NotPublic(OSError):
    """A host of which an address is one that nothing is sent to."""


Resolver = Callable[..., Sequence[Any]]


def is_public(address: str) -> bool:
    """Whether ``address`` (IPv4 or IPv6, as text) is one that the whole internet can reach.

    An IPv6 address that stands for an IPv4 one never counts, whichever it stands for.
    """
    found = ip_address(address)
    if not found.is_global or found.is_multicast:
        return False
    if isinstance(found, IPv4Address):
        return not any(found in network for network in _SPECIAL_V4)
    return found in _GLOBAL_UNICAST_V6 and not any(found in network for network in _SPECIAL_V6)


@dataclass(frozen=True, slots=True)
class Destination:
    """Addresses of a host, looked up and looked at. ``secure`` is false on the emulator only."""

    host: str
    port: int
    addresses: tuple[AddressInfo, ...]
    secure: bool = True


@dataclass(frozen=True, slots=True)
class Destinations:
    """``local`` maps host and port to a port of 127.0.0.1 that is spoken to without TLS. It is
    empty on AWS: the template sets the variable on the emulator alone."""

    local: Mapping[tuple[str, int], int] = field(default_factory=dict)
    resolver: Resolver = socket.getaddrinfo

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """``KEYFERRY_PROXY_CONNECT_TO`` is ``HOST:PORT:127.0.0.1:PORT``, as curl's ``--connect-to``."""
        given = environ.get("KEYFERRY_PROXY_CONNECT_TO", "")
        match = _CONNECT_TO.fullmatch(given)
        return cls({(match[1], int(match[2])): int(match[3])} if match else {})

    def find(self, host: str, port: int) -> Destination:
        """Look ``host`` up. Raise `NotPublic` when one of its addresses is not public, another
        `OSError` when it has none or no answer comes within `RESOLVE_SECONDS`, and `ValueError`
        when it is no host to ask for."""
        local = self.local.get((host, port))
        if local is not None:
            loopback = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", local))
            return Destination(host, port, (loopback,), secure=False)
        addresses = self._resolve(checked_host(host), port)
        if not addresses:
            raise OSError("host: no address")
        if not all(is_public(address[4][0]) for address in addresses):
            raise NotPublic("host: an address that is not public")
        return Destination(host, port, addresses)

    def _resolve(self, host: str, port: int) -> tuple[AddressInfo, ...]:
        # The system's resolver takes no time-out. A thread that is left behind ends with it.
        found: list[AddressInfo] = []
        failed: list[OSError] = []

        def resolve() -> None:
            try:
                found.extend(self.resolver(host, port, type=socket.SOCK_STREAM))
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=resolve, daemon=True)
        thread.start()
        thread.join(RESOLVE_SECONDS)
        if thread.is_alive():
            raise TimeoutError("host: no answer from the resolver")
        if failed:
            raise failed[0]
        return tuple(found)
