"""One-time passwords against the values of their RFCs."""

import os
from urllib.parse import parse_qs, urlsplit

import pytest

from keyferry.users import totp

RFC_SECRET = b"12345678901234567890"
NOW = 1_790_000_010


@pytest.mark.parametrize(
    ("counter", "code"),
    list(
        enumerate(
            ["755224", "287082", "359152", "969429", "338314"]
            + ["254676", "287922", "162583", "399871", "520489"]
        )
    ),
)
def test_rfc4226_appendix_d(counter: int, code: str) -> None:
    assert totp.code_at(RFC_SECRET, counter) == code


@pytest.mark.parametrize(
    ("time", "code"),
    [
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_rfc6238_appendix_b(time: int, code: str) -> None:
    """The last six of the eight digits given there."""
    assert totp.code_at(RFC_SECRET, time // 30) == code
    assert totp.matching_step(RFC_SECRET, code, time) == time // 30


@pytest.mark.parametrize(
    ("offset", "good"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)]
)
def test_window(offset: int, *, good: bool) -> None:
    step = NOW // 30 + offset
    code = totp.code_at(RFC_SECRET, step)
    assert totp.matching_step(RFC_SECRET, code, NOW) == (step if good else None)


@pytest.mark.parametrize(
    "code", ["", "12345", "1234567", "abcdef", "１２３４５６", "\ud800", " 287082"]
)
def test_no_codes(code: str) -> None:
    assert totp.matching_step(RFC_SECRET, code, 59) is None


def test_uri() -> None:
    uri = urlsplit(totp.otpauth_uri(RFC_SECRET, issuer="My App", account="ana:x@example.com"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert uri.path == "/My%20App%3Aana%3Ax%40example.com"
    query = parse_qs(uri.query)
    assert query["secret"] == ["GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"]
    assert (query["issuer"], query["digits"], query["period"]) == (["My App"], ["6"], ["30"])


def test_recovery_codes() -> None:
    codes = totp.new_recovery_codes(os.urandom)
    assert len(set(codes)) == 10
    for code in codes:
        assert len(code) == 19
        hashed = totp.recovery_hash(code)
        assert hashed is not None
        assert totp.recovery_hash(f" {code.lower().replace('-', ' ')}") == hashed
        assert code.replace("-", "").lower() not in hashed


@pytest.mark.parametrize("code", ["", "123456", "A" * 15, "A" * 17, "ä" * 16])
def test_not_of_the_form_of_a_recovery_code(code: str) -> None:
    assert totp.recovery_hash(code) is None
