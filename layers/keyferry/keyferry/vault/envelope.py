"""One value of one key at rest: AES-256-GCM under a data key of its own, wrapped by KMS.

The KMS encryption context and the additional data of the AEAD are the same four facts, so a row
that was swapped, renamed or copied between stages opens for nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyferry import clock
from keyferry.aws import calling
from keyferry.aws_json.client import ServiceError
from keyferry.config import Deployment
from keyferry.errors import KeyferryError
from keyferry.vault.model import ValueId

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

NONCE_BYTES: Final = 12

_NEVER_OPENS: Final = frozenset({"IncorrectKeyException", "InvalidCiphertextException"})
"""KMS's words for a blob that was tampered with, or stands in the wrong row."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a value's row holds: the wrapped data key, the nonce, and ciphertext with its tag."""

    id: ValueId
    wrapped_key: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)


class Undecipherable(KeyferryError):
    """An envelope that does not open, now or later: it is not what its row says."""


def encryption_context(deployment: Deployment, value: ValueId) -> dict[str, str]:
    """No user, no secret: KMS writes it to CloudTrail in clear."""
    return {
        "app": deployment.app,
        "stage": deployment.stage,
        "key": value.name,
        "version": value.label,
    }


@dataclass(frozen=True, slots=True)
class Sealer:
    """Seals and opens envelopes. The operator's role may only seal, delivery's may only open."""

    kms: KMSClient
    key_arn: str
    deployment: Deployment
    random: Callable[[int], bytes]

    @classmethod
    def from_environ(cls, kms: KMSClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(
            kms, environ["KEYFERRY_VAULT_KEY_ARN"], Deployment.from_environ(environ), clock.random
        )

    def seal(self, value_id: ValueId, value: bytes) -> Envelope:
        context = encryption_context(self.deployment, value_id)
        with calling("kms:GenerateDataKey"):
            data_key = self.kms.generate_data_key(
                KeyId=self.key_arn, KeySpec="AES_256", EncryptionContext=context
            )
        nonce = self.random(NONCE_BYTES)
        return Envelope(
            id=value_id,
            wrapped_key=data_key["CiphertextBlob"],
            nonce=nonce,
            ciphertext=AESGCM(data_key["Plaintext"]).encrypt(nonce, value, _aad(context)),
        )

    def open(self, envelope: Envelope) -> bytes:
        """Raise `Unavailable` when KMS does not serve, and `Undecipherable` when the envelope is
        not what its row says."""
        context = encryption_context(self.deployment, envelope.id)
        try:
            with calling("kms:Decrypt vault", passing=_NEVER_OPENS):
                data_key = self.kms.decrypt(
                    CiphertextBlob=envelope.wrapped_key,
                    KeyId=self.key_arn,
                    EncryptionContext=context,
                )["Plaintext"]
            return AESGCM(data_key).decrypt(envelope.nonce, envelope.ciphertext, _aad(context))
        except (ServiceError, InvalidTag):
            raise Undecipherable("vault: envelope does not open") from None


def _aad(context: dict[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True, separators=(",", ":")).encode("utf-8")
