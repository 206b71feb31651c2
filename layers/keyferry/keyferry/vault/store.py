"""The vault's rows in DynamoDB: the manifest, and one row for each version of each key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import FIRST_WRITE, SAME_REVISION, batch_get, calling, write_all
from keyferry.errors import CommandRefused, Unavailable
from keyferry.vault.envelope import Envelope, Sealer
from keyferry.vault.model import DEFAULT_CACHE_SECONDS, EMPTY, KeyEntry, Manifest, Policy

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

    Change = Callable[[Manifest], tuple[KeyEntry, Manifest, list[TransactWriteItemTypeDef]]]

MANIFEST_KEY: Final[Mapping[str, Any]] = {"id": {"S": "MANIFEST"}}

MAX_MANIFEST_BYTES: Final = 350_000
"""DynamoDB takes rows of 400 KB; this leaves room for one more key of any shape."""

_WRITE_ATTEMPTS: Final = 8
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class VaultStore:
    client: DynamoDBClient
    table: str

    def manifest(self) -> Manifest:
        with calling("dynamodb:GetItem manifest"):
            response = self.client.get_item(
                TableName=self.table, Key=dict(MANIFEST_KEY), ConsistentRead=True
            )
        return manifest_from_item(response.get("Item"))

    def put(
        self,
        sealer: Sealer,
        *,
        name: str,
        value: bytes,
        policy: Policy | None,
        cache_seconds: int | None,
        now: int,
    ) -> KeyEntry:
        """Make a new version of ``name`` the current one and keep the one before it.

        ``policy`` and ``cache_seconds`` of None keep what the key has. Two operators at once do not
        lose each other's write: the second one starts over from what the first one left.
        """

        def change(manifest: Manifest) -> tuple[KeyEntry, Manifest, list[TransactWriteItemTypeDef]]:
            old = manifest.keys.get(name)
            version = manifest.revision + 1
            entry = KeyEntry(
                name=name,
                version=version,
                previous=old.version if old else None,
                policy=policy if policy is not None or old is None else old.policy,
                cache_seconds=_first(
                    cache_seconds, old.cache_seconds if old else None, DEFAULT_CACHE_SECONDS
                ),
                updated_at=now,
            )
            put: TransactWriteItemTypeDef = {
                "Put": {
                    "TableName": self.table,
                    "Item": envelope_to_item(sealer.seal(name, version, value)),
                    "ConditionExpression": FIRST_WRITE,
                }
            }
            writes = [put]
            if old is not None and old.previous is not None:
                writes.append(self._delete(name, old.previous))
            return entry, replace(manifest, keys={**manifest.keys, name: entry}), writes

        return self._commit(change)

    def delete(self, name: str) -> KeyEntry:
        """Remove a key with every version of it. Raise `CommandRefused` when there is none."""

        def change(manifest: Manifest) -> tuple[KeyEntry, Manifest, list[TransactWriteItemTypeDef]]:
            entry = manifest.keys.get(name)
            if entry is None:
                raise CommandRefused("not_found", f"There is no key called {name}.")
            keys = {other: kept for other, kept in manifest.keys.items() if other != name}
            versions = [entry.version, *([entry.previous] if entry.previous is not None else [])]
            writes = [self._delete(name, version) for version in versions]
            return entry, replace(manifest, keys=keys), writes

        return self._commit(change)

    def envelopes(self, wanted: Sequence[tuple[str, int]]) -> list[Envelope]:
        """The version rows of ``wanted`` (name, version); one that is gone is left out."""
        found: list[Envelope] = []
        for start in range(0, len(wanted), _BATCH):
            keys = [_version_key(*pair) for pair in wanted[start : start + _BATCH]]
            # Version rows never change, so an eventually consistent read is either right or empty;
            # empty right after a put would be a key missing from a delivery, hence consistent.
            items = batch_get(self.client, {self.table: keys})
            found += [envelope_from_item(item) for item in items[self.table]]
        return found

    def _commit(self, change: Change) -> KeyEntry:
        for _ in range(_WRITE_ATTEMPTS):
            seen = self.manifest()
            entry, wanted, writes = change(seen)
            # Two transactions at once on one row: DynamoDB refuses one before it looks at any
            # condition. That is a conflict like any other here.
            with suppress(Unavailable):
                if self._write(replace(wanted, revision=seen.revision + 1), writes):
                    return entry
        raise CommandRefused("conflict", "Others kept changing the vault; try again.")

    def _write(self, manifest: Manifest, writes: list[TransactWriteItemTypeDef]) -> bool:
        """Write the manifest and ``writes`` together, if nobody has written since; else False."""
        document = manifest.to_json()
        if len(document.encode("utf-8")) > MAX_MANIFEST_BYTES:
            raise CommandRefused("invalid_request", "The vault is full: too many keys.")
        item = {
            **MANIFEST_KEY,
            "revision": {"N": str(manifest.revision)},
            "document": {"S": document},
        }
        put: TransactWriteItemTypeDef = {
            "Put": {
                "TableName": self.table,
                "Item": item,
                "ConditionExpression": SAME_REVISION,
                "ExpressionAttributeValues": {":seen": {"N": str(manifest.revision - 1)}},
            }
        }
        if manifest.revision == 1:
            put = {
                "Put": {"TableName": self.table, "Item": item, "ConditionExpression": FIRST_WRITE}
            }
        named = {"manifest": put, **{str(number): write for number, write in enumerate(writes)}}
        return not write_all(self.client, "dynamodb:TransactWriteItems vault", named)

    def _delete(self, name: str, version: int) -> TransactWriteItemTypeDef:
        return {"Delete": {"TableName": self.table, "Key": _version_key(name, version)}}


def manifest_from_item(item: Mapping[str, Any] | None) -> Manifest:
    if item is None:
        return EMPTY
    return Manifest.from_json(item["document"]["S"], revision=int(item["revision"]["N"]))


def envelope_to_item(envelope: Envelope) -> Item:
    return {
        **_version_key(envelope.name, envelope.version),
        "name": {"S": envelope.name},
        "version": {"N": str(envelope.version)},
        "wrapped_key": {"B": envelope.wrapped_key},
        "nonce": {"B": envelope.nonce},
        "ciphertext": {"B": envelope.ciphertext},
    }


def envelope_from_item(item: Mapping[str, Any]) -> Envelope:
    return Envelope(
        name=item["name"]["S"],
        version=int(item["version"]["N"]),
        wrapped_key=item["wrapped_key"]["B"],
        nonce=item["nonce"]["B"],
        ciphertext=item["ciphertext"]["B"],
    )


def _version_key(name: str, version: int) -> Item:
    return {"id": {"S": f"{name}#{version}"}}


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
