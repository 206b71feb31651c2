"""Print what AWS's own resource schemas say of resource types: the calls that CloudFormation makes, and what replaces one.

Run by the interpreter of the `sam` environment, where cfn-lint has the schemas. Standard input: a list of types.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

OPERATIONS = ("create", "read", "update", "delete")


def described(kind: str) -> dict[str, Any]:
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    handlers = schema.get("handlers", {})
    return {
        "permissions": sorted(
            {
                permission
                for operation in OPERATIONS
                for permission in handlers.get(operation, {}).get("permissions", [])
            }
        ),
        "replaced_by": [
            path.removeprefix("/properties/")
            for kept in ("createOnlyProperties", "conditionalCreateOnlyProperties")
            for path in schema.get(kept) or []
        ],
    }


if __name__ == "__main__":
    json.dump({kind: described(kind) for kind in json.load(sys.stdin)}, sys.stdout)
