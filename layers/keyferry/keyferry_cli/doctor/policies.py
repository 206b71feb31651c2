"""What single statements of resource policies say, as far as the doctor has to know. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

Statement = Mapping[str, Any]

_WITHOUT_CONTEXT: Final = {"Null": {"kms:EncryptionContextKeys": "true"}}

_NARROWING: Final = (
    "aws:sourcearn",
    "aws:sourceaccount",
    "aws:principalarn",
    "aws:principalaccount",
    "aws:principalorgid",
)
"""Condition keys that make less than everybody of the principal *."""


def lets_anybody_in(statement: Statement) -> bool:
    """Whether a statement of a function's policy is for everybody."""
    principal = statement.get("Principal")
    if isinstance(principal, Mapping):
        principal = principal.get("AWS")
    named = [principal] if isinstance(principal, str) else principal or []
    conditions = {key.lower() for tests in statement.get("Condition", {}).values() for key in tests}
    return (
        statement.get("Effect") == "Allow"
        and "*" in named
        and not conditions.intersection(_NARROWING)
    )


def denies_everybody_to_decrypt(statement: Statement) -> bool:
    """Whether a statement of a KMS key's policy keeps everybody whom its condition names off."""
    principal, actions = statement.get("Principal"), statement.get("Action")
    return (
        statement.get("Effect") == "Deny"
        and principal in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        and "kms:Decrypt" in ([actions] if isinstance(actions, str) else actions or [])
        and bool(statement.get("Condition"))
    )


def is_about_no_context(denial: Statement) -> bool:
    """Whether it keeps off whoever names no encryption context."""
    return bool(denial["Condition"] == _WITHOUT_CONTEXT)


def is_about_others(denial: Statement, stack: str) -> bool:
    """Whether it keeps off whoever is no role of this stack: their paths begin with its name, and go
    on with that of the function."""
    condition = denial["Condition"]
    if condition.keys() != {"ArnNotLike"} or condition["ArnNotLike"].keys() != {"aws:PrincipalArn"}:
        return False
    named = condition["ArnNotLike"]["aws:PrincipalArn"]
    roles = [named] if isinstance(named, str) else named
    ours = re.compile(rf"arn:[a-z-]+:iam::[0-9]+:role/{re.escape(stack)}/([a-z_]+/)?\*")
    return bool(roles) and all(ours.fullmatch(role) for role in roles)
