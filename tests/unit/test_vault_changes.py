"""What each command does to the manifest, and that no order of them breaks it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyferry.errors import CommandRefused
from keyferry.vault import changes
from keyferry.vault.changes import Change, Draft
from keyferry.vault.model import EMPTY, Conditions, KeyEntry, Manifest, ValueId, Version

EVERYBODY = Conditions(("*",))


def refused(code: str, manifest: Manifest, command: str, *args: object, **options: object) -> None:
    with pytest.raises(CommandRefused) as caught:
        getattr(changes, command)(manifest, *args, now=2, **options)
    assert caught.value.code == code


def put(manifest: Manifest, name: str = "k", **options: object) -> Manifest:
    made = changes.put(manifest, [Draft(name, b"v")], now=1, **options)  # type: ignore[arg-type]
    return _next(made)


def _next(made: Change) -> Manifest:
    return Manifest(made.manifest.revision + 1, made.manifest.keys)


def promote(manifest: Manifest, **options: object) -> Manifest:
    return _next(changes.promote(manifest, "k", now=1, previous_for=100, **options))  # type: ignore[arg-type]


def test_a_new_key_waits() -> None:
    variants = ((EVERYBODY, b"other"),)
    made = changes.put(EMPTY, [Draft("k", b"v", variants, EVERYBODY, 60)], now=7)
    (entry,) = made.entries
    assert entry == KeyEntry("k", None, Version(1, 7, (EVERYBODY,)), None, 0, 0, EVERYBODY, 60, 7)
    assert made.seal == ((ValueId("k", 1, 0), b"v"), (ValueId("k", 1, 1), b"other"))
    assert made.drop == ()
    assert "other" not in repr(made)


def test_another_pending_version_is_not_lost() -> None:
    pending = put(EMPTY)
    refused("conflict", pending, "put", [Draft("k", b"w")])
    made = changes.put(pending, [Draft("k", b"w")], now=1, replace_pending=True)
    assert made.entries[0].pending == Version(2, 1)
    assert made.drop == (ValueId("k", 1),)


def test_all_or_none() -> None:
    refused("conflict", put(EMPTY), "put", [Draft("a", b"v"), Draft("k", b"w")])


def test_promote_keeps_one_version_back() -> None:
    one = promote(put(EMPTY))
    assert one.keys["k"].current == Version(1, 1)
    assert one.keys["k"].previous_until == 0, "there was none before"
    two = promote(put(one))
    assert (two.keys["k"].current, two.keys["k"].previous) == (Version(3, 1), Version(1, 1))
    assert two.keys["k"].previous_until == 101
    made = changes.promote(put(two), "k", now=1, previous_for=100)
    assert made.drop == (ValueId("k", 1),)
    assert made.entries[0].previous == Version(3, 1)


def test_promote_the_one_that_was_meant() -> None:
    pending = put(EMPTY)
    refused("conflict", pending, "promote", "k", previous_for=0, version=7)
    assert promote(pending, version=1).keys["k"].current == Version(1, 1)
    refused("not_found", promote(pending), "promote", "k", previous_for=0)
    refused("not_found", EMPTY, "promote", "k", previous_for=0)


def test_put_and_promote_at_once_leaves_the_pending_one() -> None:
    live = put(put(put(EMPTY, promoted_for=50)), promoted_for=50)
    entry = live.keys["k"]
    assert (entry.previous, entry.pending, entry.current) == (
        Version(1, 1),
        Version(2, 1),
        Version(3, 1),
    )
    assert entry.previous_until == 51


def test_minimum_at_promotion_ends_everything_older() -> None:
    live = put(promote(put(promote(put(EMPTY)))))
    made = changes.promote(live, "k", now=1, previous_for=100, minimum=True)
    (entry,) = made.entries
    assert (entry.current, entry.previous, entry.min_version) == (Version(5, 1), None, 5)
    assert set(made.drop) == {ValueId("k", 1), ValueId("k", 3)}


def test_rollback() -> None:
    live = promote(put(promote(put(EMPTY))))
    made = changes.rollback(live, "k", now=2)
    (entry,) = made.entries
    assert (entry.current, entry.pending, entry.previous) == (Version(1, 1), Version(3, 1), None)
    assert made.drop == ()
    refused("not_found", _next(made), "rollback", "k")
    again = promote(_next(made))
    assert (again.keys["k"].current, again.keys["k"].previous) == (Version(3, 1), Version(1, 1))


def test_rollback_in_haste_keeps_the_pending_one() -> None:
    made = changes.rollback(put(promote(put(promote(put(EMPTY))))), "k", now=2)
    (entry,) = made.entries
    assert (entry.current, entry.pending) == (Version(1, 1), Version(5, 1))
    assert made.drop == (ValueId("k", 3),)


def test_rollback_of_what_was_meant() -> None:
    live = put(promote(put(promote(put(EMPTY)))))
    for expected in ((3, None), (3, 4), (1, 5), (5, 5)):
        refused("conflict", live, "rollback", "k", expected=expected)
    made = changes.rollback(live, "k", now=2, expected=(3, 5))
    assert made.entries[0].current == Version(1, 1)


def test_minimum() -> None:
    live = promote(put(promote(put(EMPTY))))
    made = changes.set_minimum(live, "k", now=2, minimum=3)
    (entry,) = made.entries
    assert (entry.min_version, entry.previous, made.drop) == (3, None, (ValueId("k", 1),))
    refused("not_found", _next(made), "rollback", "k")
    refused("conflict", _next(made), "set_minimum", "k", minimum=2)
    refused("invalid_request", live, "set_minimum", "k", minimum=4)
    refused("invalid_request", put(EMPTY), "set_minimum", "k", minimum=1)


def test_an_old_pending_version_goes_with_the_minimum() -> None:
    live = put(put(put(EMPTY, promoted_for=0)), promoted_for=0)  # 1 previous, 2 pending, 3 current
    made = changes.set_minimum(live, "k", now=2, minimum=3)
    assert set(made.drop) == {ValueId("k", 1), ValueId("k", 2)}
    assert made.entries[0].pending is None


def test_policy_as_a_whole() -> None:
    live = _next(changes.set_policy(put(EMPTY), "k", now=2, policy=EVERYBODY, cache_seconds=None))
    assert (live.keys["k"].policy, live.keys["k"].cache_seconds) == (EVERYBODY, 300)
    kept = put(live, replace_pending=True)
    assert kept.keys["k"].policy == EVERYBODY
    made = changes.set_policy(live, "k", now=2, policy=None, cache_seconds=5)
    assert (made.entries[0].policy, made.entries[0].cache_seconds) == (None, 5)


def test_delete() -> None:
    live = put(promote(put(promote(put(EMPTY)))))
    made = changes.delete(live, "k", now=2)
    assert made.manifest.keys == {}
    assert made.drop == (ValueId("k", 1), ValueId("k", 3), ValueId("k", 5))
    pending = changes.delete(live, "k", now=2, pending_only=True)
    assert pending.drop == (ValueId("k", 5),)
    assert pending.entries[0].current == Version(3, 1)
    refused("not_found", _next(pending), "delete", "k", pending_only=True)
    refused("not_found", EMPTY, "delete", "k")


class Operators(RuleBasedStateMachine):
    """Any commands in any order: rows and manifest agree, and what was given up stays given up."""

    def __init__(self) -> None:
        super().__init__()
        self.manifest = EMPTY
        self.rows: set[ValueId] = set()
        self.minimum: dict[str, int] = {}

    def do(self, command: str, *args: object, **options: object) -> None:
        try:
            made: Change = getattr(changes, command)(self.manifest, *args, now=1, **options)
        except CommandRefused:
            return
        sealed = {value_id for value_id, _ in made.seal}
        assert not sealed & self.rows, "a row is never written over"
        assert set(made.drop) <= self.rows
        assert not sealed & set(made.drop), "one transaction touches a row once"
        assert len(set(made.drop)) == len(made.drop)
        self.rows = self.rows - set(made.drop) | sealed
        self.manifest = _next(made)

    names = st.sampled_from(["a", "b"])
    flags = st.booleans()

    @rule(name=names, variants=st.integers(0, 2), now=flags, again=flags)
    def put(self, name: str, variants: int, *, now: bool, again: bool) -> None:
        draft = Draft(name, b"v", ((EVERYBODY, b"w"),) * variants)
        self.do("put", [draft], promoted_for=5 if now else None, replace_pending=again)

    @rule(name=names, minimum=flags)
    def promote(self, name: str, *, minimum: bool) -> None:
        self.do("promote", name, previous_for=5, minimum=minimum)

    @rule(name=names)
    def rollback(self, name: str) -> None:
        self.do("rollback", name)

    @rule(name=names, number=st.integers(1, 12))
    def set_minimum(self, name: str, number: int) -> None:
        self.do("set_minimum", name, minimum=number)

    @rule(name=names, pending=flags)
    def delete(self, name: str, *, pending: bool) -> None:
        self.do("delete", name, pending_only=pending)
        if name not in self.manifest.keys:
            self.minimum.pop(name, None)

    @invariant()
    def rows_are_what_the_manifest_names(self) -> None:
        named = {
            value_id
            for entry in self.manifest.keys.values()
            for version in entry.versions()
            for value_id in version.values(entry.name)
        }
        assert named == self.rows

    @invariant()
    def nothing_below_the_minimum_is_given_out(self) -> None:
        for entry in self.manifest.keys.values():
            assert entry.min_version >= self.minimum.get(entry.name, 0)
            self.minimum[entry.name] = entry.min_version
            for version in (entry.current, entry.previous):
                assert version is None or version.number >= entry.min_version


Operators.TestCase.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)
TestOperators = Operators.TestCase
