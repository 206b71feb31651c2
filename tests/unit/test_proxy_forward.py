"""What goes to an upstream and what comes back: hostile callers on one side, hostile servers on the
other."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from keyferry import outgoing
from keyferry.errors import RequestRefused
from keyferry.proxy import destination
from keyferry.proxy.destination import Destinations
from keyferry.proxy.forward import Answer, Prepared, Wanted, check, is_told, prepare, send
from keyferry.vault.upstream import (
    CALLER_HEADERS,
    MAX_REQUEST_BYTES,
    MAX_RESPONSE_BYTES,
    Inject,
    Upstream,
    checked_path,
)
from tests.unit.identity_provider import answer, sending, server
from tests.unit.test_jwks import drip, endless, endless_continue, endless_headers, reset, silent
from tests.unit.test_proxy_destination import HOST, HOSTS_REFUSED, PRIVATE, found

KEY = "AIza+Sy/DaGmWKa4JsXZ=HjGw7ISLn_3namBGewQe"
GOOD = b'{"good": true}'
UPSTREAM = Upstream(
    host=HOST,
    path_prefix="/v1beta/",
    methods=("GET", "POST"),
    inject=Inject.HEADER,
    parameter="x-goog-api-key",
    headers=("x-goog-api-client",),
    max_request_bytes=1000,
    max_response_bytes=10_000,
    timeout_seconds=1,
    budget=10,
    budget_seconds=60,
)
IN_QUERY = replace(UPSTREAM, inject=Inject.QUERY, parameter="key")
WANTED = Wanted("GET", "/v1beta/models")

Talk = Callable[[socket.socket], None]


def send_to(
    destinations: Destinations,
    prepared: Prepared | None = None,
    upstream: Upstream = UPSTREAM,
    *,
    seconds: float = 20,
) -> Answer:
    prepared = prepared or prepare(WANTED, upstream, KEY)
    deadline = time.monotonic() + seconds
    return send(prepared, upstream, KEY, destinations=destinations, deadline=deadline)


def refused(wanted: Wanted, upstream: Upstream = UPSTREAM) -> str:
    with pytest.raises(RequestRefused) as error:
        check(wanted, upstream)
    return error.value.code


# ── configuration ────────────────────────────────────────────────────────────


class TestUpstream:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"port": 8443},
            {"inject": Inject.QUERY, "parameter": "key"},
            {"parameter": "Authorization", "template": "Bearer {key}"},
            {"path_prefix": "/v1/chat/completions"},
            {"path_prefix": "/"},
            {"max_request_bytes": 0},
        ],
        ids=str,
    )
    def test_good(self, changes: dict[str, Any]) -> None:
        upstream = replace(UPSTREAM, **changes)
        assert upstream.checked() is upstream

    @pytest.mark.parametrize("name", HOSTS_REFUSED)
    def test_host(self, name: str) -> None:
        with pytest.raises(ValueError, match="host"):
            replace(UPSTREAM, host=HOSTS_REFUSED[name]).checked()

    @pytest.mark.parametrize(
        "changes",
        [
            *({"port": port} for port in (0, -1, 22, 25, 80, 442, 65536)),
            *({"path_prefix": path} for path in ("", "v1/", "//", "/v1/../", "/v1//", "/%2e/")),
            *({"path_prefix": path} for path in ("/v1/?x", "/v1/#", "/a b/", "/%41/", "/a\n")),
            *({"methods": methods} for methods in ((), ("get",), ("GET", "CONNECT"), ("*",))),
            *({"methods": methods} for methods in (("TRACE",), ("OPTIONS",), ("GET\r\nX: y",))),
            *({"parameter": name} for name in ("", "a b", "a:b", "a\r\nb", "host", "Cookie")),
            *({"parameter": name} for name in ("content-length", "transfer-encoding", "dpop")),
            *({"parameter": name} for name in ("accept", "Content-Type", "x-forwarded-for")),
            {"inject": Inject.QUERY, "parameter": "a&b"},
            {"inject": Inject.QUERY, "parameter": "a[b]"},
            *({"template": text} for text in ("", "Bearer", "{key}{key}", "{key}\r\n", " {key}")),
            *({"template": text} for text in ("ü{key}", "{key}" + "x" * 256, "{Key}")),
            *({"headers": (name,)} for name in ("X-Upper", "", "a b", "authorization", "cookie")),
            *({"headers": (name,)} for name in ("host", "content-length", "connection", "dpop")),
            *({"headers": (name,)} for name in ("transfer-encoding", "te", "expect", "upgrade")),
            *({"headers": (name,)} for name in ("x-forwarded-for", "forwarded", "x-goog-api-key")),
            *({"headers": (name,)} for name in ("x-http-method-override", "x-original-url")),
            *({"headers": (name,)} for name in ("accept-encoding", "range", "proxy-connection")),
            {"headers": tuple(f"x-{n}" for n in range(17))},
            {"max_request_bytes": MAX_REQUEST_BYTES + 1},
            {"max_request_bytes": -1},
            {"max_response_bytes": MAX_RESPONSE_BYTES + 1},
            {"max_response_bytes": 0},
            {"timeout_seconds": 0},
            {"timeout_seconds": 21},
            {"budget": 0},
            {"budget_seconds": 0},
            {"budget_seconds": 32 * 86_400},
        ],
        ids=str,
    )
    def test_bad(self, changes: dict[str, Any]) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 -- the texts are many
            replace(UPSTREAM, **changes).checked()

    def test_the_largest_answer_is_one_that_lambda_returns(self) -> None:
        """The worst body there is, as a text in JSON in what Lambda returns."""
        body = json.dumps({"status": 200, "headers": {}, "body": '"\\' * (MAX_RESPONSE_BYTES // 2)})
        assert len(json.dumps({"body": body})) < 6 * 1024 * 1024


# ── what a caller may ask for ────────────────────────────────────────────────


class TestPath:
    @pytest.mark.parametrize(
        "path",
        [
            *("/v1beta/", "/v1beta/models", "/v1beta/models/gemini-2.5-flash:generateContent"),
            *("/v1beta/a/b/c/", "/v1beta/a%20b", "/v1beta/b%C3%BCcher", "/v1beta/a@b,c=d+e!$&'()*"),
            *(
                "/v1beta/..a",
                "/v1beta/a..",
                "/v1beta/.well-known",
                "/v1beta/~x",
                "/v1beta/%e2%82%ac",
            ),
        ],
    )
    def test_good(self, path: str) -> None:
        check(replace(WANTED, path=path), UPSTREAM)
        assert prepare(replace(WANTED, path=path), UPSTREAM, KEY).target == path

    @pytest.mark.parametrize(
        "path",
        [
            *("", "v1beta/models", "/", "/v1", "/v1beta", "/v1betax", "/V1beta/models", "*"),
            *("/v1beta/../v2", "/v1beta/..", "/v1beta/.", "/v1beta/./x", "/v1beta/x/../../v2"),
            *("/v1beta/%2e%2e/v2", "/v1beta/%2E./v2", "/v1beta/.%2e", "/v1beta/%2e"),
            *("/v1beta/%252e%252e/v2", "/v1beta/%25", "/v1beta/%c0%ae%c0%ae/v2", "/v1beta/%ff"),
            *(
                "/v1beta/a%2fb",
                "/v1beta/a%2Fb",
                "/v1beta/a%ef%bc%8fb",
                "/v1beta/%2f",
                "/v1beta/..%2fv2",
                "/v1beta/%2F%2e%2e",
                "/v1beta/%5c..%5cv2",
            ),
            *(
                "/v1beta\\..\\v2",
                "/v1beta/..\\v2",
                "/v1beta//x",
                "//v1beta/",
                "//evil.example/v1beta/",
            ),
            *("/v1beta/..;/v2", "/v1beta/;x", "/v1beta/%3b", "/v1beta/x;jsessionid=1"),
            *("/v1beta/x?key=1", "/v1beta/x%3Fkey=1", "/v1beta/x#y", "/v1beta/x%23"),
            *(
                "/v1beta/x y",
                "/v1beta/\r\nX: y",
                "/v1beta/%0d%0aX:%20y",
                "/v1beta/%00",
                "/v1beta/\t",
            ),
            *("/v1beta/x HTTP/1.1\r\nHost: evil", "/v1beta/%7f", "/v1beta/%c2%85", "/v1beta/ü"),
            *("/v1beta/%ef%bc%8e%ef%bc%8e/v2", "/v1beta/..%ef%bc%8fv2", "/v1beta/%e2%80%a5/v2"),
            # What Windows takes for slashes in some code page
            *("/v1beta/..%e2%81%84v2", "/v1beta/..%e2%88%95v2", "/v1beta/..%e2%88%96v2"),
            *("/v1beta/..%c2%a5v2", "/v1beta/..%e2%82%a9v2", "/v1beta/a%e2%a7%b8b"),
            *("/v1beta/%e2%80%ae", "/v1beta/%ef%bb%bf", "/v1beta/.. /v2", "/v1beta/..%20/v2"),
            *("/v1beta/.../x", "/v1beta/%", "/v1beta/%4", "/v1beta/%zz", "/v1beta/%u002e"),
            *("https://evil.example/v1beta/", "@evil.example/v1beta/", ".evil.example/v1beta/"),
            *(":80/v1beta/", "/v1beta/" + "a" * 2048, "/v1beta/\ud800", "/v1beta/%ed%a0%80"),
        ],
        ids=ascii,
    )
    def test_refused(self, path: str) -> None:
        assert refused(replace(WANTED, path=path)) == "proxy_refused"

    def test_a_prefix_without_a_slash_at_its_end_is_one_path(self) -> None:
        one = replace(UPSTREAM, path_prefix="/v1/chat/completions")
        check(replace(WANTED, path="/v1/chat/completions"), one)
        for path in ("/v1/chat/completions/", "/v1/chat/completionsx", "/v1/chat", "/v1/chat/x"):
            assert refused(replace(WANTED, path=path), one) == "proxy_refused"

    @given(st.text(st.sampled_from("/.%25eEfFcCuU;\\ ?#@:ab０．／\r\n\0"), max_size=24))
    def test_whatever_passes_stays_below_the_prefix_for_everybody(self, rest: str) -> None:
        path = "/v1beta/" + rest
        try:
            checked_path(path)
        except ValueError:
            return
        for reading in (path, unquote(path), unquote(unquote(path)), unquote(path).lower()):
            parts = urlsplit(f"https://{HOST}{reading}")
            assert (parts.hostname, parts.query, parts.fragment) == (HOST, "", "")
            assert ".." not in re.split(r"[/\\]", parts.path)
            assert parts.path.startswith("/v1beta/")
        assert "\r" not in unquote(path)
        assert "\n" not in unquote(path)


class TestMethod:
    @pytest.mark.parametrize(
        "method",
        [
            "",
            "get",
            "DELETE",
            "CONNECT",
            "TRACE",
            "OPTIONS",
            "GET ",
            "GET\r\n",
            "GET / HTTP/1.1\r\nX:",
        ],
    )
    def test_refused(self, method: str) -> None:
        assert refused(replace(WANTED, method=method)) == "proxy_refused"


class TestQuery:
    def test_is_encoded_here(self) -> None:
        pairs = (("q", "a&b=c#d e+f/ü\r\nX: y"), ("q", ""), ("", "x"), ("ä", "%00"))
        check(replace(WANTED, query=pairs), UPSTREAM)
        target = prepare(replace(WANTED, query=pairs), UPSTREAM, KEY).target
        path, _, query = target.partition("?")
        assert (path, tuple(parse_qsl(query, keep_blank_values=True))) == ("/v1beta/models", pairs)
        assert target.isprintable()
        assert target.isascii()

    @given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20)), max_size=8))
    def test_any_text_survives_or_is_refused(self, pairs: list[tuple[str, str]]) -> None:
        wanted = replace(WANTED, query=pairs)
        try:
            check(wanted, IN_QUERY)
        except RequestRefused:
            return
        _, _, query = prepare(wanted, IN_QUERY, KEY).target.partition("?")
        sent = parse_qsl(query, keep_blank_values=True)
        assert sent == [*pairs, ("key", KEY)]
        assert re.fullmatch(r"[A-Za-z0-9._~%=&-]*", query)

    @pytest.mark.parametrize(
        "pairs",
        [
            [("a", "b")] * 65,
            [("a", "b" * 8192)],
            [("a", "\ud800")],
            [("a", "\0")],
            [("\0", "a")],
        ],
        ids=range(5),
    )
    def test_refused(self, pairs: list[tuple[str, str]]) -> None:
        assert refused(replace(WANTED, query=pairs)) == "proxy_refused"

    @pytest.mark.parametrize(
        "name",
        [
            "key",
            "KEY",
            "Key",
            "key[]",
            "key[0]",
            " key",
            "key ",
            "key\t",
            "key\n",
            "ｋｅｙ",
            "k\u200bey",
            "[key]",
            "]key",
            "key]x",
            "KEY[",
            "\u212aey",  # the sign for kelvin
            "%6bey",
            "%5Bkey",
        ],
        ids=ascii,
    )
    def test_the_callers_own_key_is_refused(self, name: str) -> None:
        for pairs in ([(name, "x")], [("a", "b"), (name, ""), ("c", "d")]):
            assert refused(replace(WANTED, query=pairs), IN_QUERY) == "proxy_refused"

    @pytest.mark.parametrize(
        "name",
        [
            *("api_key", "api key", " api key", "api.key", "api[key", "api-key", "apikey"),
            *("API_KEY", "api_key[0]", "[api_key]", "ap\u0131_key", "ap\u0130_key", "api\u2024key"),
        ],
        ids=ascii,
    )
    def test_what_servers_read_as_the_keys_parameter_is_refused(self, name: str) -> None:
        api_key = replace(IN_QUERY, parameter="api_key")
        assert refused(replace(WANTED, query=[(name, "x")]), api_key) == "proxy_refused"

    @pytest.mark.parametrize(
        "name", ["key2", "filter[key]", "keys", "monkey", "", "[]", "_", "k", "\u043aey"], ids=ascii
    )
    def test_other_parameters_are_not(self, name: str) -> None:
        check(replace(WANTED, query=[(name, "x")]), IN_QUERY)

    @pytest.mark.parametrize("parameter", ["_", "~.~"])
    def test_a_parameter_without_letters(self, parameter: str) -> None:
        upstream = replace(IN_QUERY, parameter=parameter)
        check(replace(WANTED, query=[("", "x"), ("a", "y")]), upstream)
        assert refused(replace(WANTED, query=[(parameter, "x")]), upstream) == "proxy_refused"

    def test_the_key_goes_into_the_query(self) -> None:
        prepared = prepare(replace(WANTED, query=[("a", "b")]), IN_QUERY, KEY)
        assert prepared.target == f"/v1beta/models?a=b&key={quote(KEY, safe='')}"
        assert KEY not in prepared.headers.values()


class TestHeaders:
    def test_what_is_sent(self) -> None:
        headers = {"Content-Type": "application/json", "X-Goog-Api-Client": "dart/3"}
        wanted = replace(WANTED, headers=headers)
        check(wanted, UPSTREAM)
        sent = prepare(wanted, UPSTREAM, KEY).headers
        assert sent.keys() == {
            *("accept", "content-type", "user-agent", "x-goog-api-client", "x-goog-api-key"),
        }
        assert sent["x-goog-api-key"] == KEY

    @pytest.mark.parametrize(
        "name",
        [
            *("x-goog-api-key", "X-Goog-Api-Key", "authorization", "Authorization", "cookie"),
            *("host", "Host", "content-length", "transfer-encoding", "connection", "te", "dpop"),
            *("x-forwarded-for", "forwarded", "x-real-ip", "expect", "upgrade", "user-agent"),
            *("accept-encoding", "x-http-method-override", "x-original-url", "x-anything", ""),
            *("accept\r\nauthorization", "accept:", "accept ", " accept", "ACCEPT\0", "ａccept"),
        ],
        ids=ascii,
    )
    def test_not_passed_on(self, name: str) -> None:
        assert refused(replace(WANTED, headers={name: "x"})) == "proxy_refused"

    @pytest.mark.parametrize(
        "value",
        [
            "a\r\nX: y",
            "a\nX: y",
            "a\rb",
            "a\0b",
            "",
            " ",
            " a",
            "a ",
            "ü",
            "a\x7f",
            "a\x85b",
            "a" * 1025,
        ],
        ids=ascii,
    )
    def test_values(self, value: str) -> None:
        assert refused(replace(WANTED, headers={"accept": value})) == "proxy_refused"

    def test_one_header_in_two_spellings(self) -> None:
        headers = {"accept": "a", "Accept": "b"}
        assert refused(replace(WANTED, headers=headers)) == "proxy_refused"

    def test_template(self) -> None:
        bearer = replace(UPSTREAM, parameter="Authorization", template="Bearer {key}")
        assert prepare(WANTED, bearer, KEY).headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("key", ["a\r\nX: y", "a\n", "ü", "a\0", " ab", "x\x7f"])
    def test_a_key_that_is_no_headers_value(self, key: str) -> None:
        with pytest.raises(RequestRefused) as error:
            prepare(WANTED, UPSTREAM, key)
        assert error.value.code == "upstream_unavailable"
        assert key not in str(error.value)

    def test_callers_set_no_header_that_says_who_they_are(self) -> None:
        assert {"accept", "accept-language", "content-type"} == CALLER_HEADERS


class TestBody:
    def test_size(self) -> None:
        check(replace(WANTED, method="POST", body=b"x" * 1000), UPSTREAM)
        assert refused(replace(WANTED, method="POST", body=b"x" * 1001)) == "payload_too_large"

    def test_none_with_get(self) -> None:
        assert refused(replace(WANTED, body=b"")) == "proxy_refused"


def test_nothing_shows_the_key() -> None:
    for upstream in (UPSTREAM, IN_QUERY):
        prepared = prepare(replace(WANTED, method="POST", body=b"secret body"), upstream, KEY)
        assert KEY not in repr(prepared)
        assert quote(KEY, safe="") not in repr(prepared)
        assert "secret body" not in repr(prepared)


# ── what upstreams answer ────────────────────────────────────────────────────


@contextmanager
def upstream_at(
    talk: Talk, requests: list[bytes] | None = None
) -> Iterator[tuple[Destinations, list[float]]]:
    with server(talk, requests=requests) as (uri, connected):
        yield Destinations({(HOST, 443): urlsplit(uri).port or 0}), connected


def ask(talk: Talk, upstream: Upstream = UPSTREAM, wanted: Wanted = WANTED) -> Answer:
    with upstream_at(talk) as (destinations, _):
        return send_to(destinations, prepare(wanted, upstream, KEY), upstream)


class TestSend:
    def test_the_request_on_the_wire(self) -> None:
        requests: list[bytes] = []
        wanted = Wanted("POST", "/v1beta/x", [("a", "b c")], {"Content-Type": "a/b"}, b"body")
        with upstream_at(sending(answer(GOOD)), requests) as (destinations, _):
            send_to(destinations, prepare(wanted, UPSTREAM, KEY))
        head, _, body = requests[0].partition(b"\r\n\r\n")
        line, *headers = head.decode("ascii").split("\r\n")
        assert (line, body) == ("POST /v1beta/x?a=b%20c HTTP/1.1", b"body")
        assert sorted(header.lower() for header in headers if "user-agent" not in header) == [
            *("accept-encoding: identity", "accept: */*", "connection: close", "content-length: 4"),
            *("content-type: a/b", f"host: {HOST}:443", f"x-goog-api-key: {KEY}".lower()),
        ]

    def test_the_answer(self) -> None:
        reply = answer(
            GOOD,
            "Set-Cookie: a=b",
            "Server: x",
            "Retry-After: 5",
            "X-Powered-By: y",
            status="429 No",
        )
        got = ask(sending(reply))
        assert (got.status, got.body) == (429, GOOD)
        assert got.headers == {
            "content-type": "application/json; charset=UTF-8",
            "retry-after": "5",
        }

    def test_head(self) -> None:
        upstream = replace(UPSTREAM, methods=("HEAD",))
        reply = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"
        got = ask(sending(reply), upstream, replace(WANTED, method="HEAD"))
        assert (got.status, got.body) == (200, b"")

    def test_a_body_of_the_largest_size(self) -> None:
        assert len(ask(sending(answer(b"x" * 10_000))).body) == 10_000

    def test_small_chunks(self) -> None:
        body = b"1\r\nx\r\n" * 4_000 + b"0\r\n\r\n"
        got = ask(sending(answer(body, "Transfer-Encoding: chunked")))
        assert got.body == b"x" * 4_000

    @pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
    @pytest.mark.parametrize(
        "location", ["http://169.254.169.254/latest/meta-data/", "https://evil.example/", None]
    )
    def test_a_redirect_is_an_answer_that_leads_nowhere(
        self, status: str, location: str | None
    ) -> None:
        with server(sending(answer(GOOD))) as (elsewhere, asked):
            reply = answer(b"", f"Location: {location or elsewhere}", status=status)
            with upstream_at(sending(reply)) as (destinations, connected):
                got = send_to(destinations)
            assert len(connected) == 1
        assert asked == []
        assert got.status == int(status[:3])
        assert "location" not in got.headers

    def test_one_connection_for_one_request(self) -> None:
        """What an upstream sends beyond its answer is nobody's answer."""
        poisoned = answer(GOOD) + answer(b'{"poison": true}')
        with upstream_at(sending(poisoned)) as (destinations, connected):
            for _ in range(2):
                got = send_to(destinations)
                assert got.body == GOOD
            assert len(connected) == 2

    def test_headers_that_are_none(self) -> None:
        reply = answer(
            GOOD, "ETag: \xff\xfe", "Cache-Control: a\r\n b", f"Last-Modified: {'x' * 2000}"
        )
        assert ask(sending(reply)).headers.keys() == {"content-type"}


def slow_body(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    drip(peer)


def slow_headers(peer: socket.socket) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    drip(peer)


HUGE = b"x" * 10_001
CHUNKED = "Transfer-Encoding: chunked"

HOSTILE: dict[str, tuple[str, Talk]] = {
    "slow headers": ("upstream_timeout", slow_headers),
    "slow body": ("upstream_timeout", slow_body),
    "silent": ("upstream_timeout", silent),
    "connection reset": ("upstream_unavailable", reset),
    "closes at once": ("upstream_unavailable", lambda _: None),
    "endless": ("upstream_answer_too_large", endless),
    "endless headers": ("upstream_unavailable", endless_headers),
    "endless 100 Continue": ("upstream_answer_too_large", endless_continue),
    "one byte too many": ("upstream_answer_too_large", sending(answer(HUGE))),
    "too many in chunks": (
        "upstream_answer_too_large",
        sending(answer(b"%x\r\n%b\r\n0\r\n\r\n" % (len(HUGE), HUGE), CHUNKED)),
    ),
    "many tiny chunks": (
        "upstream_answer_too_large",
        sending(answer(b"1\r\nx\r\n" * 20_000, CHUNKED)),
    ),
    "announces a terabyte": (
        "upstream_unavailable",
        sending(answer(GOOD, f"Content-Length: {10**12}")),
    ),
    "a chunk of a terabyte": (
        "upstream_unavailable",
        sending(answer(b"%x\r\n%b" % (10**12, GOOD), CHUNKED)),
    ),
    "a chunk of less than nothing": (
        "upstream_unavailable",
        sending(answer(b"-5\r\n%b" % GOOD, CHUNKED)),
    ),
    "shorter than announced": (
        "upstream_unavailable",
        sending(answer(GOOD, "Content-Length: 1000")),
    ),
    "cut off between chunks": ("upstream_unavailable", sending(answer(b"1\r\nx\r\n", CHUNKED))),
    "not even HTTP": ("upstream_unavailable", sending(b"SSH-2.0-OpenSSH\r\n")),
    "HTTP/0.9": ("upstream_unavailable", sending(GOOD)),
    "gzip": (
        "upstream_unavailable",
        sending(answer(gzip.compress(b" " * 5_000_000), "Content-Encoding: gzip")),
    ),
    "two encodings": (
        "upstream_unavailable",
        sending(answer(GOOD, "Content-Encoding: identity", "Content-Encoding: br")),
    ),
    "gzip of the transfer": (
        "upstream_unavailable",
        sending(answer(gzip.compress(GOOD), "Transfer-Encoding: gzip")),
    ),
    "two encodings of the transfer": (
        "upstream_unavailable",
        sending(answer(b"1\r\nx\r\n0\r\n\r\n", "Transfer-Encoding: gzip, chunked")),
    ),
    "101": ("upstream_unavailable", sending(answer(b"", status="101 Switching"))),
    "103": ("upstream_unavailable", sending(answer(b"", status="103 Early Hints"))),
    "999": ("upstream_unavailable", sending(answer(GOOD, status="999 Nine"))),
    "a large header": (
        "upstream_unavailable",
        sending(answer(GOOD, f"X: {'y' * 70_000}")),
    ),
}


@pytest.mark.parametrize("behaviour", HOSTILE)
def test_hostile_upstream(behaviour: str) -> None:
    code, talk = HOSTILE[behaviour]
    began = time.monotonic()
    with pytest.raises(RequestRefused) as error:
        ask(talk)
    assert time.monotonic() - began < UPSTREAM.timeout_seconds + 2
    assert error.value.code == code
    assert error.value.__context__ is None or error.value.__suppress_context__


@pytest.mark.parametrize("bytes_at_once", [0, 500_000])
def test_an_upstream_that_reads_slowly_or_not_at_all(bytes_at_once: int) -> None:
    """All of the sending is under the one deadline as well, however often a little of it goes."""
    over = Event()

    def read_slowly(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            while not over.wait(0.1):
                if bytes_at_once:
                    peer.recv(bytes_at_once, socket.MSG_WAITALL)

    large = replace(UPSTREAM, timeout_seconds=1)
    prepared = Prepared("POST", "/", {}, b"x" * 50_000_000)  # more than the system's buffers take
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
        pool.submit(read_slowly, listener)
        places = Destinations({(HOST, 443): listener.getsockname()[1]})
        began = time.monotonic()
        try:
            with pytest.raises(RequestRefused) as error:
                send_to(places, prepared, large)
        finally:
            over.set()
        assert error.value.code == "upstream_timeout"
        assert time.monotonic() - began < 3


def test_time_that_was_spent_before_is_not_there_any_more() -> None:
    with upstream_at(slow_body) as (destinations, _):
        patient = replace(UPSTREAM, timeout_seconds=15)
        began = time.monotonic()
        with pytest.raises(RequestRefused) as error:
            send_to(destinations, upstream=patient, seconds=0.5)
        assert error.value.code == "upstream_timeout"
        assert time.monotonic() - began < 3


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places = Destinations({(HOST, 443): listener.getsockname()[1]})
    with pytest.raises(RequestRefused) as error:
        send_to(places)
    assert error.value.code == "upstream_unavailable"


@pytest.mark.parametrize("address", PRIVATE)
def test_nothing_is_sent_to_an_address_that_is_not_public(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it connects")

    monkeypatch.setattr(outgoing, "connect", never)
    with pytest.raises(RequestRefused) as error:
        send_to(Destinations(resolver=found(address)))
    assert (error.value.code, error.value.reason) == (
        "upstream_unavailable",
        "upstream: address not public",
    )


def test_no_proxy_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(sending(answer(GOOD))) as (proxy, asked):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ask(sending(answer(GOOD))).body == GOOD
        assert asked == []


# ── the key in the answer ────────────────────────────────────────────────────

ECHOES: dict[str, bytes] = {
    "plain": KEY.encode(),
    "in JSON": json.dumps({"error": f"bad key {KEY}!"}).encode(),
    "in JSON with escaped slashes": KEY.replace("/", "\\/").encode(),
    "in JSON with escapes for HTML": KEY.replace("=", "\\u003d").replace("+", "\\u002B").encode(),
    "percent-encoded": quote(KEY, safe="").encode(),
    "percent-encoded in lower case": re.sub(
        r"%..", lambda m: m[0].lower(), quote(KEY, safe="")
    ).encode(),
    "every byte percent-encoded": "".join(f"%{byte:02X}" for byte in KEY.encode()).encode(),
    "base64": base64.b64encode(KEY.encode()),
    "base64 of a user and the key": base64.b64encode(b"user:" + KEY.encode()),
    "base64 with more before": base64.b64encode(b"a" + KEY.encode() + b"tail"),
    "base64 with more before, again": base64.b64encode(b"ab" + KEY.encode() + b"x"),
    "base64 for URLs": base64.urlsafe_b64encode(KEY.encode()).rstrip(b"="),
    "hexadecimal": KEY.encode().hex().encode(),
    "hexadecimal in upper case": KEY.encode().hex().upper().encode(),
    "in JavaScript": KEY.replace("/", "\\x2F").replace("+", "\\x2b").encode(),
    "in HTML": KEY.replace("/", "&#x2F;").replace("+", "&#43;").replace("=", "&#061;").encode(),
    "in a URL in a URL": quote(quote(KEY, safe=""), safe="").encode(),
    "in a URL in HTML in JSON": json.dumps(quote(KEY, safe="")).replace("%", "&#37;").encode(),
}


class TestEcho:
    @pytest.mark.parametrize("form", ECHOES)
    def test_in_a_body(self, form: str) -> None:
        with pytest.raises(RequestRefused) as error:
            ask(sending(answer(b"before " + ECHOES[form] + b" after")))
        assert error.value.code == "upstream_echo"
        assert KEY not in str(error.value)

    @pytest.mark.parametrize("form", ECHOES)
    def test_in_a_header_that_is_returned(self, form: str) -> None:
        with pytest.raises(RequestRefused) as error:
            ask(sending(answer(GOOD, f"ETag: {ECHOES[form].decode()}")))
        assert error.value.code == "upstream_echo"

    @pytest.mark.parametrize("form", ["utf-16-le", "utf-16-be", "utf-16"])
    def test_in_utf_16(self, form: str) -> None:
        for told in (f"before {KEY} after", KEY):
            with pytest.raises(RequestRefused) as error:
                ask(sending(answer(told.encode(form))))
            assert error.value.code == "upstream_echo"

    def test_with_what_html_escapes(self) -> None:
        key = "p<a>s&s'w\"rd"
        for told in (html.escape(key), html.escape(key).replace("&#x27;", "&apos;")):
            assert is_told(key, Answer(200, {}, told.encode()))

    def test_what_a_key_for_basic_authentication_encodes(self) -> None:
        key = base64.b64encode(b"user:correct horse").decode()
        for told in (b"no user:correct horse here", b"user%3Acorrect+horse"):
            assert is_told(key, Answer(200, {}, told))
        assert not is_told("YWJj", Answer(200, {}, b"abc")), "too short to say"

    def test_in_a_header_that_is_not(self) -> None:
        assert ask(sending(answer(GOOD, f"X-Debug: {KEY}"))).body == GOOD

    @given(st.binary(max_size=200))
    def test_no_other_answer_is_refused(self, body: bytes) -> None:
        assert not is_told(KEY, Answer(200, {}, body))

    @given(
        st.binary(max_size=20),
        st.text(st.characters(codec="ascii"), min_size=8),
        st.binary(max_size=20),
    )
    def test_any_key_in_base64_at_any_place(self, before: bytes, key: str, after: bytes) -> None:
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            body = encode(before + key.encode() + after)
            assert is_told(key, Answer(200, {}, body))


# ── TLS ──────────────────────────────────────────────────────────────────────


def key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Test CA")])
        self.certificate = self.sign(self.name, self.key, None, authority=True)

    def sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        host: str | None,
        *,
        authority: bool = False,
        days: tuple[int, int] = (-1, 1),
    ) -> x509.Certificate:
        today = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder(
                self.name, subject, key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(today + timedelta(days=days[0]))
            .not_valid_after(today + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            # Python 3.13 wants of certificates what RFC 5280 §4.2.1 does.
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
            .add_extension(key_usage(authority=authority), critical=True)
        )
        if host is not None:
            names = x509.SubjectAlternativeName([x509.DNSName(host)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server_context(self, folder: Path, host: str, **options: Any) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
        certificate = self.sign(subject, key, host, **options)
        path = folder / "server.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


class TestTls:
    """A real server on this machine; only the rule on addresses is taken off for it."""

    @pytest.fixture
    def authority(self, monkeypatch: pytest.MonkeyPatch) -> Authority:
        made = Authority()
        trusting = ssl.create_default_context(
            cadata=made.certificate.public_bytes(Encoding.PEM).decode()
        )
        monkeypatch.setattr(outgoing, "tls", lambda: trusting)
        monkeypatch.setattr(destination, "is_public", lambda _: True)
        return made

    def ask(self, context: ssl.SSLContext, requests: list[bytes]) -> Answer:
        with server(sending(answer(GOOD)), context, requests) as (uri, _):
            upstream = replace(UPSTREAM, port=urlsplit(uri).port or 0)
            places = Destinations(resolver=found("127.0.0.1"))
            return send_to(places, upstream=upstream)

    def test_good(self, authority: Authority, tmp_path: Path) -> None:
        requests: list[bytes] = []
        asked_for: list[str | None] = []
        context = authority.server_context(tmp_path, HOST)
        context.sni_callback = lambda _, name, __: asked_for.append(name)
        assert self.ask(context, requests).body == GOOD
        assert asked_for == [HOST]
        assert f"\r\nHost: {HOST}:".encode() in requests[0]

    @pytest.mark.parametrize(
        "options",
        [
            {"host": "other.example.com"},
            {"host": "example.com"},
            {"host": "127.0.0.1"},
            {"host": HOST, "days": (-10, -1)},
            {"host": HOST, "days": (1, 10)},
        ],
        ids=str,
    )
    def test_a_certificate_that_is_not_good(
        self, authority: Authority, tmp_path: Path, options: dict[str, Any]
    ) -> None:
        self.is_refused(authority.server_context(tmp_path, **options))

    def test_a_certificate_that_nobody_vouches_for(
        self, authority: Authority, tmp_path: Path
    ) -> None:
        assert authority.name
        self.is_refused(Authority().server_context(tmp_path, HOST))

    def is_refused(self, context: ssl.SSLContext) -> None:
        requests: list[bytes] = []
        with pytest.raises(RequestRefused) as error:
            self.ask(context, requests)
        assert error.value.code == "upstream_unavailable"
        assert requests == [], "and the key has not left"

    def test_the_usual_authorities_without_the_test(self) -> None:
        context = outgoing.tls()
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2

    def test_a_server_without_tls_never_sees_the_key(self, authority: Authority) -> None:
        assert authority.name
        requests: list[bytes] = []
        with server(sending(answer(GOOD)), requests=requests) as (uri, _):
            upstream = replace(UPSTREAM, port=urlsplit(uri).port or 0)
            places = Destinations(resolver=found("127.0.0.1"))
            with pytest.raises(RequestRefused) as error:
                send_to(places, upstream=upstream)
        assert error.value.code in ("upstream_unavailable", "upstream_timeout")
        assert KEY.encode() not in b"".join(requests)
