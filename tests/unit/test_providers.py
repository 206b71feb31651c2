"""The configuration of identity providers: what can not be right is refused before it is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keyferry.errors import Unavailable
from keyferry.federation import cache
from keyferry.federation.cache import ConfiguredProviders
from keyferry.federation.providers import (
    MAX_PROVIDERS,
    NO_PROVIDERS,
    FirstLogin,
    Nonce,
    Provider,
    Providers,
    apple,
    firebase,
    google,
    oidc,
)
from tests.unit.identity_provider import Clock

CORP = oidc(
    "corp",
    "https://issuer.example",
    ("ios",),
    "https://issuer.example/jwks",
    algorithms=("ES256", "RS256"),
    authorized_parties=("web",),
    first_login=FirstLogin.OPEN,
    roles=("user", "beta"),
    max_age=120,
)
EACH = [
    CORP,
    firebase("my-project", tenant="t1", anonymous=True),
    google(("a", "b"), nonce=Nonce.NONE),
    apple(("com.example.app",)),
]


def holding(*providers: Provider) -> Providers:
    held = NO_PROVIDERS
    for provider in providers:
        held = held.having(provider)
    return held


def test_written_and_read() -> None:
    held = holding(*EACH)
    assert Providers.from_json(held.to_json(), revision=4) == held


def test_a_member_of_a_later_version_is_left_out() -> None:
    (members,) = json.loads(holding(CORP).to_json())
    later = json.dumps([{**members, "logo": "x"}])
    assert Providers.from_json(later, revision=1).by_name == {"corp": CORP}


@pytest.mark.parametrize(
    ("flag", "first_login"), [(True, FirstLogin.OPEN), (False, FirstLogin.CLOSED)]
)
def test_rows_of_an_earlier_version(flag: bool, first_login: FirstLogin) -> None:
    (members,) = json.loads(holding(CORP).to_json())
    del members["first_login"]
    earlier = json.dumps([{**members, "auto_provision": flag}])
    (read,) = Providers.from_json(earlier, revision=1).by_name.values()
    assert read == replace(CORP, first_login=first_login)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "Corp"},
        {"name": "corp#1"},
        {"name": "x" * 33},
        {"issuer": ""},
        {"issuer": "https://issuer.example/\0"},
        {"issuer": "https://issuer.example/" + "x" * 255},
        {"audiences": ()},
        {"audiences": ("",)},
        {"audiences": ("ios",) * 33},
        {"authorized_parties": ("é",)},
        {"jwks_uri": "http://issuer.example/jwks"},
        {"jwks_uri": "https://user@issuer.example/jwks"},
        {"algorithms": ()},
        {"algorithms": ("none",)},
        {"algorithms": ("RS256", "HS256")},
        {"max_age": 59},
        {"max_age": 86_401},
        {"roles": ("a b",)},
        {"roles": ("user",) * 33},
        {"tenant": "t1"},
        {"anonymous": True},
    ],
    ids=str,
)
def test_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 -- urlsplit's own is one
        replace(CORP, **changes)


@pytest.mark.parametrize(
    "make",
    [
        lambda: firebase(""),
        lambda: firebase("my project"),
        lambda: firebase("a/../b"),
        lambda: oidc("corp", "issuer.example", ("ios",), "https://issuer.example/jwks"),
        lambda: oidc("corp", "https://issuer.example?x=y", ("ios",), "https://issuer.example/jwks"),
        lambda: oidc("corp", "http://issuer.example", ("ios",), "https://issuer.example/jwks"),
        lambda: google(()),
    ],
    ids=range(7),
)
def test_refused_by_a_preset(make: Callable[[], Provider]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        make()


class TestIssuers:
    @pytest.mark.parametrize("issuer", ["https://accounts.google.com"])
    def test_one_provider_for_one_issuer(self, issuer: str) -> None:
        """Or whoever holds the second one's keys could speak for the first one's users."""
        second = oidc("g2", issuer, ("x",), "https://keys.example/jwks")
        with pytest.raises(ValueError, match="another provider has this issuer"):
            holding(google(("a",)), second)

    def test_aliases_count(self) -> None:
        second = replace(CORP, issuer_aliases=("accounts.google.com",))
        with pytest.raises(ValueError, match="another provider has this issuer"):
            holding(google(("a",)), second)

    def test_replacing_is_not_a_second_one(self) -> None:
        changed = replace(CORP, audiences=("android",))
        assert holding(CORP, changed).by_name == {"corp": changed}

    def test_their_number(self) -> None:
        many = [replace(CORP, name=f"p{n}", issuer=f"https://i{n}") for n in range(MAX_PROVIDERS)]
        held = holding(*many)
        with pytest.raises(ValueError, match="at most"):
            held.having(CORP)
        assert held.having(many[3]).by_name == held.by_name


class Store:
    """Stands in for the row."""

    def __init__(self) -> None:
        self.held = holding(CORP)
        self.reads = 0
        self.is_up = True

    def read(self) -> Providers:
        self.reads += 1
        if not self.is_up:
            raise Unavailable("dynamodb:GetItem providers")
        return self.held


class TestCache:
    def test_read_once_a_minute(self) -> None:
        store, clock = Store(), Clock()
        configured = ConfiguredProviders(store, clock)  # type: ignore[arg-type]
        assert store.reads == 0, "nothing before the first request"
        for _ in range(100):
            assert configured.get("corp") == CORP
            assert configured.get("unknown") is None
        assert store.reads == 1
        store.held = store.held.without("corp")
        clock.time += cache.MAX_AGE_SECONDS - 1
        assert configured.get("corp") == CORP
        clock.time += 1
        assert configured.get("corp") is None
        assert store.reads == 2

    def test_a_row_that_cannot_be_read(self) -> None:
        store, clock = Store(), Clock()
        configured = ConfiguredProviders(store, clock)  # type: ignore[arg-type]
        configured.get("corp")
        store.is_up = False
        assert configured.get("corp") == CORP
        clock.time += cache.MAX_AGE_SECONDS
        with pytest.raises(Unavailable):
            configured.get("corp")
        store.is_up = True
        assert configured.get("corp") == CORP
