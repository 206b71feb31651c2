"""What is known of a deployed stack; what could not be looked at is a fact too, and a different one.

Every kind of thing is a mapping from the name of each (the logical name in the template, where
there is one) to what is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, TypeAlias, TypeVar

from keyferry_cli.client_keys import ClientKey

EVERY: Final = "*"
"""The name of what is there, if not even a list of them could be had."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """Could not be looked at. ``right`` is the IAM action that the look takes."""

    right: str
    reason: str


_T = TypeVar("_T")
Seen: TypeAlias = Mapping[str, _T | Unseen]


@dataclass(frozen=True, slots=True)
class Stack:
    status: str
    termination_protection: bool


SETTINGS: Final = (
    "KEYFERRY_REQUIRE_DPOP",
    "KEYFERRY_APP_CHECK",
    "KEYFERRY_ALLOW_RSA_OAEP",
    "KEYFERRY_SELF_REGISTRATION",
    "KEYFERRY_MIN_PASSWORD_LENGTH",
    "KEYFERRY_AUTHORIZER_CHECKS_SESSION",
    "POWERTOOLS_LOGGER_LOG_EVENT",
    "POWERTOOLS_TRACER_CAPTURE_RESPONSE",
    "POWERTOOLS_TRACER_CAPTURE_ERROR",
)
"""The variables that checks are about. Where no function has one of them, it is not known."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The environment that the functions run with, at the version that is live: for each variable
    the values that there are. There is more than one only while functions disagree."""

    values: Mapping[str, frozenset[str]]

    def has(self, variable: str, value: str) -> bool:
        return value in self.values.get(variable, frozenset())

    def only(self, variable: str, value: str) -> bool:
        """Whether it is this in every function that has it, and some have it."""
        return self.values.get(variable, frozenset()) == {value}


@dataclass(frozen=True, slots=True)
class Method:
    """The settings of a stage for some methods. ``rate`` is in requests a second, None without."""

    rate: float | None
    logging_level: str
    data_trace: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """The stage of the REST API. ``methods`` by path and method; ``*/*`` is for all others."""

    methods: Mapping[str, Method]
    access_log_format: str | None
    cache: bool
    own_address: bool
    """Whether the address of API Gateway itself answers."""


@dataclass(frozen=True, slots=True)
class Route:
    """A method of the REST API, by method and path: what API Gateway itself asks for."""

    client_key: bool
    iam: bool


@dataclass(frozen=True, slots=True)
class Domain:
    security_policy: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A usage plan. ``routes`` are those of our stage with a limit of their own."""

    on_stage: bool
    rate: float | None
    quota: int | None
    routes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Firewall:
    attached: bool
    blocking_rate_rules: int = 0


@dataclass(frozen=True, slots=True)
class Function:
    """``differs`` names what of the code's and configuration's latest state the live alias lacks."""

    differs: tuple[str, ...]
    changing_over: bool
    reserved: int | None
    public: bool
    tracing: str


@dataclass(frozen=True, slots=True)
class Table:
    """``max_units`` is whether reads and writes are capped."""

    point_in_time_recovery: bool
    deletion_protection: bool
    time_to_live: bool
    max_units: bool


@dataclass(frozen=True, slots=True)
class KmsKey:
    """``state`` as KMS names it. ``deleted_at`` in words, empty unless it is to be deleted. The key's
    policy denies its use without an encryption context (``needs_context``), and to whoever is none of
    this stack's functions (``ours_only``)."""

    state: str
    rotates: bool
    needs_context: bool = False
    ours_only: bool = False
    deleted_at: str = ""


@dataclass(frozen=True, slots=True)
class LogGroup:
    """``retention_days`` None is forever."""

    exists: bool
    retention_days: int | None


@dataclass(frozen=True, slots=True)
class Alarm:
    tells: bool
    state: str


@dataclass(frozen=True, slots=True)
class Topic:
    confirmed: int
    pending: int


@dataclass(frozen=True, slots=True)
class KeyringKey:
    """One of the keyring's own keys, by ``kid``. ``since`` in epoch seconds."""

    purpose: str
    standing: str
    since: int


@dataclass(frozen=True, slots=True)
class Schedule:
    enabled: bool


@dataclass(frozen=True, slots=True)
class Policy:
    roles: frozenset[str]
    attested: bool
    second_factor: bool
    minimum_version: bool


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the vault; never its value. Times in epoch seconds, None without such a version."""

    policy: Policy | None
    current_since: int | None
    pending_since: int | None
    cache_seconds: int
    proxied: bool


@dataclass(frozen=True, slots=True)
class Provider:
    first_login: str


@dataclass(frozen=True, slots=True)
class Account:
    """``concurrency`` is the account's quota of concurrent executions, ``watched`` what the alarm
    was told that it is."""

    concurrency: int
    watched: int


@dataclass(frozen=True)
class Facts:
    """All that is known of one stack. ``now`` in epoch seconds."""

    now: int
    prod: bool
    stack: Seen[Stack] = field(default_factory=dict)
    settings: Seen[Settings] = field(default_factory=dict)
    stages: Seen[Stage] = field(default_factory=dict)
    routes: Seen[Route] = field(default_factory=dict)
    domains: Seen[Domain] = field(default_factory=dict)
    firewall: Seen[Firewall] = field(default_factory=dict)
    plans: Seen[Plan] = field(default_factory=dict)
    client_keys: Seen[ClientKey] = field(default_factory=dict)
    functions: Seen[Function] = field(default_factory=dict)
    account: Seen[Account] = field(default_factory=dict)
    tables: Seen[Table] = field(default_factory=dict)
    kms_keys: Seen[KmsKey] = field(default_factory=dict)
    logs: Seen[LogGroup] = field(default_factory=dict)
    alarms: Seen[Alarm] = field(default_factory=dict)
    topics: Seen[Topic] = field(default_factory=dict)
    keyring: Seen[KeyringKey] = field(default_factory=dict)
    schedules: Seen[Schedule] = field(default_factory=dict)
    keys: Seen[ApiKey] = field(default_factory=dict)
    providers: Seen[Provider] = field(default_factory=dict)

    def unseen(self) -> Iterator[tuple[str, str, Unseen]]:
        """Kind, name and reason of all that could not be looked at."""
        for kind in KINDS:
            for name, part in getattr(self, kind).items():
                if isinstance(part, Unseen):
                    yield kind, name, part


KINDS: Final = tuple(each.name for each in fields(Facts) if each.name not in ("now", "prod"))
