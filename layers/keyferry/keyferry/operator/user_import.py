"""``users.import``: people who come from another system, with the password hashes it made.

Some at a time, each by itself: one that can not be taken does not hold up the others, and one that
is there already stays as it is. So a run that broke off is simply run again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError

from keyferry.errors import CommandRefused
from keyferry.users import stored_hashes
from keyferry.users.imported_hashes import ImportedKinds, ImportedKindsStore, TooManyKinds
from keyferry.users.model import User, UserStatus, canonical_new_username
from keyferry.users.passwords import needs_rehash
from keyferry.users.store import PasswordCredential, UserStore

MAX_BATCH: Final = 25

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

Role = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:-]{1,64}$")]


class Outcome(StrEnum):
    IMPORTED = "imported"
    ALREADY_THERE = "already_there"
    REFUSED = "refused"


class ImportedUser(BaseModel):
    """One user. There is no member for a password: only a hash is taken."""

    model_config = _STRICT

    username: str
    password_hash: SecretStr
    roles: Annotated[list[Role], Field(max_length=32)] = []
    disabled: bool = False


class ImportUsers(BaseModel):
    """The arguments of ``users.import``. The users are looked at one by one."""

    model_config = _STRICT

    users: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_BATCH, repr=False)]
    dry_run: bool = False


class RowRefused(Exception):
    """A row that can not be taken; the text says why and nothing of what is in the row."""


Read = tuple[User, PasswordCredential]


@dataclass(frozen=True, slots=True)
class UserImport:
    users: UserStore
    now: Callable[[], int]
    random: Callable[[int], bytes]

    def __call__(self, request: ImportUsers) -> dict[str, Any]:
        """A result for each user, in their order; a dry run writes nothing."""
        kinds = ImportedKindsStore(self.users.client, self.users.credentials_table)
        known = seen = kinds.read()
        read: list[Read | RowRefused] = []
        for row in request.users:
            try:
                known, each = self._read(row, known)
                read.append(each)
            except RowRefused as refused:
                read.append(refused)
        if known != seen and not request.dry_run:
            try:
                kinds.note(known.decoys)  # before the first of them can log in
            except TooManyKinds as refused:  # with what another import has brought meanwhile
                raise CommandRefused("conflict", f"{refused}; try again.") from None
        return {"results": [self._result(each, dry_run=request.dry_run) for each in read]}

    def _result(self, read: Read | RowRefused, *, dry_run: bool) -> dict[str, str]:
        if isinstance(read, RowRefused):
            return {"outcome": Outcome.REFUSED, "reason": str(read)}
        user, credential = read
        if dry_run:
            there = self.users.sub_of(credential.username) is not None
        else:
            there = not self.users.add(user, credential)
        return {"outcome": Outcome.ALREADY_THERE if there else Outcome.IMPORTED}

    def _read(self, row: dict[str, Any], known: ImportedKinds) -> tuple[ImportedKinds, Read]:
        """What is known with this row's kind of hash, and what to write for it."""
        read, canonical = checked(row)
        phc = read.password_hash.get_secret_value()
        if needs_rehash(phc):
            try:
                known = known.having(stored_hashes.parse(phc).decoy)
            except TooManyKinds as refused:
                raise RowRefused(str(refused)) from None
        user = User.new(
            read.username,
            read.roles,
            now=self.now(),
            random=self.random,
            status=UserStatus.DISABLED if read.disabled else UserStatus.ACTIVE,
        )
        return known, (user, PasswordCredential(canonical, user.sub, phc))


def checked(row: dict[str, Any]) -> tuple[ImportedUser, str]:
    """The user that a row describes, and the canonical user name. Raise `RowRefused`.

    What is checked here is all that can be said of a row by itself: the `keyferry` command uses it
    too, before it sends anything.
    """
    try:
        read = ImportedUser.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        # An unknown member's name is the row's own text; if columns are mixed up, it is the hash.
        known = first["loc"] and first["loc"][0] in ImportedUser.model_fields
        where = str(first["loc"][0]) if known else "an unknown member"
        raise RowRefused(f"{where}: {first['msg']}") from None
    try:
        canonical = canonical_new_username(read.username)
        stored_hashes.parse(read.password_hash.get_secret_value())
    except ValueError as error:
        raise RowRefused(str(error)) from None
    return read, canonical
