"""The diagram is the one that the template gives, and leaves nothing of it out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from tests.architecture import template
from tests.architecture.drawing import CALLERS, draw
from tests.architecture.template import OPENS, READS, SEALS, WRITES, read
from tests.prose import ROOT

PICTURE = ROOT / "docs" / "img" / "architecture.svg"
SYSTEM = read()


def test_the_picture_is_the_templates() -> None:
    assert PICTURE.read_text(encoding="utf-8") == draw(SYSTEM), "run `make diagram`"


def test_nothing_is_left_out() -> None:
    root = ET.fromstring(PICTURE.read_text(encoding="utf-8"))  # noqa: S314 -- our own
    texts = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    folders = {path.parent.name for path in (ROOT / "functions").glob("*/handler.py")}
    assert folders == {function.name for function in SYSTEM.functions}
    assert folders <= set(texts)
    assert {route for function in SYSTEM.functions for route in function.routes} <= set(texts)
    marks = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    legend = 4
    assert len(marks) == legend + sum(len(function.uses) for function in SYSTEM.functions)
    source = template.TEMPLATE.read_text(encoding="utf-8")
    assert len(SYSTEM.tables) == source.count("Type: AWS::DynamoDB::Table")
    assert sum(len(f.routes) for f in SYSTEM.functions) == source.count("Type: Api\n")


def test_every_action_on_a_table_or_key_is_drawn() -> None:
    source = template.TEMPLATE.read_text(encoding="utf-8").split("# ---", 1)[1]
    functions = source.partition("Keyring:\n    Type: Custom::Keyring")[0]
    named = set(re.findall(r"\b(?:dynamodb|kms):([A-Z]\w+)\b(?!:)", functions))
    conditions = {
        "LeadingKeys",
        "EncryptionContext",
        "EncryptionContextKeys",
        "Attributes",
        "Select",
    }
    assert named - conditions - {"ReturnValues"} <= WRITES | READS | SEALS | OPENS


@pytest.mark.parametrize("function", [f for f in SYSTEM.functions if not f.routes], ids=str)
def test_who_calls_a_function_without_a_route_is_said(function: template.Function) -> None:
    assert CALLERS[function.name]
    assert function.scheduled == ("every day" in CALLERS[function.name])
