"""Key sets of other issuers: what is read of them, and what servers and callers cannot cause."""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyferry import outgoing
from keyferry.errors import Unavailable
from keyferry.federation import jwks
from keyferry.federation.jwks import Jwks, checked_uri, fetch, parse
from keyferry.jose import base64url
from tests.unit.identity_provider import (
    EC_KEY,
    ED_KEY,
    NOW,
    Clock,
    Issuer,
    answer,
    jwk,
    jwk_set,
    rsa_key,
    sending,
    server,
)

URI = "https://issuer.example/jwks"
GOOD = jwk_set(jwk(rsa_key()))
ONE = "k1", "RS256"
LOOPBACK = IPv4Address("127.0.0.1")


LEFT_OUT: dict[str, Any] = {
    "not an object": 7,
    "no kid": {**jwk(rsa_key()), "kid": None},
    "empty kid": jwk(rsa_key(), ""),
    "long kid": jwk(rsa_key(), "k" * 257),
    "kid a list": {**jwk(rsa_key()), "kid": ["k1"]},
    "symmetric": {"kty": "oct", "k": "AAAA", "kid": "k1"},
    "unknown kty": {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA", "kid": "k1"},
    "kty a list": {**jwk(rsa_key()), "kty": ["RSA"]},
    "for encryption": jwk(rsa_key(), use="enc"),
    "to sign with": jwk(rsa_key(), key_ops=["sign"]),
    "key_ops a text": jwk(rsa_key(), key_ops="verify"),
    "private": jwk(rsa_key(), d="AAAA"),
    "RSA of 1024 bits": jwk(rsa_key(bits=1024)),
    "RSA of 16384 bits": {**jwk(rsa_key()), "n": base64url.encode(b"\xff" * 2048)},
    "RSA with exponent 3": {**jwk(rsa_key()), "e": "Aw"},
    "RSA with exponent 1": {**jwk(rsa_key()), "e": "AQ"},
    "RSA with a huge exponent": {**jwk(rsa_key()), "e": base64url.encode(b"\xff" * 256)},
    "RSA with an even exponent": {**jwk(rsa_key()), "e": base64url.encode(b"\x01\0\0\0")},
    "RSA without n": {**jwk(rsa_key()), "n": None},
    "RSA for another algorithm": jwk(rsa_key(), alg="PS256"),
    "RSA for HS256": jwk(rsa_key(), alg="HS256"),
    "P-384": {**jwk(EC_KEY), "crv": "P-384"},
    "off the curve": {**jwk(EC_KEY), "y": base64url.encode(b"\0" * 32)},
    "Ed25519 too short": {**jwk(ED_KEY), "x": "AAAA"},
    "X25519": {**jwk(ED_KEY), "crv": "X25519"},
}


class TestParse:
    def test_each_kind_of_key(self) -> None:
        keys = parse(jwk_set(jwk(rsa_key(), "r"), jwk(EC_KEY, "e"), jwk(ED_KEY, "d")))
        assert set(keys) == {("r", "RS256"), ("e", "ES256"), ("d", "EdDSA")}
        assert keys["r", "RS256"] == rsa_key().public_key()

    @pytest.mark.parametrize("fault", LEFT_OUT)
    def test_left_out_beside_a_good_one(self, fault: str) -> None:
        good = jwk(EC_KEY, "good")
        assert set(parse(jwk_set(LEFT_OUT[fault], good))) == {("good", "ES256")}

    def test_urls_and_certificates_in_a_key_are_not_looked_at(self) -> None:
        members = jwk(rsa_key(), x5u="http://127.0.0.1:1/", x5c=["!"], jku="http://127.0.0.1:1/")
        assert set(parse(jwk_set(members))) == {ONE}

    def test_of_two_keys_with_one_name_the_first_counts(self) -> None:
        keys = parse(jwk_set(jwk(rsa_key()), jwk(rsa_key(1))))
        assert keys == {ONE: rsa_key().public_key()}

    def test_one_kid_for_two_kinds_of_key(self) -> None:
        """RFC 7517 §4.5 allows it."""
        assert set(parse(jwk_set(jwk(rsa_key()), jwk(EC_KEY)))) == {ONE, ("k1", "ES256")}

    def test_a_set_with_nothing_in_it_is_the_issuers_word(self) -> None:
        assert parse(b'{"keys": []}') == {}

    @pytest.mark.parametrize(
        "document",
        [
            b"",
            b"[]",
            b"{}",
            b'{"keys": {}}',
            b'{"keys": [], "keys": []}',
            GOOD[:-10],
            b"\xff\xfe",
            b'{"keys": [' + b"[" * 100_000,
            b'{"keys": [' + b"9" * 10_000 + b"]}",
        ],
        ids=range(9),
    )
    def test_documents_that_are_none(self, document: bytes) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- json's own is one
            parse(document)

    def test_key_flood(self) -> None:
        with pytest.raises(ValueError, match="too many keys"):
            parse(jwk_set(*[jwk(EC_KEY, f"k{n}") for n in range(jwks.MAX_KEYS + 1)]))


class TestUri:
    @pytest.mark.parametrize(
        "uri", [URI, "https://issuer.example:8443/a?b=c", "http://127.0.0.1:8080/jwks"]
    )
    def test_good(self, uri: str) -> None:
        assert checked_uri(uri).geturl() == uri

    @pytest.mark.parametrize(
        "uri",
        [
            "",
            "http://issuer.example/jwks",
            "http://localhost/jwks",
            "http://127.0.0.1.evil.example/jwks",
            "http://127.0.0.1@evil.example/jwks",
            "http://169.254.169.254/latest/meta-data",
            "file:///etc/passwd",
            "ftp://issuer.example/jwks",
            "https:///jwks",
            "https://user:pass@issuer.example/jwks",
            "https://issuer.example/jwks#x",
            "https://issuer.example/jw\r\nX: y",
            "https://issuer.example/a b",
            "https://issuer.example:0/jwks",
            "https://issuer.example:x/jwks",
            "https://[::1/jwks",
            "https://bücher.example/jwks",
            "https://issuer.example/" + "a" * 512,
        ],
    )
    def test_bad(self, uri: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- urlsplit's own is one
            checked_uri(uri)
        with pytest.raises(ValueError):  # noqa: PT011
            fetch(uri)


class TestFetch:
    def test_good(self) -> None:
        with server(sending(answer(GOOD, "Cache-Control: public, max-age=3600"))) as (uri, _):
            assert fetch(uri) == jwks.Fetched(parse(GOOD), 3600)

    def test_chunks(self) -> None:
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)
        with server(sending(answer(body, "Transfer-Encoding: chunked"))) as (uri, _):
            assert set(fetch(uri).keys) == {ONE}

    def test_the_server_closes_as_it_was_asked_to(self) -> None:
        with server(sending(answer(GOOD, "Connection: close"))) as (uri, _):
            assert set(fetch(uri).keys) == {ONE}

    def test_until_the_end_of_the_connection(self) -> None:
        reply = b"HTTP/1.0 200 OK\r\nContent-Type: application/jwk-set+json\r\n\r\n" + GOOD
        with server(sending(reply)) as (uri, _):
            assert set(fetch(uri).keys) == {ONE}

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ([], 300),
            (["Cache-Control: no-store"], 300),
            (["Cache-Control: no-cache, max-age=9000"], 300),
            (["Cache-Control: max-age=0"], 300),
            (["Cache-Control: max-age=301"], 301),
            (["Cache-Control: public, MAX-AGE=7200, must-revalidate"], 7200),
            (["Cache-Control: public", "Cache-Control: max-age=7200"], 7200),
            (["Cache-Control: max-age=7200", "Age: 7000"], 300),
            (["Cache-Control: max-age=7200", "Age: 200"], 7000),
            (["Cache-Control: max-age=7200", "Age: -5"], 7200),
            (["Cache-Control: max-age=999999999"], 86_400),
            (["Cache-Control: max-age=-1"], 300),
            (["Cache-Control: max-age=99999999999999999999"], 300),
            (["Cache-Control: s-maxage=7200"], 300),
        ],
    )
    def test_how_long_a_set_is_fresh(self, headers: list[str], seconds: int) -> None:
        with server(sending(answer(GOOD, *headers))) as (uri, _):
            assert fetch(uri).fresh_seconds == seconds


def slow_headers(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    drip(peer)


def slow_body(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    drip(peer)


def drip(peer: socket.socket) -> None:
    """Never silent for long, and never done."""
    for _ in range(200):
        peer.sendall(b" ")
        time.sleep(0.05)


def silent(peer: socket.socket) -> None:
    peer.settimeout(10)
    peer.recv(1)


def reset(peer: socket.socket) -> None:
    peer.sendall(answer(GOOD)[:60])
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def endless(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        peer.sendall(b" " * 65536)


def endless_headers(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        peer.sendall(b"X: y\r\n" * 1000)


def endless_continue(peer: socket.socket) -> None:
    while True:
        peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


HUGE = b'{"keys": [], "padding": "%b"}' % (b"x" * jwks.MAX_BYTES)

HOSTILE: dict[str, Callable[[socket.socket], None]] = {
    "slow headers": slow_headers,
    "slow body": slow_body,
    "silent": silent,
    "connection reset": reset,
    "closes at once": lambda _: None,
    "endless": endless,
    "endless headers": endless_headers,
    "endless 100 Continue": endless_continue,
    "large headers": sending(answer(GOOD, *[f"X-{n}: {'y' * 60_000}" for n in range(90)])),
    "huge": sending(answer(HUGE)),
    "huge in chunks": sending(
        answer(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HUGE), HUGE), "Transfer-Encoding: chunked")
    ),
    "announces a terabyte": sending(answer(GOOD, f"Content-Length: {10**12}")),
    "announces a chunk of a terabyte": sending(
        answer(b"%x\r\n%b" % (10**12, GOOD), "Transfer-Encoding: chunked")
    ),
    "cut off": sending(answer(GOOD[:-20], f"Content-Length: {len(GOOD)}")),
    "complete, but shorter than announced": sending(answer(GOOD, f"Content-Length: {10**5}")),
    "truncated JSON": sending(answer(GOOD[:-20])),
    "HTML": sending(answer(b"<html>", "Content-Type: text/html")),
    "keys as text": sending(answer(GOOD, "Content-Type: text/plain")),
    "no content type": sending(answer(GOOD, "Content-Type:")),
    "not even HTTP": sending(b"SSH-2.0-OpenSSH\r\n"),
    "key flood": sending(answer(jwk_set(*[jwk(EC_KEY, f"k{n}") for n in range(1000)]))),
    "gzip bomb": sending(
        answer(gzip.compress(b" " * 50_000_000), "Content-Encoding: gzip"),
    ),
    "says gzip": sending(answer(GOOD, "Content-Encoding: gzip")),
    "deeply nested": sending(answer(b'{"keys":' * 20_000)),
    "404 with keys": sending(answer(GOOD, status="404 Not Found")),
    "204": sending(answer(b"", status="204 No Content")),
    "206 with keys": sending(answer(GOOD, status="206 Partial Content")),
    "500": sending(answer(b"{}", status="500 Oops")),
}


@pytest.mark.parametrize("behaviour", HOSTILE)
def test_hostile_server(behaviour: str) -> None:
    """Each is an outage and takes no longer than the time-outs; keys held before go on being used."""
    with server(HOSTILE[behaviour]) as (uri, connected):
        clock = Clock()
        held = Jwks(now=clock)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            held.key(uri, *ONE)
        assert time.monotonic() - began < jwks.CONNECT_SECONDS + jwks.ANSWER_SECONDS + 1
        assert len(connected) == 1
        with pytest.raises(Unavailable):
            held.key(uri, *ONE)
        assert len(connected) == 1, "it is not asked again at once"

    served = {"good": answer(GOOD), "bad": b""}
    with server(lambda peer: served_by(peer, served, HOSTILE[behaviour])) as (uri, _):
        clock = Clock()
        held = Jwks(now=clock)
        assert held.key(uri, *ONE) is not None
        served.pop("good")
        clock.time += jwks.MIN_FRESH_SECONDS
        assert held.key(uri, *ONE) is not None


def served_by(
    peer: socket.socket, served: dict[str, bytes], otherwise: Callable[[socket.socket], None]
) -> None:
    if "good" in served:
        peer.sendall(served["good"])
    else:
        otherwise(peer)


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 T", "308 P"])
def test_redirect_is_not_followed(status: str) -> None:
    with server(sending(answer(GOOD))) as (elsewhere, asked):
        reply = answer(GOOD, f"Location: {elsewhere}", status=status)  # nor are its own keys taken
        with server(sending(reply)) as (uri, _), pytest.raises(Unavailable):
            Jwks(now=Clock()).key(uri, *ONE)
        assert asked == []


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}/jwks"
    with pytest.raises(Unavailable):
        Jwks(now=Clock()).key(uri, *ONE)


class TestTls:
    @pytest.fixture
    def certificate(self, tmp_path: Path) -> Path:
        """Of 127.0.0.1, signed by itself; with its key."""
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
        today = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(name, name, EC_KEY.public_key(), x509.random_serial_number())
            .not_valid_before(today - timedelta(days=1))
            .not_valid_after(today + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(EC_KEY, hashes.SHA256())
        )
        path = tmp_path / "certificate.pem"
        path.write_bytes(
            EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + made.public_bytes(Encoding.PEM)
        )
        return path

    @pytest.fixture
    def uri(self, certificate: Path) -> Iterator[str]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with server(sending(answer(GOOD, "Connection: close")), context) as (uri, _):
            yield uri.replace("http://", "https://")

    def test_a_certificate_that_nobody_vouches_for(self, uri: str) -> None:
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(uri)
        with pytest.raises(Unavailable):
            Jwks(now=Clock()).key(uri, *ONE)

    def test_a_certificate_of_another_host(
        self, uri: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(outgoing, "tls", lambda: trusting)
        with pytest.raises(ssl.SSLCertVerificationError):
            fetch(uri.replace("127.0.0.1", "localhost"))
        assert set(fetch(uri).keys) == {ONE}, "while this one is right"

    def test_a_server_that_does_not_speak_it(self) -> None:
        with server(sending(b"")) as (uri, _), pytest.raises(OSError, match="timed out"):
            fetch(uri.replace("http://", "https://"))


def test_a_host_with_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is tried when one refuses; all together get one second."""
    tried: list[Any] = []

    class Unreachable(socket.socket):
        def connect(self, address: Any) -> None:
            tried.append(address)
            time.sleep(0.3)
            raise TimeoutError

    tcp = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
    with server(sending(answer(GOOD))) as (uri, _):
        good = (*tcp, ("127.0.0.1", int(uri.rpartition(":")[2].partition("/")[0])))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed = (*tcp, listener.getsockname())
        with monkeypatch.context() as patched:
            patched.setattr(socket, "getaddrinfo", lambda *_, **__: [closed, good])
            assert set(fetch(uri).keys) == {ONE}
            patched.setattr(socket, "getaddrinfo", lambda *_, **__: [good] * 100)
            patched.setattr(socket, "socket", Unreachable)
            with pytest.raises(TimeoutError):
                fetch(uri)
            assert len(tried) <= 4
            patched.setattr(socket, "getaddrinfo", lambda *_, **__: [])
            with pytest.raises(OSError, match="no address"):
                fetch(uri)


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(sending(answer(GOOD))) as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        with server(sending(answer(GOOD))) as (uri, _):
            assert set(fetch(uri).keys) == {ONE}
        assert asked == []


class TestCache:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def issuer(self) -> Issuer:
        return Issuer({URI: GOOD})

    def test_one_fetch_while_fresh(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        for clock.time in (NOW, NOW + 1, NOW + issuer.fresh_seconds - 1):
            assert held.key(URI, *ONE) == rsa_key().public_key()
        assert len(issuer.fetches) == 1
        clock.time = NOW + issuer.fresh_seconds
        held.key(URI, *ONE)
        assert len(issuer.fetches) == 2

    def test_nothing_is_fetched_before_it_is_needed(self, issuer: Issuer, clock: Clock) -> None:
        issuer.jwks(clock)
        assert issuer.fetches == []

    def test_a_key_is_for_one_algorithm(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        assert held.key(URI, "k1", "RS256") is not None
        assert held.key(URI, "k1", "ES256") is None
        assert held.key(URI, "k1", "HS256") is None

    def test_a_new_key_is_found_at_once(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        held.key(URI, *ONE)
        issuer.sets[URI] = jwk_set(jwk(rsa_key()), jwk(EC_KEY, "k2"))
        clock.time += jwks.UNKNOWN_KEY_SECONDS
        assert held.key(URI, "k2", "ES256") is not None

    def test_a_withdrawn_key_is_gone_with_the_next_fetch(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        held = issuer.jwks(clock)
        held.key(URI, *ONE)
        issuer.sets[URI] = jwk_set(jwk(EC_KEY, "k2"))
        clock.time += issuer.fresh_seconds
        assert held.key(URI, *ONE) is None

    def test_unknown_kid_storm(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        for number in range(1_000):
            assert held.key(URI, f"x{number}", "RS256") is None
        assert len(issuer.fetches) == 1
        assert held.key(URI, *ONE) is not None, "and who has a good token is served meanwhile"
        clock.time += jwks.UNKNOWN_KEY_SECONDS
        for number in range(1_000):
            assert held.key(URI, f"x{number}", "RS256") is None
        assert len(issuer.fetches) == 2

    def test_unknown_kid_storm_for_an_hour(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        for clock.time in range(NOW, NOW + 3_600):
            held.key(URI, "unknown", "RS256")
        assert len(issuer.fetches) == 60

    def test_unknown_kid_storm_while_the_issuer_is_down(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        held.key(URI, *ONE)
        issuer.sets[URI] = OSError()
        clock.time += jwks.UNKNOWN_KEY_SECONDS
        for number in range(1_000):
            with pytest.raises(Unavailable):
                held.key(URI, f"x{number}", "RS256")
            assert held.key(URI, *ONE) is not None
        assert len(issuer.fetches) == 2

    def test_unknown_kid_storm_of_threads(self, issuer: Issuer, clock: Clock) -> None:
        issuer.delay = 0.2
        held = issuer.jwks(clock)
        together = Barrier(32)

        def ask(number: int) -> object:
            together.wait()
            return held.key(URI, f"x{number}" if number % 2 else "k1", "RS256")

        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(ask, range(32)))
        assert len(issuer.fetches) == 1
        assert [each is not None for each in found] == [number % 2 == 0 for number in range(32)]

    def test_a_storm_on_one_issuer_does_not_hold_up_another(self, clock: Clock) -> None:
        other = "https://other.example/jwks"
        issuer = Issuer({URI: GOOD, other: GOOD})
        held = issuer.jwks(clock)
        for number in range(100):
            held.key(URI, f"x{number}", "RS256")
        assert held.key(other, *ONE) is not None
        assert issuer.fetches == [URI, other]

    def test_an_outage_of_an_hour(self, issuer: Issuer, clock: Clock) -> None:
        held = issuer.jwks(clock)
        held.key(URI, *ONE)
        issuer.sets[URI] = OSError()
        for clock.time in range(NOW + 3_600, NOW + 7_200, 30):
            assert held.key(URI, *ONE) is not None
        clock.time = NOW + 7_200
        with pytest.raises(Unavailable) as unavailable:
            held.key(URI, *ONE)
        assert unavailable.value.retry_after == jwks.RETRY_SECONDS

    def test_an_issuer_that_is_down_is_asked_every_ten_seconds(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        issuer.sets[URI] = OSError()
        held = issuer.jwks(clock)
        for clock.time in range(NOW, NOW + 60):
            with pytest.raises(Unavailable):
                held.key(URI, *ONE)
        assert len(issuer.fetches) == 6
        issuer.sets[URI] = GOOD
        clock.time += jwks.RETRY_SECONDS
        assert held.key(URI, *ONE) is not None

    def test_a_clock_that_is_set_back_makes_it_ask_again(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        held = issuer.jwks(clock)
        held.key(URI, *ONE)
        clock.time -= 86_400
        assert held.key(URI, *ONE) is not None
        assert len(issuer.fetches) == 2

    def test_the_number_of_issuers_is_bounded(self, clock: Clock) -> None:
        uris = [f"https://i{n}.example/" for n in range(jwks.MAX_ISSUERS + 5)]
        held = Issuer(dict.fromkeys(uris, GOOD)).jwks(clock)
        for uri in uris:
            assert held.key(uri, *ONE) is not None
        assert len(held._issuers) == jwks.MAX_ISSUERS

    def test_a_fault_of_our_own_is_not_taken_for_an_outage(
        self, issuer: Issuer, clock: Clock
    ) -> None:
        issuer.sets[URI] = KeyError()
        with pytest.raises(KeyError):
            issuer.jwks(clock).key(URI, *ONE)


def test_the_log_says_that_it_failed_and_nothing_of_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        server(sending(b"HTTP/1.1 secret-of-the-server\r\n\r\n")) as (uri, _),
        pytest.raises(Unavailable) as unavailable,
    ):
        Jwks(now=Clock()).key(uri, *ONE)
    (record,) = caplog.records
    assert record.getMessage() == "jwks"
    assert "secret-of-the-server" not in repr(vars(record)) + str(unavailable.value)


def test_other_curve_is_left_out() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    assert parse(jwk_set(jwk(other))) == {}
