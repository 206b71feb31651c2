"""Providers and federated identities in DynamoDB, in the table of credentials.

The providers are one row, so that login learns all of them in one read. An identity is a credential
like a password: a row that says which user it opens, under a hash of (issuer, subject).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from keyferry.aws import FIRST_WRITE, calling, unless_written_since, write_all, write_if
from keyferry.errors import CommandRefused
from keyferry.federation.id_token import Identity
from keyferry.federation.providers import NO_PROVIDERS, Provider, Providers
from keyferry.users.model import User, UserStatus
from keyferry.users.store import user_to_item

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

PROVIDERS_KEY: Final[Mapping[str, Any]] = {"id": {"S": "PROVIDERS"}}

SAME_SUB: Final = "#sub = :sub"
USER_EXISTS: Final = "attribute_exists(#sub)"
NEW_USER: Final = "attribute_not_exists(#sub)"

_SUB: Final[Mapping[str, str]] = {"#sub": "sub"}
_WRITE_ATTEMPTS: Final = 8


@dataclass(frozen=True, slots=True)
class ProviderStore:
    client: DynamoDBClient
    table: str

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(client, environ["KEYFERRY_CREDENTIALS_TABLE"])

    def read(self) -> Providers:
        with calling("dynamodb:GetItem providers"):
            response = self.client.get_item(
                TableName=self.table, Key=dict(PROVIDERS_KEY), ConsistentRead=True
            )
        return providers_from_item(response.get("Item"))

    def put(self, provider: Provider) -> None:
        """Add ``provider``, or replace the one of that name. Raise `CommandRefused` when it does not
        go with the others."""

        def change(providers: Providers) -> Providers:
            try:
                return providers.having(provider)
            except ValueError as error:
                raise CommandRefused("invalid_request", f"Not possible: {error}.") from None

        self._commit(change)

    def remove(self, name: str) -> None:
        """Raise `CommandRefused` when there is none of that name. Accounts stay linked, and open
        again when the issuer is configured again."""

        def change(providers: Providers) -> Providers:
            try:
                return providers.without(name)
            except KeyError:
                raise CommandRefused("not_found", f"There is no provider called {name}.") from None

        self._commit(change)

    def _commit(self, change: Callable[[Providers], Providers]) -> None:
        """Write what ``change`` makes of the row, over again when somebody else was faster."""
        for _ in range(_WRITE_ATTEMPTS):
            seen = self.read()
            wanted = change(seen)
            item = providers_to_item(wanted)
            written, row = write_if(
                self.client.put_item,
                "dynamodb:PutItem providers",
                TableName=self.table,
                Item=item,
                **unless_written_since(seen.revision or None),
            )
            # The client tried twice and met its own first try: the row is what was to be written.
            if written or row == item:
                return
        raise CommandRefused("conflict", "Others kept changing the providers; try again.")


@dataclass(frozen=True, slots=True)
class FederatedCredential:
    """The identity that opens the user ``sub``."""

    issuer: str
    subject: str
    sub: str

    @classmethod
    def of(cls, identity: Identity, sub: str) -> Self:
        return cls(issuer=identity.issuer, subject=identity.subject, sub=sub)


class Link(StrEnum):
    """What became of an attempt to link an identity to a user."""

    LINKED = "linked"
    TAKEN = "taken"
    NO_USER = "no_user"


@dataclass(frozen=True, slots=True)
class FederatedStore:
    client: DynamoDBClient
    users_table: str
    credentials_table: str

    @classmethod
    def from_environ(cls, client: DynamoDBClient, environ: Mapping[str, str] = os.environ) -> Self:
        return cls(client, environ["KEYFERRY_USERS_TABLE"], environ["KEYFERRY_CREDENTIALS_TABLE"])

    def credential(self, identity: Identity) -> FederatedCredential | None:
        """Read consistently: an identity that was unlinked opens nothing from then on."""
        with calling("dynamodb:GetItem federated credential"):
            response = self.client.get_item(
                TableName=self.credentials_table,
                Key=credential_key(identity.issuer, identity.subject),
                ConsistentRead=True,
            )
        item = response.get("Item")
        return FederatedCredential.of(identity, item["sub"]["S"]) if item else None

    def add(
        self,
        user: User,
        credential: FederatedCredential,
        *,
        also: Mapping[str, TransactWriteItemTypeDef] = MappingProxyType({}),
    ) -> bool:
        """Write a new user and the credential that opens it, and ``also``: all or nothing. Return
        False when the identity opens a user already, as another login of the same person was
        faster (`credential` then tells which user), or ``also`` did not hold."""
        writes: dict[str, TransactWriteItemTypeDef] = {
            "credential": self._put_credential(credential, user.created_at),
            "user": {
                "Put": {
                    "TableName": self.users_table,
                    "Item": user_to_item(user),
                    "ConditionExpression": NEW_USER,
                    "ExpressionAttributeNames": dict(_SUB),
                }
            },
            **also,
        }
        return not write_all(self.client, "dynamodb:TransactWriteItems federated user", writes)

    def link(self, credential: FederatedCredential, now: int) -> Link:
        """Let an identity open a user that exists. One identity opens one user; linking it there
        again changes nothing."""
        writes: dict[str, TransactWriteItemTypeDef] = {
            "credential": self._put_credential(credential, now),
            "user": {
                "ConditionCheck": {
                    "TableName": self.users_table,
                    "Key": {"sub": {"S": credential.sub}},
                    "ConditionExpression": USER_EXISTS,
                    "ExpressionAttributeNames": dict(_SUB),
                }
            },
        }
        failed = write_all(self.client, "dynamodb:TransactWriteItems link", writes)
        if "user" in failed:
            return Link.NO_USER
        return Link.TAKEN if failed else Link.LINKED

    def unlink(self, credential: FederatedCredential) -> bool:
        """Return False when the identity does not open that user (any more)."""
        deleted, _ = write_if(
            self.client.delete_item,
            "dynamodb:DeleteItem federated credential",
            TableName=self.credentials_table,
            Key=credential_key(credential.issuer, credential.subject),
            ConditionExpression=SAME_SUB,
            ExpressionAttributeNames=dict(_SUB),
            ExpressionAttributeValues={":sub": {"S": credential.sub}},
        )
        return deleted

    def still_linked(self, credential: FederatedCredential) -> TransactWriteItemTypeDef:
        """The condition, for the transaction that opens a session, that it was not unlinked since."""
        return {
            "ConditionCheck": {
                "TableName": self.credentials_table,
                "Key": credential_key(credential.issuer, credential.subject),
                "ConditionExpression": SAME_SUB,
                "ExpressionAttributeNames": dict(_SUB),
                "ExpressionAttributeValues": {":sub": {"S": credential.sub}},
            }
        }

    def _put_credential(
        self, credential: FederatedCredential, now: int
    ) -> TransactWriteItemTypeDef:
        return {
            "Put": {
                "TableName": self.credentials_table,
                "Item": {
                    **credential_key(credential.issuer, credential.subject),
                    "issuer": {"S": credential.issuer},
                    "subject": {"S": credential.subject},
                    "sub": {"S": credential.sub},
                    "linked_at": {"N": str(now)},
                },
                "ConditionExpression": f"{FIRST_WRITE} OR {SAME_SUB}",
                "ExpressionAttributeNames": dict(_SUB),
                "ExpressionAttributeValues": {":sub": {"S": credential.sub}},
            }
        }


def new_user(provider: Provider, identity: Identity, *, sub: str, now: int) -> User:
    """The user that auto-provisioning makes of an identity.

    The name is made of the hash and not of the e-mail address: two issuers may give one address to
    two people, and an operator must not take either for the user who has that name already. Names
    of this form are kept for this (`keyferry.users.model.MADE_BY_A_PROVIDER`).
    """
    digest = identity_digest(identity.issuer, identity.subject)
    return User(
        sub=sub,
        username=f"{provider.name}:{digest[:16]}",
        status=UserStatus.ACTIVE,
        roles=provider.roles,
        created_at=now,
    )


def identity_digest(issuer: str, subject: str) -> str:
    """Neither of the two can have a NUL in it, so no two pairs are joined alike."""
    return hashlib.sha256(f"{issuer}\0{subject}".encode("ascii")).hexdigest()


def credential_key(issuer: str, subject: str) -> Item:
    return {"id": {"S": f"federated#{identity_digest(issuer, subject)}"}}


def providers_to_item(providers: Providers) -> Item:
    return {
        **PROVIDERS_KEY,
        "revision": {"N": str(providers.revision)},
        "document": {"S": providers.to_json()},
    }


def providers_from_item(item: Mapping[str, Any] | None) -> Providers:
    if item is None:
        return NO_PROVIDERS
    return Providers.from_json(item["document"]["S"], revision=int(item["revision"]["N"]))
