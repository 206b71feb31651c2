"""How large a row is, and what reading it costs."""

from __future__ import annotations

import math
from typing import Any

from tests.bench.deployment import Deployment, Phone


def read_units(deployment: Deployment, phone: Phone) -> int:
    """Of the three rows of a delivery: each is read consistently, and paid for by 4 KB."""
    dynamodb, tables = deployment.cloud.dynamodb, deployment.cloud.tables
    session = deployment.session(phone)
    rows = [
        session,
        dynamodb.get_item(TableName=tables["UsersTable"], Key={"sub": session["sub"]})["Item"],
        dynamodb.get_item(TableName=tables["VaultTable"], Key={"id": {"S": "MANIFEST"}})["Item"],
    ]
    return sum(math.ceil(size_of(row) / 4096) for row in rows)


def size_of(row: dict[str, Any]) -> int:
    """About what DynamoDB counts: names and values (Developer Guide, "DynamoDB item sizes")."""

    def value(typed: dict[str, Any]) -> int:
        ((kind, held),) = typed.items()
        match kind:
            case "M":
                return 3 + sum(len(name) + 1 + value(each) for name, each in held.items())
            case "L":
                return 3 + sum(1 + value(each) for each in held)
            case "BOOL" | "NULL":
                return 1
            case "N":
                return len(held) // 2 + 2
            case "SS":
                return sum(map(len, held))
        return len(held)

    return sum(len(name) + value(typed) for name, typed in row.items())
