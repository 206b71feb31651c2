"""Every AWS call that the functions made in these tests, held against the policies of the template.

Each call was allowed, by action, resource and condition, as IAM's documentation has it; and each
right that a role has was used, or is in the table below with the reason why not. These tests run
last, so that the others have made their calls; stacks that only one module uses are asked there.

The emulator refuses what a role does not allow (test_roles.py asks it), but reads conditions on rows
for single rows only, and does not say which rights nobody needs. That is seen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ROOT
from tests.e2e.conftest import not_passed
from tests.e2e.rights import Right, Rights, calls_of_functions, used_rights

if TYPE_CHECKING:
    from keyferry_cli.local.stack import LocalStack
    from tests.e2e.conftest import Operator

NOT_CALLED_BY_FUNCTIONS = {
    "logs:CreateLogStream": "Lambda writes the logs, with the function's role",
    "logs:PutLogEvents": "Lambda writes the logs, with the function's role",
    "xray:PutTraceSegments": "Lambda sends the traces, with the function's role",
    "xray:PutTelemetryRecords": "Lambda sends the traces, with the function's role",
}

GOOGLES_KEYS = (
    "An App Check token is good only if Google signed it, and no test here has one that is. "
    "tests/contract/test_accounts.py and tests/unit/test_app_check.py have an issuer in its place."
)

UNUSED = {
    Right("account", "UseAppCheckTokenOnce", "dynamodb:PutItem", "ProofsTable"): GOOGLES_KEYS,
    Right("login", "UseAppCheckTokenOnce", "dynamodb:PutItem", "ProofsTable"): GOOGLES_KEYS,
}
"""Rights that no test makes use of, and why they are there all the same."""


@pytest.fixture(scope="module")
def used(
    stack: LocalStack,
    bearer_stack: LocalStack,
    operator: Operator,  # has called, also where this module is run alone
    resources: dict[str, Any],
) -> dict[str, set[Right]]:
    return {
        "stack": used_rights(stack, resources),
        "bearer_stack": used_rights(bearer_stack, resources),
    }


def test_every_call_was_allowed(used: dict[str, set[Right]], stack: LocalStack) -> None:
    # That none was refused is what making `used` has shown. There were some:
    assert {right.function for right in used["stack"]} >= {"operator", "rotate_keyring"}
    assert len(calls_of_functions(stack)) > len(used["stack"])


def test_every_right_was_used(
    used: dict[str, set[Right]],
    stack: LocalStack,
    resources: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    if why := not_judged(request.session):
        pytest.skip(f"which rights are used is judged after all end-to-end tests; {why}")
    allowed = Rights.of(stack, resources).everything()
    assert set(NOT_CALLED_BY_FUNCTIONS) <= {right.action for right in allowed}
    unused = {
        right
        for right in allowed - set().union(*used.values())
        if right.action not in NOT_CALLED_BY_FUNCTIONS
    }
    assert sorted(unused) == sorted(UNUSED)


def not_judged(session: pytest.Session) -> str:
    """Why this run says nothing about what is unused; empty if it does."""
    here = ROOT / "tests" / "e2e"
    missing = {*here.glob("test_*.py")} - {item.path for item in session.items}
    if missing or any("::" in argument for argument in session.config.args):
        return "this run has not all of them"
    if tests := not_passed(session.config):
        return f"{len(tests)} were deselected, were skipped or failed, such as {tests[0]}"
    return ""
