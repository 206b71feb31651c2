"""One request to an upstream: what of the caller's goes there, and what of its answer comes back.

Both by lists of what may pass. The upstream gets a method, a path and headers that its entry allows,
and the key; the caller gets a status, a few headers and the body, and never the key.
"""

from __future__ import annotations

import base64
import http.client
import re
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from keyferry import __version__, outgoing
from keyferry.errors import RequestRefused
from keyferry.proxy.destination import Destinations, NotPublic
from keyferry.vault.upstream import (
    CALLER_HEADERS,
    HEADER_VALUE,
    PLACEHOLDER,
    Inject,
    Upstream,
    checked_path,
)

CONNECT_SECONDS: Final = 2.0

MAX_QUERY_PAIRS: Final = 64
MAX_QUERY_LENGTH: Final = 8192
"""Characters, encoded."""

MAX_HEADER_LENGTH: Final = 1024
"""Characters of one value, either way."""

RETURNED_HEADERS: Final = (
    *("cache-control", "content-language", "content-type", "etag", "last-modified"),
    "retry-after",
)
"""Of the upstream's answer. No ``Location``: a redirect that is not followed leads nowhere either."""

_MAX_HEAD_BYTES: Final = 64 * 1024
_MIN_INNER_BYTES: Final = 8
"""Of what a key encodes in Base64: less is found in many an answer by chance."""

_BRACKET: Final = re.compile(r"[\[\]]")
_ESCAPE: Final = re.compile(rb"\\(?:(?:u00|x)([0-7][0-9A-Fa-f])|([\"'\\/]))")
_ENTITY: Final = re.compile(
    rb"&#(?:0{0,5}([1-9][0-9]{1,2})|[xX]0{0,5}([0-9A-Fa-f]{2}));|&([a-z]{2,4});"
)
_ENTITIES: Final = {b"amp": b"&", b"lt": b"<", b"gt": b">", b"quot": b'"', b"apos": b"'"}
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks to have sent. ``body`` of None is none, which an empty one is not."""

    method: str
    path: str
    query: Sequence[tuple[str, str]] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is sent: with the key in it, so nothing of it is ever shown."""

    method: str
    target: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What comes back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def check(wanted: Wanted, upstream: Upstream) -> None:
    """Raise `RequestRefused` (``proxy_refused``, ``payload_too_large``) for a request that
    ``upstream`` does not serve. It needs no key, so it comes before anything that costs."""
    if wanted.method not in upstream.methods:
        raise _refused("method", "The key is not for this method.")
    try:
        served = upstream.serves(checked_path(wanted.path))
    except ValueError:
        raise _refused("path form", "The path can be read in more than one way.") from None
    if not served:
        raise _refused("path", "The key is not for this path.")
    _check_query(wanted.query, upstream)
    _check_headers(wanted.headers, upstream)
    if wanted.body is not None:
        if wanted.method in _WITHOUT_BODY:
            raise _refused("body", "This method has no body.")
        if len(wanted.body) > upstream.max_request_bytes:
            raise RequestRefused("payload_too_large", "proxy: body")


def prepare(wanted: Wanted, upstream: Upstream, key: str) -> Prepared:
    """Put the key into a request that `check` has let through. Raise `RequestRefused`
    (``upstream_unavailable``) when the key cannot stand where its entry wants it."""
    value = upstream.template.replace(PLACEHOLDER, key)
    headers = {
        "accept": "*/*",
        **{name.lower(): sent for name, sent in wanted.headers.items()},
        "user-agent": f"keyferry/{__version__}",
    }
    query = list(wanted.query)
    if upstream.inject is Inject.QUERY:
        query.append((upstream.parameter, value))
    elif HEADER_VALUE.fullmatch(value):
        headers[upstream.parameter.lower()] = value
    else:
        raise RequestRefused("upstream_unavailable", "proxy: the key is not a header's value")
    target = wanted.path + (f"?{_encoded(query)}" if query else "")
    return Prepared(wanted.method, target, headers, wanted.body)


def send(
    prepared: Prepared,
    upstream: Upstream,
    key: str,
    *,
    destinations: Destinations,
    deadline: float,
) -> Answer:
    """Send it, once, and read the answer, all before ``deadline``, a moment of `time.monotonic`, and
    within the upstream's ``timeout_seconds``.

    A redirect is an answer like any other. Raise `RequestRefused`: ``upstream_unavailable`` when
    there is no sound answer, ``upstream_timeout`` when there is none in time,
    ``upstream_answer_too_large``, and ``upstream_echo`` when the key is in it.
    """
    deadline = min(deadline, time.monotonic() + upstream.timeout_seconds)
    try:
        destination = destinations.find(upstream.host, upstream.port)
        left = deadline - time.monotonic()
        with outgoing.exchange(
            outgoing.connect(destination.addresses, seconds=min(CONNECT_SECONDS, left)),
            host=destination.host,
            port=destination.port,
            secure=destination.secure,
            deadline=deadline,
            # Chunks of a few bytes each (RFC 9112 §7.1) are longer than what is in them.
            max_bytes=2 * upstream.max_response_bytes + _MAX_HEAD_BYTES,
            method=prepared.method,
            target=prepared.target,
            headers=prepared.headers,
            body=prepared.body,
        ) as response:
            answer = _answer(response, upstream.max_response_bytes)
    except NotPublic:
        raise RequestRefused("upstream_unavailable", "upstream: address not public") from None
    except TimeoutError:
        raise RequestRefused("upstream_timeout", "upstream: no answer in time") from None
    except outgoing.TooLarge:
        raise RequestRefused("upstream_answer_too_large", "upstream: answer too large") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The type alone: a message can quote what the server sent.
        reason = f"upstream: {type(error).__name__}"
        raise RequestRefused("upstream_unavailable", reason) from None
    if is_told(key, answer):
        raise RequestRefused("upstream_echo", "upstream: the key is in its answer")
    return answer


def is_told(key: str, answer: Answer) -> bool:
    """Whether ``answer`` holds the key: as it is, in percent-encoding (once or twice), in a JSON or
    JavaScript text with escapes, in HTML or XML, in UTF-16, in Base64 (at any place of what was
    encoded) or in hexadecimal; or, of a key that is Base64 itself, what it encodes, as Basic
    credentials are. A part of it, or one of many other spellings, is not found: whoever chooses an
    upstream trusts it with the key."""
    told = "\n".join(answer.headers.values()).encode("ascii") + b"\n" + answer.body
    plain = _ENTITY.sub(_character, _ESCAPE.sub(_unescaped, told))
    decoded = unquote_to_bytes(plain)
    spaced, twice = unquote_to_bytes(plain.replace(b"+", b" ")), unquote_to_bytes(decoded)
    places = (told, plain, decoded, spaced, twice)
    return any(spelling in place for spelling in _spellings(key.encode()) for place in places)


def _spellings(key: bytes) -> Iterator[bytes]:
    yield key
    yield key.hex().encode()
    yield key.hex().upper().encode()
    yield key.decode().encode("utf-16-le")
    yield key.decode().encode("utf-16-be")
    with suppress(ValueError):  # it is no Base64
        inner = base64.b64decode(key, validate=True)
        if len(inner) >= _MIN_INNER_BYTES and inner.isascii():
            yield inner
    for before in range(3):
        # Only the characters that are made of the key alone: what is before and after is not known.
        encoded = base64.b64encode(bytes(before) + key)
        rest = (before + len(key)) % 3
        middle = encoded[(0, 2, 3)[before] : len(encoded) - (0, 3, 2)[rest]]
        if len(middle) >= 4:
            yield middle
            yield middle.translate(bytes.maketrans(b"+/", b"-_"))


def _unescaped(match: re.Match[bytes]) -> bytes:
    return match[2] or bytes([int(match[1], 16)])


def _character(match: re.Match[bytes]) -> bytes:
    decimal, hexadecimal, name = match.groups()
    if name is not None:
        return _ENTITIES.get(name, match[0])
    code = int(decimal) if decimal is not None else int(hexadecimal, 16)
    return bytes([code]) if code < 128 else match[0]


def _check_query(query: Sequence[tuple[str, str]], upstream: Upstream) -> None:
    try:
        encoded = _encoded(query)
    except UnicodeEncodeError:
        raise _refused("query text", "The query is not Unicode text.") from None
    if len(query) > MAX_QUERY_PAIRS or len(encoded) > MAX_QUERY_LENGTH or "%00" in encoded:
        raise _refused("query", "The query is too long, or not a query.")
    if upstream.inject is Inject.QUERY:
        own = _letters(upstream.parameter)
        # A server that decodes twice reads the second.
        names = {reading for name, _ in query for reading in (name, unquote(name))}
        if any(own in _readings(name) for name in names):
            raise _refused("query parameter", "The query has the parameter that the key goes into.")


def _readings(name: str) -> tuple[str, str]:
    """The letters and digits of a name of a query parameter, of all of it and of what stands before,
    or alone in, brackets.

    That is how the most lenient of servers may read it: PHP strips spaces in front, takes those
    inside, dots and a lone bracket for underscores, and cuts brackets off; Rack takes off a bracket
    in front; others fold case and compatibility characters.
    """
    first = next((part for part in _BRACKET.split(name) if _letters(part)), "")
    return _letters(name), _letters(first)


def _letters(name: str) -> str:
    # Upper case first, for "ı", whose capital is "I".
    folded = unicodedata.normalize("NFKC", name).upper().casefold()
    return "".join(c for c in folded if c.isalnum()) or folded


def _check_headers(headers: Mapping[str, str], upstream: Upstream) -> None:
    allowed = CALLER_HEADERS | set(upstream.headers)
    names = [name.lower() for name in headers]
    if not set(names) <= allowed or len(set(names)) != len(names):
        raise _refused("header", "Of the headers, one is not passed on, or there twice.")
    for value in headers.values():
        if len(value) > MAX_HEADER_LENGTH or not HEADER_VALUE.fullmatch(value):
            raise _refused("header value", "A header's value is not printable ASCII, or too long.")


def _encoded(query: Sequence[tuple[str, str]]) -> str:
    return "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)


def _answer(response: http.client.HTTPResponse, max_bytes: int) -> Answer:
    if not 200 <= response.status <= 599:
        raise ValueError("status")
    body = outgoing.read_body(response, max_bytes=max_bytes)
    headers = {
        name: value
        for name in RETURNED_HEADERS
        if (value := response.getheader(name)) is not None
        and len(value) <= MAX_HEADER_LENGTH
        and HEADER_VALUE.fullmatch(value)
    }
    return Answer(response.status, headers, body)


def _refused(part: str, description: str) -> RequestRefused:
    return RequestRefused("proxy_refused", f"proxy: {part}", description=description)
