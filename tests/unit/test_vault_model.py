"""Who may have which key, and what is remembered of opened ones."""

import pytest

from keyferry.vault.cache import MAX_AGE_SECONDS, MAX_ENTRIES, MAX_USES, OpenedKeys
from keyferry.vault.model import KeyEntry, Manifest, Policy, is_name


def entry(name: str, policy: Policy | None) -> KeyEntry:
    return KeyEntry(name, 1, None, policy, 300, 0)


@pytest.mark.parametrize(
    ("policy", "roles", "platform", "allowed"),
    [
        (Policy(("*",)), (), "ios", True),
        (Policy(("user",)), ("user",), "ios", True),
        (Policy(("user", "admin")), ("admin", "x"), "ios", True),
        (Policy(("user",)), (), "ios", False),
        (Policy(("user",)), ("User",), "ios", False),
        (Policy(("user",)), ("*",), "ios", False),
        (Policy(("*",), ("android",)), (), "ios", False),
        (Policy(("*",), ("android", "ios")), (), "ios", True),
        (Policy((), ("*",)), ("user",), "ios", False),
        (Policy(("*",), ()), ("user",), "ios", False),
    ],
)
def test_policy(policy: Policy, roles: tuple[str, ...], platform: str, *, allowed: bool) -> None:
    assert policy.allows(roles=roles, platform=platform) is allowed
    manifest = Manifest(1, {"k": entry("k", policy)})
    assert bool(manifest.readable(roles=roles, platform=platform)) is allowed


def test_default_is_deny() -> None:
    manifest = Manifest(1, {"k": entry("k", None)})
    assert manifest.readable(roles=("user", "*"), platform="ios") == ()


def test_round_trip() -> None:
    keys = {"b": entry("b", Policy(("user",), ("ios",))), "a": entry("a", None)}
    assert Manifest.from_json(Manifest(7, keys).to_json(), revision=7) == Manifest(7, keys)


@pytest.mark.parametrize("name", ["gemini", "A.b-c_9", "0", "a" * 64])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a#1", "../a", "ä", "a\n", "-a", ".a", "a" * 65])
def test_no_names(name: str) -> None:
    assert not is_name(name)


class TestOpenedKeys:
    def test_age(self) -> None:
        now = [1000]
        opened = OpenedKeys(lambda: now[0])
        opened.put("k", 1, b"v")
        now[0] += MAX_AGE_SECONDS - 1
        assert opened.get("k", 1) == b"v"
        now[0] += 1
        assert opened.get("k", 1) is None
        now[0] -= 2
        assert opened.get("k", 1) is None, "gone is gone"

    def test_a_clock_set_back_does_not_prolong(self) -> None:
        now = [1000]
        opened = OpenedKeys(lambda: now[0])
        opened.put("k", 1, b"v")
        now[0] -= 1
        assert opened.get("k", 1) is None

    def test_uses(self) -> None:
        opened = OpenedKeys(lambda: 0)
        opened.put("k", 1, b"v")
        for _ in range(MAX_USES):
            assert opened.get("k", 1) == b"v"
        assert opened.get("k", 1) is None

    def test_number(self) -> None:
        opened = OpenedKeys(lambda: 0)
        for version in range(MAX_ENTRIES + 1):
            opened.put("k", version, b"v")
        assert opened.get("k", 0) is None
        assert opened.get("k", 1) == b"v"

    def test_versions_are_apart_and_nothing_shows(self) -> None:
        opened = OpenedKeys(lambda: 0)
        opened.put("k", 1, b"hunter2")
        assert opened.get("k", 2) is None
        assert "hunter2" not in repr(opened)
