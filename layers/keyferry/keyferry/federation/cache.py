"""The configured providers in a warm function, read again when they are old."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from keyferry import clock
from keyferry.federation.providers import Provider, Providers
from keyferry.federation.store import ProviderStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

MAX_AGE_SECONDS: Final = 60
"""How long a provider that was removed may go on to be accepted by a warm function."""


@dataclass(slots=True)
class ConfiguredProviders:
    store: ProviderStore
    now: Callable[[], int]
    _held: Providers | None = None
    _read_at: int = 0

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(ProviderStore.from_environ(client, environ), clock.now)

    def get(self, name: str) -> Provider | None:
        """The provider called ``name``, or None. An unknown name costs no read of its own.

        Raise `Unavailable` when the row is due and cannot be read: a provider may have been removed
        since, and that has to count.
        """
        now = self.now()
        if self._held is None or not 0 <= now - self._read_at < MAX_AGE_SECONDS:
            self._held = self.store.read()
            self._read_at = now
        return self._held.by_name.get(name)
