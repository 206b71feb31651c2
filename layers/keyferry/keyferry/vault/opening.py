"""Values of the vault, opened: from memory where they are there, else from their rows through KMS."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from keyferry import clock
from keyferry.edge.telemetry import Metric, count, logger
from keyferry.errors import Unavailable
from keyferry.vault.cache import OpenedKeys
from keyferry.vault.envelope import Envelope, Sealer, Undecipherable
from keyferry.vault.model import ValueId
from keyferry.vault.store import VaultStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient

OPEN_SECONDS: Final = 8.0
"""For all the values of one request, so that a slow KMS is answered for and not cut off by the end
of the function's time. What was opened until then is kept, and the next request goes on from it."""

_AT_ONCE: Final = 8
"""Fewer than the connections that a client keeps (`aws_json.connections.MAX_KEPT`)."""


@dataclass(frozen=True, slots=True)
class Values:
    vault: VaultStore
    sealer: Sealer
    opened: OpenedKeys

    @classmethod
    def from_environ(
        cls, dynamodb: DynamoDBClient, kms: KMSClient, environ: Mapping[str, str] = os.environ
    ) -> Self:
        return cls(
            VaultStore(dynamodb, environ["KEYFERRY_VAULT_TABLE"]),
            Sealer.from_environ(kms, environ),
            OpenedKeys(clock.now),
        )

    def open(self, wanted: Sequence[ValueId]) -> dict[ValueId, bytes | None]:
        """The values of ``wanted``; None for one whose row does not open, or is lost.

        Raise `Unavailable` when KMS does not serve, or a version went away since the manifest was
        read.
        """
        values: dict[ValueId, bytes | None] = {
            value_id: self.opened.get(value_id) for value_id in wanted
        }
        missing = [value_id for value_id, value in values.items() if value is None]
        if not missing:
            return values
        envelopes = self.vault.envelopes(missing)
        lost = set(missing) - {envelope.id for envelope in envelopes}
        if lost and self.vault.named(lost) != lost:
            # Promoted over or deleted between the two reads; a new try sees what is there now.
            raise Unavailable("vault: a value went away", retry_after=1)
        for value_id in lost:
            _report(value_id)
        values.update(self._open_all(envelopes))
        return values

    def _open_all(self, envelopes: Sequence[Envelope]) -> dict[ValueId, bytes | None]:
        if not envelopes:
            return {}
        if len(envelopes) == 1:  # a thread for it would only cost
            return {envelopes[0].id: self._open(envelopes[0])}
        pool = ThreadPoolExecutor(min(len(envelopes), _AT_ONCE))
        try:
            opening: dict[Future[bytes | None], ValueId] = {
                pool.submit(self._open, envelope): envelope.id for envelope in envelopes
            }
            return {
                opening[future]: future.result()
                for future in as_completed(opening, timeout=OPEN_SECONDS)
            }
        except TimeoutError:
            raise Unavailable("kms:Decrypt vault: slow") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _open(self, envelope: Envelope) -> bytes | None:
        try:
            value = self.sealer.open(envelope)
        except Undecipherable:
            _report(envelope.id)
            return None
        self.opened.put(envelope.id, value)
        return value


def _report(value_id: ValueId) -> None:
    """Somebody has written to the table, or KMS or the key is not what it was."""
    logger.error("undecipherable", extra={"key": value_id.name, "version": value_id.label})
    count(Metric.VAULT_UNDECIPHERABLE)
