"""`keyferry.aws_json.connections`: what is kept, what is replaced, what is no answer."""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from keyferry.aws_json import connections as module
from keyferry.aws_json.connections import Connections, NoAnswer
from keyferry.aws_json.endpoint import Endpoint
from tests.local_service import (
    LocalService,
    Received,
    answering,
    closing,
    resetting,
    sending,
    serving,
)

HEADERS = {"Host": "127.0.0.1", "X-Amz-Target": "T.GetItem"}


def to(service: LocalService, **options: str) -> Connections:
    return Connections.to(Endpoint.parse(service.url), **options)


def settled(condition: Callable[[], bool]) -> None:
    """Wait until the other side has done what it was told; it is another thread."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "never came"
        time.sleep(0.005)


def is_over(connections: Connections) -> bool:
    return not module._is_silent(connections._kept[0].peer)


def test_one_connection_for_many_requests() -> None:
    with serving(answering({"a": "é"})) as service:
        connections = to(service)
        for _ in range(20):
            answer = connections.exchange(HEADERS, b"body")
            assert answer.status == 200
            assert answer.body == b'{"a": "\\u00e9"}'
            assert answer.headers["content-type"] == "application/x-amz-json-1.0"
        assert service.connections == 1
        assert {each.body for each in service.received} == {b"body"}
        assert service.received[0].head.splitlines()[0] == "POST / HTTP/1.1"
        assert service.received[0].header("Content-Length") == "4"
        connections.close()


def test_threads_have_a_connection_each_and_leave_it() -> None:
    barrier = threading.Barrier(4)

    def together(peer: socket.socket, received: Received) -> bool:
        barrier.wait(10)
        return answering(received.body)(peer, received)

    with serving(together) as service, ThreadPoolExecutor(4) as pool:
        connections = to(service)
        for _ in range(3):
            bodies = [f"{n}".encode() for n in range(4)]
            answers = pool.map(lambda body: connections.exchange(HEADERS, body).body, bodies)
            assert list(answers) == bodies
        assert service.connections == 4
        connections.close()


def test_no_more_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 0)
    with serving(answering({})) as service:
        connections = to(service)
        for _ in range(2):
            connections.exchange(HEADERS, b"")
        assert service.connections == 2


class TestAfterAFreeze:
    """An idle connection that has ended costs no try."""

    def test_closed_while_idle(self) -> None:
        with serving(answering({}, close=True)) as service:
            connections = to(service)
            for n in range(3):
                connections.exchange(HEADERS, b"")
                settled(lambda: is_over(connections))
                assert service.connections == n + 1
            assert len(service.received) == 3
            connections.close()

    @pytest.mark.parametrize("ending", [resetting, closing], ids=["reset", "closed"])
    def test_ended_when_the_request_comes(self, ending: Callable[..., bool]) -> None:
        """The other side had ended it, and that is seen only after the request was sent."""
        with serving(answering({"n": 1}), ending, answering({"n": 2})) as service:
            connections = to(service)
            assert connections.exchange(HEADERS, b"1").body == b'{"n": 1}'
            assert connections.exchange(HEADERS, b"2").body == b'{"n": 2}'
            assert [each.body for each in service.received] == [b"1", b"2", b"2"]
            assert service.connections == 2
            connections.close()

    def test_forgotten_by_the_network(self) -> None:
        clock = iter([0.0, 299.0, 299.0, 599.5, 600.0, 0.0, 0.0])
        with serving(answering({})) as service:
            connections = dataclasses.replace(to(service), now=lambda: next(clock))
            connections.exchange(HEADERS, b"")
            connections.exchange(HEADERS, b"")
            assert service.connections == 1
            connections.exchange(HEADERS, b"")  # idle for 300.5 seconds
            assert service.connections == 2
            connections.exchange(HEADERS, b"")  # the clock was set back
            assert service.connections == 3
            connections.close()

    def test_a_new_connection_that_ends_is_a_failure(self) -> None:
        with serving(closing) as service:
            with pytest.raises(NoAnswer, match="closed"):
                to(service).exchange(HEADERS, b"")
            assert len(service.received) == 1

    def test_half_an_answer_is_a_failure_also_on_a_kept_connection(self) -> None:
        with serving(answering({}), sending(b"HTTP/1.1 200 OK\r\nContent-Le")) as service:
            connections = to(service)
            connections.exchange(HEADERS, b"")
            with pytest.raises(NoAnswer, match="cut off"):
                connections.exchange(HEADERS, b"")
            assert len(service.received) == 2


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("octets", "reason"),
        [
            (b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "no length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "no length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx", "no length"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 1\r\n\r\nxx", "header"),
            (b"HTTP/1.1 200 OK\r\nContent-Length : 1\r\n\r\nx", "header"),
            (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 1\r\n\r\nx", "header"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "no length"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n"
                b"0\r\n\r\n",
                "no length",
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "body too long"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200", "more than"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx", "cut off"),
            (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, "too long|cut off"),
        ],
    )
    def test_not_framed_as_it_should_be(self, octets: bytes, reason: str) -> None:
        with serving(sending(octets)) as service:
            connections = to(service)
            with pytest.raises(NoAnswer, match=reason):
                connections.exchange(HEADERS, b"")
            assert not connections._kept

    def test_nobody_listens(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            endpoint = Endpoint.parse(f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(NoAnswer, match="connect: ConnectionRefusedError"):
            Connections.to(endpoint).exchange(HEADERS, b"")

    def test_an_answer_that_is_sent_slowly_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.4)
        stop = threading.Event()

        def dripping(peer: socket.socket, _: Received) -> bool:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not stop.wait(0.05):
                peer.sendall(b"x")
            return False

        with serving(dripping) as service:
            with pytest.raises(NoAnswer, match="TimeoutError"):
                to(service).exchange(HEADERS, b"")
            stop.set()

    def test_no_answer_on_a_kept_connection_is_not_asked_for_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may be on its way: that is a failed try, for `JsonClient` to count."""
        stop = threading.Event()

        def silent(_: socket.socket, __: Received) -> bool:
            stop.wait(10)
            return False

        with serving(answering({}), silent) as service:
            connections = to(service)
            connections.exchange(HEADERS, b"")
            monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
            with pytest.raises(NoAnswer, match="TimeoutError"):
                connections.exchange(HEADERS, b"")
            assert len(service.received) == 2
            stop.set()

    def test_whatever_interrupts_it_leaves_no_connection_behind(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next request must never read the answer to this one."""

        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        with serving(answering({})) as service:
            connections = to(service)
            monkeypatch.setattr(module, "_head", interrupted)
            with pytest.raises(KeyboardInterrupt):
                connections.exchange(HEADERS, b"")
            assert not connections._kept


def test_more_than_one_read_makes_an_answer() -> None:
    body = b"x" * 700_000

    def in_pieces(peer: socket.socket, _: Received) -> bool:
        for piece in (b"HTTP/1.1 200 ", b"OK\r\nContent-Length: 700000\r", b"\n\r", b"\n", body):
            peer.sendall(piece)
            time.sleep(0.01)
        return True

    with serving(in_pieces) as service:
        connections = to(service)
        for _ in range(2):
            assert connections.exchange(HEADERS, b"").body == body
        assert service.connections == 1
        connections.close()


@pytest.mark.parametrize("head", ["HTTP/1.0 200 OK", "HTTP/1.1 200 OK\r\nConnection: Close"])
def test_a_connection_that_is_to_be_closed_is_not_kept(head: str) -> None:
    octets = f"{head}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    with serving(sending(octets, then_close=False)) as service:
        connections = to(service)
        for _ in range(2):
            assert connections.exchange(HEADERS, b"").body == b"{}"
        assert service.connections == 2


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + private)
    return file


class TestTls:
    @pytest.fixture
    def server(self, authority: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority)
        return context

    def test_one_handshake_for_many_requests(self, authority: Path, server: ssl.SSLContext) -> None:
        with serving(answering({}), tls=server) as service:
            connections = to(service, ca_bundle=str(authority))
            for _ in range(5):
                assert connections.exchange(HEADERS, b"").status == 200
            assert service.connections == 1
            connections.close()

    def test_closed_while_idle(self, authority: Path, server: ssl.SSLContext) -> None:
        with serving(answering({}, close=True), tls=server) as service:
            connections = to(service, ca_bundle=str(authority))
            for n in range(3):
                connections.exchange(HEADERS, b"")
                settled(lambda: is_over(connections))
                assert service.connections == n + 1
            connections.close()

    @pytest.mark.parametrize("ending", [resetting, closing], ids=["reset", "closed"])
    def test_ended_when_the_request_comes(
        self, authority: Path, server: ssl.SSLContext, ending: Callable[..., bool]
    ) -> None:
        with serving(answering({}), ending, answering({}), tls=server) as service:
            connections = to(service, ca_bundle=str(authority))
            for _ in range(2):
                assert connections.exchange(HEADERS, b"").status == 200
            assert service.connections == 2
            connections.close()

    def test_a_certificate_that_nobody_vouches_for(self, server: ssl.SSLContext) -> None:
        with serving(answering({}), tls=server) as service:
            with pytest.raises(NoAnswer, match="connect: SSLCertVerificationError"):
                to(service).exchange(HEADERS, b"")
            assert not service.received

    def test_a_certificate_for_another_host(self, authority: Path, server: ssl.SSLContext) -> None:
        with serving(answering({}), tls=server) as service:
            endpoint = Endpoint(True, "localhost", service.port, "localhost")
            connections = Connections.to(endpoint, ca_bundle=str(authority))
            with pytest.raises(NoAnswer, match="connect: SSLCertVerificationError"):
                connections.exchange(HEADERS, b"")

    def test_not_without_verification(self) -> None:
        tls = Connections.to(Endpoint.parse("https://kms.us-east-1.amazonaws.com")).tls
        assert tls is not None
        assert tls.verify_mode is ssl.CERT_REQUIRED
        assert tls.check_hostname
        assert tls.minimum_version >= ssl.TLSVersion.TLSv1_2


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(answering({})) as service:
        connections = to(service)
        assert connections.exchange(HEADERS, b"").status == 200
        connections.close()
