"""The bodies of login and refresh: accepted exactly where pydantic models of them accept."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from keyferry.edge.fields import Malformed
from keyferry.edge.request import Request
from keyferry.errors import RequestRefused
from keyferry.login.request import LoginRequest, read
from keyferry.sessions.refresh import RefreshRequest
from keyferry_cli.openapi import bodies

DEVICE = {
    "name": "Ana's phone",
    "platform": "ios",
    "app_version": "2.4.1",
    "encryption_key": {"kty": "EC"},
}
PASSWORD: dict[str, Any] = {"username": "ana", "password": "secret words", "device": DEVICE}
CONTINUED: dict[str, Any] = {"auth_session": "x.y.z", "otp": "123456", "device": DEVICE}
PROVIDER: dict[str, Any] = {
    "provider": "google",
    "id_token": "a.b.c",
    "nonce": "n",
    "invitation": {"username": "ana", "code": "abcd"},
    "device": DEVICE,
}
WAYS = [PASSWORD, CONTINUED, PROVIDER]
MEMBERS = [
    *("username", "password", "auth_session", "provider", "id_token", "nonce", "invitation", "otp"),
    *("device", "device.name", "device.platform", "device.app_version", "device.encryption_key"),
    *("invitation.username", "invitation.code", "other", "device.other", "invitation.other"),
]
LENGTHS = [
    0,
    1,
    5,
    6,
    32,
    33,
    64,
    65,
    128,
    129,
    254,
    255,
    256,
    257,
    1024,
    1025,
    2048,
    2049,
    16_384,
    16_385,
]
VALUES = st.one_of(
    st.sampled_from(
        [None, True, 0, 1.5, [], {}, "", "\ud800", "é", "ios\n", "IOS", "a b", "1.0-b+c"]
    ),
    st.sampled_from(LENGTHS).map("a".__mul__),
    st.sampled_from([{"username": "a", "code": "b"}, DEVICE]),
    st.text(max_size=40),
)
GONE = object()


def changed(body: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    made = copy.deepcopy(body)
    *folders, name = path.split(".")
    place = made
    for folder in folders:
        inner = place.get(folder)
        if not isinstance(inner, dict):
            return made
        place = inner
    if value is GONE:
        place.pop(name, None)
    else:
        place[name] = value
    return made


def accepts(kind: Any, body: dict[str, Any]) -> bool:
    try:
        if hasattr(kind, "model_validate"):
            kind.model_validate(body)
        else:
            kind.from_members(body)
    except (ValidationError, Malformed):
        return False
    return True


@pytest.mark.parametrize("way", WAYS)
def test_every_way_in(way: dict[str, Any]) -> None:
    assert accepts(bodies.LoginRequest, way)
    read_ = LoginRequest.from_members(way)
    assert read_.device.encryption_key == {"kty": "EC"}
    assert read_.invitation is None or read_.invitation.code == "abcd"


@given(
    way=st.sampled_from(WAYS),
    changes=st.lists(
        st.tuples(st.sampled_from(MEMBERS), VALUES | st.just(GONE)), min_size=1, max_size=3
    ),
)
def test_login_accepts_what_the_model_accepts(
    way: dict[str, Any], changes: list[tuple[str, object]]
) -> None:
    body = way
    for path, value in changes:
        body = changed(body, path, value)
    assert accepts(LoginRequest, body) == accepts(bodies.LoginRequest, body)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("path", MEMBERS)
def test_login_accepts_as_much_as_the_model_accepts(path: str, length: int) -> None:
    for way in WAYS:
        body = changed(way, path, "a" * length)
        assert accepts(LoginRequest, body) == accepts(bodies.LoginRequest, body)


@given(
    st.dictionaries(
        st.sampled_from(["grant_type", "refresh_token", "client_id", "scope"]), VALUES, max_size=4
    )
)
def test_refresh_accepts_what_the_model_accepts(body: dict[str, Any]) -> None:
    texts = [value for value in body.values() if isinstance(value, str)]
    # Half of a surrogate pair is no text; pydantic takes one where a text has no other condition.
    # And no text of a body is longer than a body may be.
    sound = all("\ud800" not in text and len(text) <= 16_384 for text in texts)
    assert accepts(RefreshRequest, body) == (sound and accepts(bodies.RefreshRequest, body))


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("device.name", " at device.name"),
        ("device", " at device"),
        ("invitation.code", " at invitation.code"),
        ("password", " at password"),
        ("unknown_member", " at unknown_member"),
        ('<script>alert("x")</script>', ""),
        ("a" * 65, ""),
    ],
)
def test_the_answer_says_where_and_never_what(path: str, where: str) -> None:
    way = PROVIDER if path.startswith("invitation") else PASSWORD
    body = changed(way, path, ["what was sent"])
    event = {
        "httpMethod": "POST",
        "resource": "/v1/login",
        "headers": {"content-type": "application/json"},
        "requestContext": {},
        "body": json.dumps(body),
    }
    with pytest.raises(RequestRefused) as refused:
        read(Request.from_event(event, invocation_id="i"))
    assert refused.value.description == f"The request is malformed{where}."
    assert refused.value.reason == "body is not a login request"


def test_no_secret_in_a_repr() -> None:
    shown = "".join(repr(LoginRequest.from_members(way)) for way in WAYS)
    for secret in ("secret words", "x.y.z", "123456", "a.b.c", "abcd"):
        assert secret not in shown
    token = RefreshRequest.from_members({"grant_type": "refresh_token", "refresh_token": "kfr_x"})
    assert "kfr_x" not in repr(token)
