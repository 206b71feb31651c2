"""Which kinds of password hash other systems have brought into a stack.

The check of such a hash takes its own time, until its user's first login. So that nobody can tell
by that who is a user, a login that fails does the work of all kinds there are. They are noted
before the first user with such a hash is written, and never forgotten: nobody knows when the last
one of them logs in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry import clock
from keyferry.aws import calling, unless_written_since, write_if
from keyferry.errors import Unavailable
from keyferry.users.stored_hashes import together

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

KINDS_KEY: Final[Mapping[str, Any]] = {"id": {"S": "IMPORTED_HASHES"}}

MAX_KINDS: Final = 4
"""A failed login takes the time of all of them, some two seconds each at the worst, and has 15."""

MAX_AGE_SECONDS: Final = 60
"""How long a warm function may not know of a kind yet."""

_ATTEMPTS: Final = 8


class TooManyKinds(ValueError):
    """More kinds than `MAX_KINDS` would come together."""


@dataclass(frozen=True, slots=True)
class ImportedKinds:
    """``decoys`` are as in `keyferry.users.stored_hashes`; ``revision`` counts writes."""

    decoys: frozenset[str] = frozenset()
    revision: int = 0

    def having(self, decoy: str) -> ImportedKinds:
        """Raise `TooManyKinds`."""
        decoys = together({*self.decoys, decoy})
        if len(decoys) > MAX_KINDS:
            raise TooManyKinds(
                f"hashes of more than {MAX_KINDS} kinds; a failed login takes the time of all of them"
            )
        return ImportedKinds(decoys, self.revision)


@dataclass(frozen=True, slots=True)
class ImportedKindsStore:
    """One row in the table of credentials."""

    client: DynamoDBClient
    table: str

    def read(self) -> ImportedKinds:
        with calling("dynamodb:GetItem imported hashes"):
            response = self.client.get_item(
                TableName=self.table, Key=dict(KINDS_KEY), ConsistentRead=True
            )
        item = response.get("Item")
        if item is None:
            return ImportedKinds()
        decoys = frozenset(json.loads(item["decoys"]["S"]))
        return ImportedKinds(decoys, int(item["revision"]["N"]))

    def note(self, decoys: Iterable[str]) -> None:
        """Raise `TooManyKinds`, and then nothing was written; `Unavailable` when others keep writing."""
        wanted = list(decoys)
        for _ in range(_ATTEMPTS):
            kinds = seen = self.read()
            for decoy in wanted:
                kinds = kinds.having(decoy)
            if kinds == seen or self._put(kinds, seen):
                return
        raise Unavailable("dynamodb:PutItem imported hashes: others kept writing")

    def _put(self, kinds: ImportedKinds, seen: ImportedKinds) -> bool:
        # When botocore's second try meets its first one, the next look finds nothing to write.
        written, _ = write_if(
            self.client.put_item,
            "dynamodb:PutItem imported hashes",
            TableName=self.table,
            Item={
                **KINDS_KEY,
                "revision": {"N": str(seen.revision + 1)},
                "decoys": {"S": json.dumps(sorted(kinds.decoys))},
            },
            **unless_written_since(seen.revision or None),
        )
        return written


@dataclass(slots=True)
class ImportedHashes:
    """What a warm function knows of them; read when a login has failed, and not for a good one."""

    store: ImportedKindsStore
    now: Callable[[], int]
    _held: ImportedKinds | None = None
    _read_at: int = 0

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        table = environ["KEYFERRY_CREDENTIALS_TABLE"]
        return cls(ImportedKindsStore(client, table), clock.now)

    def decoys(self) -> frozenset[str]:
        now = self.now()
        if self._held is None or not 0 <= now - self._read_at < MAX_AGE_SECONDS:
            self._held = self.store.read()
            self._read_at = now
        return self._held.decoys
