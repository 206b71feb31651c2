"""AWS's prices, each with where it comes from and as of when: the one table of the bill and of docs/costs.md.

US East (N. Virginia), in USD, without free tiers. None was read from AWS by this project: each says who had it from AWS's
own page. Prices differ by region, and change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Price:
    """``usd`` for ``per`` of ``unit``."""

    usd: float
    per: int
    unit: str
    page: str
    """Of AWS, under https://aws.amazon.com/."""
    service: str
    source: str
    """Who transcribed it, and when."""

    @property
    def each(self) -> float:
        return self.usd / self.per


MILLION: Final = 1_000_000
_COGNITO: Final = "api-evangelist/amazon-cognito, 2026-09-20"

PRICES: Final[Mapping[str, Price]] = MappingProxyType(
    {
        "API Gateway, REST API": Price(
            3.50,
            MILLION,
            "requests",
            "api-gateway/pricing/",
            "API Gateway",
            'AWS whitepaper "Best Practices for Designing Amazon API Gateway Private APIs", table 4;'
            " first 333 million in a month",
        ),
        "Lambda, request": Price(
            0.20,
            MILLION,
            "requests",
            "lambda/pricing/",
            "Lambda",
            "api-evangelist/aws-lambda, 2026-05-05",
        ),
        "Lambda, arm64": Price(
            13.3334,
            MILLION,
            "GB-seconds",
            "lambda/pricing/",
            "Lambda",
            'cloudchipr.com, "AWS Lambda Pricing Breakdown", 2024',
        ),
        "DynamoDB, write unit": Price(
            0.625,
            MILLION,
            "units",
            "dynamodb/pricing/on-demand/",
            "DynamoDB on demand",
            "airbyte.com, 2025-07-21",
        ),
        "DynamoDB, read unit": Price(
            0.125,
            MILLION,
            "units",
            "dynamodb/pricing/on-demand/",
            "DynamoDB on demand",
            "airbyte.com, 2025-07-21",
        ),
        "KMS, request": Price(
            3.00,
            MILLION,
            "requests",
            "kms/pricing/",
            "KMS",
            "cloudburn.io, 2026-03-14 ($0.03 for 10,000)",
        ),
        "KMS, key": Price(1.00, 1, "month", "kms/pricing/", "KMS", "cloudburn.io, 2026-03-14"),
        "CloudWatch, logs in": Price(
            0.50, 1, "GB", "cloudwatch/pricing/", "CloudWatch", "factualminds.com, 2026-06-13"
        ),
        "CloudWatch, alarm": Price(
            0.10,
            1,
            "month",
            "cloudwatch/pricing/",
            "CloudWatch",
            'c3x.dev, "aws_cloudwatch_metric_alarm cost estimation", no date',
        ),
        "CloudWatch, custom metric": Price(
            0.30, 1, "month", "cloudwatch/pricing/", "CloudWatch", "signoz.io, 2026-02-15"
        ),
        "CloudWatch, dashboard": Price(
            3.00, 1, "month", "cloudwatch/pricing/", "CloudWatch", "factualminds.com, 2026-06-13"
        ),
        "X-Ray, trace": Price(
            5.00,
            MILLION,
            "traces",
            "xray/pricing/",
            "X-Ray",
            "awsnegotiations.com, no date; AWS's own example counts 0.000005 a trace",
        ),
        "WAF, web ACL": Price(
            5.00, 1, "month", "waf/pricing/", "WAF", 'c3x.dev, "AWS WAF cost explained", no date'
        ),
        "WAF, rule": Price(1.00, 1, "month", "waf/pricing/", "WAF", "c3x.dev, likewise"),
        "WAF, request": Price(
            0.60, MILLION, "requests", "waf/pricing/", "WAF", "c3x.dev, likewise"
        ),
        "Cognito Lite": Price(
            0.0055,
            1,
            "user and month above 10,000",
            "cognito/pricing/",
            "Cognito",
            f"{_COGNITO}; its first tier",
        ),
        "Cognito Essentials": Price(
            0.015, 1, "user and month above 10,000", "cognito/pricing/", "Cognito", _COGNITO
        ),
        "Cognito Plus": Price(0.020, 1, "user and month", "cognito/pricing/", "Cognito", _COGNITO),
    }
)

COGNITO_FREE_USERS: Final = 10_000
"""Each month, of Lite and Essentials."""

COGNITO: Final = ("Cognito Lite", "Cognito Essentials", "Cognito Plus")


def cognito(tier: str, users: int) -> float:
    """A month of ``users`` who do something in it, in USD."""
    free = 0 if tier == "Cognito Plus" else COGNITO_FREE_USERS
    return max(users - free, 0) * PRICES[tier].each
