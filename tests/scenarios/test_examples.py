"""Each of the examples is shown somewhere, or has a reason, and only one of the two."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.scenarios.examples import ELSEWHERE, EXAMPLES, NOT_YET

NUMBERED = re.compile(r"test_(\d\d)_")


def named_in(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [function.name for function in functions if function.name.startswith("test_")]


def test_every_example_is_accounted_for_exactly_once() -> None:
    here = {
        int(match[1])
        for path in Path(__file__).parent.glob("test_*.py")
        for name in named_in(path)
        if (match := NUMBERED.match(name))
    }
    accounts = Counter([*here, *ELSEWHERE, *NOT_YET])
    assert accounts == Counter(range(1, 47))
    assert set(EXAMPLES) == set(range(1, 47))


def test_tests_elsewhere_are_there() -> None:
    for node in ELSEWHERE.values():
        path, name = node.split("::")
        assert name in named_in(ROOT / path)


def test_reasons_are_given() -> None:
    assert all(reason.endswith(".") and len(reason) > 30 for reason in NOT_YET.values())
