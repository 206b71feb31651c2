"""The vault's rows in DynamoDB: the manifest, and one row for each value of each version."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import FIRST_WRITE, SAME_REVISION, batch_get, calling, write_all
from keyferry.errors import CommandRefused, Unavailable
from keyferry.vault.changes import Change
from keyferry.vault.envelope import NONCE_BYTES, Envelope, Sealer
from keyferry.vault.model import EMPTY, Manifest, ValueId

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

MANIFEST_KEY: Final[Mapping[str, Any]] = {"id": {"S": "MANIFEST"}}

MAX_MANIFEST_BYTES: Final = 350_000
"""Compressed. DynamoDB takes rows of 400 KB; this leaves room for one more key of any shape."""

_MAX_RATIO: Final = 32
"""How much larger a manifest may be in memory."""

_WRITE_ATTEMPTS: Final = 8
_BATCH: Final = 100
MAX_WRITES: Final = 99
"""Beside the manifest: a transaction of DynamoDB has up to 100."""

_MAX_WRAPPED_BYTES: Final = 6144
"""That KMS takes for a ``CiphertextBlob``."""

_MARK_BYTES: Final = 16
_MARKS: Final = 16
"""The last writes that a row tells of, so more than come between the tries of one command."""


@dataclass(frozen=True, slots=True)
class VaultStore:
    client: DynamoDBClient
    table: str

    def manifest(self) -> Manifest:
        return manifest_from_item(self._row())

    def commit(self, change: Callable[[Manifest], Change], sealer: Sealer) -> Change:
        """Write what ``change`` makes of the manifest, with the values that belong to it. Two
        operators at once do not lose each other's write: the second one starts over from what the
        first one left.

        Raise `CommandRefused`: what ``change`` raises, ``conflict``, or a vault that is full.
        """
        # A write whose answer was lost has happened, maybe: the mark tells.
        mark = sealer.random(_MARK_BYTES)
        made: Change | None = None
        for attempt in range(_WRITE_ATTEMPTS + 1):
            row = self._row()
            marks = _marks(row)
            if made is not None and mark in marks:
                return made
            if attempt == _WRITE_ATTEMPTS:
                break
            seen = manifest_from_item(row)
            made = change(seen)
            writes = [self._put(sealer.seal(value_id, value)) for value_id, value in made.seal]
            writes += [self._delete(value_id) for value_id in made.drop]
            if len(writes) > MAX_WRITES:
                raise CommandRefused("invalid_request", "Too many values at once.")
            # Two transactions at once on one row: DynamoDB refuses one before it looks at any
            # condition. That is a conflict like any other here.
            with suppress(Unavailable):
                written = replace(made.manifest, revision=seen.revision + 1)
                if self._write(written, [*marks[1 - _MARKS :], mark], writes):
                    return made
        raise CommandRefused("conflict", "Others kept changing the vault; try again.")

    def envelopes(self, wanted: Sequence[ValueId]) -> list[Envelope]:
        """The rows of ``wanted``; one that is gone, or no envelope, is left out."""
        found: list[Envelope] = []
        for start in range(0, len(wanted), _BATCH):
            asked = {_row_id(value_id): value_id for value_id in wanted[start : start + _BATCH]}
            keys: list[Item] = [{"id": {"S": row_id}} for row_id in asked]
            # Values never change, so an eventually consistent read is either right or empty;
            # empty right after a put would be a key missing from a delivery, hence consistent.
            for item in batch_get(self.client, {self.table: keys})[self.table]:
                with suppress(KeyError, TypeError, ValueError):  # somebody has written to the table
                    found.append(envelope_from_item(item, asked[item["id"]["S"]]))
        return found

    def named(self, value_ids: Collection[ValueId]) -> frozenset[ValueId]:
        """Those of ``value_ids`` that the manifest, read again, still has."""
        rows = batch_get(self.client, {self.table: [dict(MANIFEST_KEY)]})[self.table]
        keys = manifest_from_item(rows[0] if rows else None).keys
        return frozenset(
            value_id
            for value_id in value_ids
            if value_id.name in keys
            for version in keys[value_id.name].versions()
            if value_id in version.values(value_id.name)
        )

    def _row(self) -> dict[str, Any] | None:
        with calling("dynamodb:GetItem manifest"):
            response = self.client.get_item(
                TableName=self.table, Key=dict(MANIFEST_KEY), ConsistentRead=True
            )
        return response.get("Item")

    def _write(
        self, manifest: Manifest, marks: list[bytes], writes: list[TransactWriteItemTypeDef]
    ) -> bool:
        """Write the manifest and ``writes`` together, if nobody has written since; else False."""
        plain = manifest.to_json().encode("utf-8")
        # Every delivery reads it and pays by size; a hundred keys make 44 KB, and 2 KB compressed.
        document = zlib.compress(plain)
        if max(len(document), len(plain) // _MAX_RATIO) > MAX_MANIFEST_BYTES:
            raise CommandRefused("invalid_request", "The vault is full: too many keys.")
        item: Item = {
            **MANIFEST_KEY,
            "revision": {"N": str(manifest.revision)},
            "marks": {"L": [{"B": mark} for mark in marks]},
            "document": {"B": document},
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

    def _put(self, envelope: Envelope) -> TransactWriteItemTypeDef:
        return {
            "Put": {
                "TableName": self.table,
                "Item": envelope_to_item(envelope),
                "ConditionExpression": FIRST_WRITE,
            }
        }

    def _delete(self, value_id: ValueId) -> TransactWriteItemTypeDef:
        return {"Delete": {"TableName": self.table, "Key": _value_key(value_id)}}


@dataclass(slots=True)
class ManifestReader:
    """Reads manifest rows, and reads one that it has just read no second time: for a hundred keys
    that is most of the work of a delivery."""

    _row: Mapping[str, Any] | None = field(default=None, repr=False)
    _manifest: Manifest = EMPTY

    def read(self, row: Mapping[str, Any] | None) -> Manifest:
        if row != self._row:
            self._manifest = manifest_from_item(row)
            self._row = row
        return self._manifest


def _marks(row: Mapping[str, Any] | None) -> list[bytes]:
    """Of the last writes, the newest at the end."""
    return [each["B"] for each in row["marks"]["L"]] if row is not None and "marks" in row else []


def manifest_from_item(item: Mapping[str, Any] | None) -> Manifest:
    if item is None:
        return EMPTY
    document = item["document"]
    # The first stacks stored it as text.
    text = document["S"] if "S" in document else _decompressed(document["B"]).decode("utf-8")
    return Manifest.from_json(text, revision=int(item["revision"]["N"]))


def _decompressed(document: bytes) -> bytes:
    inflating = zlib.decompressobj()
    plain = inflating.decompress(document, MAX_MANIFEST_BYTES * _MAX_RATIO)
    if not inflating.eof:
        raise ValueError("manifest: too large")
    return plain


def envelope_to_item(envelope: Envelope) -> Item:
    return {
        **_value_key(envelope.id),
        "name": {"S": envelope.id.name},
        "version": {"N": str(envelope.id.version)},
        "variant": {"N": str(envelope.id.variant)},
        "wrapped_key": {"B": envelope.wrapped_key},
        "nonce": {"B": envelope.nonce},
        "ciphertext": {"B": envelope.ciphertext},
    }


def envelope_from_item(item: Mapping[str, Any], value_id: ValueId) -> Envelope:
    """What a row says of itself is not asked: ``value_id`` is what was wanted, and the value opens as
    that or not at all. Raise `KeyError`, `TypeError` or `ValueError` for what is no envelope: an AWS
    client or a cipher would choke on it, and with it all that is opened beside it."""
    envelope = Envelope(
        id=value_id,
        wrapped_key=item["wrapped_key"]["B"],
        nonce=item["nonce"]["B"],
        ciphertext=item["ciphertext"]["B"],
    )
    if not 0 < len(envelope.wrapped_key) <= _MAX_WRAPPED_BYTES:
        raise ValueError("envelope: data key")
    if len(envelope.nonce) != NONCE_BYTES:
        raise ValueError("envelope: nonce")
    return envelope


def _value_key(value_id: ValueId) -> Item:
    return {"id": {"S": _row_id(value_id)}}


def _row_id(value_id: ValueId) -> str:
    return f"{value_id.name}#{value_id.label}"
