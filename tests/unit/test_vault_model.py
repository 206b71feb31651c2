"""What the manifest says and how it is stored, and what is remembered of opened keys."""

import json
import zlib
from typing import Any

import pytest

from keyferry.vault.cache import MAX_AGE_SECONDS, MAX_ENTRIES, MAX_USES, OpenedKeys
from keyferry.vault.model import (
    EMPTY,
    Conditions,
    KeyEntry,
    Manifest,
    ValueId,
    Version,
    is_name,
)
from keyferry.vault.store import MAX_MANIFEST_BYTES, ManifestReader, manifest_from_item
from keyferry.vault.upstream import Inject, Upstream

FULL = KeyEntry(
    name="b",
    current=Version(5, 100, (Conditions(("user",), ("ios",), min_app_version="2.0"),)),
    pending=Version(7, 200),
    previous=Version(3, 50),
    previous_until=400,
    min_version=3,
    policy=Conditions(("user",), ("ios",), "1.2", True, True, 10, 20, 500),
    cache_seconds=60,
    updated_at=200,
    upstream=Upstream("api.example.com", "/v1/", ("POST",), Inject.HEADER, "x-api-key"),
)


def test_round_trip() -> None:
    manifest = Manifest(7, {"b": FULL, "a": KeyEntry.new("a")})
    assert Manifest.from_json(manifest.to_json(), revision=7) == manifest


def test_a_manifest_of_the_first_form() -> None:
    """As it was stored when a key had one value and no pending version."""
    stored = {
        "name": "maps",
        "version": 5,
        "previous": 3,
        "policy": {"roles": ["user"], "platforms": ["*"], "second_factor": False},
        "cache_seconds": 60,
        "updated_at": 9,
    }
    without = {**stored, "name": "other", "previous": None, "policy": None}
    manifest = Manifest.from_json(json.dumps([stored, without]), revision=5)
    assert manifest.keys["maps"] == KeyEntry(
        "maps", Version(5, 9), None, Version(3, 9), 0, 0, Conditions(("user",)), 60, 9
    )
    assert manifest.keys["other"] == KeyEntry("other", Version(5, 9), None, None, 0, 0, None, 60, 9)


class TestRows:
    def row(self, revision: int, document: dict[str, Any]) -> dict[str, Any]:
        return {"id": {"S": "MANIFEST"}, "revision": {"N": str(revision)}, "document": document}

    def test_compressed_and_as_text(self) -> None:
        manifest = Manifest(7, {"b": FULL})
        text = manifest.to_json()
        compressed = zlib.compress(text.encode())
        assert manifest_from_item(self.row(7, {"S": text})) == manifest
        assert manifest_from_item(self.row(7, {"B": compressed})) == manifest
        assert manifest_from_item(None) == EMPTY

    @pytest.mark.parametrize("cut", [slice(None, -1), slice(0, 0), slice(1, None)])
    def test_broken(self, cut: slice) -> None:
        broken = zlib.compress(b"[]")[cut]
        with pytest.raises((ValueError, zlib.error)):
            manifest_from_item(self.row(1, {"B": broken}))

    def test_a_small_row_does_not_fill_the_memory(self) -> None:
        bomb = zlib.compress(b" " * (MAX_MANIFEST_BYTES * 64))
        assert len(bomb) < MAX_MANIFEST_BYTES
        with pytest.raises(ValueError, match="too large"):
            manifest_from_item(self.row(1, {"B": bomb}))

    def test_read_once_for_each_state_of_the_row(self) -> None:
        reader = ManifestReader()
        assert reader.read(None) == EMPTY
        first = self.row(7, {"S": Manifest(7, {"b": FULL}).to_json()})
        one = reader.read(first)
        assert reader.read(json.loads(json.dumps(first))) is one
        other = self.row(8, {"S": "[]"})
        assert reader.read(other) == Manifest(8, {})
        assert reader.read(first) == one
        assert reader.read(None) == EMPTY, "an emptied table is seen"


def test_versions_and_their_values() -> None:
    assert [version.number for version in FULL.versions()] == [3, 5, 7]
    assert FULL.current is not None
    assert FULL.current.values("b") == (ValueId("b", 5, 0), ValueId("b", 5, 1))
    assert [value.label for value in FULL.current.values("b")] == ["5", "5.1"]


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
        opened.put(ValueId("k", 1), b"v")
        now[0] += MAX_AGE_SECONDS - 1
        assert opened.get(ValueId("k", 1)) == b"v"
        now[0] += 1
        assert opened.get(ValueId("k", 1)) is None
        now[0] -= 2
        assert opened.get(ValueId("k", 1)) is None, "gone is gone"

    def test_a_clock_set_back_does_not_prolong(self) -> None:
        now = [1000]
        opened = OpenedKeys(lambda: now[0])
        opened.put(ValueId("k", 1), b"v")
        now[0] -= 1
        assert opened.get(ValueId("k", 1)) is None

    def test_uses(self) -> None:
        opened = OpenedKeys(lambda: 0)
        opened.put(ValueId("k", 1), b"v")
        for _ in range(MAX_USES):
            assert opened.get(ValueId("k", 1)) == b"v"
        assert opened.get(ValueId("k", 1)) is None

    def test_number(self) -> None:
        opened = OpenedKeys(lambda: 0)
        for version in range(MAX_ENTRIES + 1):
            opened.put(ValueId("k", version), b"v")
        assert opened.get(ValueId("k", 0)) is None
        assert opened.get(ValueId("k", 1)) == b"v"

    def test_versions_are_apart_and_nothing_shows(self) -> None:
        opened = OpenedKeys(lambda: 0)
        opened.put(ValueId("k", 1), b"hunter2")
        assert opened.get(ValueId("k", 2)) is None
        assert opened.get(ValueId("k", 1, 1)) is None
        assert "hunter2" not in repr(opened)
