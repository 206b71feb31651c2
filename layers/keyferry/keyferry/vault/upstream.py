"""The one service that a key may be used at in proxy mode, and how: part of the key's entry."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final, Self
from urllib.parse import unquote_to_bytes

from keyferry.config import DAY

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
PLACEHOLDER: Final = "{key}"

MAX_HOST_LENGTH: Final = 253
"""Characters (RFC 1035 §2.3.4, without the root's dot)."""

MAX_PATH_LENGTH: Final = 2048
"""Characters."""

MAX_REQUEST_BYTES: Final = 256 * 1024
MAX_RESPONSE_BYTES: Final = 1024 * 1024
"""Lambda answers with 6 MB at most, and a body of quotation marks is four times as long in JSON that
is a text in JSON."""

MAX_TIMEOUT_SECONDS: Final = 20
"""API Gateway waits for 29 s, and before the upstream is asked there are calls to AWS."""

MAX_BUDGET: Final = 1_000_000
MAX_BUDGET_SECONDS: Final = 31 * DAY

_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_LAST_LABEL: Final = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
"""With letters alone, so that no spelling of an IPv4 address (decimal, octal, hexadecimal, short) is
a name: whatever ends in a number may be read as one (RFC 1123 §2.1, WHATWG URL §3.5)."""

_PRIVATE_SUFFIXES: Final = frozenset(
    {
        # Special-use names (RFC 6761, 6762, 7686, 8375, 9476) and what ICANN keeps for private use.
        # EC2 and Google Cloud name their metadata services under .internal.
        *("localhost", "local", "internal", "onion", "arpa", "alt", "test", "invalid"),
        # In use inside of so many networks that nobody will be given them (RFC 6762 appendix G)
        *("corp", "home", "mail", "intranet", "lan", "private", "localdomain"),
    }
)

_PATH: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,=:@/-]|%[0-9A-Fa-f]{2})*")
_NOT_IN_A_PATH: Final = frozenset(
    # Behind the ASCII, what NFKC leaves alone and some Windows code page takes for a slash or a
    # backslash: fraction and division slash, set minus, big solidus and its reverse, yen, won.
    "\\;%?#\u2044\u2215\u2216\u29f8\u29f9\u00a5\u20a9"
)

_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")
_QUERY_NAME: Final = re.compile(r"[A-Za-z0-9_.~-]{1,64}")
HEADER_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""Printable ASCII with no space outside: less than RFC 9110 §5.5 allows, and read alike by all."""

CALLER_HEADERS: Final = frozenset({"accept", "accept-language", "content-type"})
"""That a caller may always send. `Upstream.headers` adds to them."""

_NOT_FOR_CALLERS: Final = frozenset(
    {
        # What one hop says to the next (RFC 9110 §7.6.1), and how long the message is
        *("connection", "content-length", "expect", "host", "keep-alive", "te", "trailer"),
        *("transfer-encoding", "upgrade", "via", "max-forwards", "content-encoding"),
        # Who asks
        *("authorization", "cookie", "dpop", "forwarded", "x-real-ip", "client-ip"),
        *("true-client-ip", "cf-connecting-ip", "origin", "referer", "user-agent"),
        # What would be another request than the one that was checked
        *("x-http-method", "x-http-method-override", "x-method-override"),
        *("x-original-url", "x-rewrite-url", "x-original-host", "x-host"),
        # What would be an answer of another form than the one that is read
        *("accept-encoding", "range", "if-range"),
    }
)
_NOT_FOR_CALLERS_PREFIXES: Final = ("proxy-", "sec-", "x-forwarded-", "x-amz-", "x-amzn-")


class Inject(StrEnum):
    """Where the key goes."""

    HEADER = "header"
    QUERY = "query"


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where and how a key may be used.

    ``path_prefix`` that ends in ``/`` lets in all paths below it; any other is the one path.
    ``parameter`` is the name of the header or query parameter that the key goes into, and
    ``template`` its value, with the key in place of `PLACEHOLDER`. ``headers`` are those that
    callers may set beside `CALLER_HEADERS`. ``budget`` is the number of requests that each user has
    in every window of ``budget_seconds``.
    """

    host: str
    path_prefix: str
    methods: tuple[str, ...]
    inject: Inject
    parameter: str
    template: str = PLACEHOLDER
    port: int = 443
    headers: tuple[str, ...] = ()
    max_request_bytes: int = 64 * 1024
    max_response_bytes: int = 256 * 1024
    timeout_seconds: int = 15
    budget: int = 60
    budget_seconds: int = 60

    def checked(self) -> Self:
        """Return this. Raise `ValueError`, with a text for the operator, for what must not be."""
        checked_host(self.host)
        if self.port != 443 and not 1024 <= self.port <= 65535:
            raise ValueError("port: neither 443 nor 1024 to 65535")
        checked_path(self.path_prefix)
        if "%" in self.path_prefix:
            raise ValueError("path_prefix: percent-encoded")
        if not self.methods or not set(self.methods) <= set(METHODS):
            raise ValueError(f"methods: of {', '.join(METHODS)}, at least one")
        name = _HEADER_NAME if self.inject is Inject.HEADER else _QUERY_NAME
        if not name.fullmatch(self.parameter):
            raise ValueError("parameter: not a name")
        if self.inject is Inject.HEADER and (
            (self.parameter.lower() != "authorization" and _is_reserved(self.parameter.lower()))
            or self.parameter.lower() in CALLER_HEADERS
        ):
            raise ValueError("parameter: this header is not for keys")
        if self.template.count(PLACEHOLDER) != 1 or not HEADER_VALUE.fullmatch(self.template):
            raise ValueError(f"template: must have {PLACEHOLDER} once, in printable ASCII")
        for header in self.headers:
            if not _HEADER_NAME.fullmatch(header) or header != header.lower():
                raise ValueError("headers: not names in lower case")
            if _is_reserved(header) or header == self.parameter.lower():
                raise ValueError(f"headers: callers may not set {header}")
        for value, least, most, what in (
            (len(self.headers), 0, 16, "headers"),
            (len(self.template), 1, 256, "template"),
            (self.max_request_bytes, 0, MAX_REQUEST_BYTES, "max_request_bytes"),
            (self.max_response_bytes, 1, MAX_RESPONSE_BYTES, "max_response_bytes"),
            (self.timeout_seconds, 1, MAX_TIMEOUT_SECONDS, "timeout_seconds"),
            (self.budget, 1, MAX_BUDGET, "budget"),
            (self.budget_seconds, 1, MAX_BUDGET_SECONDS, "budget_seconds"),
        ):
            if not least <= value <= most:
                raise ValueError(f"{what}: not from {least} to {most}")
        return self

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        """Of what `dataclasses.asdict` made, with lists for tuples. What is missing or None is as it
        is without; what a later version may have added is left out."""
        known: dict[str, Any] = {
            each.name: tuple(value) if isinstance(value, list) else value
            for each in fields(cls)
            if (value := members.get(each.name)) is not None
        }
        return cls(**{**known, "inject": Inject(known["inject"])})

    def serves(self, path: str) -> bool:
        """Whether ``path``, which `checked_path` has let through, is one of this upstream's."""
        if self.path_prefix.endswith("/"):
            return path.startswith(self.path_prefix)
        return path == self.path_prefix


def checked_host(host: str) -> str:
    """Return ``host``. Raise `ValueError` unless it is an exact public DNS name, in the one form
    that it can have here: lower case, ASCII (A-labels of RFC 5890 for anything else), no address,
    no user, no port, no dot at the end."""
    labels = host.split(".")
    if len(host) > MAX_HOST_LENGTH or len(labels) < 2:
        raise ValueError("host: not a full DNS name")
    if not all(map(_LABEL.fullmatch, labels)) or not _LAST_LABEL.fullmatch(labels[-1]):
        raise ValueError("host: not a DNS name in lower case")
    if not all(map(_is_ascii_or_a_label, labels)):
        raise ValueError("host: not an A-label")
    if labels[-1] in _PRIVATE_SUFFIXES:
        raise ValueError("host: a name for private use")
    return host


def checked_path(path: str) -> str:
    """Return ``path``. Raise `ValueError` unless everybody reads it alike: it is absolute, and
    neither in it nor in what its percent-encoding stands for is there an empty or dot segment, a
    second level of encoding, a parameter, a backslash or a control character. Nothing is put right:
    what two servers could take for two paths is refused."""
    if len(path) > MAX_PATH_LENGTH or not _PATH.fullmatch(path):
        raise ValueError("path: form")
    decoded = unquote_to_bytes(path).decode("utf-8")  # UnicodeDecodeError is a ValueError
    # Some servers fold compatibility characters: U+FF0E is a dot to them, U+2100 holds a slash.
    for text in (decoded, unicodedata.normalize("NFKC", decoded)):
        _, *segments = text.split("/")
        if len(segments) != path.count("/"):
            raise ValueError("path: encoded slash")
        if not all(each.strip(" .") for each in segments[:-1]):
            raise ValueError("path: empty or dot segment")
        if segments[-1] and not segments[-1].strip(" ."):
            raise ValueError("path: dot segment")
        if any(c in _NOT_IN_A_PATH or unicodedata.category(c).startswith("C") for c in text):
            raise ValueError("path: character")
    return path


def _is_reserved(header: str) -> bool:
    return header in _NOT_FOR_CALLERS or header.startswith(_NOT_FOR_CALLERS_PREFIXES)


def _is_ascii_or_a_label(label: str) -> bool:
    if label[2:4] != "--":
        return True
    if not label.startswith("xn--"):
        return False  # reserved (RFC 5891 §4.2.3.1)
    try:
        text = label[4:].encode("ascii").decode("punycode")
        return not text.isascii() and text.encode("punycode") == label[4:].encode("ascii")
    except UnicodeError:
        return False
