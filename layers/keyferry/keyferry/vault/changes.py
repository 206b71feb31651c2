"""What an operator's command does to the manifest: pure, so that it can be done again on what
another operator has left meanwhile.

    put        a version is pending; it replaces another pending one only when that is asked for
    promote    pending becomes current, current becomes previous, the previous one goes
    rollback   previous becomes current, and what was current is pending again
    minimum    no version below it is given out any more, and none is kept
    delete     every version goes, or only the pending one

Each raises `CommandRefused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from keyferry.errors import CommandRefused
from keyferry.vault.model import Conditions, KeyEntry, Manifest, ValueId, Version
from keyferry.vault.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Draft:
    """A new version of a key: the default value, and others for whom their conditions fit.

    ``policy`` and ``cache_seconds`` of None keep what the key has.
    """

    name: str
    value: bytes = field(repr=False)
    variants: tuple[tuple[Conditions, bytes], ...] = field(default=(), repr=False)
    policy: Conditions | None = None
    cache_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """``entries`` are those that the command was about, as they are now or as they were when they
    went. ``seal`` are the values that become rows, ``drop`` those whose rows go."""

    manifest: Manifest
    entries: tuple[KeyEntry, ...]
    seal: tuple[tuple[ValueId, bytes], ...] = field(default=(), repr=False)
    drop: tuple[ValueId, ...] = ()


def put(
    manifest: Manifest,
    drafts: Sequence[Draft],
    *,
    now: int,
    replace_pending: bool = False,
    promoted_for: int | None = None,
) -> Change:
    """New versions, all of them or none. With ``promoted_for`` they are current at once, and what
    they replace can be asked for so many seconds more; a pending version then stays as it is."""
    number = manifest.revision + 1
    entries: list[KeyEntry] = []
    seal: list[tuple[ValueId, bytes]] = []
    drop: tuple[ValueId, ...] = ()
    for draft in drafts:
        entry = manifest.keys.get(draft.name) or KeyEntry.new(draft.name)
        version = Version(number, now, tuple(conditions for conditions, _ in draft.variants))
        values = (draft.value, *(value for _, value in draft.variants))
        seal += zip(version.values(draft.name), values, strict=True)
        entry = replace(
            entry,
            policy=draft.policy or entry.policy,
            cache_seconds=entry.cache_seconds
            if draft.cache_seconds is None
            else draft.cache_seconds,
            updated_at=now,
        )
        if promoted_for is not None:
            drop += _values(draft.name, entry.previous)
            entry = _made_current(entry, version, until=now + promoted_for)
        elif entry.pending is not None and not replace_pending:
            raise CommandRefused(
                "conflict",
                f"{draft.name} has a pending version {entry.pending.number}: promote it, delete it,"
                " or replace it.",
            )
        else:
            drop += _values(draft.name, entry.pending)
            entry = replace(entry, pending=version)
        entries.append(entry)
    return Change(_having(manifest, entries), tuple(entries), tuple(seal), drop)


def promote(
    manifest: Manifest,
    name: str,
    *,
    now: int,
    previous_for: int,
    version: int | None = None,
    minimum: bool = False,
) -> Change:
    """``version`` is the one that the operator means, for when another operator may have put a
    newer one. With ``minimum`` nothing older is given out from now on, nor kept."""
    entry = entry_of(manifest, name)
    pending = entry.pending
    if pending is None:
        raise CommandRefused("not_found", f"{name} has no pending version.")
    if version not in (None, pending.number):
        raise CommandRefused("conflict", f"The pending version of {name} is {pending.number}.")
    if pending.number < entry.min_version:
        raise CommandRefused("conflict", f"The minimum version of {name} is {entry.min_version}.")
    drop = _values(name, entry.previous)
    entry = _made_current(replace(entry, pending=None), pending, until=now + previous_for)
    if minimum:
        drop += _values(name, entry.previous)
        entry = replace(entry, previous=None, previous_until=0, min_version=pending.number)
    return _changed(manifest, entry, now, drop)


def rollback(
    manifest: Manifest, name: str, *, now: int, expected: tuple[int, int | None] | None = None
) -> Change:
    """What was current is pending again, unless there is a pending version: then it goes.

    ``expected`` are the numbers of the current and the pending version that the operator knows of: if
    another operator has put or promoted one since, what goes would be another version than was meant.
    """
    entry = entry_of(manifest, name)
    if entry.previous is None or entry.current is None:
        raise CommandRefused("not_found", f"{name} has no version to go back to.")
    pending = entry.pending.number if entry.pending is not None else None
    if expected not in (None, (entry.current.number, pending)):
        raise CommandRefused(
            "conflict",
            f"The current version of {name} is {entry.current.number} by now, and the pending one"
            f" {pending or 'none'}.",
        )
    drop = _values(name, entry.current) if entry.pending is not None else ()
    entry = replace(
        entry,
        current=entry.previous,
        previous=None,
        previous_until=0,
        pending=entry.pending or entry.current,
    )
    return _changed(manifest, entry, now, drop)


def set_minimum(manifest: Manifest, name: str, *, now: int, minimum: int) -> Change:
    """Give out no version below ``minimum`` any more."""
    entry = entry_of(manifest, name)
    if entry.current is None or minimum > entry.current.number:
        raise CommandRefused("invalid_request", f"{name} has no current version of that number.")
    if minimum < entry.min_version:
        raise CommandRefused("conflict", f"The minimum version of {name} is {entry.min_version}.")
    drop: tuple[ValueId, ...] = ()
    if entry.previous is not None and entry.previous.number < minimum:
        drop += _values(name, entry.previous)
        entry = replace(entry, previous=None, previous_until=0)
    if entry.pending is not None and entry.pending.number < minimum:
        drop += _values(name, entry.pending)
        entry = replace(entry, pending=None)
    return _changed(manifest, replace(entry, min_version=minimum), now, drop)


def set_policy(
    manifest: Manifest,
    name: str,
    *,
    now: int,
    policy: Conditions | None,
    cache_seconds: int | None,
) -> Change:
    """Replace the policy as a whole; None closes the key to everybody."""
    entry = replace(entry_of(manifest, name), policy=policy)
    if cache_seconds is not None:
        entry = replace(entry, cache_seconds=cache_seconds)
    return _changed(manifest, entry, now)


def set_upstream(manifest: Manifest, name: str, *, now: int, upstream: Upstream | None) -> Change:
    """Let a key be used at one upstream only, or let it be delivered again."""
    return _changed(manifest, replace(entry_of(manifest, name), upstream=upstream), now)


def delete(manifest: Manifest, name: str, *, now: int, pending_only: bool = False) -> Change:
    entry = entry_of(manifest, name)
    if pending_only:
        if entry.pending is None:
            raise CommandRefused("not_found", f"{name} has no pending version.")
        return _changed(manifest, replace(entry, pending=None), now, _values(name, entry.pending))
    kept = {other: each for other, each in manifest.keys.items() if other != name}
    drop = tuple(value for version in entry.versions() for value in version.values(name))
    return Change(replace(manifest, keys=kept), (entry,), drop=drop)


def entry_of(manifest: Manifest, name: str) -> KeyEntry:
    """Raise `CommandRefused` (``not_found``) when there is none."""
    entry = manifest.keys.get(name)
    if entry is None:
        raise CommandRefused("not_found", f"There is no key called {name}.")
    return entry


def _made_current(entry: KeyEntry, version: Version, *, until: int) -> KeyEntry:
    replaced = entry.current
    return replace(
        entry,
        current=version,
        previous=replaced,
        previous_until=until if replaced is not None else 0,
    )


def _values(name: str, version: Version | None) -> tuple[ValueId, ...]:
    return version.values(name) if version is not None else ()


def _having(manifest: Manifest, entries: Sequence[KeyEntry]) -> Manifest:
    return replace(manifest, keys={**manifest.keys, **{entry.name: entry for entry in entries}})


def _changed(
    manifest: Manifest, entry: KeyEntry, now: int, drop: tuple[ValueId, ...] = ()
) -> Change:
    entry = replace(entry, updated_at=now)
    return Change(_having(manifest, [entry]), (entry,), drop=drop)
