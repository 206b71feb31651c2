"""Which keys there are, who may have them, and at which version: the manifest.

One row holds it all, so a delivery learns everything that it needs to decide in one read, however
many keys there are. Values are not in it; each version of each key is a row of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

ANY: Final = "*"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DEFAULT_CACHE_SECONDS: Final = 300
MAX_VALUE_BYTES: Final = 4096


def is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Policy:
    """Who may have a key. Both lists must let the caller in; `ANY` lets everybody in.

    ``second_factor`` asks beside that for a session that began with one.
    """

    roles: tuple[str, ...]
    platforms: tuple[str, ...] = (ANY,)
    second_factor: bool = False

    def allows(self, *, roles: tuple[str, ...], platform: str) -> bool:
        return (ANY in self.roles or not set(roles).isdisjoint(self.roles)) and (
            ANY in self.platforms or platform in self.platforms
        )


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key as the manifest knows it. Without a policy nobody may have it.

    ``cache_seconds`` is how long a device may keep the value.
    """

    name: str
    version: int
    previous: int | None
    policy: Policy | None
    cache_seconds: int
    updated_at: int

    def members(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Manifest:
    """``revision`` counts writes and never goes back; a new version takes its number from it, so a
    deleted and re-made key never has a version that a warm function still remembers."""

    revision: int
    keys: Mapping[str, KeyEntry]

    def readable(self, *, roles: tuple[str, ...], platform: str) -> tuple[KeyEntry, ...]:
        """The keys that a caller may have, by name."""
        return tuple(
            entry
            for _, entry in sorted(self.keys.items())
            if entry.policy is not None and entry.policy.allows(roles=roles, platform=platform)
        )

    def to_json(self) -> str:
        return json.dumps([entry.members() for entry in self.keys.values()], separators=(",", ":"))

    @classmethod
    def from_json(cls, document: str, *, revision: int) -> Self:
        entries = (_entry(members) for members in json.loads(document))
        return cls(revision=revision, keys={entry.name: entry for entry in entries})


EMPTY: Final = Manifest(revision=0, keys={})


def _entry(members: Mapping[str, Any]) -> KeyEntry:
    policy = members["policy"]
    return KeyEntry(
        name=members["name"],
        version=members["version"],
        previous=members["previous"],
        policy=Policy(
            roles=tuple(policy["roles"]),
            platforms=tuple(policy["platforms"]),
            second_factor=policy.get("second_factor", False),
        )
        if policy is not None
        else None,
        cache_seconds=members["cache_seconds"],
        updated_at=members["updated_at"],
    )
