"""The keyring in a warm function: unwrapped in memory, read again when it is old.

Nothing is read or unwrapped before the first request, so a SnapStart snapshot holds no secret.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from keyferry import clock
from keyferry.aws import calling
from keyferry.config import Deployment
from keyferry.dpop import nonce
from keyferry.errors import Unavailable
from keyferry.keyring.model import Keyring, Purpose, Standing, WrappedKey
from keyferry.keyring.store import KeyringStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_kms import KMSClient

MAX_AGE_SECONDS: Final = 60
"""How long a change of the keyring, a revoked key above all, may take to reach a warm function."""


@dataclass(slots=True)
class UnwrappedKeyring:
    """One function's view of the keyring.

    Each accessor unwraps what it needs on first use, so a function whose role may not unwrap a
    purpose simply never asks for it.
    """

    store: KeyringStore
    kms: KMSClient
    key_arn: str
    deployment: Deployment
    now: Callable[[], int]
    _keyring: Keyring | None = None
    _read_at: int = 0
    _clients: Mapping[str, str] = field(default_factory=dict)
    _found: dict[tuple[Purpose | Standing, ...], tuple[WrappedKey, ...]] = field(
        default_factory=dict
    )
    _plain: dict[str, bytes] = field(default_factory=dict, repr=False)
    _private: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict, repr=False)
    _public: dict[str, ec.EllipticCurvePublicKey] = field(default_factory=dict)

    @classmethod
    def from_environ(
        cls,
        dynamodb: DynamoDBClient,
        kms: KMSClient,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        return cls(
            store=KeyringStore(dynamodb, environ["KEYFERRY_KEYRING_TABLE"]),
            kms=kms,
            key_arn=environ["KEYFERRY_KEYRING_KEY_ARN"],
            deployment=Deployment.from_environ(environ),
            now=clock.now,
        )

    def refresh(self) -> None:
        """Read the row again if what is held is older than `MAX_AGE_SECONDS`.

        Called once at the start of a request; the accessors below never read.
        """
        now = self.now()
        if self._keyring is not None and 0 <= now - self._read_at < MAX_AGE_SECONDS:
            return
        keyring = self.store.read()
        if keyring is None:
            # The stack's custom resource has not run yet; nothing a client did.
            raise Unavailable("keyring: not there yet")
        self._read_at = now
        if self._keyring is not None and self._keyring.revision == keyring.revision:
            return
        self._keyring = keyring
        self._clients = keyring.clients.known()
        self._found = {}
        kept = {key.kid for key in keyring.keys}
        for cache in (self._plain, self._private, self._public):
            for kid in cache.keys() - kept:
                del cache[kid]

    @property
    def issuer(self) -> str:
        return self._held.issuer

    @property
    def clients(self) -> Mapping[str, str]:
        """API-key id → client id, of the client keys that are good."""
        return self._clients

    def signing_key(self) -> tuple[str, ec.EllipticCurvePrivateKey]:
        """The ``kid`` and the private key to sign with now."""
        (current,) = self._of(Purpose.TOKEN_SIGNING, Standing.CURRENT)
        if current.kid not in self._private:
            key = load_der_private_key(self._unwrap(current), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise TypeError("the signing key is of another kind")
            self._private[current.kid] = key
        return current.kid, self._private[current.kid]

    def verification_keys(self) -> Mapping[str, ec.EllipticCurvePublicKey]:
        """The public keys by ``kid`` that a token of ours may be signed with."""
        for key in self._of(Purpose.TOKEN_SIGNING):
            if key.kid not in self._public and key.public is not None:
                self._public[key.kid] = key.public.key()
        return self._public

    def refresh_mac_key(self, kid: str) -> bytes | None:
        """The refresh-token MAC key called ``kid``, or None; an unknown ``kid`` costs no call."""
        for key in self._of(Purpose.REFRESH_MAC):
            if key.kid == kid:
                return self._secret(key)
        return None

    def current_refresh_kid(self) -> str:
        (current,) = self._of(Purpose.REFRESH_MAC, Standing.CURRENT)
        return current.kid

    def dpop_nonce(self) -> str:
        (current,) = self._of(Purpose.DPOP_NONCE, Standing.CURRENT)
        return nonce.issue(self._secret(current), self.now())

    def dpop_nonce_time(self, presented: str) -> int | None:
        """When a nonce was issued by us, however long ago; None when it was not."""
        # A switch of keys reaches the warm functions over a minute, so a nonce may come from the
        # key before or after ours. Those two are unwrapped for the first nonce that is not of the
        # current one, once in a function's life.
        now = self.now()
        for standing in (Standing.CURRENT, Standing.PREVIOUS, Standing.NEXT):
            for key in self._of(Purpose.DPOP_NONCE, standing):
                issued_at = nonce.time_of_issue(self._secret(key), presented, now)
                if issued_at is not None:
                    return issued_at
        return None

    def _of(self, purpose: Purpose, *standings: Standing) -> tuple[WrappedKey, ...]:
        """As `Keyring.of`, looked for once in the life of a keyring."""
        found = self._found.get((purpose, *standings))
        if found is None:
            found = self._found[purpose, *standings] = self._held.of(purpose, *standings)
        return found

    @property
    def _held(self) -> Keyring:
        if self._keyring is None:
            raise Unavailable("keyring: not read")
        return self._keyring

    def _secret(self, key: WrappedKey) -> bytes:
        if key.kid not in self._plain:
            self._plain[key.kid] = self._unwrap(key)
        return self._plain[key.kid]

    def _unwrap(self, key: WrappedKey) -> bytes:
        with calling("kms:Decrypt keyring"):
            return self.kms.decrypt(
                CiphertextBlob=key.wrapped,
                KeyId=self.key_arn,
                EncryptionContext=key.context(self.deployment),
            )["Plaintext"]
