"""Where a proxied request can never go, whatever a name, a resolver or an operator says."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry.proxy import destination
from keyferry.proxy.destination import Destinations, NotPublic, is_public
from keyferry.vault.upstream import checked_host

HOST = "api.example.com"

PRIVATE = [
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1"),  # noqa: S104
    *("127.8.8.8", "169.254.169.254", "169.254.170.2", "169.254.100.1", "172.16.0.1"),
    *("172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.0.192", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.1.1.1"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254"),
    *("fd20:ce::254", "ff02::1", "ff0e::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::"),
    *("3fff::1", "5f00::1", "4000::1", "e000::1"),
]
METADATA = IPv4Address("169.254.169.254")
EMBEDDED: dict[str, Callable[[IPv4Address], IPv6Address]] = {
    "mapped": lambda v4: IPv6Address((0xFFFF << 32) | int(v4)),
    "compatible": lambda v4: IPv6Address(int(v4)),
    "translated": lambda v4: IPv6Address((0xFFFF << 48) | int(v4)),
    "6to4": lambda v4: IPv6Address((0x2002 << 112) | int(v4) << 80),
    "NAT64": lambda v4: IPv6Address(int(IPv6Address("64:ff9b::")) | int(v4)),
    "local NAT64": lambda v4: IPv6Address(int(IPv6Address("64:ff9b:1::")) | int(v4)),
    "Teredo": lambda v4: IPv6Address((0x20010000 << 96) | (int(v4) ^ 0xFFFFFFFF)),
    "Teredo server": lambda v4: IPv6Address((0x20010000 << 96) | int(v4) << 64),
}


def found(*addresses: str) -> Callable[..., list[Any]]:
    """A resolver that finds these."""

    def resolve(_host: str, port: int, **_: Any) -> list[Any]:
        return [
            (
                socket.AF_INET6 if ":" in each else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (each, port, 0, 0) if ":" in each else (each, port),
            )
            for each in addresses
        ]

    return resolve


class TestAddresses:
    @pytest.mark.parametrize("address", PRIVATE)
    def test_not_public(self, address: str) -> None:
        assert not is_public(address)

    @pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "142.250.185.74", "2a00:1450::1"])
    def test_public(self, address: str) -> None:
        assert is_public(address)

    @pytest.mark.parametrize("form", EMBEDDED)
    @pytest.mark.parametrize("v4", [METADATA, IPv4Address("127.0.0.1"), IPv4Address("8.8.8.8")])
    def test_ipv4_inside_of_ipv6(self, form: str, v4: IPv4Address) -> None:
        """Not even a public one: where such an address leads depends on the network."""
        assert not is_public(str(EMBEDDED[form](v4)))

    @given(st.ip_addresses(v=4), st.sampled_from(sorted(EMBEDDED)))
    def test_no_ipv4_address_hides(self, v4: IPv4Address, form: str) -> None:
        assert not is_public(str(EMBEDDED[form](v4)))

    @given(st.ip_addresses())
    def test_nothing_passes_that_python_calls_special(self, address: Any) -> None:
        if is_public(str(address)):
            kinds = ("private", "loopback", "link_local", "multicast", "reserved", "unspecified")
            assert not [kind for kind in kinds if getattr(address, f"is_{kind}")]

    @given(st.sampled_from([n for n in PRIVATE if "." in n]), st.integers(0, 255))
    def test_whole_networks(self, address: str, last: int) -> None:
        network = IPv4Network(f"{address}/24", strict=False)
        assert not is_public(str(network[last]))


HOSTS_REFUSED = {
    "empty": "",
    "no dot": "example",
    "localhost": "localhost",
    "below localhost": "x.localhost",
    "mDNS": "printer.local",
    "EC2": "ip-10-0-0-1.eu-central-1.compute.internal",
    "metadata of Google": "metadata.google.internal",
    "metadata of EC2": "instance-data.ec2.internal",
    "home": "router.home.arpa",
    "lan": "nas.lan",
    "corp": "wiki.corp",
    "dotted": "169.254.169.254",
    "decimal": "2852039166",
    "octal": "0251.0376.0251.0376",
    "hexadecimal": "0xa9.0xfe.0xa9.0xfe",
    "one hexadecimal number": "0xa9fea9fe",
    "short": "127.1",
    "mixed": "169.254.0xa9fe",
    "hexadecimal at the end": "example.0x7f",
    "a number at the end": "example.1",
    "IPv6": "::1",
    "IPv6 in brackets": "[::1]",
    "mapped": "[::ffff:169.254.169.254]",
    "user": "user@example.com",
    "user and password": "user:pass@example.com",
    "a host behind a user": "api.example.com@169.254.169.254",
    "port": "example.com:443",
    "path": "example.com/x",
    "query": "example.com?x",
    "fragment": "example.com#x",
    "backslash": "example.com\\x",
    "trailing dot": "example.com.",
    "leading dot": ".example.com",
    "two dots": "example..com",
    "upper case": "Example.com",
    "space": "example.com ",
    "line end": "example.com\n",
    "NUL": "example.com\0",
    "tab": "exam\tple.com",
    "wildcard": "*.example.com",
    "underscore": "_dmarc.example.com",
    "leading hyphen": "-a.example.com",
    "trailing hyphen": "a-.example.com",
    "not ASCII": "bücher.example.com",
    "full-width dot": "example．com",
    "ideographic dot": "169。254。169。254",
    "circled digits": "①②⑦.⓪.⓪.①",
    "percent-encoded": "example%2ecom",
    "no A-label": "xn--.example.com",
    "an A-label of ASCII": "xn--example-.example.com",
    "another prefix": "ab--c.example.com",
    "label too long": f"{'a' * 64}.example.com",
    "too long": ".".join(["a" * 60] * 5) + ".com",
}


class TestHosts:
    @pytest.mark.parametrize(
        "host",
        [
            *(HOST, "generativelanguage.googleapis.com", "a.bc", "xn--bcher-kva.example"),
            *("1password.com", "0.example.com", "bedrock-runtime.eu-central-1.amazonaws.com"),
        ],
    )
    def test_good(self, host: str) -> None:
        assert checked_host(host) == host

    @pytest.mark.parametrize("name", HOSTS_REFUSED)
    def test_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match="host"):
            checked_host(HOSTS_REFUSED[name])

    @pytest.mark.parametrize("name", HOSTS_REFUSED)
    def test_refused_again_when_it_is_used(self, name: str) -> None:
        """An entry that got into the table by another way."""
        with pytest.raises(ValueError, match="host"):
            Destinations(resolver=found("8.8.8.8")).find(HOSTS_REFUSED[name], 443)

    @given(st.text(max_size=40))
    def test_what_passes_is_no_address(self, host: str) -> None:
        try:
            checked_host(host)
        except ValueError:
            return
        with pytest.raises(ValueError, match="does not appear to be"):
            ip_address(host)
        with pytest.raises(OSError, match="illegal"):
            socket.inet_aton(host)

    @given(
        st.integers(0, 2**32 - 1), st.integers(1, 4), st.lists(st.sampled_from("doxX"), min_size=4)
    )
    def test_no_spelling_of_an_ipv4_address_passes(
        self, number: int, count: int, bases: list[str]
    ) -> None:
        """Every form that ``inet_aton`` reads."""
        parts = [(number >> 8 * (3 - n)) & 255 for n in range(count - 1)]
        parts.append(number & ((1 << 8 * (5 - count)) - 1))
        spellings = {"d": "{}", "o": "0{:o}", "x": "0x{:x}", "X": "0X{:X}"}
        host = ".".join(
            spellings[base].format(part) for base, part in zip(bases, parts, strict=False)
        )
        socket.inet_aton(host)
        with pytest.raises(ValueError, match="host"):
            checked_host(host)


class TestFind:
    def test_good(self) -> None:
        place = Destinations(resolver=found("8.8.8.8", "2a00:1450::1")).find(HOST, 8443)
        assert (place.host, place.port, place.secure) == (HOST, 8443, True)
        assert [each[4][:2] for each in place.addresses] == [
            ("8.8.8.8", 8443),
            ("2a00:1450::1", 8443),
        ]

    @pytest.mark.parametrize("address", PRIVATE)
    def test_one_bad_address_spoils_the_name(self, address: str) -> None:
        for addresses in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
            with pytest.raises(NotPublic):
                Destinations(resolver=found(*addresses)).find(HOST, 443)

    def test_the_resolver_is_asked_once(self) -> None:
        """DNS rebinding: the second answer, the bad one, is never asked for."""
        answers = [found("8.8.8.8"), found("169.254.169.254")]

        def rebinding(host: str, port: int, **options: Any) -> list[Any]:
            return answers.pop(0)(host, port, **options)

        place = Destinations(resolver=rebinding).find(HOST, 443)
        assert [each[4][0] for each in place.addresses] == ["8.8.8.8"]
        assert len(answers) == 1
        with pytest.raises(NotPublic):
            Destinations(resolver=rebinding).find(HOST, 443)

    def test_no_address(self) -> None:
        with pytest.raises(OSError, match="no address"):
            Destinations(resolver=found()).find(HOST, 443)

    def test_no_such_name(self) -> None:
        def fail(*_: Any, **__: Any) -> list[Any]:
            raise socket.gaierror(socket.EAI_NONAME, "not known")

        with pytest.raises(socket.gaierror):
            Destinations(resolver=fail).find(HOST, 443)

    def test_a_resolver_that_does_not_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(destination, "RESOLVE_SECONDS", 0.1)

        def slow(*_: Any, **__: Any) -> list[Any]:
            time.sleep(0.5)
            return found("8.8.8.8")(*_, **__)

        with pytest.raises(TimeoutError):
            Destinations(resolver=slow).find(HOST, 443)


class TestLocal:
    """What the local run alone has: one name that leads to 127.0.0.1, without TLS."""

    def test_one_host_and_port(self) -> None:
        given = {"KEYFERRY_PROXY_CONNECT_TO": f"{HOST}:443:127.0.0.1:8081"}
        places = Destinations.from_environ(given)
        local = places.find(HOST, 443)
        assert (local.addresses[0][4], local.secure) == (("127.0.0.1", 8081), False)
        with pytest.raises(NotPublic):
            Destinations(places.local, found("127.0.0.1")).find(HOST, 8443)
        with pytest.raises(NotPublic):
            Destinations(places.local, found("127.0.0.1")).find("other.example.com", 443)

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "x",
            f"{HOST}:443:169.254.169.254:80",
            f"{HOST}:443:10.0.0.1:80",
            f"{HOST}:443:127.0.0.1.evil.example:80",
            f"{HOST}:443:127.0.0.1:80\n",
            f"{HOST}:443:127.0.0.1:80,other.example.com:443:127.0.0.1:80",
            f"{HOST}:443:127.0.0.1",
            "::443:127.0.0.1:80",
        ],
    )
    def test_anything_else_is_nothing(self, value: str) -> None:
        assert Destinations.from_environ({"KEYFERRY_PROXY_CONNECT_TO": value}).local == {}

    def test_on_aws(self) -> None:
        assert Destinations.from_environ({}).local == {}
