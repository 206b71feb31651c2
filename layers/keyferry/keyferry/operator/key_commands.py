"""The operator's commands about keys. None of them reads a value back: this function can seal and
has no right to open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from keyferry.config import DAY
from keyferry.errors import CommandRefused
from keyferry.vault import audit, changes
from keyferry.vault.app_version import AppVersion
from keyferry.vault.audit import Action
from keyferry.vault.changes import Change, Draft
from keyferry.vault.envelope import Sealer
from keyferry.vault.model import (
    MAX_VALUE_BYTES,
    MAX_VARIANTS,
    NAME,
    WHOLE_ROLLOUT,
    Conditions,
    KeyEntry,
    Manifest,
)
from keyferry.vault.store import VaultStore
from keyferry.vault.upstream import METHODS, Upstream

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

MAX_DRAFTS: Final = 50
"""In one command: a transaction of DynamoDB has up to 100 writes."""

PolicyWord = Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9_.:-]{1,64})$")]
KeyName = Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
Value = Annotated[SecretStr, Field(min_length=1, max_length=MAX_VALUE_BYTES)]
Time = Annotated[int, Field(ge=0, lt=2**40)]
Kept = Annotated[int, Field(ge=0, le=365 * DAY)]


class ConditionsOfRequest(BaseModel):
    """As `keyferry.vault.model.Conditions`, whose units these are."""

    model_config = _STRICT

    roles: Annotated[list[PolicyWord], Field(min_length=1, max_length=32)] = ["*"]
    platforms: Annotated[list[PolicyWord], Field(min_length=1, max_length=32)] = ["*"]
    min_app_version: str | None = None
    attested: bool = False
    second_factor: bool = False
    not_before: Time | None = None
    not_after: Time | None = None
    rollout: Annotated[int, Field(ge=0, le=WHOLE_ROLLOUT)] = WHOLE_ROLLOUT

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if self.min_app_version is not None:
            AppVersion.parse(self.min_app_version)
        if None not in (self.not_before, self.not_after) and self.not_after <= self.not_before:  # type: ignore[operator]
            raise ValueError("not_after is not after not_before")
        return self

    def conditions(self) -> Conditions:
        return Conditions.from_members(self.model_dump())


class Policy(ConditionsOfRequest):
    """Who may have a key: roles are never left to a default."""

    roles: Annotated[list[PolicyWord], Field(min_length=1, max_length=32)]


class Variant(ConditionsOfRequest):
    """Another value, for whom the conditions fit."""

    value: Value

    def conditions(self) -> Conditions:
        return Conditions.from_members(self.model_dump(exclude={"value"}))


class NewVersion(BaseModel):
    model_config = _STRICT

    name: KeyName
    value: Value
    variants: Annotated[list[Variant], Field(max_length=MAX_VARIANTS)] = []
    policy: Policy | None = None
    cache_seconds: Annotated[int, Field(ge=0, le=DAY)] | None = None

    def draft(self) -> Draft:
        return Draft(
            name=self.name,
            value=_octets(self.name, self.value),
            variants=tuple(
                (variant.conditions(), _octets(self.name, variant.value))
                for variant in self.variants
            ),
            policy=self.policy.conditions() if self.policy is not None else None,
            cache_seconds=self.cache_seconds,
        )


class Promotion(BaseModel):
    """``previous_seconds`` is how long the version before can still be asked for."""

    model_config = _STRICT

    previous_seconds: Kept = 7 * DAY


class PutKey(NewVersion, Promotion):
    """``promote`` makes the version current at once."""

    promote: bool = False
    replace_pending: bool = False


class PutKeys(Promotion):
    """Several at once, all of them or none."""

    keys: Annotated[list[NewVersion], Field(min_length=1, max_length=MAX_DRAFTS)]
    promote: bool = False
    replace_pending: bool = False

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len({each.name for each in self.keys}) < len(self.keys):
            raise ValueError("a name stands there twice")
        return self


class NamedKey(BaseModel):
    model_config = _STRICT

    name: KeyName


class PromoteKey(NamedKey, Promotion):
    """``version`` is the pending one that the operator means."""

    version: int | None = None
    minimum: bool = False


class RollBackKey(NamedKey):
    """``current`` and ``pending`` are the versions that the operator knows of; without ``current``
    none is compared."""

    current: int | None = None
    pending: int | None = None

    def expected(self) -> tuple[int, int | None] | None:
        return (self.current, self.pending) if self.current is not None else None


class SetMinimum(NamedKey):
    version: Annotated[int, Field(ge=1)]


class SetPolicy(NamedKey):
    """``policy`` of None closes the key to everybody."""

    policy: Policy | None
    cache_seconds: Annotated[int, Field(ge=0, le=DAY)] | None = None


class ProxyRules(BaseModel):
    """As `keyferry.vault.upstream.Upstream`, which says what is good and in which units; what is not
    named is as there."""

    model_config = _STRICT

    host: str
    path_prefix: str
    methods: Annotated[list[str], Field(min_length=1, max_length=len(METHODS))]
    inject: Literal["header", "query"]
    parameter: str
    template: str | None = None
    port: int | None = None
    headers: list[str] | None = None
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None
    timeout_seconds: int | None = None
    budget: int | None = None
    budget_seconds: int | None = None

    def upstream(self) -> Upstream:
        try:
            return Upstream.from_members(self.model_dump()).checked()
        except ValueError as error:
            raise CommandRefused("invalid_request", f"{error}.") from None


class SetUpstream(NamedKey):
    """``upstream`` of None lets the key be delivered to devices again."""

    upstream: ProxyRules | None


class DeleteKey(NamedKey):
    pending_only: bool = False


class Nothing(BaseModel):
    model_config = _STRICT


@dataclass(frozen=True, slots=True)
class KeyCommands:
    """``operator`` is who gives the command, as that one's tool says."""

    vault: VaultStore
    sealer: Sealer
    now: Callable[[], int]
    operator: str

    def put(self, request: PutKey) -> dict[str, Any]:
        (entry,) = self._put([request], request, request.promote, request.replace_pending)
        return entry.members()

    def put_all(self, request: PutKeys) -> dict[str, Any]:
        entries = self._put(request.keys, request, request.promote, request.replace_pending)
        return {"keys": [entry.members() for entry in entries]}

    def promote(self, request: PromoteKey) -> dict[str, Any]:
        now = self.now()
        return self._commit(
            Action.PROMOTED,
            lambda manifest: changes.promote(
                manifest,
                request.name,
                now=now,
                previous_for=request.previous_seconds,
                version=request.version,
                minimum=request.minimum,
            ),
        )[0].members()

    def rollback(self, request: RollBackKey) -> dict[str, Any]:
        now = self.now()
        return self._commit(
            Action.ROLLED_BACK,
            lambda manifest: changes.rollback(
                manifest, request.name, now=now, expected=request.expected()
            ),
        )[0].members()

    def set_minimum(self, request: SetMinimum) -> dict[str, Any]:
        now = self.now()
        return self._commit(
            Action.MINIMUM_SET,
            lambda manifest: changes.set_minimum(
                manifest, request.name, now=now, minimum=request.version
            ),
        )[0].members()

    def set_policy(self, request: SetPolicy) -> dict[str, Any]:
        now = self.now()
        policy = request.policy.conditions() if request.policy is not None else None
        return self._commit(
            Action.POLICY_SET,
            lambda manifest: changes.set_policy(
                manifest,
                request.name,
                now=now,
                policy=policy,
                cache_seconds=request.cache_seconds,
            ),
        )[0].members()

    def set_upstream(self, request: SetUpstream) -> dict[str, Any]:
        now = self.now()
        upstream = request.upstream.upstream() if request.upstream is not None else None
        return self._commit(
            Action.UPSTREAM_SET,
            lambda manifest: changes.set_upstream(
                manifest, request.name, now=now, upstream=upstream
            ),
        )[0].members()

    def get(self, request: NamedKey) -> dict[str, Any]:
        """What is known of a key beside its values."""
        return changes.entry_of(self.vault.manifest(), request.name).members()

    def list(self, _: Nothing) -> dict[str, Any]:
        entries = sorted(self.vault.manifest().keys.items())
        return {"keys": [entry.members() for _, entry in entries]}

    def delete(self, request: DeleteKey) -> dict[str, Any]:
        now = self.now()
        (entry,) = self._commit(
            Action.DELETED,
            lambda manifest: changes.delete(
                manifest, request.name, now=now, pending_only=request.pending_only
            ),
        )
        return entry.members()

    def _put(
        self, versions: Sequence[NewVersion], promotion: Promotion, promote: bool, again: bool
    ) -> tuple[KeyEntry, ...]:
        now = self.now()
        drafts = [version.draft() for version in versions]
        return self._commit(
            Action.PUT,
            lambda manifest: changes.put(
                manifest,
                drafts,
                now=now,
                replace_pending=again,
                promoted_for=promotion.previous_seconds if promote else None,
            ),
        )

    def _commit(self, action: Action, change: Callable[[Manifest], Change]) -> tuple[KeyEntry, ...]:
        made = self.vault.commit(change, self.sealer)
        audit.of_operator(
            action,
            self.operator,
            keys={entry.name: _numbers(entry) for entry in made.entries},
        )
        return made.entries


KEY_COMMANDS: Final[Mapping[str, Callable[[KeyCommands, dict[str, Any]], dict[str, Any]]]] = {
    "keys.put": lambda commands, a: commands.put(PutKey.model_validate(a)),
    "keys.put_all": lambda commands, a: commands.put_all(PutKeys.model_validate(a)),
    "keys.promote": lambda commands, a: commands.promote(PromoteKey.model_validate(a)),
    "keys.rollback": lambda commands, a: commands.rollback(RollBackKey.model_validate(a)),
    "keys.minimum": lambda commands, a: commands.set_minimum(SetMinimum.model_validate(a)),
    "keys.policy": lambda commands, a: commands.set_policy(SetPolicy.model_validate(a)),
    "keys.proxy": lambda commands, a: commands.set_upstream(SetUpstream.model_validate(a)),
    "keys.get": lambda commands, a: commands.get(NamedKey.model_validate(a)),
    "keys.list": lambda commands, a: commands.list(Nothing.model_validate(a)),
    "keys.delete": lambda commands, a: commands.delete(DeleteKey.model_validate(a)),
}


def _numbers(entry: KeyEntry) -> str:
    """The versions of a key in a few characters, for the audit trail."""
    named = (("current", entry.current), ("pending", entry.pending), ("previous", entry.previous))
    return " ".join(f"{part}={version.number}" for part, version in named if version is not None)


def _octets(name: str, value: SecretStr) -> bytes:
    try:
        octets = value.get_secret_value().encode("utf-8")
    except UnicodeEncodeError:
        raise CommandRefused(
            "invalid_request", f"The value of {name} is not Unicode text."
        ) from None
    if len(octets) > MAX_VALUE_BYTES:
        raise CommandRefused("invalid_request", f"value: over {MAX_VALUE_BYTES} bytes.")
    return octets
