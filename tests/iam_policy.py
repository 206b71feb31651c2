"""What IAM makes of a role's policy, for the part of the policy language that the template uses.

Anything else in a policy (another operator, NotAction, a policy variable) is an error here, so that
nothing is taken for met that was not looked at.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_condition-logic-multiple-context-keys-or-values.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

Values = str | tuple[str, ...]
"""Of a context key: one, or, for a key that AWS calls multivalued, any number."""

_MEMBERS: Final = {"Sid", "Effect", "Action", "Resource", "Condition", "Principal"}
_FOR_ALL: Final = "ForAllValues:"
_OPERATORS: Final = {
    *("StringEquals", "StringLike", "ArnNotLike", "Null"),
    *(_FOR_ALL + each for each in ("StringEquals", "StringLike")),
}


class UnsupportedPolicyError(Exception):
    """A policy uses something that this module does not know."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is authorized: one action on one resource. A call of AWS can be several of these."""

    action: str
    """``dynamodb:GetItem``"""

    resource: str
    """Its ARN."""

    context: Mapping[str, Values] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Statement:
    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Operator to context key to the values in the policy."""

    @classmethod
    def parse(cls, statement: Mapping[str, Any]) -> Statement:
        """Raise `UnsupportedPolicyError` for what could not be evaluated."""
        if unknown := set(statement) - _MEMBERS:
            raise UnsupportedPolicyError(f"members {sorted(unknown)}")
        if statement["Effect"] not in ("Allow", "Deny"):
            raise UnsupportedPolicyError(f"effect {statement['Effect']}")
        conditions = {
            operator: {key: _strings(values) for key, values in keys.items()}
            for operator, keys in statement.get("Condition", {}).items()
        }
        for operator in conditions:
            if operator not in _OPERATORS:
                raise UnsupportedPolicyError(f"operator {operator}")
        return cls(
            sid=statement.get("Sid", ""),
            effect=statement["Effect"],
            actions=_strings(statement["Action"]),
            resources=_strings(statement["Resource"]),
            conditions=conditions,
        )

    def applies(self, request: Request) -> bool:
        """Action, resource and every condition match."""
        return (
            # The names of actions and of context keys have no case; ARNs and values have.
            any(like(each.lower(), request.action.lower()) for each in self.actions)
            and any(like(each, request.resource) for each in self.resources)
            and all(
                _holds(operator, _of(request.context, key), values)
                for operator, keys in self.conditions.items()
                for key, values in keys.items()
            )
        )


def allowing(statements: Iterable[Statement], request: Request) -> tuple[Statement, ...]:
    """The statements that allow the request. None when there is no such, or when one denies it."""
    applying = [statement for statement in statements if statement.applies(request)]
    if any(statement.effect == "Deny" for statement in applying):
        return ()
    return tuple(applying)


def arn_like(pattern: str, arn: str) -> bool:
    """As `like`, but by each of the six parts of an ARN: a wildcard ends where its part does."""
    wanted, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(wanted) == len(parts) and all(map(like, wanted, parts))


def like(pattern: str, text: str) -> bool:
    """``*`` stands for any characters and ``?`` for one; nothing else is special."""
    return _compiled(pattern).fullmatch(text) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(each, re.escape(each)) for each in pattern), re.DOTALL)


def _holds(operator: str, found: Values | None, wanted: tuple[str, ...]) -> bool:
    if operator == "Null":
        return any((found is None) == (value == "true") for value in wanted)
    if operator == "ArnNotLike":
        # True of no value at all, as every negated operator is at IAM.
        if isinstance(found, tuple):
            raise UnsupportedPolicyError(f"{operator} without a quantifier on several values")
        return found is None or not any(arn_like(each, found) for each in wanted)
    values: tuple[str, ...]
    if operator.startswith(_FOR_ALL):
        # True of no values at all, as it is at IAM.
        values = () if found is None else (found,) if isinstance(found, str) else found
    elif found is None:
        return False
    elif isinstance(found, str):
        values = (found,)
    else:
        raise UnsupportedPolicyError(f"{operator} without a quantifier on several values")
    matches = like if operator.endswith("StringLike") else str.__eq__
    return all(any(matches(each, value) for each in wanted) for value in values)


def _of(context: Mapping[str, Values], key: str) -> Values | None:
    named = [values for name, values in context.items() if name.lower() == key.lower()]
    if len(named) > 1:
        raise UnsupportedPolicyError(f"context keys that differ in case: {key}")
    return named[0] if named else None


def _strings(values: Any) -> tuple[str, ...]:
    listed = values if isinstance(values, list) else [values]
    for value in listed:
        if not isinstance(value, str):
            raise UnsupportedPolicyError(f"not a string: {value!r}")
        if "${" in value:
            raise UnsupportedPolicyError(f"policy variable: {value}")
    return tuple(listed)
