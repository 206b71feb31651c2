"""What is looked at, as one list. docs/doctor.md has the same list for people; a test holds them equal."""

from __future__ import annotations

from typing import Final

from keyferry_cli.doctor import rules_of_edge, rules_of_keys, rules_of_state
from keyferry_cli.doctor.checks import Check

CHECKS: Final[tuple[Check, ...]] = (
    *rules_of_edge.CHECKS,
    *rules_of_keys.CHECKS,
    *rules_of_state.CHECKS,
)
