"""What a month costs: counted calls and measured processor time, times the prices.

The units of each request are those of docs/calls.md, and its processor time is what `make bench` measures, rounded up;
tests hold both. What nobody can measure off AWS is an `Assumptions`, and is to be replaced by what CloudWatch shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from keyferry_cli.prices import PRICES

FULL_CPU_MB: Final = 1769
"""Lambda gives processor time in proportion to memory; at this size it is one processor (Lambda Developer Guide,
"Configure Lambda function memory")."""

MEMORY_MB: Final = 1024
PASSWORD_MEMORY_MB: Final = FULL_CPU_MB
"""As in template.yaml."""

CPU_MS: Final = 4.0
PASSWORD_CPU_MS: Final = 70.0
"""Of a warm request on one processor, at most; the second where a password is hashed."""


@dataclass(frozen=True, slots=True)
class Assumptions:
    """``starts`` is how many of all requests are the first of a function instance."""

    call_ms: float = 8.0
    upstream_ms: float = 2000.0
    log_bytes: int = 1500
    starts: float = 0.001
    start_cpu_ms: float = 700.0
    start_decrypts: int = 5


@dataclass(frozen=True, slots=True)
class Units:
    """What AWS charges one request for, beside the request: calls of DynamoDB, its read and write units, calls of KMS."""

    calls: int
    reads: int
    writes: int
    kms: int


LOGIN: Final = "login with a password"
REFRESH: Final = "refresh"
DELIVERY: Final = "delivery of all keys"

COUNTED: Final[Mapping[str, Units]] = MappingProxyType(
    {
        LOGIN: Units(calls=4, reads=5, writes=11, kms=0),
        REFRESH: Units(calls=1, reads=0, writes=1, kms=0),
        DELIVERY: Units(calls=1, reads=3, writes=0, kms=0),
    }
)
"""Of a warm function, as docs/calls.md has them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a request runs: with which memory, and what takes its time beside AWS's calls."""

    memory_mb: int = MEMORY_MB
    cpu_ms: float = CPU_MS
    waits_ms: float = 0.0


PASSWORD: Final = Kind(PASSWORD_MEMORY_MB, PASSWORD_CPU_MS)
OTHER: Final = Kind()


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one request, in USD."""

    api: float
    compute: float
    dynamodb: float
    kms: float
    logs: float

    @property
    def together(self) -> float:
        return self.api + self.compute + self.dynamodb + self.kms + self.logs


def billed_ms(units: Units, kind: Kind, assumed: Assumptions) -> float:
    """Lambda's duration: processor time at the share of a processor that the memory gives, and waiting for AWS."""
    share = min(kind.memory_mb / FULL_CPU_MB, 1.0)
    return kind.cpu_ms / share + (units.calls + units.kms) * assumed.call_ms + kind.waits_ms


def request_cost(units: Units, kind: Kind, assumed: Assumptions) -> Cost:
    """Of a request to a warm function."""
    gigabyte_seconds = billed_ms(units, kind, assumed) / 1000 * kind.memory_mb / 1024
    return Cost(
        api=PRICES["API Gateway, REST API"].each,
        compute=PRICES["Lambda, request"].each + gigabyte_seconds * PRICES["Lambda, arm64"].each,
        dynamodb=units.reads * PRICES["DynamoDB, read unit"].each
        + units.writes * PRICES["DynamoDB, write unit"].each,
        kms=units.kms * PRICES["KMS, request"].each,
        logs=assumed.log_bytes / 2**30 * PRICES["CloudWatch, logs in"].each,
    )


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a month: active users, and what each of them does."""

    users: int
    logins_a_month: float
    refreshes_a_day: float
    deliveries_a_day: float
    days: int = 30

    def requests(self) -> dict[str, float]:
        return {
            LOGIN: self.users * self.logins_a_month,
            REFRESH: self.users * self.refreshes_a_day * self.days,
            DELIVERY: self.users * self.deliveries_a_day * self.days,
        }


@dataclass(frozen=True, slots=True)
class Stack:
    """What of the template is there and costs something each month."""

    kms_keys: int = 3
    alarms: int = 31
    custom_metrics: int = 40
    dashboards: int = 1
    waf_rules: int = 6
    waf: bool = True
    traced: float = 0.05
    """The share of the requests that X-Ray samples."""


def month(usage: Usage, stack: Stack, assumed: Assumptions) -> dict[str, float]:
    """The lines of the bill, in USD."""
    requests = usage.requests()
    kinds = {LOGIN: PASSWORD, REFRESH: OTHER, DELIVERY: OTHER}
    costs = {name: request_cost(COUNTED[name], kinds[name], assumed) for name in requests}
    every = sum(requests.values())

    def over(part: str) -> float:
        parts: list[float] = [getattr(costs[name], part) * requests[name] for name in requests]
        return sum(parts)

    starts = every * assumed.starts
    start_seconds = assumed.start_cpu_ms / 1000 / (MEMORY_MB / FULL_CPU_MB)
    return {
        "API Gateway": over("api"),
        "Lambda": over("compute")
        + starts * start_seconds * MEMORY_MB / 1024 * PRICES["Lambda, arm64"].each,
        "DynamoDB": over("dynamodb") + starts * PRICES["DynamoDB, read unit"].each,
        "KMS": over("kms")
        + starts * assumed.start_decrypts * PRICES["KMS, request"].each
        + stack.kms_keys * PRICES["KMS, key"].each,
        "CloudWatch": over("logs")
        + stack.alarms * PRICES["CloudWatch, alarm"].each
        + stack.custom_metrics * PRICES["CloudWatch, custom metric"].each
        + stack.dashboards * PRICES["CloudWatch, dashboard"].each,
        "WAF": (
            PRICES["WAF, web ACL"].each
            + stack.waf_rules * PRICES["WAF, rule"].each
            + every * PRICES["WAF, request"].each
            if stack.waf
            else 0.0
        ),
        "X-Ray": every * stack.traced * PRICES["X-Ray, trace"].each,
    }
