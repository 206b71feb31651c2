"""Which keys there are, who may have them, and at which version: the manifest.

One row holds it all, so a delivery learns everything that it needs to decide in one read, however
many keys there are. Values are not in it; each value of each version of each key is a row of its
own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, Self

from keyferry.vault.upstream import Upstream

ANY: Final = "*"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DEFAULT_CACHE_SECONDS: Final = 300
MAX_VALUE_BYTES: Final = 4096
MAX_VARIANTS: Final = 16

WHOLE_ROLLOUT: Final = 10_000


def is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold of a caller, all of it: to have a key, or to have one of its values in place of
    the default one.

    ``platforms`` and ``min_app_version`` are about what the app says of itself: they keep a value
    from an app that it is not meant for, not from somebody who lies. ``not_before`` and
    ``not_after`` are seconds since the epoch, the second one the first at which it is over.
    ``rollout`` is in hundredths of a percent of the users.
    """

    roles: tuple[str, ...]
    platforms: tuple[str, ...] = (ANY,)
    min_app_version: str | None = None
    attested: bool = False
    second_factor: bool = False
    not_before: int | None = None
    not_after: int | None = None
    rollout: int = WHOLE_ROLLOUT

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        return cls(
            **{
                **members,
                "roles": tuple(members["roles"]),
                "platforms": tuple(members["platforms"]),
            }
        )


class ValueId(NamedTuple):
    """Names one sealed value. ``variant`` 0 is a version's default value."""

    name: str
    version: int
    variant: int = 0

    @property
    def label(self) -> str:
        """The version and variant as rows and encryption contexts name them."""
        return f"{self.version}.{self.variant}" if self.variant else str(self.version)


@dataclass(frozen=True, slots=True)
class Version:
    """``variants`` say who gets another value than the default one; the first that holds decides.
    The value of ``variants[n]`` is the version's variant n + 1."""

    number: int
    created_at: int
    variants: tuple[Conditions, ...] = ()

    def values(self, name: str) -> tuple[ValueId, ...]:
        return tuple(ValueId(name, self.number, n) for n in range(len(self.variants) + 1))

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Self:
        variants = tuple(map(Conditions.from_members, members["variants"]))
        return cls(members["number"], members["created_at"], variants)


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as the manifest knows it. Without a policy nobody may have it.

    ``pending`` waits to be promoted, ``current`` is what devices get, and ``previous`` can be asked
    for until ``previous_until``. No version below ``min_version`` is given out. ``cache_seconds`` is
    how long a device may keep the value. A key with an ``upstream`` never goes to a device.
    """

    name: str
    current: Version | None
    pending: Version | None
    previous: Version | None
    previous_until: int
    min_version: int
    policy: Conditions | None
    cache_seconds: int
    updated_at: int
    upstream: Upstream | None = None

    @classmethod
    def new(cls, name: str) -> Self:
        return cls(
            name=name,
            current=None,
            pending=None,
            previous=None,
            previous_until=0,
            min_version=0,
            policy=None,
            cache_seconds=DEFAULT_CACHE_SECONDS,
            updated_at=0,
        )

    def versions(self) -> tuple[Version, ...]:
        """Those that there are, the oldest first."""
        kept = (self.current, self.pending, self.previous)
        return tuple(sorted((each for each in kept if each is not None), key=lambda v: v.number))

    def members(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``revision`` counts writes and never goes back; a new version takes its number from it, so a
    deleted and re-made key never has a version that a warm function still remembers."""

    revision: int
    keys: Mapping[str, KeyEntry]

    def to_json(self) -> str:
        return json.dumps([entry.members() for entry in self.keys.values()], separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str, *, revision: int) -> Self:
        entries = (_entry(members) for members in json.loads(document))
        return cls(revision=revision, keys={entry.name: entry for entry in entries})


EMPTY: Final = Manifest(revision=0, keys={})


def _entry(members: Mapping[str, Any]) -> KeyEntry:
    if "version" in members:
        members = _of_first_form(members)
    versions: dict[str, Version | None] = {
        part: Version.from_members(members[part]) if members[part] is not None else None
        for part in ("current", "pending", "previous")
    }
    policy, upstream = members["policy"], members["upstream"]
    return KeyEntry(
        **{
            **members,
            **versions,
            "policy": Conditions.from_members(policy) if policy is not None else None,
            "upstream": Upstream.from_members(upstream) if upstream is not None else None,
        }
    )


def _of_first_form(members: Mapping[str, Any]) -> dict[str, Any]:
    """Manifests of the first days knew one value for each version, and no pending ones."""
    numbers = {"current": members["version"], "previous": members["previous"]}
    versions = {
        part: {"number": number, "created_at": members["updated_at"], "variants": []}
        if number is not None
        else None
        for part, number in numbers.items()
    }
    return {
        "name": members["name"],
        **versions,
        "pending": None,
        "previous_until": 0,
        "min_version": 0,
        "policy": members["policy"],
        "cache_seconds": members["cache_seconds"],
        "updated_at": members["updated_at"],
        "upstream": None,
    }
