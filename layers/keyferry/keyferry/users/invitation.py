"""Invitations: a single-use code with which somebody becomes a user, and either chooses a password
or logs in by a provider from then on.

The row holds the code's SHA-256. That needs no salt and no slow hash: the code is 160 random bits,
so nobody finds it by trying (NIST SP 800-63B-4 §3.1.2.2).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from keyferry.aws import calling, write_all
from keyferry.users.model import User
from keyferry.users.store import PasswordCredential, UserStore

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import TransactWriteItemTypeDef

    from keyferry.aws import Item

CODE_BYTES: Final = 20
"""32 characters of base32, none of which looks like another one in print."""

MAX_CODE_LENGTH: Final = 64
"""Characters of a code as it is typed, with whatever stands between the groups."""

SAME_CODE: Final = "code_hash = :code_hash AND expires_at > :now"
NO_INVITATION: Final = "attribute_not_exists(id) OR expires_at <= :now"


@dataclass(frozen=True, slots=True)
class Invitation:
    """``username`` is as the operator typed it; it is stored under its canonical form."""

    username: str
    roles: tuple[str, ...]
    code_hash: bytes = field(repr=False)
    expires_at: int

    def is_opened_by(self, code: str, now: int) -> bool:
        return hmac.compare_digest(hash_code(code), self.code_hash) and now < self.expires_at


@dataclass(frozen=True, slots=True)
class InvitationStore:
    """Invitations lie beside the passwords that they become, in the credentials table."""

    users: UserStore

    def put(self, canonical: str, invitation: Invitation) -> None:
        """Write an invitation; one that the name has already is void from now on."""
        with calling("dynamodb:PutItem invitation"):
            self.users.client.put_item(
                TableName=self.users.credentials_table,
                Item={
                    **invitation_key(canonical),
                    "username": {"S": invitation.username},
                    "roles": {"S": json.dumps(invitation.roles)},
                    "code_hash": {"B": invitation.code_hash},
                    "expires_at": {"N": str(invitation.expires_at)},
                },
            )

    def find(self, canonical: str) -> Invitation | None:
        with calling("dynamodb:GetItem invitation"):
            response = self.users.client.get_item(
                TableName=self.users.credentials_table,
                Key=invitation_key(canonical),
                ConsistentRead=True,
            )
        return invitation_from_item(response.get("Item"))

    def redeem(
        self, invitation: Invitation, user: User, credential: PasswordCredential, *, now: int
    ) -> bool:
        """Take the invitation away and make the user, both or neither: of two who redeem one code,
        one does. Return False when it is gone or replaced, or the name is taken."""
        spent = self.spending(credential.username, invitation, now=now)
        return self._create(user, credential, spent)

    def spending(
        self, canonical: str, invitation: Invitation, *, now: int
    ) -> TransactWriteItemTypeDef:
        """For the transaction that makes the user: take the invitation away, if it is still there
        and the same."""
        return {
            "Delete": {
                "TableName": self.users.credentials_table,
                "Key": invitation_key(canonical),
                "ConditionExpression": SAME_CODE,
                "ExpressionAttributeValues": {
                    ":code_hash": {"B": invitation.code_hash},
                    ":now": {"N": str(now)},
                },
            }
        }

    def register(self, user: User, credential: PasswordCredential, *, now: int) -> bool:
        """Make a user whom nobody has invited. Return False when the name is taken, or kept for
        somebody by an invitation."""
        unclaimed: TransactWriteItemTypeDef = {
            "Delete": {
                "TableName": self.users.credentials_table,
                "Key": invitation_key(credential.username),
                "ConditionExpression": NO_INVITATION,
                "ExpressionAttributeValues": {":now": {"N": str(now)}},
            }
        }
        return self._create(user, credential, unclaimed)

    def _create(
        self, user: User, credential: PasswordCredential, invitation: TransactWriteItemTypeDef
    ) -> bool:
        writes = {"invitation": invitation, **self.users.creation(user, credential)}
        return not write_all(self.users.client, "dynamodb:TransactWriteItems account", writes)


def new_code(random: Callable[[int], bytes]) -> str:
    """Base32 (RFC 4648 §6) in groups of four, for whoever has to type it."""
    text = base64.b32encode(random(CODE_BYTES)).decode("ascii")
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def hash_code(code: str) -> bytes:
    """Of the code's octets, however it was typed; of what is no code, something that no code has."""
    plain = "".join(code.split()).replace("-", "").upper()
    try:
        octets = base64.b32decode(plain.encode("ascii"))
    except (binascii.Error, UnicodeEncodeError):
        octets = b""
    return hashlib.sha256(octets).digest()


def invitation_key(canonical: str) -> Item:
    return {"id": {"S": f"invitation#{canonical}"}}


def invitation_from_item(item: Mapping[str, Any] | None) -> Invitation | None:
    if item is None:
        return None
    return Invitation(
        username=item["username"]["S"],
        roles=tuple(json.loads(item["roles"]["S"])),
        code_hash=item["code_hash"]["B"],
        expires_at=int(item["expires_at"]["N"]),
    )
